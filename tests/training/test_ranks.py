"""Two processes train as one: gradients are averaged, the batch is split, buffers and random first steps agree."""

import json
import os
import subprocess
import sys

import pytest
import torch

from contract.conftest import plan
from limner.training.run import start

CHILD = """
import os, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from contract.conftest import plan
from limner.training.run import start
from limner.training.stopwatch import Budget
# Clocks differ between processes: here they always disagree on whether there is time for a grid.
Budget.allows = lambda self, now: os.environ["RANK"] == "1"
start(plan({name!r}, **{settings!r}), {out!r}, quiet=True)
"""


def two_ranks(name, settings, out, tmp_path):
    script = tmp_path / "child.py"
    tests = os.path.dirname(os.path.dirname(__file__))
    script.write_text(CHILD.format(tests=tests, name=name, settings=settings, out=str(out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(sorted((out / "state").glob("*.pt"))[-1], weights_only=True)


@pytest.mark.parametrize("name", ["ae", "pixelcnn"])
def test_two_ranks_equal_one(name, tmp_path):
    settings = {"images": 16 * 6, "batch": 16, "seed": 2, "precision": "float32"}
    one = start(plan(name, **settings), tmp_path / "one", quiet=True)
    alone = torch.load(sorted((one.path / "state").glob("*.pt"))[-1], weights_only=True)
    together = two_ranks(name, settings, tmp_path / "two", tmp_path)
    assert together["clock"] == alone["clock"]
    parameters = {n for n, _ in one.model().named_parameters()}
    for key in parameters:
        assert torch.allclose(together["model"][key], alone["model"][key], atol=1e-6), key
    lines = [json.loads(line) for line in (tmp_path / "two" / "stats.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == sorted({line["images"] for line in lines}), "both processes wrote"
