"""`make gpu`: what it runs on a machine with GPUs, what it writes, and what it does without one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import main, run_session
from benchmarks.gpu_session import Session, StepError
from fpm_cli.accounting.memory import CUDA_OVERHEAD, device_memory
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve
from fpm_cli.launch.gpus import Gpus

TWO_CARDS = Gpus(2, 40_000_000_000, True)


class FakeFpm:
    """Answers as `fpm` does on two GPUs, where every training is exact and takes the planned memory."""

    def __init__(self, *, over_plan: float = 1.0):
        self.commands: list[list[str]] = []
        self.over_plan = over_plan

    def __call__(self, arguments: Sequence[str]) -> str:
        words = [word for word in arguments if word != "-q"]
        self.commands.append(words)
        answer: dict[str, Any] = {"checks": [{"name": "GPU", "works": True}]}
        if words[0] == "pretrain":
            self._pretrain(words)
        elif words[:2] == ["kernels", "list"]:
            answer = {"operators": [{"device": "cuda", "implementation": "compiled (sm_80)"}]}
        elif words[:2] == ["kernels", "bench"]:
            answer = {"timings": [{"operator": "attention", "ratio": 2.0}]}
        elif words[0] == "generate":
            answer = {"texts": ["It is a truth"]}
        elif words[0] == "evaluate":
            answer = {"loss": 3.0}
        elif words[0] == "export":
            answer = {"difference": 1e-6}
        return json.dumps(answer)

    def _pretrain(self, words: list[str]) -> None:
        values = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        out = Path(words[words.index("--out") + 1])
        if "--resume" in words:
            steps = int(values[-1].removeprefix("train.steps="))
            memory, tokens = 1, 1
        else:
            config = resolve(
                words[words.index("--preset") + 1], environment={}, assignments=values
            ).config  # refuses a key that does not exist
            steps, tokens = config.train.steps, config.train.global_batch * config.train.sequence_length
            planned = device_memory(config, "bf16", split_batch(config.train, 1)).needed
            memory = round((planned - CUDA_OVERHEAD) * self.over_plan)
        checkpoint = out / f"checkpoints/step-{steps}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights-0.safetensors").write_bytes(b"weights")
        rows = [
            {"kind": "train", "step": step, "loss": 10 / step, "seconds": 0.5, "tokens": tokens}
            | {"memory_bytes": memory, "model_flops": 10**12}
            for step in range(1, steps + 1)
        ]
        (out / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))


def result_of(tmp_path: Path, fake: FakeFpm, gpus: Gpus = TWO_CARDS) -> tuple[bool, dict[str, Any]]:
    session = Session(tmp_path / "out", gpus, fake)
    session._corpora = dict.fromkeys(("gpt-en", "gpt-zh", "t5-zh", "bert-zh"), tmp_path / "corpus")
    passed = run_session(session)
    return passed, json.loads((tmp_path / "out" / "result.json").read_text())


def test_without_a_gpu_it_says_so_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out")], gpus=lambda: Gpus(0, 0, False)) == 3
    assert "no GPU that torch can use here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_result_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)], gpus=lambda: TWO_CARDS) == 2
    assert "already there" in capsys.readouterr().err


def test_every_step_runs_on_two_cards_and_every_figure_is_written(tmp_path: Path) -> None:
    fake = FakeFpm()
    passed, result = result_of(tmp_path, fake)
    assert passed and result["passed"], [step["error"] for step in result["steps"]]
    assert [step["name"] for step in result["steps"]] == [
        "doctor",
        "kernels",
        "memory and throughput of BERT-C",
        "memory and throughput of CPM-X-L",
        "memory and throughput of CPM-2-X-M",
        "exact resume",
        "inference",
        "two ranks",
    ]
    memory = result["steps"][3]["figures"]
    assert memory["planned_bytes"] == memory["measured_bytes"] > 10**9
    assert memory["tokens_per_second"] == 2 * 8 * 1024
    assert result["steps"][5]["figures"]["weights_identical"] is True
    assert set(result["steps"][7]["figures"]["largest_difference"]) == {"zero_1", "zero_2", "zero_3"}
    assert ["kernels", "build", "--cuda"] in fake.commands
    trained = [command for command in fake.commands if command[0] == "pretrain"]
    assert not any("--proxy" in command for command in trained)
    assert (
        sum(command[command.index("--nproc") + 1] == "2" for command in trained if "--nproc" in command) == 3
    )
    page = (tmp_path / "out" / "result.md").read_text()
    assert page.count("| passed |") == 8 and "planned over measured 1" in page
    assert not (tmp_path / "out" / "scratch").exists()


def test_one_card_tries_no_two_ranks(tmp_path: Path) -> None:
    _, result = result_of(tmp_path, FakeFpm(), Gpus(1, 40_000_000_000, True))
    assert "two ranks" not in [step["name"] for step in result["steps"]]


def test_a_step_that_fails_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeFpm(over_plan=1.2)
    answer = fake.__call__

    def failing(arguments: Sequence[str]) -> str:
        if arguments[0] == "doctor":
            raise StepError("status 1: fpm doctor")
        return answer(arguments)

    passed, result = result_of(tmp_path, failing)  # type: ignore[arg-type]
    failed = {step["name"]: step["error"] for step in result["steps"] if not step["passed"]}
    assert not passed and not result["passed"]
    assert failed["doctor"] == "StepError: status 1: fpm doctor"
    assert "planned" in failed["memory and throughput of CPM-X-L"]
    assert len(result["steps"]) == 8 and "exact resume" not in failed


def test_a_preset_is_chosen_that_fits_the_card(tmp_path: Path) -> None:
    assert gpu.fitting_preset(Session(tmp_path, Gpus(1, 80_000_000_000, True))) == "BERT-C"
    with pytest.raises(StepError, match=r"fits in 2.0 GB"):
        gpu.fitting_preset(Session(tmp_path, Gpus(1, 2_000_000_000, True)))


@pytest.mark.long
def test_all_steps_run_on_the_processor(tmp_path: Path) -> None:
    """So that the first run on a machine with GPUs does not end with a mistake of this program."""
    assert main(["--cpu", "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert all(step["passed"] for step in result["steps"]) and "cpu" in result["device"]
