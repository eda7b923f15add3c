import json
import subprocess
import sys
import time

import pytest

from fpm_cli.cli.app import run
from fpm_cli.runs.run import Run
from tests.run_folder import launch, write_run

CONTRACT = {
    "model",
    "hours",
    "steps",
    "gpus",
    "eflops_printed",
    "eflops_recomputed",
    "agrees",
    "model_flops_per_token",
    "tokens_per_step_affordable",
    "implied_mfu_at_stated_batch",
}


def test_the_document_has_twenty_rows_with_the_contracts_keys(capsys):
    assert run(["cost-report", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fpm.cost-report/1"
    assert len(document["rows"]) == 20
    assert all(set(row) >= CONTRACT for row in document["rows"])
    assert document["agreeing"] == 17


def test_the_table_flags_three_rows_and_says_the_plain_sentence(capsys):
    assert run(["cost-report"]) == 0
    out = capsys.readouterr().out
    assert "17 of 20 rows agree" in out
    for model, hours in (("CPM-X-EVA", "24.04 h"), ("EPM-X-S", "20.48 h"), ("EPM-X-M", "24.48 h")):
        assert any(model in line and hours in line for line in out.splitlines())
    assert "above 100 %" in out


def test_runs_have_their_own_rows_by_argument_and_by_option(capsys, tmp_path):
    write_run(tmp_path / "one", [launch(0, 10, 5.0)], range(1, 11))
    write_run(tmp_path / "two", [launch(0, 20, 9.0)], range(1, 21))
    arguments = ["cost-report", str(tmp_path / "one"), "--run", str(tmp_path / "two")]
    assert run([*arguments, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [row["steps"] for row in runs] == [10, 20]
    assert runs[0]["mfu"] is None
    assert run([*arguments, "--peak-tflops", "0.1"]) == 0
    assert "CPM-X-S (proxy)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["cost-report", "no-such-run"], 3, "no-such-run"),
        (["cost-report", "--peak-tflops", "-1"], 2, "--peak-tflops"),
    ],
)
def test_mistakes_are_named(capsys, arguments, status, words):
    assert run(arguments) == status
    assert words in capsys.readouterr().err


def test_the_verb_is_quick_and_needs_no_torch():
    code = (
        "import sys, psutil\n"
        "from fpm_cli.cli.app import run\n"
        "status = run(['cost-report', '--json'])\n"
        "size = psutil.Process().memory_info().rss / 2**20\n"
        "light = 'torch' not in sys.modules and size < 300\n"
        "sys.exit(status if light else f'{size} MB')\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 5  # one second on an idle machine


def test_the_page_is_whole_and_needs_no_network(capsys, tmp_path):
    write_run(tmp_path / "run", [launch(0, 10, 5.0)], range(1, 11))
    page = tmp_path / "cost.html"
    assert run(["cost-report", str(tmp_path / "run"), "--html", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "fpm.cost-report/1"
    text = page.read_text(encoding="utf-8")
    assert text.count('<tr class="flagged">') == 2 * 3  # in the bars and in the table
    assert "EPM-X-X" in text and "5,069%" in text and "CPM-X-S (proxy)" in text
    assert "<script" not in text and "http" not in text


def test_tables_1_to_3_are_audited_too(capsys):
    assert run(["cost-report", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["table"] for finding in findings].count("Table 2") == 20
    assert {finding["table"] for finding in findings} == {"Table 1", "Table 2", "Table 3", "Table 4"}


def test_the_best_depth_of_table_3_is_audited(capsys):
    assert run(["cost-report", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    (finding,) = [each for each in findings if each["row"] == "the best depth"]
    assert (finding["printed"], finding["recomputed"]) == ("70 layers", "no single winner")
    assert "2.6 binomial standard errors" in finding["explanation"]


def test_a_run_has_its_price(capsys, tmp_path):
    write_run(tmp_path / "run", [launch(0, 10, 3600.0, 8, "NVIDIA H100 80GB HBM3")], range(1, 11))
    assert run(["cost-report", str(tmp_path / "run"), "--price", "2.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["price"] == pytest.approx(20.0)


def test_a_runs_own_price_is_taken_where_none_is_given(capsys, tmp_path):
    write_run(tmp_path / "run", [launch(0, 10, 3600.0, 8, "NVIDIA H100 80GB HBM3")], range(1, 11))
    Run.open(tmp_path / "run").record_accounting(price_per_device_hour=1.5, cpu_peak_flops=None)
    assert run(["cost-report", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["price"] == pytest.approx(12.0)
