"""Each verdict is given on a run built to show it, and none on healthy runs of every family; probes leave training as it is."""

import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from contract.conftest import digits, plan
from contract.conftest import trainer as preset_trainer
from limner import UserError, capabilities, models
from limner.config import ImageConfig
from limner.data.dataset import Dataset
from limner.model import Model, Update
from limner.models.autoencoders.ae import AE
from limner.models.autoencoders.vae import VAE
from limner.models.autoregressive.pixelcnn import PixelCNN
from limner.models.gans.gan import GAN
from limner.noise import SampleNoise
from limner.training import probe as probes
from limner.training.events import Display, Events, Lines, Quiet, StatsFile
from limner.training.health import Health, Told
from limner.training.health_history import Verdict
from limner.training.health_rules import RULES
from limner.training.loop import Trainer
from limner.training.probe import Allowance, Probe, active_units, copies, gradient_balance, reduce, variety
from limner.training.run import resume, start
from limner.training.settings import TrainConfig

HEALTHY = Path(__file__).parent / "healthy"


class Listener(Quiet):
    """Keeps the lines of statistics, and which verdicts were given when."""

    def __init__(self):
        self.records, self.given, self.messages = [], {}, []

    def scalars(self, record):
        self.records.append(record)

    def message(self, text):
        self.messages.append(text)

    def verdicts(self, verdicts):
        for verdict in verdicts:
            self.given.setdefault(verdict.name, (self.records[-1]["step"], verdict))

    def names(self):
        return set(self.given)


def unlimited(trainer: Trainer) -> Trainer:
    """A trainer whose probes are due by the lines alone, not by the clock."""
    for allowance in trainer.probe.allowances.values():
        allowance.share = math.inf
    return trainer


def train(model, data=None, **settings) -> Listener:
    """Train `model` and listen; a run that breaks off is listened to up to there."""
    settings = {"batch": 64, "device": "cpu", "ema_halflife": 1000, **settings}
    trainer = unlimited(Trainer(model, data or digits(), TrainConfig(**settings)))
    heard = Listener()
    trainer.events = Events([heard])
    trainer.run()
    return heard


def seeded(build):
    torch.manual_seed(0)
    return build()


# ---- models and data built to be ill


class Lopsided(GAN):
    """A GAN whose players have learning rates of their own."""

    def __init__(self, critic: float, generator: float, beta1: float = 0.5):
        super().__init__(GAN.Config(size=8, network="mlp", latent=16, width=64))
        self.rates, self.beta1 = {"discriminator": critic, "generator": generator}, beta1

    def optimizers(self):
        return {
            name: Adam(getattr(self, name).parameters(), lr=lr, betas=(self.beta1, 0.999))
            for name, lr in self.rates.items()
        }


class Averager(Model):
    """A generator that is to hit a random image with each latent, in the mean square: it ends by drawing their mean."""

    Config = ImageConfig

    def __init__(self):
        super().__init__(ImageConfig(size=8))
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        nn.init.normal_(self.net[2].weight, std=0.3)  # varied at first

    def optimizers(self):
        return {"net": Adam(self.parameters(), lr=3e-3)}

    def decode(self, z):
        return torch.tanh(self.net(z)).view(-1, 1, 8, 8)

    def train_step(self, batch, clock):
        x = batch["image"]
        yield Update("net", F.mse_loss(self.decode(torch.randn(len(x), 8)), x))

    def sample(self, n, *, label=None, generator=0):
        return self.decode(SampleNoise(n, generator).normal(8))


class Deep(Model):
    """A deep fully connected autoencoder without any remedy."""

    Config = ImageConfig

    def __init__(self, activation, layers: int = 8):
        super().__init__(ImageConfig(size=8))
        hidden = [layer for _ in range(layers) for layer in (nn.Linear(64, 64), activation())]
        self.net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))

    def optimizers(self):
        return {"net": Adam(self.parameters(), lr=1e-3)}

    def train_step(self, batch, clock):
        yield Update("net", F.mse_loss(self.net(batch["image"]), batch["image"]))


class Quantiser(Model):
    """A small VQ-VAE (van den Oord et al. 2017) on quarters of digits."""

    Config = ImageConfig

    def __init__(self, codes: int, far: float):
        super().__init__(ImageConfig(size=8))
        self.encoder, self.decoder = nn.Linear(16, 4), nn.Linear(4, 16)
        self.codebook = nn.Parameter(torch.randn(codes, 4))
        with torch.no_grad():
            self.codebook[8:] += far  # all but a few codes begin where no image is

    def optimizers(self):
        return {"vq": Adam(self.parameters(), lr=3e-3)}

    def train_step(self, batch, clock):
        x = F.unfold(batch["image"], 4, stride=4).transpose(1, 2).flatten(0, 1)  # (4 B, 16)
        z = self.encoder(x)
        index = torch.cdist(z, self.codebook).argmin(1)
        code = self.codebook[index]
        out = self.decoder(z + (code - z).detach())
        loss = F.mse_loss(out, x) + F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        p = torch.bincount(index, minlength=len(self.codebook)) / len(index)
        perplexity = torch.exp(-torch.special.xlogy(p, p).sum())
        yield Update("vq", loss, {"perplexity": perplexity, "codebook_size": torch.tensor(float(len(self.codebook)))})


class Mean(Model):
    """Fits the mean image by plain gradient descent: each step multiplies the error by 1 - lr."""

    Config = ImageConfig

    def __init__(self, lr: float):
        super().__init__(ImageConfig(size=8))
        self.mean, self.lr = nn.Parameter(torch.zeros(1, 8, 8)), lr

    def optimizers(self):
        return {"mean": SGD(self.parameters(), lr=self.lr)}

    def train_step(self, batch, clock):
        yield Update("mean", 0.5 * (batch["image"].mean(0) - self.mean).square().sum())


class Slow(Dataset):
    """Digits from far away."""

    def draw(self, *args, **kwargs):
        time.sleep(0.02)
        return super().draw(*args, **kwargs)


def few(n: int) -> Dataset:
    return digits().subset(range(n))


# ---- each verdict on a run built to show it: that one, and no other


def test_a_critic_that_learns_too_fast_wins():
    heard = train(seeded(lambda: Lopsided(1e-2, 1e-4)), images=64 * 240)
    assert heard.names() == {"critic-wins"}
    assert "'discriminator' takes real images for real with probability 0.9" in heard.given["critic-wins"][1].evidence


def test_a_critic_that_hardly_learns_loses():
    heard = train(seeded(lambda: Lopsided(1e-6, 1e-3)), images=64 * 240)
    assert heard.names() == {"generator-wins"}
    assert "no longer tells them apart, though samples are" in heard.given["generator-wins"][1].evidence


def test_too_much_momentum_makes_the_players_oscillate():
    heard = train(seeded(lambda: Lopsided(3e-3, 3e-3, beta1=0.9)), images=64 * 240)
    assert heard.names() == {"oscillation"}


def test_samples_that_become_one_image_are_a_collapse():
    heard = train(seeded(Averager), images=64 * 600)
    assert heard.names() == {"mode-collapse"}
    spread = [r["probe/spread"] for r in heard.records if "probe/spread" in r]
    assert spread[0] > 0.8 > 0.3 > spread[-1]


def test_gradients_vanish_in_a_deep_network_of_sigmoids():
    heard = train(seeded(lambda: Deep(nn.Sigmoid)), images=16 * 520, batch=16)
    assert heard.names() == {"vanishing-gradients"}
    assert "gradient of 'net.1.weight' is" in heard.given["vanishing-gradients"][1].evidence


@pytest.mark.slow
def test_gradients_do_not_vanish_in_the_same_network_of_relus():
    assert train(seeded(lambda: Deep(nn.ReLU)), images=16 * 520, batch=16).names() == set()


def test_a_heavy_kl_term_collapses_the_posterior():
    config = VAE.Config(size=8, levels=17, network="mlp", latent=8, hidden=(64,), likelihood="gaussian", beta=50.0)
    heard = train(seeded(lambda: VAE(config)), images=16 * 540, batch=16)
    assert heard.names() == {"posterior-collapse"}
    (verdict,) = heard.records[-1]["health"]
    assert "the KL term is" in verdict["evidence"]
    assert "0 of the 8 units" in verdict["evidence"]


def test_codes_that_no_image_is_near_are_dead():
    heard = train(seeded(lambda: Quantiser(256, far=30.0)), images=64 * 240)
    assert heard.names() == {"dead-codes"}
    assert "has 256 codes" in heard.given["dead-codes"][1].evidence
    assert train(seeded(lambda: Quantiser(32, far=0.0)), images=64 * 240).names() == set()


def test_a_pixelcnn_on_a_few_images_overfits_and_then_draws_copies(monkeypatch):
    monkeypatch.setattr(probes, "EVERY", 15)
    monkeypatch.setattr(probes, "SIZES", (32, 16))  # it draws slowly
    config = PixelCNN.Config(size=8, levels=17, output="categorical", width=24, layers=2, first_kernel=5, lr=2e-2)
    heard = train(seeded(lambda: PixelCNN(config)), few(16), images=16 * 150, batch=16, clip=1.0, ema_halflife=100)
    assert heard.names() == {"overfitting", "memorisation"}
    assert heard.given["overfitting"][0] < heard.given["memorisation"][0]


def test_an_autoencoder_on_a_few_images_overfits():
    heard = train(plan("ae", seed=0).build(), few(16), images=64 * 200)
    assert heard.names() == {"overfitting"}


def test_a_slow_source_of_images_starves_the_loop():
    source = digits()
    slow = Slow("slow", source.images, levels=17)
    heard = train(seeded(lambda: Mean(0.1)), slow, images=64 * 40)
    assert heard.names() == {"data-starvation"}
    verdict = heard.given["data-starvation"][1]
    assert verdict.severity == "caution"
    assert "of the time goes into waiting for images" in verdict.evidence
    assert train(seeded(lambda: Mean(0.1)), images=64 * 400).names() == set()


def test_a_gradient_that_climbs_is_told_long_before_the_run_breaks():
    # Each step multiplies the error by -1.05: 3 times in 23 steps, 10 in 47, and 1e19 (whose square is no float32) in 900.
    settings = TrainConfig(images=64 * 2000, batch=64, device="cpu", ema_halflife=0)
    trainer, heard = Trainer(Mean(2.05), digits(), settings), Listener()
    trainer.events = Events([heard])
    with pytest.raises(UserError, match="diverged"):
        trainer.run()
    assert heard.names() == {"divergence"}
    assert heard.given["divergence"][0] < trainer.clock.step - 300


def test_far_too_high_a_learning_rate_is_a_divergence():
    config = AE.Config(size=8, network="mlp", latent=8, lr=0.3)
    heard = train(seeded(lambda: AE(config)), images=20_000, warmup=10_000)
    assert "divergence" in heard.names()


# ---- none on healthy runs


@pytest.mark.parametrize("path", sorted(HEALTHY.glob("*.jsonl")), ids=lambda p: p.stem)
def test_the_recorded_healthy_runs_give_no_verdict(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) > 30
    assert Health().replay(lines) == []
    health = Health()
    assert [verdict for line in lines for verdict in health.look(line)] == []


def test_healthy_runs_of_every_family_are_recorded():
    names = {path.stem for path in HEALTHY.glob("*.jsonl")}
    assert {f"gallery-{name}" for name in ("ae", "vae", "gan", "gan900", "ddpm", "pixelcnn", "realnvp")} <= names
    assert {f"8px-{name}" for name in ("ae", "vae", "gan", "ddpm", "pixelcnn", "realnvp")} <= names


SLOWER = ("realnvp", "pixelcnn", "ddpm")
SHORT = {"ae": 12_000, "vae": 8_000, "gan": 2_500, "realnvp": 2_500, "pixelcnn": 1_300, "ddpm": 1_000}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOWER else ()) for name in SHORT]
)
def test_a_short_healthy_run_gives_no_verdict(name, monkeypatch):
    monkeypatch.setattr(probes, "EVERY", 20)
    if name in ("ddpm", "pixelcnn"):  # they draw slowly
        monkeypatch.setattr(probes, "SIZES", (16,))
        monkeypatch.setattr(probes, "EVERY", 10**6)
    heard = listen_to_preset(name, images=SHORT[name])
    assert heard.names() == set()
    assert any("probe/draw" in r for r in heard.records)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_longer_healthy_run_gives_no_verdict(name, monkeypatch):
    monkeypatch.setattr(probes, "EVERY", 10)
    assert listen_to_preset(name, images=10 * SHORT[name], seed=1).names() == set()


def listen_to_preset(name, **settings) -> Listener:
    trainer, heard = unlimited(preset_trainer(name, **settings)), Listener()
    trainer.events = Events([heard])
    trainer.run()
    return heard


# ---- probes leave training as it is


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOWER else ())
        for name, entry in models.CATALOGUE.items()
        if "limner.models." in entry.target  # other tests register toys
    ],
)
def test_a_probed_run_is_the_same_bit_for_bit(name, monkeypatch):
    settings = {"images": 16 * 3, "batch": 16, "seed": 3}
    monkeypatch.setattr(probes.Allowance, "bears", lambda self, *time: 8)
    monkeypatch.setattr(probes, "EVERY", 10**6)  # at the first line only
    probed, alone = preset_trainer(name, **settings), preset_trainer(name, **settings)
    alone.probe.kinds.clear()
    alone.probe.allowances.clear()
    heard = Listener()
    probed.events = Events([heard])
    for trainer in (probed, alone):
        trainer.run()
    looked = any(key.startswith("probe/") for record in heard.records for key in record)
    assert looked == bool({"sample", "score", "reconstruct"} & set(capabilities.of(probed.model))), "nothing was probed"
    a, b = probed.state_dict(), alone.state_dict()
    for part in ("model", "average", "optimizers", "clock"):
        assert _flat(a[part]) == _flat(b[part]), part


def _flat(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _flat(item) for key, item in value.items()}
    return [_flat(item) for item in value] if isinstance(value, list | tuple) else value


def test_a_probe_leaves_mode_weights_and_random_numbers():
    trainer = unlimited(preset_trainer("vae", images=64, batch=16))
    trainer.step()
    trainer.model.train()
    before, random = _flat(trainer.model.state_dict()), torch.get_rng_state()
    assert "probe/spread" in trainer.look()
    assert trainer.model.training
    assert _flat(trainer.model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random)


TWO_RANKS = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from contract.conftest import plan
from limner.training import probe
from limner.training.run import start
probe.Allowance.bears = lambda self, *time: 16
probe.EVERY = 1
start(plan("vae", **{settings!r}), {out!r}, quiet=True)
"""


@pytest.mark.slow
def test_two_processes_of_which_one_probes_do_not_wait_for_each_other(tmp_path):
    settings = {"images": 16 * 8, "batch": 16}
    script, out = tmp_path / "child.py", tmp_path / "run"
    script.write_text(TWO_RANKS.format(tests=str(Path(__file__).parents[1]), settings=settings, out=str(out)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    subprocess.run(command, timeout=120, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == list(range(16, 16 * 9, 16))
    assert all("probe/active_units" in line for line in lines)


def test_health_goes_on_after_a_resume_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(probes.Allowance, "bears", lambda self, *a: 16)
    settings = {"images": 16 * 60, "batch": 16, "save_every": 16 * 30}
    whole = start(plan("ae", **settings), tmp_path / "whole", quiet=True)
    begun = start(plan("ae", **{**settings, "images": 16 * 30}), tmp_path / "begun", quiet=True)
    looked = []
    honest = Health.look

    def look(self, record):
        looked.append(record["images"])
        return honest(self, record)

    monkeypatch.setattr(Health, "look", look)
    resume(begun.path, images=16 * 60, quiet=True)
    assert looked == [line["images"] for line in begun.stats()], "what stood in the file is read first, each line once"
    a, b = ({k: v for k, v in run.stats()[-1].items() if k.startswith(("loss/", "norm/"))} for run in (whole, begun))
    assert len(a) == 2
    assert a == b


# ---- what is written and said


def ill(step: int, **more) -> dict:
    """A line of a run whose critic wins."""
    line = {"images": 64 * step, "step": step, "seconds": step / 100, "images_per_second": 6400.0, "wait": 0.0}
    return {**line, "critic/D(x)": 0.99, "critic/D(G(z))": 0.01, **more}


def test_a_verdict_is_said_once_until_it_ceases(tmp_path):
    said: list[str] = []
    lines = Lines(10**6, every=math.inf, write=said.append)
    lines.last = math.inf
    health = Health()
    for i in range(1, 61):
        well = {"critic/D(x)": 0.6, "critic/D(G(z))": 0.4} if i > 30 else {}
        lines.verdicts(health.look(ill(30 * i, **well)))
    assert len(said) == 2
    assert said[0].startswith(
        "the critic wins: 'critic' takes real images for real with probability 0.99 and generated"
    )
    assert "; try fewer updates of the critic" in said[0]
    assert "\n" not in said[0]
    assert said[1] == "recovered: no longer the critic wins"


def test_verdicts_stand_in_the_statistics_as_a_list(tmp_path):
    heard = train(seeded(lambda: Mean(2.05)), images=64 * 200)
    file = StatsFile(tmp_path / "stats.jsonl", 0)
    for record in heard.records:
        file.scalars(record)
    file.close()
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert "health" not in lines[0]
    (verdict,) = lines[-1]["health"]
    assert set(verdict) == {"name", "headline", "evidence", "advice", "severity"}
    assert verdict["name"] == "divergence"
    assert Verdict(**verdict) in Health().replay(lines), "what is said of a run can be said again from its file"
    assert all(isinstance(v, int | float) for line in lines for k, v in line.items() if k != "health")


def test_every_rule_is_silent_without_its_statistics():
    health = Health()
    for i in range(1, 100):
        assert health.look({"images": i, "step": i, "loss/x": 1.0}) == []
    assert len({rule.__name__ for rule in RULES}) == 11


def test_told_gives_news_only():
    told = Told()
    a, b = Verdict("a", "a ails", "1", "2"), Verdict("b", "b ails", "3", "4", "caution")
    assert told.news([a]) == ["a ails: 1; try 2"]
    assert told.news([a, b]) == ["b ails: 3; try 4"]
    assert told.news([b]) == ["recovered: no longer a ails"]


# ---- the figures themselves


def test_variety_of_known_sets():
    real = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    same = variety(real, real)
    assert same["spread"] == pytest.approx(1)
    assert same["nearest"] == pytest.approx(1)
    assert same["recall"] == 1
    assert variety(0.5 * real, real)["spread"] == pytest.approx(0.5)
    one = variety(real[:1].expand(64, -1), real)
    assert one["spread"] == pytest.approx(0, abs=1e-3)
    assert one["recall"] == pytest.approx(1 / 64)
    twins = variety(torch.cat([real[:32], real[:32]]), real)
    assert twins["nearest"] == pytest.approx(0, abs=1e-2)
    assert twins["spread"] > 0.8


def test_copies_are_found_and_new_images_are_not_copies():
    generator = torch.Generator().manual_seed(0)
    training, new = torch.randn(500, 20, generator=generator), torch.randn(100, 20, generator=generator)
    usual = float(torch.cdist(new, training).min(1).values.median())
    fresh = copies(torch.randn(60, 20, generator=generator), training, usual)
    assert fresh["copies"] == 0
    assert fresh["novelty"] == pytest.approx(1, abs=0.15)
    half = torch.cat([training[:30] + 0.01, new[:30]])
    assert copies(half, training, usual)["copies"] == pytest.approx(0.5)
    # A tenth of the training set was searched, and held three of the thirty copies.
    assert copies(half, training[27:77], usual, 0.1)["copies"] == pytest.approx(0.5)
    assert copies(half, training[28:78], usual, 0.1)["copies"] == 0, "two may be chance"
    assert copies(half, training, 0.0) == {}


def test_active_units_are_counted_against_the_prior():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(64, 3, generator=generator) * torch.tensor([1.0, 0.2, 0.05])
    prior = torch.randn(256, 3, generator=generator)
    assert active_units(latents, prior) == {"active_units": 2, "latent_units": 3}
    assert active_units(latents, 0.1 * prior) == {"active_units": 3, "latent_units": 3}


def test_gradient_balance_names_the_layer_that_learns_least():
    gradients = {"a": torch.full((2, 3), 0.1), "b": torch.full((40, 5), 1e-4), "bias": torch.zeros(4)}
    balance, name = gradient_balance(gradients)
    assert name == "b"
    assert balance == pytest.approx(1e-3)
    assert math.isnan(gradient_balance({"a": torch.ones(2, 2), "bias": torch.ones(2)})[0])


def test_reduced_images_are_block_means():
    x = torch.arange(2 * 3 * 32 * 32.0).view(2, 3, 32, 32)
    assert reduce(x).shape == (2, 3 * 16 * 16)
    assert reduce(x)[0, 0] == pytest.approx(statistics.fmean([0, 1, 32, 33]))
    assert reduce(x[..., :8, :8]).shape == (2, 3 * 64)


def test_an_allowance_never_lends():
    allowance = Allowance(0.01)
    assert allowance.bears(15, 1000, 0.1) == 0  # 0.15 s saved, a step takes 0.1
    assert allowance.bears(25, 1000, 0.1) == probes.TRIAL
    allowance.images, allowance.cost, allowance.spent, allowance.probes = 4, 0.1, 0.1, 1
    # 64 images cost 1.6 s at most: there are 10 s in all, and it waits for 1.6 of them.
    assert allowance.bears(100, 1000, 0.1) == 0
    assert allowance.bears(171, 1000, 0.1) == 64
    # In a run of 200 s there are 2 s: two probes of 32 (0.8 s each) fit, two of 64 do not.
    assert allowance.bears(100, 200, 0.1) == 32
    assert allowance.bears(21, 42, 0.1) == probes.TRIAL, "the first time may have been slow for being the first"
    assert allowance.bears(21, 22, 0.1) == 0, "no hope"
    allowance.probes = 2
    assert allowance.bears(21, 42, 0.1) == 0
    allowance.images, allowance.cost, allowance.spent = 64, 0.2, 1.8
    assert allowance.bears(199, 200, 0.1) == 0
    assert allowance.bears(201, 300, 0.1) == 64


def test_probes_keep_to_their_share_of_the_time():
    class Nap(Averager):
        def sample(self, n, *, label=None, generator=0):
            time.sleep(0.002 * n)
            return super().sample(n, label=label, generator=generator)

    probe, seconds = Probe(Nap().eval(), digits()), 0.0
    looks = 0
    for _ in range(200):
        seconds += 0.5
        due = probe.due(seconds, 100.0, 0.01)
        looks += "probe/draw" in probe.measure(due)
        assert probe.spent <= probes.SHARE * seconds + 0.05
    assert 5 <= looks <= 20


def test_samples_of_a_grid_are_looked_at_too():
    model = seeded(Averager).eval()
    probe = Probe(model, digits())
    with torch.no_grad():
        drawn = model.sample(64, generator=list(range(64)))
    probe.take(drawn, cost=3.0)
    figures = probe.measure({})
    assert figures["probe/draw"] == 64
    with torch.no_grad():
        assert figures["probe/spread"] == pytest.approx(probe.judge(drawn)["spread"], abs=1e-5)
    assert probe.measure({}) == {}
    assert probe.allowances["draw"].cost == pytest.approx(3.0, abs=0.5), "what it costs to draw as many is known now"


def test_a_model_that_fails_at_a_probe_trains_on():
    class Broken(Averager):
        def sample(self, n, *, label=None, generator=0):
            raise RuntimeError("no samples today")

    heard = train(Broken(), images=64 * 10)
    assert heard.records[-1]["images"] == 640
    assert len(heard.messages) == 1
    assert heard.messages[0].startswith("warning: health cannot draw with this model (no samples today)")


def test_the_display_shows_what_holds_and_says_what_passed():
    from rich.console import Console

    screen = io.StringIO()
    display = Display("run", 1000, Console(file=screen, force_terminal=True, width=200))
    held = Verdict("a", "a [ails]", "it is [bold]1[/bold]", "2")
    display.scalars(
        {"images": 10, "images_per_second": 5.0, "loss/x": 1.0, "probe/spread": 0.123, "health": [held.as_dict()]}
    )
    display.verdicts([held])
    assert display.notes == ["a [ails]: it is [bold]1[/bold]"]
    display.verdicts([])
    assert display.notes == []
    display.close()
    said = screen.getvalue()
    assert "a [ails]: it is [bold]1[/bold]; try 2" in said
    assert "recovered: no longer a [ails]" in said
    assert "0.123" not in said
