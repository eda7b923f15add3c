import json
import subprocess
import sys

import pytest

from fpm_cli.cli.app import run


def document(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)


def test_list_tells_the_twenty_with_printed_and_exact_sizes(capsys):
    listed = document(capsys, "presets", "list")
    assert listed["schema"] == "fpm.presets-list/1"
    assert len(listed["presets"]) == 20
    by_name = {preset["name"]: preset for preset in listed["presets"]}
    assert by_name["CPM-X-L"] == {
        "name": "CPM-X-L",
        "family": "gpt",
        "language": "zh",
        "num_layers": 128,
        "hidden_size": 2560,
        "num_heads": 32,
        "head_size": 80,
        "vocab_size": 30000,
        "tokenizer": "gpt-zh",
        "paper_params": "10.3B",
        "exact_params": 10150016000,
    }


def test_list_as_a_table_names_every_preset(capsys):
    assert run(["presets", "list"]) == 0
    out = capsys.readouterr().out
    assert "BERT-X-CN-S" in out and "10,150,016,000" in out


def test_show_says_where_a_value_comes_from(capsys):
    shown = document(capsys, "presets", "show", "CPM-X-L", "--origin", "--set", "train.lr=1e-4")
    assert shown["config"]["train"]["lr"] == 1e-4
    assert shown["origins"]["train.lr"] == "--set train.lr=1e-4"
    assert shown["origins"]["model.num_layers"] == "presets/CPM-X-L.toml"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["presets", "show", "CPM-XL"], "CPM-X-L"),
        (["presets", "show", "CPM-X-L", "--set", "train.lrr=1"], "train.lr"),
        (["presets", "show", "CPM-X-L", "--set", "train.lr=-1"], "train.lr"),
        (["presets", "lost"], "lost"),
    ],
)
def test_a_users_mistake_exits_2(capsys, arguments, words):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from fpm_cli.cli.app import run\n"
        "status = run(['--help'])\n"
        "heavy = {'torch', 'deepspeed', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cost-report" in done.stdout
