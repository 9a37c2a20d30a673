"""Every model of the catalogue survives: a killed run goes on bit for bit, what is saved loads equal and without the class."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from contract.conftest import can, images_of, plan, trainer
from limner import hub
from limner.training.run import resume, start

CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from contract.conftest import plan
from limner.training.run import start
start(plan({name!r}, **{settings!r}), {out!r}, quiet=True)
"""


def test_a_killed_run_goes_on_bit_for_bit(name, tmp_path):
    settings = {"images": 16 * 24, "batch": 16, "save_every": 16 * 4, "grid_every": 10**6, "seed": 3}
    whole = start(plan(name, **settings), tmp_path / "whole", quiet=True)

    # A slower twin of the same run, killed without warning once it has saved and gone on for a random while.
    out = tmp_path / "killed"
    tests = os.path.dirname(os.path.dirname(__file__))
    code = CHILD.format(tests=tests, name=name, settings=settings, out=str(out))
    child = subprocess.Popen([sys.executable, "-c", code])
    state = out / "state"
    while child.poll() is None and not list(state.glob("[0-9]*.pt")):
        time.sleep(0.002)
    time.sleep(torch.rand(()).item() * 0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    saved = [int(path.stem) for path in state.glob("[0-9]*.pt")]
    assert saved, "the run ended before it was killed"

    resume(out, quiet=True)
    assert (out / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    final = sorted((whole.path / "state").glob("*.pt"))[-1].name
    a, b = (torch.load(folder / "state" / final, weights_only=True) for folder in (whole.path, out))
    assert flat(a["optimizers"]) == flat(b["optimizers"])
    images = [json.loads(line)["images"] for line in (out / "stats.jsonl").read_text().splitlines()]
    assert images == sorted(set(images)), "a line of statistics stands twice"
    assert images[-1] == settings["images"]


def flat(value):
    """Nested state as comparable values."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    return [flat(item) for item in value] if isinstance(value, list | tuple) else value


def test_saved_and_loaded_are_equal(name, tmp_path):
    t = trainer(name, batch=16)
    for _ in range(2):
        t.step()
    with t.sampling() as model:
        model.save_pretrained(tmp_path)
        loaded = hub.load(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        assert loaded.config == model.config == again.config
        for other in (loaded, again):
            assert not other.training
            assert flat(other.state_dict()) == flat(model.state_dict())
        if can(model, "sample"):
            assert torch.equal(loaded.sample(2, generator=5), model.sample(2, generator=5))
        image = images_of(name, 4)
        if can(model, "reconstruct"):
            assert torch.equal(loaded.reconstruct(image), model.reconstruct(image))
    card = (tmp_path / "README.md").read_text()
    assert name in card
    assert "limner.load" in card
    assert ("![samples](samples.png)" in card) == (tmp_path / "samples.png").exists() == can(model, "sample")


def test_loading_another_class_is_refused(name, tmp_path):
    from limner import UserError, models

    plan(name).build().save_pretrained(tmp_path)
    other = next(models.model_class(n) for n in models.CATALOGUE if n != name)
    with pytest.raises(UserError, match=name):
        other.from_pretrained(tmp_path)
