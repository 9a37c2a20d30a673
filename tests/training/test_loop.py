"""The loop's own promises: schedule, average, updates in order, finite checks, signals, damaged checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.optim import SGD

from contract.conftest import digits, plan
from limner import UserError
from limner.config import ImageConfig
from limner.model import Model, Update
from limner.training import checkpoint, schedule
from limner.training.average import Average
from limner.training.events import Events
from limner.training.loop import Trainer
from limner.training.run import resume, start
from limner.training.settings import TrainConfig


class Scale(Model):
    """x is fitted by w: closed forms for everything the loop does to it."""

    Config = ImageConfig
    averaged = ("layer",)

    def __init__(self, config=None):
        super().__init__(config or ImageConfig(size=8))
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.layer.weight)
        self.other = nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []

    def optimizers(self):
        return {"first": SGD([*self.layer.parameters()], lr=0.1), "second": SGD([self.other], lr=0.1)}

    def train_step(self, batch, clock) -> Iterator[Update]:
        loss = (self.layer.weight.squeeze() - 1) ** 2 + 0 * self.other
        self.seen.append(f"first {float(self.layer.weight.detach()):.4f}")
        yield Update("first", loss)
        # By now the first update has been applied: alternating schemes (GANs) rely on it.
        self.seen.append(f"second {float(self.layer.weight.detach()):.4f}")
        if clock.step % 2 == 0:
            yield Update("second", (self.other - 1) ** 2 * self.layer.weight.sum())


def make(model=None, **settings):
    return Trainer(model or Scale(), digits(), TrainConfig(images=64, batch=8, device="cpu", **settings))


def test_updates_are_applied_in_order_and_reach_only_their_optimizer():
    t = make()
    t.step()
    # w: 0 -> 0 - 0.1 * 2 (0 - 1) = 0.2, seen by the second update; other: 0 + 0.1 * 2 * 0.2 = 0.04
    assert t.model.seen == ["first 0.0000", "second 0.2000"]
    assert float(t.model.layer.weight.detach()) == pytest.approx(0.2)
    assert float(t.model.other.detach()) == pytest.approx(0.04)
    t.step()
    assert float(t.model.other.detach()) == pytest.approx(0.04), "the second update comes every other step only"


def test_clipping_bounds_the_gradient_norm():
    t = make(clip=0.5)
    t.step()
    assert float(t.model.layer.weight.detach()) == pytest.approx(0.1 * 0.5, rel=1e-4)  # gradient -2 scaled to norm 0.5


def test_schedule_warms_up_and_follows_the_cosine():
    settings = TrainConfig(images=1000, batch=10, warmup=100, schedule="cosine")
    assert schedule.factor(0, settings) == pytest.approx(0.1)
    assert schedule.factor(90, settings) == pytest.approx(1.0)
    assert schedule.factor(550, settings) == pytest.approx(0.5)
    assert schedule.factor(1000, settings) == pytest.approx(0.0, abs=1e-12)
    assert schedule.factor(900, TrainConfig(images=1000, batch=10)) == 1.0


def test_average_has_the_stated_half_life_and_copies_buffers():
    layer = nn.BatchNorm1d(1)
    holder = nn.ModuleDict({"layer": layer})
    average = Average(holder, ("layer",))
    with torch.no_grad():
        layer.weight.fill_(3.0)  # from 1
        layer.running_mean.fill_(7.0)
    for _ in range(10):
        average.update(images=10**9, batch=10, halflife=100, rampup=0.5)
    assert float(average.copies[0].weight.detach()) == pytest.approx(
        2.0, rel=1e-5
    )  # half of the way after one half-life
    assert float(average.copies[0].running_mean) == 7.0


def test_ramp_up_forgets_the_first_weights():
    layer = nn.Linear(1, 1)
    average = Average(nn.ModuleDict({"layer": layer}), ("layer",))
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update(images=64, batch=64, halflife=10_000, rampup=0.1)
    assert torch.allclose(average.copies[0].weight, layer.weight, atol=2e-3)


class Breaks(Scale):
    """Its loss is not a number from step 5 on."""

    def train_step(self, batch, clock):
        bad = torch.tensor(float("nan") if clock.step == 5 else 0.0)
        yield Update("first", (self.layer.weight.squeeze() - 1) ** 2 + bad, {"good": torch.tensor(1.5), "bad": bad})


def test_a_loss_that_is_not_finite_stops_with_step_and_parts_named():
    t = make(Breaks())
    with pytest.raises(UserError, match=r"step 5 \(40 images\).*good = 1.5.*bad = nan"):
        t.run()
    assert torch.isfinite(t.model.layer.weight).all()


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights():
    class Explodes(Scale):
        def train_step(self, batch, clock):
            w = self.layer.weight.squeeze()
            yield Update(
                "first", (w * 0).sqrt() if clock.step == 2 else (w - 1) ** 2
            )  # d sqrt(0) is infinite, times 0: nan

    t = make(Explodes())
    with pytest.raises(UserError, match="gradient norm is nan"):
        t.run()
    assert torch.isfinite(t.model.layer.weight).all()


def test_the_checkpoint_before_a_divergence_loads(tmp_path, monkeypatch):
    from limner.models.autoencoders.ae import AE

    honest = AE.train_step

    def broken(self, batch, clock):
        for update in honest(self, batch, clock):
            yield update._replace(loss=update.loss * (float("inf") if clock.step == 7 else 1.0))

    monkeypatch.setattr(AE, "train_step", broken)
    with pytest.raises(UserError, match="after 96 images is intact"):
        start(plan("ae", images=16 * 12, batch=16, save_every=16 * 3), tmp_path, quiet=True)
    monkeypatch.setattr(AE, "train_step", honest)
    run = resume(tmp_path, quiet=True)
    assert all(torch.isfinite(p).all() for p in run.model().parameters())
    assert run.stats()[-1]["images"] == 16 * 12


def test_a_logger_that_fails_never_stops_training():
    told = []

    class Bad:
        def scalars(self, record):
            raise OSError("no space left")

        message = grid = verdicts = lambda self, *a: None

        def close(self):
            pass

    class Good(Bad):
        def scalars(self, record):
            told.append(record)

        def message(self, text):
            told.append(text)

    t = make()
    t.events = Events([Bad(), Good()])
    assert t.run()
    assert [m for m in told if isinstance(m, str)] == [
        "warning: Bad failed (no space left) and is switched off; training goes on"
    ]
    assert any(isinstance(m, dict) for m in told)


def test_missing_inputs_and_wrong_sizes_are_refused_before_the_first_step():
    class Needs(Scale):
        inputs = ("image", "mask")

    with pytest.raises(UserError, match="needs 'mask'"):
        make(Needs())
    with pytest.raises(UserError, match=r"1x8x8.*3x16x16"):
        make(Scale(ImageConfig(size=16, channels=3)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_cleanly(number, tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "limner",
        "train",
        "ae",
        "--data",
        "digits",
        "--out",
        str(out),
        "--images",
        "5000000",
        "--device",
        "cpu",
    ]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "images/s" in line or "/s" in line:
            break
    child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert errors == ""
    assert f"stopped by {number.name} and saved" in output
    newest = checkpoint.files(out / "state")[0]
    assert checkpoint.read(newest)["clock"]["images"] == int(newest.stem) > 0
    assert (out / "model.safetensors").is_file()


def test_keeps_the_newest_checkpoints_only(tmp_path):
    start(plan("ae", images=16 * 10, batch=16, save_every=16, keep=3), tmp_path, quiet=True)
    assert [int(p.stem) for p in checkpoint.files(tmp_path / "state")] == [160, 144, 128]


def test_resume_goes_back_to_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    start(plan("ae", images=160, batch=16, save_every=80), tmp_path, quiet=True)
    newest = checkpoint.files(tmp_path / "state")[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    resume(tmp_path, images=192)
    told = capsys.readouterr().out
    assert newest.name in told
    assert "going on after 80 images" in told
    checkpoint.files(tmp_path / "state")[0].unlink()


def test_the_same_command_goes_on_and_another_is_refused(tmp_path):
    start(plan("ae", images=64, batch=16), tmp_path, quiet=True)
    start(plan("ae", images=64, batch=16), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"train.batch = 16, not 32"):
        start(plan("ae", images=64, batch=32), tmp_path, quiet=True)
    with pytest.raises(UserError, match="holds a run of 'ae', not 'vae'"):
        start(plan("vae", images=64, batch=16), tmp_path, quiet=True)


def test_extending_a_run_changes_its_settings(tmp_path):
    start(plan("ae", images=64, batch=16), tmp_path, quiet=True)
    run = resume(tmp_path, images=128, quiet=True)
    assert run.train_config.images == 128
    assert json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])["images"] == 128


def test_the_clock_of_seconds_goes_on_after_a_resume(tmp_path):
    run = start(plan("ae", images=64, batch=16), tmp_path, quiet=True)
    before = run.stats()[-1]["seconds"]
    time.sleep(0.2)
    after = resume(tmp_path, images=128, quiet=True).stats()[-1]["seconds"]
    assert before < after < before + 20
