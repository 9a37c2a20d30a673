"""The README's "add your own model": the file as printed there goes through the whole contract suite, `train`, `sample`, `compare`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the README's model in a file."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- my_model.py -->\n```python\n(.*?)```", text, re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 20, "the README promises twenty lines"
    place = tmp_path_factory.mktemp("own")
    (place / "my_model.py").write_text(code)
    return place


def run(folder, *command):
    environment = {**os.environ, "LIMNER_MODELS": str(folder / "my_model.py"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=environment,
    )


def test_contract_suite_runs_on_it_unchanged(folder):
    suite = [ROOT / "tests" / "contract" / f"test_{part}.py" for part in ("training", "saving", "capabilities")]
    done = run(
        folder,
        "pytest",
        *suite,
        "-k",
        "[mixture]",
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        ROOT,
        "-p",
        "no:cacheprovider",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout + " 0 passed").group(1))
    assert passed >= 6, done.stdout[-2000:]


def test_train_sample_and_compare_run_on_it(folder):
    for command in (
        ("train", "mixture", "--data", "digits", "--images", 12800, "--out", "mine"),
        ("sample", "mine", "-n", 4),
        ("models",),
        ("train", "ae", "--data", "digits", "--images", 3200, "--out", "ae"),
        ("compare", "mine", "ae", "-n", 64),
    ):
        done = run(folder, "limner", *command)
        assert done.returncode == 0, (command, done.stderr)
    assert (folder / "mine" / "generated" / "seed00003.png").exists()
    assert "mixture" in (folder / "report.html").read_text()
    assert "Mixture of Gaussians over pixels" in run(folder, "limner", "models").stdout


def test_without_the_plug_in_the_run_is_refused_by_name(folder):
    done = subprocess.run(
        [sys.executable, "-m", "limner", "sample", "mine"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 2
    assert "there is no model called 'mixture'" in done.stderr
