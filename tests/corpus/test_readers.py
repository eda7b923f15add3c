"""Readers on data sets of `datasets`, and on the real records and dialogues beside the checkout."""

import json
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.corpus.build import Execution, build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.dialogues import join_segmented
from fpm_cli.corpus.filters import is_trivial, language, repetition, text_density
from fpm_cli.corpus.options import build_options
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tokenization.base import Tokenizer


def build(source: Any, inputs: list[Path], tokenizer: Tokenizer, out: Path, **options: Any) -> Corpus:
    return build_corpus(inputs, tokenizer, out, build_options(source, **options)).corpus


def test_saved_data_sets_are_read_by_rows(tmp_path: Path, gpt: Tokenizer) -> None:
    import datasets

    texts = [f"Row {i} of a data set, with its own words." for i in range(30)]
    rows = datasets.Dataset.from_dict({"body": [*texts, None, texts[3]], "key": [*range(30), 30, 31]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(tmp_path / "two")
    options = {"text_field": "body", "near_duplicates": 0}
    one = build("hf", [tmp_path / "one"], gpt, tmp_path / "corpus-1", **options)
    assert one.manifest.counts.dropped == {"exact_duplicate": 1, "no_text_field": 1}
    assert one.manifest.counts.documents_kept == 30
    [defect] = (one.path / "defects.jsonl").read_text().split("\n")[:-1]
    assert json.loads(defect) == {"input": "one", "offset": 30, "reason": "no_text_field"}
    two = build("hf", [tmp_path / "two"], gpt, tmp_path / "corpus-2", **options)
    assert [file.name for file in two.manifest.inputs] == ["two/train"]
    assert [(file.name, file.reason) for file in two.manifest.skipped] == [("two/test", "split_not_selected")]
    assert two.manifest.counts.documents_read == 32
    every = build("hf", [tmp_path / "two"], gpt, tmp_path / "corpus-all", hf_splits=(), **options)
    assert [file.name for file in every.manifest.inputs] == ["two/test", "two/train"]
    assert every.manifest.counts.documents_read == 35
    with pytest.raises(MissingError, match="no split 'dev'; --hf-splits takes of test, train, or all"):
        build("hf", [tmp_path / "two"], gpt, tmp_path / "corpus-dev", hf_splits=("dev",), **options)
    with pytest.raises(MissingError, match="neither a saved folder nor in the cache"):
        build("hf", [tmp_path / "absent"], gpt, tmp_path / "corpus-3")


def test_options_out_of_range_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="--min-density 3"):
        build_options("wudao", min_density=3)
    assert build_options("wudao").min_density == 0.7
    assert build_options("wudao", "none").min_density == 0
    assert build_options("stc").max_responses == 30
    assert build_options("pile").pile_partitions == ("02", "03", "04", "17")


def test_filters_measure_what_they_say() -> None:
    assert text_density("ab 12 一二!?") == pytest.approx(6 / 10)
    assert repetition("line one\nline two\nline one") == pytest.approx(8 / 26)
    assert (language("hello there 你"), language("你好，世界 ok"), language("123")) == ("en", "zh", "")
    assert is_trivial("帖子\n哈哈哈！") and is_trivial("帖子\nwow!!")
    assert not is_trivial("帖子\n你说得很好，我也这么想") and not is_trivial("一个人的话")


def test_blanks_between_segmented_words_go_and_those_between_english_words_stay() -> None:
    assert join_segmented("我 想 去 New York 玩 ， 你 呢 ？") == "我想去New York玩，你呢？"
    assert join_segmented(" 3 1 万 ") == "3 1万"


def test_real_wudao_and_pile_records_build(shared_data: Path, tmp_path: Path, gpt: Tokenizer) -> None:
    folder = shared_data / "schema_wudao_pile"
    wudao = build("wudao", [folder / "part-2021000000.json"], gpt, tmp_path / "wudao")
    assert wudao.manifest.counts.documents_kept == 2
    with pytest.raises(MissingError, match="excluded_set 1"):
        build("pile", [folder / "pile_00.jsonl"], gpt, tmp_path / "pile")
    options = {"exclude_sets": (), "validation_fraction": 0}
    pile = build("pile", [folder / "pile_00.jsonl"], gpt, tmp_path / "pile", **options)
    assert pile.manifest.counts.documents_kept == 1


def test_real_dialogues_are_all_accounted_for(shared_data: Path, tmp_path: Path, gpt: Tokenizer) -> None:
    lccc = build("stc", [shared_data / "zh_dialog_lccc" / "data"], gpt, tmp_path / "lccc")
    counts = lccc.manifest.counts
    assert counts.documents_read == 30_000
    assert counts.documents_kept + sum(counts.dropped.values()) == 30_000
    assert counts.dropped.keys() == {
        "advertisement",
        "beyond_responses",
        "exact_duplicate",
        "trivial_response",
    }
    toy = build("stc", [shared_data / "zh_dialog_cdialgpt_toy" / "data"], gpt, tmp_path / "toy")
    assert toy.manifest.counts.documents_read == 13_400


@pytest.mark.long
def test_executors_give_the_same_bytes(tmp_path: Path, gpt: Tokenizer) -> None:
    """Ray, where it is installed: two nodes on this machine, as `--executor ray` finds them on a cluster."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    texts = "\n\n".join(f"Story {i} begins. It ends here, at {i * i}." for i in range(3000))
    (tmp_path / "a.txt").write_text(texts)
    options = build_options("text", near_duplicates=0)
    local = build_corpus([tmp_path / "a.txt"], gpt, tmp_path / "local", options, Execution(shard_bytes=9000))
    import ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 2
        engine = Execution(executor="ray", shard_bytes=9000)
        remote = build_corpus([tmp_path / "a.txt"], gpt, tmp_path / "ray", options, engine)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert remote.corpus.manifest == local.corpus.manifest
    for name in [*local.corpus.manifest.files, "manifest.json", "README.md"]:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
