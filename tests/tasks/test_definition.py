"""Tasks in TOML files: the two that come with fpm, ten lines of one's own, and mistakes in them."""

import re
import tomllib
from pathlib import Path

import pytest

from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tasks.definition import RecipeOverrides, TaskDefinition, load_task, task_names
from tests.tasks.small_tasks import TEN_LINES


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "afqmc.toml"
    path.write_text(TEN_LINES)
    return path


def test_the_tasks_of_the_paper_come_with_fpm() -> None:
    assert {"qqp", "tnews"} <= set(task_names())


def test_qqp_scores_the_duplicates() -> None:
    qqp = load_task("qqp")
    assert qqp.is_pair and qqp.positive_class == 1
    assert [qqp.class_of(written) for written in ("0", "1", "0.0", "1.0", "duplicate", "2", "")] == [
        *(0, 1, 0, 1, 1),
        *(None, None),
    ]


def test_tnews_has_fifteen_classes_under_two_names_each() -> None:
    tnews = load_task("tnews")
    assert len(tnews.labels) == 15 and not {"105", "111"} & set(tnews.labels)
    assert not tnews.is_pair and tnews.positive_class is None
    assert sorted(tnews.label_names.values()) == list(tnews.labels)
    assert tnews.class_of("news_game") == tnews.class_of("116") == 14


def test_tnews_names_its_labels_as_clue_does(shared_data: Path) -> None:
    import json

    lines = (shared_data / "tnews" / "labels.json").read_text(encoding="utf-8").split("\n")
    official = {row["label_desc"]: row["label"] for row in map(json.loads, lines)}
    assert official == load_task("tnews").label_names


def test_a_task_of_ones_own_takes_ten_lines(own: Path) -> None:
    task = load_task(own)
    assert TEN_LINES.count("\n") == 10
    assert task.is_pair and task.labels == ("0", "1") and task.positive_class == 1


@pytest.mark.parametrize("name", ["qqp", "tnews"])
def test_a_definition_is_written_and_read_back_the_same(name: str) -> None:
    task = load_task(name)
    assert TaskDefinition.model_validate(tomllib.loads(task.to_toml())) == task


def test_a_misspelt_task_finds_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no task is called 'tnew'; did you mean 'tnews'\?"):
        load_task("tnew")


def test_a_task_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such task file"):
        load_task(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("wrong", "instead_of", "said"),
    [
        ("lables", "labels", r"lables: no such key; did you mean 'labels'\?"),
        ("tetx_b", "text_b", r"layouts.0.tetx_b: no such key; did you mean 'text_b'\?"),
        ('labels = ["0"]', 'labels = ["0", "1"]', "labels: at least two; or value_range"),
        ('labels = ["0", "0"]', 'labels = ["0", "1"]', "labels has a label twice"),
        ('language = "fr"', 'language = "zh"', "language: Input should be 'en' or 'zh'"),
        ('text_b = "other"', 'text_b = "text_b"', "column 'other' is not among columns"),
        ('"text_a", "text_a"', '"text_a", "text_b"', "columns has a name twice"),
        ('format = "jsonl"', 'format = "tsv"', "columns are for csv and tsv"),
        ('name = "../up"', 'name = "afqmc"', "name: String should match pattern"),
        ("[[[", "[[", "not valid TOML"),
        ('positive = "2"\nlabels = ["0", "1"]', 'labels = ["0", "1"]', "positive must be one of two labels"),
        (
            'label_names = {yes = "3"}\nlabels = ["0", "1"]',
            'labels = ["0", "1"]',
            "'yes' stands for '3', which is not among labels",
        ),
    ],
)
def test_a_mistake_in_a_definition_names_file_and_key(
    own: Path, wrong: str, instead_of: str, said: str
) -> None:
    own.write_text(TEN_LINES.replace(instead_of, wrong))
    with pytest.raises(UsageError, match=said) as error:
        load_task(own)
    assert str(own) in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("value_range = [5, 0]", "value_range: two finite numbers, the smaller one first"),
        ('value_range = [0, 5]\nlabels = ["0", "1"]', "a task with value_range has no labels"),
        ('value_range = [0, 5]\nmetrics = ["accuracy"]', "metrics: of a regression task are pearson"),
        ("value_range = [false, true]", "value_range: true and false are not accepted here"),
        ("value_range = [0, inf]", "value_range: two finite numbers, the smaller one first"),
        ("value_range = [nan, 5]", "value_range: two finite numbers, the smaller one first"),
        ('labels = ["0", "1"]\nmetrics = ["pearson"]', "pearson and spearman are of regression tasks"),
        ('labels = ["0", "1", "2"]\nmetrics = ["f1_positive"]', "f1_positive takes two labels"),
    ],
)
def test_a_mistake_in_metrics_or_values_is_named(own: Path, table: str, message: str) -> None:
    own.write_text(TEN_LINES.replace('labels = ["0", "1"]', table))
    with pytest.raises(UsageError, match=re.escape(message)):
        load_task(own)


@pytest.mark.parametrize("key", RecipeOverrides.model_fields)
@pytest.mark.parametrize("value", ["inf", "nan", "true", "-1", "1e999"])
def test_a_number_of_the_recipe_that_is_out_of_range_is_named(own: Path, key: str, value: str) -> None:
    own.write_text(f"{TEN_LINES}\n[recipe]\n{key} = {value}\n")
    with pytest.raises(UsageError, match=rf"recipe\.{key}: "):
        load_task(own)
