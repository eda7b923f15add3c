import pytest

from fpm_cli.accounting.paper_tables import (
    TABLE3,
    audit_statements_on_table4,
    audit_table1,
    audit_table2,
    audit_table3,
    implied_scores,
)
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve


@pytest.fixture(scope="module")
def table2():
    return {name: audit_table2(resolve(name, environment={}).config) for name in preset_names()}


def test_every_printed_parameter_count_is_explained(table2):
    assert len(table2) == 20
    assert not [name for name, finding in table2.items() if finding.explanation == "not explained"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BERT-E-E", "13.75M x 90"),
        ("BERT-X-EN-M", "50 layers"),
        ("CPM-X-L", "2.9B x 128/36 = 10.3B"),
        ("CPM-X-S", "exact count, rounded"),
        ("CPM-2-X-M", "truncated"),
    ],
)
def test_an_oddity_of_table_2_has_its_reason(table2, name, words):
    assert words in table2[name].explanation


@pytest.mark.parametrize("model", TABLE3)
def test_table_3_is_macro_averages_on_the_dev_set(model):
    precision, recall, f1, accuracy = TABLE3[model]
    implied = implied_scores(accuracy / 100, recall / 100)
    assert 100 * implied.precision_macro == pytest.approx(precision, abs=0.015)
    assert 100 * implied.f1_macro == pytest.approx(f1, abs=0.015)
    assert implied.f1_positive < implied.f1_macro - 0.02
    assert "macro" in audit_table3(model).explanation


def test_the_comparisons_with_table_1_are_of_unlike_scores():
    f1, accuracy = audit_table1()
    assert f1.printed == "+14.45" and "dev" in f1.explanation and "test" in f1.explanation
    assert accuracy.printed == "+19.32" and "no accuracy" in accuracy.explanation


def test_what_the_text_says_about_table_4_is_held_against_it():
    configs = {name: resolve(name, environment={}).config for name in preset_names()}
    findings = {finding.row: finding for finding in audit_statements_on_table4(configs)}
    assert findings["steps of CPM-X-S"].recomputed == "10,000"
    assert findings["longest run"].recomputed.startswith("BERT-X-EN")
    assert findings["BERT-X-EN-S and BERT-X-EN-M"].recomputed.startswith("1.3")
    assert findings["GPT iterations"].recomputed == "10,000 to 320,000"
