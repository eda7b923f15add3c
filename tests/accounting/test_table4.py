import pytest

from fpm_cli.accounting.table4 import audit_row
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve


@pytest.fixture(scope="module")
def rows():
    return {name: audit_row(resolve(name, environment={}).config) for name in preset_names()}


def test_seventeen_rows_agree_and_three_do_not(rows):
    assert {name for name, row in rows.items() if not row.agrees} == {"CPM-X-EVA", "EPM-X-S", "EPM-X-M"}
    assert len(rows) == 20


@pytest.mark.parametrize(
    ("name", "recomputed", "hours"),
    [("CPM-X-EVA", 56.16, 24.04), ("EPM-X-S", 89.86, 20.48), ("EPM-X-M", 107.83, 24.48)],
)
def test_a_row_that_disagrees_says_which_hours_would_agree(rows, name, recomputed, hours):
    row = rows[name]
    assert row.eflops_recomputed == pytest.approx(recomputed, abs=0.005)
    assert row.hours_for_printed == pytest.approx(hours, abs=0.01)
    assert f"{hours:.1f}" in row.explanation.replace("20.48", "20.5").replace("24.48", "24.5")


def test_a_row_that_truncates_and_one_that_rounds_are_told_apart(rows):
    assert rows["BERT-C"].agreement == "truncated"
    assert rows["CPM-X-L"].agreement == "rounded"
    assert rows["BERT-E-E"].agreement == "both"


@pytest.mark.parametrize(("name", "needed", "budget"), [("BERT-E-E", 1979, 566), ("EPM-X-X", 6833, 135)])
def test_the_stated_batch_needs_several_times_the_peak(rows, name, needed, budget):
    row = rows[name]
    assert round(row.model_eflops_at_stated_batch) == needed
    assert row.implied_mfu_at_stated_batch == pytest.approx(needed / budget, rel=0.01)
    assert row.implied_mfu_at_stated_batch > 3


def test_the_affordable_batch_spends_the_budget_exactly(rows):
    for row in rows.values():
        spent = row.tokens_per_step_affordable * row.model_flops_per_token * row.steps / 1e18
        assert spent == pytest.approx(row.eflops_recomputed, rel=1e-3)
        assert row.tokens_per_step_affordable_realistic == pytest.approx(
            0.4 * row.tokens_per_step_affordable, rel=1e-3
        )
