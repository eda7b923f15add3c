"""Every flag with a number states a range with two ends, and takes no `nan` and no `inf`."""

import typing
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.models import ParameterInfo

from fpm_cli.cli.app import run as fpm
from fpm_cli.cli.verb_groups import VERBS


def number_flags(application: typer.Typer, path: str) -> Iterator[tuple[str, ParameterInfo]]:
    for group in application.registered_groups:
        assert group.typer_instance
        yield from number_flags(group.typer_instance, f"{path} {group.name}")
    for command in application.registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__
        for parameter, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            kinds: Any = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
            if kinds in (int, float) or {int, float} & set(typing.get_args(kinds)):
                information = [extra for extra in hint.__metadata__ if isinstance(extra, ParameterInfo)]
                yield f"{path} {name} {parameter}", information[0]


FLAGS = {
    path: information
    for verbs in VERBS.values()
    for name, verb in verbs.items()
    for path, information in number_flags(verb.application(name), "fpm")
}


def test_the_flags_are_found() -> None:
    assert {"fpm generate temperature", "fpm pretrain nproc", "fpm cost-report price"} <= set(FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_a_number_has_a_range_with_two_ends(name: str) -> None:
    assert FLAGS[name].min is not None and FLAGS[name].max is not None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "RUN", "--temperature", "nan"], "--temperature"),
        (["generate", "RUN", "--top-p", "inf"], "--top-p"),
        (["generate", "RUN", "--seed", "99999999999999999999"], "--seed"),
        (["pretrain", "--preset", "CPM-X-S", "--dry-run", "--price", "inf"], "--price"),
        (["pretrain", "--preset", "CPM-X-S", "--dry-run", "--price", "-2"], "--price"),
        (["pretrain", "--preset", "CPM-X-S", "--budget", "9" * 400], "duration"),
        (["pretrain", "--preset", "CPM-X-S", "--nproc", "99999999999999999999"], "--nproc"),
        (["plan", "--budget", "1e999"], "duration"),
        (["cost-report", "--peak-tflops", "0"], "--peak-tflops"),
        (["build-corpus", "text", "x", "--validation-fraction", "nan"], "--validation-fraction"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(arguments) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    "assignment",
    [
        *("train.lr=inf", "train.lr=nan", "train.steps=true", "train.steps=1e999", "engine.zero_stage=true"),
        *("train.budget_seconds=inf", "engine.timeout_seconds=1e300", "train.steps=99999999999999999999"),
        *("model.dropout=false", "train.seed=true", "train.spike_sigmas=inf", "finetune.epochs=true"),
    ],
)
def test_a_configuration_value_out_of_range_is_named_with_its_origin(
    assignment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(["pretrain", "--preset", "CPM-X-S", "--dry-run", "--set", assignment]) == 2
    message = capsys.readouterr().err
    assert f"{assignment.split('=')[0]} (from --set {assignment})" in message
