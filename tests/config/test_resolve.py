import pytest

from fpm_cli.config.presets import preset_names, presets_dir
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import MissingError, UsageError


def test_there_are_twenty_presets_and_each_resolves_with_its_paper_facts():
    assert len(preset_names()) == 20
    for name in preset_names():
        config = resolve(name, environment={}).config
        assert config.name == name
        assert config.paper is not None
        assert config.train.steps == config.paper.steps


def test_each_layer_overrides_the_one_before_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nlr = 3e-3\nmin_lr = 0.0\nsteps = 7\n")
    environment = {"FPM_TRAIN__LR": "4e-3", "UNRELATED": "1"}

    def lr(**layers):
        resolved = resolve("CPM-X-S", **{"environment": {}, **layers})
        return resolved.config.train.lr, resolved.origin("train.lr")

    assert lr() == (1.5e-4, "presets/base/gpt.toml")
    assert lr(proxy=True)[1] == "--proxy"
    assert lr(proxy=True, config_file=path) == (3e-3, str(path))
    assert lr(proxy=True, config_file=path, environment=environment) == (4e-3, "FPM_TRAIN__LR")
    everything = lr(
        proxy=True, config_file=path, environment=environment, assignments=["train.lr=5e-3", "train.lr=6e-3"]
    )
    assert everything == (6e-3, "--set train.lr=6e-3")


def test_a_preset_overrides_its_base_and_a_default_has_its_own_origin():
    resolved = resolve("BERT-E-E", environment={})
    assert resolved.config.model.num_layers == 90
    assert resolved.origin("model.num_layers") == "presets/BERT-E-E.toml"
    assert resolved.origin("model.hidden_size") == "presets/base/bert.toml"
    assert resolved.origin("train.beta2") == "built-in default"


@pytest.mark.parametrize("name", preset_names())
def test_the_proxy_keeps_depth_family_and_objective(name):
    plain, proxy = (resolve(name, proxy=p, environment={}).config for p in (False, True))
    assert proxy.proxy and not plain.proxy
    assert proxy.model.num_layers == plain.model.num_layers
    assert (proxy.family, proxy.tokenizer, proxy.model.norm_placement) == (
        plain.family,
        plain.tokenizer,
        plain.model.norm_placement,
    )
    assert proxy.model.hidden_size < plain.model.hidden_size
    assert bool(proxy.train.decoder_length) == bool(plain.train.decoder_length)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "CPM-XL"}, ["'CPM-XL'", "'CPM-X-L'"]),
        ({"preset": "cpm-x-l"}, ["'CPM-X-L'"]),
        ({"assignments": ["train.lrr=1"]}, ["train.lrr", "--set train.lrr=1", "'train.lr'"]),
        ({"assignments": ["train.lr=-1"]}, ["train.lr", "greater than 0", "-1"]),
        ({"assignments": ["train.lr=fast"]}, ["train.lr", "number", "'fast'"]),
        ({"assignments": ["engine.zero_stage=4"]}, ["engine.zero_stage", "4"]),
        ({"assignments": ["train.lr"]}, ["key=value"]),
        ({"assignments": ["train=1"]}, ["train"]),
        ({"environment": {"FPM_TRAIN__STEPZ": "3"}}, ["train.stepz", "FPM_TRAIN__STEPZ", "'train.steps'"]),
        ({"assignments": ["train.min_lr=1"]}, ["min_lr", "above lr"]),
        ({"assignments": ["train.sequence_length=2048"]}, ["2048", "max_positions"]),
    ],
)
def test_a_users_mistake_names_key_origin_and_mend(arguments, words):
    with pytest.raises(UsageError) as caught:
        resolve(**{"preset": "CPM-X-S", "environment": {}, **arguments})
    assert caught.value.exit_status == 2
    for word in words:
        assert word in str(caught.value)


def test_only_variables_of_the_form_section_key_are_configuration():
    foreign = {
        "FPM_FC": "gfortran",
        "FPM_CC": "gcc",
        "FPM_CFLAGS": "-O3",
        "FPM_SLACK": "2",
        "FPM_": "",
        "FPM": "1",
    }
    assert resolve("CPM-X-S", environment=foreign) == resolve("CPM-X-S", environment={})
    with pytest.raises(UsageError, match=r"trian .*FPM_TRIAN__LR.*did you mean 'train'"):
        resolve("CPM-X-S", environment={**foreign, "FPM_TRIAN__LR": "1e-4"})


@pytest.mark.parametrize("text", ["", "fast", "inf", "true"])
def test_a_variable_with_a_bad_value_is_named(text):
    with pytest.raises(UsageError, match=r"train\.lr \(from FPM_TRAIN__LR\)"):
        resolve("CPM-X-S", environment={"FPM_TRAIN__LR": text})


def test_a_config_file_that_is_missing_or_no_toml_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"nowhere\.toml"):
        resolve("CPM-X-S", environment={}, config_file=tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("train = [")
    with pytest.raises(UsageError, match=r"broken\.toml: not valid TOML"):
        resolve("CPM-X-S", environment={}, config_file=broken)


def test_a_resolved_configuration_cannot_be_changed():
    config = resolve("CPM-X-S", environment={}).config
    with pytest.raises(ValueError, match="frozen"):
        config.train.lr = 1.0


def test_the_presets_are_found_without_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert presets_dir().is_absolute()
    assert (presets_dir() / "base" / "gpt.toml").is_file()
