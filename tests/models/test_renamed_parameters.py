from fpm_cli.accounting.parameters import parameter_shapes
from fpm_cli.config.resolve import resolve
from fpm_cli.models.classifier import build_classifier
from fpm_cli.models.renamed_parameters import current_parameter_name


def test_embeddings_have_new_names_with_and_without_a_classifier_around_them() -> None:
    assert current_parameter_name("tokens.weight") == "token_embedding.weight"
    assert current_parameter_name("positions.weight") == "position_embedding.weight"
    assert current_parameter_name("backbone.tokens.weight") == "backbone.token_embedding.weight"


def test_todays_names_stay_as_they_are() -> None:
    for preset in ("CPM-X-S", "BERT-C", "CPM-2-X-S"):
        config = resolve(preset, proxy=True, environment={}, assignments=["model.num_layers=2"]).config
        names = {*parameter_shapes(config), *build_classifier(config, 2).state_dict()}
        assert {current_parameter_name(name) for name in names} == names
