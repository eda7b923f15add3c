"""Using a run: bf16 on GPUs, one copy of the weights while loading, and a refusal where it does not fit."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.inference import export_memory, generation_memory, scoring_memory
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.plan import plan
from fpm_cli.checkpoints.tensor_file import TensorFile
from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import OutOfMemoryError
from fpm_cli.inference import memory, trained_model
from fpm_cli.inference.generate import generate
from fpm_cli.inference.language_model import score_language_model
from fpm_cli.inference.memory import inference_dtype, require_memory
from fpm_cli.inference.sampling import SamplingConfig
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.interop import export_run
from fpm_cli.runs.run import Run
from tests.fake_gpus import FakeGpus
from tests.small_runs import tiny

FAMILIES = ["EPM-X-S", "BERT-E-S", "EPM-2-X-S"]
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in FAMILIES:
        flags = [*tiny(name, "train.steps=1", "model.num_layers=2"), "--corpus", str(sample_corpora(name))]
        assert fpm(["-q", *flags, "--out", str(folder / name)]) == 0
    return {name: folder / name for name in FAMILIES}


class Memory:
    """What psutil says of the machine."""

    def __init__(self, available: int):
        self.available = available


def live_bytes() -> int:
    """Bytes of every tensor of this process that has memory."""
    gc.collect()
    tensors = [
        each
        for each in gc.get_objects()
        if isinstance(each, torch.Tensor) and not isinstance(each, FakeTensor) and not each.is_meta
    ]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


@pytest.mark.parametrize(
    ("device", "has_bf16", "dtype"),
    [
        (GPU, True, torch.bfloat16),
        (GPU, False, torch.float32),
        (torch.device("cpu"), True, torch.float32),
    ],
)
def test_weights_are_bf16_on_gpus_that_compute_in_it(
    device: torch.device, has_bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpus(has_native_bf16=has_bf16).install(monkeypatch)
    assert inference_dtype(device) is dtype


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_loaded_as_bf16_computes_what_it_computes_in_float32(
    name: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(runs[name])
    exact = score_language_model(load_trained_model(run), max_samples=8).loss
    monkeypatch.setattr(trained_model, "inference_dtype", lambda device: torch.bfloat16)
    trained = load_trained_model(run)
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.bfloat16}
    assert score_language_model(trained, max_samples=8).loss == pytest.approx(exact, abs=0.02)
    if name != "BERT-E-S":
        assert generate(trained, ["the man", "it"], SamplingConfig(max_tokens=3, top_k=5))


def test_a_classifier_loaded_as_bf16_predicts_what_it_predicts_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fpm_cli.models.classifier import Classifier, build_classifier

    config = resolve("BERT-E-S", proxy=True, environment={}, assignments=["model.num_layers=2"]).config
    model = build_classifier(config, 2).eval()
    assert isinstance(model, Classifier)
    batch = {
        "tokens": torch.arange(9),
        "token_types": torch.zeros(9, dtype=torch.long),
        "lengths": torch.tensor([4, 5]),
        "first_lengths": torch.tensor([4, 5]),
    }
    with torch.inference_mode():
        exact = model.logits(batch).softmax(1)
        rounded = model.bfloat16().logits(batch).float().softmax(1)
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)


def test_loading_holds_the_weights_once(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = live_bytes(), []
    read_into = TensorFile.read_into

    def watched(self: TensorFile, name: str, start: int, target: torch.Tensor) -> None:
        seen.append(live_bytes())
        read_into(self, name, start, target)

    monkeypatch.setattr(TensorFile, "read_into", watched)
    trained = load_trained_model(Run.open(runs["EPM-X-S"]))
    weights = sum(parameter.nbytes for parameter in trained.model.parameters())
    assert weights <= max(seen) - before <= 1.01 * weights
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())


def test_an_export_holds_the_weights_twice(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = Run.open(runs["EPM-X-S"]), []
    config = run.config()
    before, compare = live_bytes(), export_run.compare_outputs

    def watched(*arguments, **named):  # type: ignore[no-untyped-def]
        seen.append(live_bytes() - before)
        return compare(*arguments, **named)

    monkeypatch.setattr(export_run, "compare_outputs", watched)
    export_run.export_run(run, tmp_path / "out")
    assert seen[0] <= 1.02 * export_memory(count_parameters(config)).total


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (["generate", "RUN", "--prompt", "the man"], "weights"),
        (["evaluate", "lm", "RUN"], "logits"),
        (["export", "RUN", "--out", "OUT"], "weights"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mend_and_leaves_nothing(
    verb: list[str],
    said: str,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"RUN": str(runs["EPM-X-S"]), "OUT": str(tmp_path / "out")}
    arguments = [names.get(word, word) for word in verb]
    with monkeypatch.context() as planted:
        planted.setattr(memory.psutil, "virtual_memory", lambda: Memory(1000))
        assert fpm(arguments) == 4
    error = capsys.readouterr().err
    assert "GiB are free on this machine; free some, or use a machine with more memory" in error
    assert said in error
    assert error.strip().count("\n") <= 1
    assert not list(tmp_path.iterdir())
    assert fpm(arguments) == 0


def test_too_many_tokens_for_the_memory_left_are_refused_before_they_are_generated(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_trained_model(Run.open(runs["EPM-2-X-S"]))
    needed = generation_memory(trained.config, 0, 4, batch=1, prompt_tokens=3, max_tokens=1000).total
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: Memory(needed - 100))
    assert generate(trained, ["it"], SamplingConfig(max_tokens=2))
    with pytest.raises(OutOfMemoryError, match=r"keys and values .*a smaller --max-tokens"):
        generate(trained, ["the man of the house"] * 8, SamplingConfig(max_tokens=1000))


def test_the_largest_model_fits_on_a_card_of_40_gb_in_bf16_and_not_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = resolve("CPM-X-L", environment={}).config
    FakeGpus(free_bytes=39_000_000_000).install(monkeypatch)
    for needed in (
        lambda e: generation_memory(
            config, count_parameters(config), e, batch=8, prompt_tokens=512, max_tokens=512
        ),
        lambda e: scoring_memory(config, count_parameters(config), e),
    ):
        require_memory("CPM-X-L", needed(2), GPU, "")
        with pytest.raises(OutOfMemoryError, match=r"CPM-X-L needs .*36.3 GiB are free on NVIDIA A100"):
            require_memory("CPM-X-L", needed(4), GPU, "")


def test_the_dry_run_says_what_using_the_run_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--dry-run", "--device", "A100-40", "--devices", "8", "--json"]
    assert fpm(["-q", "pretrain", "--preset", "CPM-X-L", *where]) == 0
    planned = json.loads(capsys.readouterr().out)["inference_bytes"]
    parameters = count_parameters(resolve("CPM-X-L", environment={}).config)
    assert planned["export_on_host"] == 8 * parameters
    for verb in ("generate", "evaluate"):
        assert 2 * parameters < planned[verb] < 30e9
    assert "generate" not in plan(resolve("BERT-C", environment={}).config, find_device("H100"), 8).inference


@pytest.mark.parametrize("name", ["EPM-X-S", "EPM-2-X-S"])
def test_the_planned_cache_is_what_generation_keeps(
    name: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpm_cli.inference import generate as module
    from fpm_cli.models.kv_cache import KVCache

    caches: list[KVCache] = []
    monkeypatch.setattr(
        module, "KVCache", lambda *arguments: caches.append(KVCache(*arguments)) or caches[-1]
    )
    trained = load_trained_model(Run.open(runs[name]))
    prompt, sampling = "the man of the house", SamplingConfig(max_tokens=6)
    generate(trained, [prompt, "it"], sampling)
    kept = sum(tensor.nbytes for pair in caches[-1]._key_values.values() for tensor in pair)
    longest = len(trained.tokenizer.encode(prompt))
    planned = generation_memory(trained.config, 0, 4, batch=2, prompt_tokens=longest, max_tokens=6)
    assert kept == planned.cache
