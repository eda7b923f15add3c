import subprocess
import sys

import numpy as np
import pytest

from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.build import build_samples
from fpm_cli.objectives.collate import collate
from tests.objectives.memory_corpus import MemoryCorpus, make_corpus, proxy, stream_corpus

KEYS = {
    "gpt": {"tokens": "s", "labels": "s", "loss_mask": "s"},
    "bert": {
        "tokens": "s",
        "token_types": "s",
        "attention_mask": "s",
        "labels": "s",
        "loss_mask": "s",
        "sentence_order": "",
    },
    "encdec": {
        "encoder_tokens": "s",
        "encoder_mask": "s",
        "decoder_tokens": "d",
        "labels": "d",
        "loss_mask": "d",
    },
}
DTYPES = {"attention_mask": np.bool_, "encoder_mask": np.bool_, "loss_mask": np.float32}
Case = tuple[RunConfig, MemoryCorpus]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_sample_has_the_keys_shapes_and_dtypes_that_models_expect(
    family_case: Case, split: str
) -> None:
    config, corpus = family_case
    lengths = {"s": (config.train.sequence_length,), "d": (config.train.decoder_length,), "": ()}
    samples = build_samples(config, corpus, split)
    for sample in samples:
        assert {key: value.shape for key, value in sample.items()} == {
            key: lengths[shape] for key, shape in KEYS[config.family].items()
        }
        assert {key: value.dtype for key, value in sample.items()} == {
            key: np.dtype(DTYPES.get(key, np.int64)) for key in KEYS[config.family]
        }
        assert sample["loss_mask"].sum() >= 1
        assert all(ids.min() >= 0 and ids.max() < config.model.vocab_size for ids in sample.values())


def test_a_batch_stacks_the_samples_and_owns_its_memory(family_case: Case) -> None:
    config, corpus = family_case
    samples = [build_samples(config, corpus, "train")[i] for i in range(3)]
    batch = collate(samples)
    for key, values in batch.items():
        assert values.shape == (3, *samples[0][key].shape)
        assert values.dtype == samples[0][key].dtype
        assert all(np.array_equal(values[i], samples[i][key]) for i in range(3))
        assert values.flags.owndata and values.flags.writeable


def test_another_kind_of_tokenizer_is_refused(family_case: Case) -> None:
    config, corpus = family_case
    other = proxy("bert" if config.family == "gpt" else "gpt")
    with pytest.raises(DamagedError, match=f"{corpus.tokenizer.kind} tokenizer.*takes {other.tokenizer}"):
        build_samples(other, corpus, "train")


def test_another_vocabulary_is_refused_with_the_mend() -> None:
    config = proxy("gpt")
    corpus = make_corpus(config.tokenizer, [[[8, 7]]], vocab_size=999)
    with pytest.raises(DamagedError, match=r"999 ids.*1024.*--set model\.vocab_size=999") as error:
        build_samples(config, corpus, "train")
    assert error.value.exit_status == 6


@pytest.mark.parametrize(
    ("family", "num_tokens", "needed"), [("gpt", 128, "129 tokens"), ("encdec", 141, "142 tokens")]
)
def test_a_split_too_short_for_one_sample_says_what_one_takes(
    family: str, num_tokens: int, needed: str
) -> None:
    config = proxy(family)
    with pytest.raises(UsageError, match=f"the validation split.*{needed}.*it has {num_tokens}"):
        build_samples(config, stream_corpus(config.tokenizer, num_tokens), "validation")
    assert len(build_samples(config, stream_corpus(config.tokenizer, num_tokens + 1), "validation")) == 1


def test_importing_the_objectives_imports_no_torch() -> None:
    program = "import sys, fpm_cli.objectives.build; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
