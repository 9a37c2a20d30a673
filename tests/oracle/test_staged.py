"""Two-stage models: the priors see the first stage's codes, one load gives both stages, bits and samples are the priors'."""

import math
import shutil
import subprocess
import sys

import pytest
import torch

import limner
from limner import capabilities, models, staged
from limner.data import open_data
from limner.noise import seeds
from limner.training.codes import with_codes
from limner.training.run import resume, train

torch.set_num_threads(1)
IMAGES = 1600


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A first stage with one map of codes, one with two, and a prior of each, all barely trained, on the embedded digits."""
    folder = tmp_path_factory.mktemp("staged")
    common = {"data": "digits", "device": "cpu", "quiet": True}
    for first, prior in (("vqvae", "pixelcnn"), ("vqvae2", "transformer")):
        train(first, out=folder / first, images=IMAGES, **common)
        train(prior, out=folder / f"{first}-{prior}", images=IMAGES, first_stage=folder / first, **common)
    return folder


@pytest.fixture(params=["vqvae-pixelcnn", "vqvae2-transformer"])
def run(request, runs):
    return runs / request.param


@pytest.fixture(scope="module")
def images():
    return open_data("digits", split="test").batch(range(6))["image"]


def test_one_load_gives_both_stages(run, images):
    model = limner.load(run)
    first = limner.load(run.parent / run.name.split("-")[0])
    assert {"sample", "reconstruct", "tokenize"} <= set(capabilities.of(model))
    assert len(model.priors) == len(first.codebooks)
    assert torch.equal(model.reconstruct(images), first.reconstruct(images))
    assert all(torch.equal(a, b) for a, b in zip(model.tokenize(images), first.tokenize(images), strict=True))
    assert not any(p.requires_grad for p in model.first_stage.parameters())
    assert "codes of a frozen `vqvae" in (run / "README.md").read_text()


def test_first_stage_is_not_moved_by_the_second(run):
    first, model = limner.load(run.parent / run.name.split("-")[0]), limner.load(run)
    for (name, a), b in zip(first.state_dict().items(), model.first_stage.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_samples_are_decoded_draws_of_the_priors(run):
    model = limner.load(run)
    every = list(range(20, 28))
    images = model.sample(8, generator=every)
    assert images.shape == (8, 1, 8, 8)
    for i in (0, 5):
        assert torch.allclose(model.sample(1, generator=[every[i]])[0], images[i], atol=1e-5)
    codes = model.draw_codes(8, None, every)
    assert torch.allclose(model.detokenize(codes), images, atol=1e-5)
    assert torch.allclose(model.sample(2, generator=4), model.sample(2, generator=seeds(4, 2)))
    # Uniform codes are the other thing that can be drawn, and not the same.
    assert not torch.allclose(model.sample(8, generator=every, uniform_codes=True), images, atol=1e-2)


def test_code_bits_are_those_of_the_dialogue(run, images):
    """Chain rule: the log-probabilities that an entropy coder is told add up to the bits of all codes."""
    model = limner.load(run)
    bits = model.code_bits(images)
    codes = model.tokenize(images)
    total = torch.zeros(len(images), dtype=torch.float64)
    for i, prior in enumerate(model.priors):
        dialogue = prior.predict(len(images), **({"condition": codes[i - 1]} if i else {}))
        values = codes[i].flatten(1)
        logits = next(dialogue)
        for step in range(values.shape[1]):
            total -= torch.log_softmax(logits, 1).gather(1, values[:, step, None])[:, 0] / math.log(2)
            if step + 1 < values.shape[1]:
                logits = dialogue.send(values[:, step])
    assert torch.allclose(bits.double(), total, rtol=1e-4)
    most = sum(h * w * math.log2(k) for k, (h, w) in zip(model.codebooks, model.code_shapes, strict=True))
    assert (bits < 1.5 * most).all()


def test_the_fine_prior_is_given_the_coarse_codes(runs, images):
    model = limner.load(runs / "vqvae2-transformer")
    top, bottom = model.tokenize(images)
    fine = staged.values_of(bottom[:, None].float(), model.codebooks[1])
    given = model.priors[1].log_prob(fine, condition=top)
    other = model.priors[1].log_prob(fine, condition=(top + 1) % model.codebooks[0])
    assert (given - other).abs().max() > 1e-4


def test_codes_of_the_data_are_cached_and_right(runs, images, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    data = open_data("digits", split="test")
    batch = with_codes(data, runs / "vqvae2").batch(range(6))
    for i, codes in enumerate(limner.load(runs / "vqvae2").tokenize(images)):
        assert torch.equal(batch[f"codes{i}"].long(), codes)
    monkeypatch.setattr("limner.training.codes.load_first_stage", lambda folder: pytest.fail("tokenised again"))
    assert torch.equal(with_codes(data, runs / "vqvae2").batch([3])["codes0"], batch["codes0"][3:4])


def test_a_stopped_run_goes_on_bit_for_bit_without_the_first_run(runs, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(runs / "vqvae", first)
    common = {"data": "digits", "device": "cpu", "quiet": True, "first_stage": first, "batch": 32}
    whole = train("pixelcnn", out=tmp_path / "whole", images=32 * 8, **common)
    # Stopped by leaving: a run of half the length whose schedule is the whole's.
    part = train("pixelcnn", out=tmp_path / "part", images=32 * 8, save_every=32 * 4, **common)
    for file in sorted((part.path / "state").glob("*.pt"))[1:]:
        file.unlink()
    (part.path / "model.safetensors").unlink()
    shutil.rmtree(first)
    resume(part.path, quiet=True)
    assert (part.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_labels_reach_every_prior(runs, tmp_path):
    run = train(
        "pixelcnn",
        data="digits",
        images=320,
        out=tmp_path / "labelled",
        first_stage=runs / "vqvae2",
        config={"classes": 10},
        device="cpu",
        quiet=True,
    )
    model = run.model()
    assert model.inputs == ("image", "label")
    assert all(prior.config.classes == 10 for prior in model.priors)
    assert model.sample(2, label=3).shape == (2, 1, 8, 8)


def test_every_trainable_parameter_gets_a_gradient(runs, images):
    first = limner.load(runs / "vqvae2")
    torch.manual_seed(0)
    cls = models.model_class("pixelcnn")
    preset = cls.PRESETS["codes"]
    model = staged.build(cls, preset.config, first).train()
    optimizers = model.optimizers()
    assert len(optimizers) == 2
    seen: set[str] = set()
    for _ in range(3):
        for update in model.train_step({"image": images}, limner.Clock()):
            optimizers[update.optimizer].zero_grad()
            update.loss.backward()
            seen |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
            optimizers[update.optimizer].step()
    assert sorted(n for n, p in model.named_parameters() if p.requires_grad and n not in seen) == []
    assert not any(n.startswith("first_stage") for n in seen)


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "limner", *map(str, arguments)], capture_output=True, text=True, cwd=folder, timeout=300
    )


def test_from_the_command_line(runs, tmp_path):
    done = command(tmp_path, "train", "transformer", "--first-stage", runs / "vqvae", "--images", 320, "--out", "prior")
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout  # the first stage's data, as no others were named
    assert command(tmp_path, "sample", "prior", "-n", 4).returncode == 0
    assert (tmp_path / "prior" / "generated" / "seed00003.png").is_file()
    again = command(
        tmp_path, "train", "transformer", "--first-stage", runs / "vqvae2", "--images", 320, "--out", "prior"
    )
    assert again.returncode == 2
    assert "another first stage" in again.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["ddpm", "--first-stage", "{vqvae}"], "no model of discrete codes"),
        (["pixelcnn", "--first-stage", "{vqvae}", "--size", "16"], "8 px"),
        (["pixelcnn", "--first-stage", "nowhere", "--data", "digits"], "nowhere"),
        (["pixelcnn", "--first-stage", "{ae}", "--data", "digits"], "without discrete codes"),
    ],
)
def test_what_cannot_be_is_refused(runs, tmp_path, flags, words):
    if not (runs / "ae").exists():
        models.model_class("ae")(models.model_class("ae").PRESETS["8px"].config).save_pretrained(runs / "ae")
    places = {"vqvae": runs / "vqvae", "ae": runs / "ae"}
    done = command(tmp_path, "train", *(flag.format(**places) for flag in flags))
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
