"""What is installed is whole: a wheel carries presets and samples and works from any folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ask = "import fpm_cli; from fpm_cli.cli.app import run; print(fpm_cli.__file__, file=sys.stderr);"
    ask += "sys.exit(run(['presets', 'list', '--json']))"
    # -I keeps the checkout out of the path; the site folder comes back by hand.
    code = f"import sys; sys.path.insert(0, {str(site)!r}); {ask}"
    shown = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert shown.returncode == 0, shown.stderr
    assert str(site) in shown.stderr
    assert len(json.loads(shown.stdout)["presets"]) == 20
    assert (site / "fpm_cli/corpus/sample/zh.txt").is_file()
    sources = {path.relative_to(ROOT) for path in (ROOT / "kernels").glob("*/*") if path.is_file()}
    assert len(sources) > 20
    assert all((site / "fpm_cli" / path).is_file() for path in sources), "`fpm kernels build` compiles them"
