"""The command line as a person uses it: a process of its own, real files, its output and exit status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def limner(tmp_path):
    """Run `limner ...` in a folder of its own; gives the finished process."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "limner", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=180,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **environment},
        )

    return run


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run `limner ...` in this process, in a folder of its own: for many small cases."""
    from limner.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(list(map(str, arguments)))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A short run of each of two models on the embedded digits."""
    import torch

    from limner.training.run import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    for name in ("ae", "vae"):
        train(name, data="digits", images=6400, out=folder / name, device="cpu", quiet=True)
    return folder


def refused(done, *words):
    """The process ended as bad input should: status 2, one clear line that has these words, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("limner: ")
    for word in words:
        assert word in lines[0], lines[0]
