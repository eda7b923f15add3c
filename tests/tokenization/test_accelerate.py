"""The faster libraries are used where they are exact, and never otherwise."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpm_cli.tokenization.accelerate import PROBES, Ragged, load_if_exact, make_gigatoken, make_nanotoken

KINDS = {"gpt-en": "gigatoken", "bert-en": "nanotoken", "bert-zh": "nanotoken"}
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def without_accelerator(tokenizer):
    again = type(tokenizer).from_files(tokenizer.kind, tokenizer.model_files(), tokenizer.options())
    again.__dict__["_accelerator"] = None
    return again


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_used_where_it_is_installed(trained, kind):
    pytest.importorskip(KINDS[kind])
    assert trained(kind)._accelerator is not None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(text, max_size=4))
def test_ids_are_the_same_with_and_without(trained, kind, texts):
    fast, slow = trained(kind), without_accelerator(trained(kind))
    assert fast.encode_batch(texts) == slow.encode_batch(texts)
    assert fast.encode_ragged(texts).ids.tolist() == slow.encode_ragged(texts).ids.tolist()


def fake(ids):
    ends = np.cumsum([len(some) for some in ids])
    return lambda texts: Ragged(np.array([i for some in ids for i in some], np.int32), ends)


def test_one_wrong_id_in_a_probe_and_it_is_not_trusted():
    right = [[ord(character) for character in probe] for probe in PROBES]

    def reference(text):
        return [ord(character) for character in text]

    assert load_if_exact(lambda: fake(right), reference) is not None
    for position in (2, len(right) - 1):
        wrong = [list(ids) for ids in right]
        wrong[position][-1] += 1
        assert load_if_exact(lambda wrong=wrong: fake(wrong), reference) is None
    assert load_if_exact(lambda: fake(right[:-1]), reference) is None


def test_an_accelerator_that_fails_is_not_trusted():
    def fails():
        raise RuntimeError("no such instruction")

    assert load_if_exact(fails, lambda text: []) is None


@pytest.mark.parametrize("make, name", [(make_gigatoken, "gigatoken"), (make_nanotoken, "nanotoken")])
def test_a_missing_library_is_no_error(monkeypatch, make, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert load_if_exact(lambda: make("{}"), lambda text: []) is None
