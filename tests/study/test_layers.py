"""Which layers work: planted identities cost nothing, and every measure agrees with a direct computation."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from fpm_cli.cli.app import run
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.models.attention import AttentionContext
from fpm_cli.models.blocks import Layer
from fpm_cli.objectives.build import build_samples
from fpm_cli.objectives.collate import collate
from fpm_cli.runs.run import Run
from fpm_cli.study.layers import measure_layers, named_layers, plot_layers
from tests.small_runs import tiny

DEPTH = {"CPM-X-S": 6, "BERT-C": 6, "CPM-2-X-S": 8}
DEEP = {"CPM-X-L": 128, "BERT-E-E": 90}
NETWORKS = [*DEPTH.items(), *(pytest.param(network, marks=pytest.mark.long) for network in DEEP.items())]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: f"{network[0]}-{network[1]}")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    (name, depth), folder = request.param, tmp_path_factory.mktemp("layers") / "run"
    flags = tiny(name, "train.steps=2", f"model.num_layers={depth}")
    assert run(["--quiet", *flags, "--nproc", "1", "--out", str(folder)]) == 0
    return load_trained_model(Run.open(folder))


def make_identity(layer: Layer) -> None:
    """A pre-norm layer whose branches add nothing."""
    with torch.no_grad():
        for branch in filter(None, (layer.attention, layer.cross_attention, layer.mlp)):
            last = branch.branch.down if hasattr(branch.branch, "down") else branch.branch.out
            last.weight.zero_()
            if last.bias is not None:
                last.bias.zero_()


def test_a_planted_identity_costs_nothing_and_others_cost_something(trained: TrainedModel) -> None:
    layers = dict(named_layers(trained.model))
    assert len(layers) == trained.config.model.num_layers
    planted = list(layers)[2]
    kept = {key: value.clone() for key, value in layers[planted].state_dict().items()}
    make_identity(layers[planted])
    try:
        measured = measure_layers(trained, max_samples=8)
    finally:
        layers[planted].load_state_dict(kept)
    by_name = {layer.name: layer for layer in measured.layers}
    assert by_name[planted].loss_without == pytest.approx(measured.loss, abs=1e-6)
    assert by_name[planted].block_influence == pytest.approx(0.0, abs=1e-6)
    assert any(abs(layer.loss_without - measured.loss) > 1e-5 for layer in measured.layers)


def test_the_last_layers_logit_lens_is_the_networks_own_loss(trained: TrainedModel) -> None:
    measured = measure_layers(trained, max_samples=8)
    assert measured.layers[-1].logit_lens_loss == pytest.approx(measured.loss, rel=1e-6)


def test_measures_equal_a_direct_computation(trained: TrainedModel) -> None:
    if trained.config.family == "encdec":
        pytest.skip("written out for one stack")
    measured = measure_layers(trained, max_samples=4)
    model, corpus = trained.model, Corpus.open(trained.run.corpus_path())
    samples = build_samples(trained.config, corpus, "validation")
    batch = {name: torch.from_numpy(each) for name, each in collate([samples[i] for i in range(4)]).items()}
    tokens, labels, mask = batch["tokens"], batch["labels"], batch["loss_mask"]
    is_gpt = trained.config.family == "gpt"
    stack = model.decoder if is_gpt else model.encoder
    if is_gpt:
        context = AttentionContext(causal=True)
    else:  # short samples are padded
        context = AttentionContext(key_mask=batch["attention_mask"]).with_mask(tokens.shape[1])

    def loss(hidden: torch.Tensor) -> float:
        hidden = stack.final_norm(hidden)
        if not is_gpt:
            hidden = model.mlm_head.norm(F.gelu(model.mlm_head.dense(hidden)))
        logits = hidden @ model.token_embedding.weight.T + (0 if is_gpt else model.mlm_head.bias)
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return float((each * mask.flatten()).sum() / mask.sum())

    with torch.no_grad():
        x = model.token_embedding(tokens) + model.position_embedding(torch.arange(tokens.shape[1]))
        states = [x if is_gpt else x + model.token_types(batch["token_types"])]
        for layer in stack.layers:
            states.append(layer(states[-1], context))
        for index, measure in enumerate(measured.layers):
            hidden = states[index]
            for later in stack.layers[index + 1 :]:
                hidden = later(hidden, context)
            cosines = F.cosine_similarity(states[index], states[index + 1], dim=-1)
            cosine = cosines.mean() if is_gpt else cosines[batch["attention_mask"]].mean()
            assert measure.loss_without == pytest.approx(loss(hidden), rel=1e-5)
            assert measure.logit_lens_loss == pytest.approx(loss(states[index + 1]), rel=1e-5)
            assert measure.block_influence == pytest.approx(1 - float(cosine), abs=1e-5)


def test_the_plot_has_the_measured_numbers(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    measured = measure_layers(trained, max_samples=2)
    plot_layers(measured, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")
    skipped, influence, lens = drawn[0].axes
    heights = [bar.get_height() for bar in skipped.patches]
    assert heights == pytest.approx([layer.loss_without - measured.loss for layer in measured.layers])
    assert list(influence.lines[0].get_ydata()) == [layer.block_influence for layer in measured.layers]
    losses = [layer.logit_lens_loss for layer in measured.layers if layer.logit_lens_loss is not None]
    assert list(lens.lines[0].get_ydata()) == losses


def test_the_command_prints_a_row_for_each_layer(
    trained: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["study", "layers", str(trained.run.path), "--max-samples", "2", "--json"]) == 0
    assert capsys.readouterr().out.count('"loss_without"') == trained.config.model.num_layers
