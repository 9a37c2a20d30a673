"""The diffusion model against exact truths: with the exact network of a Gaussian in the place of its U-Net, and by itself."""

import dataclasses

import pytest
import torch

from limner.denoising import bound, schedules
from limner.denoising.parametrisation import from_x0
from limner.errors import UserError
from limner.model import Clock
from limner.models.diffusion.ddpm import DDPM, Config
from limner.noise import seeds

MEAN, STD = 0.3, 0.5
LINEAR = schedules.linear()


def quantile_map(x, abar, mean=MEAN, std=STD):
    """Where the probability-flow ODE takes x_T at time 0: to the same quantile of the data."""
    a, s = schedules.signal_and_noise(abar[-1])
    return mean + std * (x - a * mean) / (a**2 * std**2 + s**2).sqrt()


def tiny(**options) -> DDPM:
    torch.manual_seed(0)
    model = DDPM(
        Config(
            **{"size": 8, "levels": 17, "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), **options}
        )
    )
    torch.nn.init.normal_(model.unet.last.weight, std=0.05)
    return model.eval()


class Exact(torch.nn.Module):
    """In the place of the U-Net: says what the exact denoiser of the Gaussian would."""

    def __init__(self, model):
        super().__init__()
        self.model, self.place = model, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, t, label):
        c = self.model.config
        a, s = self.model._signal_and_noise((t * c.timesteps / 1000).round().long(), x)
        x0 = MEAN + STD**2 * a * (x - a * MEAN) / (a**2 * STD**2 + s**2)
        return from_x0(c.prediction, x0, x, a, s)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_model_with_exact_network_does_everything_right(prediction, schedule):
    model = tiny(prediction=prediction, schedule=schedule, clip=False, size=16, steps=200)
    model.unet = Exact(model)
    x = model.sample(40, sampler="ancestral", steps=1000 if prediction != "epsilon" else 500)
    clipped = (MEAN + STD * torch.randn(10**6, generator=torch.Generator().manual_seed(5))).clamp(
        -1, 1
    )  # images end in [-1, 1]
    assert x.mean().item() == pytest.approx(clipped.mean().item(), abs=0.02)
    assert x.std().item() == pytest.approx(clipped.std().item(), rel=0.03)
    if not (prediction == "epsilon" and schedule == "cosine"):
        z = model.latents(4, generator=1)
        assert torch.allclose(model.decode(z), quantile_map(z, model.abar).clamp(-1, 1), atol=0.08)
    image = (0.2 * torch.randn(4, 1, 16, 16) + MEAN).clamp(-1, 1)
    assert (model.reconstruct(image, steps=200) - image).abs().max() < 0.05
    sigma = torch.tensor([0.05, 0.3, 1.0, 5.0])
    column = sigma.view(-1, 1, 1, 1)
    noisy = image + column * torch.randn_like(image)
    truth = (STD**2 * noisy + column**2 * MEAN) / (STD**2 + column**2)
    assert torch.allclose(model.denoise(noisy, sigma), truth.clamp(-1, 1), atol=0.02)


def test_one_step_takes_the_gradient_of_algorithm_1_to_every_parameter():
    model = tiny(classes=3)
    batch = {"image": torch.rand(8, 1, 8, 8) * 2 - 1, "label": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])}
    (update,) = model.train_step(batch, Clock())
    update.loss.backward()
    assert update.optimizer == "unet"
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    held = {id(p) for group in model.optimizers()["unet"].param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(("prediction", "expected"), [("epsilon", 1.0), ("v", None), ("x0", None)])
def test_loss_of_a_silent_network(prediction, expected):
    """A network that says 0 has the mean square of its target as its loss: 1 for epsilon, E[s^2] E[x0^2] + E[a^2] for v."""
    model = tiny(prediction=prediction, schedule="linear")
    torch.nn.init.zeros_(model.unet.last.weight)
    torch.manual_seed(1)
    image = torch.full((500, 1, 8, 8), 0.5)
    (update,) = model.train_step({"image": image}, Clock())
    a2 = LINEAR[1:]
    if prediction == "v":
        expected = (a2 + (1 - a2) * 0.25).mean().item()
    elif prediction == "x0":
        expected = 0.25 * (a2 / (1 - a2)).clamp(min=1).mean().item()
    assert update.loss.item() == pytest.approx(expected, rel=0.05 if prediction != "x0" else 0.7)


def test_learned_variance_is_trained_by_the_bound_and_the_mean_is_not(monkeypatch):
    model, image = tiny(variance="learned"), torch.rand(16, 1, 8, 8) * 2 - 1

    def gradient():
        torch.manual_seed(3)
        (update,) = model.train_step({"image": image}, Clock())
        return torch.autograd.grad(update.loss, model.unet.last.weight)[0]  # (2, C, 3, 3): of the mean, of the variance

    both = gradient()
    monkeypatch.setattr(bound, "term", lambda denoise, x0, *rest: 0 * denoise(None, None)[1].flatten(1).sum(1))
    simple = gradient()
    assert both[1].norm() > 1e-5
    assert simple[1].norm() == 0
    assert simple[0].norm() > 1e-3
    assert torch.allclose(both[0], simple[0], atol=1e-7)


def test_learned_variance_betters_the_bound():
    model = tiny(variance="learned", lr=1e-2)
    optimizer, image = (
        torch.optim.Adam([model.unet.last.bias], lr=0.02),
        torch.rand(64, 1, 8, 8).sub(0.5).mul(16).round() / 8,
    )
    before = model.bits_per_dim(image, timesteps=30).mean()
    torch.manual_seed(0)
    for _ in range(40):
        (update,) = model.train_step({"image": image}, Clock())
        (grad,) = torch.autograd.grad(update.loss, model.unet.last.bias)
        model.unet.last.bias.grad = grad * torch.tensor([0.0, 1.0])
        optimizer.step()
    assert model.bits_per_dim(image, timesteps=30).mean() < before - 0.05
    assert model.sample(2, steps=3, sampler="ancestral").shape == (2, 1, 8, 8)


def test_times_are_uniform():
    model, times = tiny(timesteps=10), []
    model._unet = lambda x, t, label: (times.append(t) or x, None)
    torch.manual_seed(0)
    for _ in range(300):
        next(iter(model.train_step({"image": torch.zeros(4, 1, 8, 8)}, Clock())))
    counts = torch.cat(times).bincount(minlength=11)
    assert counts[0] == 0
    assert ((counts[1:] - 120).abs() < 35).all(), counts


def test_sample_does_not_depend_on_its_batch():
    model = tiny(classes=2)
    for options in ({"sampler": "ddim", "eta": 0.5}, {"sampler": "ancestral"}, {"label": 1, "guidance": 2.0}):
        together = model.sample(4, generator=7, steps=5, **options)
        alone = torch.cat([model.sample(1, generator=[s], steps=5, **options) for s in seeds(7, 4)])
        assert torch.allclose(together, alone, atol=1e-4)
        assert together.abs().max() <= 1
        assert (together[0] - together[1]).abs().max() > 0.1


def test_sample_is_decode_of_its_latents():
    model = tiny()
    assert torch.equal(
        model.sample(3, generator=2, steps=6, sampler="ddim"), model.decode(model.latents(3, generator=2), steps=6)
    )


def test_guidance_scale_0_is_unconditional_and_1_conditional():
    model = tiny(classes=2)
    sample = lambda **options: model.sample(2, steps=4, sampler="ddim", **options)  # noqa: E731
    assert torch.allclose(sample(label=1, guidance=0.0), sample(), atol=1e-5)
    assert torch.allclose(sample(label=1, guidance=1.0), sample(label=torch.tensor([1, 1])), atol=1e-6)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([500, 500])
    free, given, strong = model.denoiser()(x, t), model.denoiser(1)(x, t), model.denoiser(1, 3.0)(x, t)
    assert (given - free).abs().max() > 1e-4
    assert torch.allclose(strong, free + 3 * (given - free), atol=1e-5)


def test_refusals():
    with pytest.raises(UserError, match="without labels"):
        tiny().sample(1, label=1)
    with pytest.raises(UserError, match="labels of this model are 0 to 1"):
        tiny(classes=2).sample(1, label=2)
    with pytest.raises(UserError, match="label_dropout 0"):
        tiny(classes=2, label_dropout=0.0).sample(1)
    with pytest.raises(UserError, match="28 px"):
        DDPM(Config(size=28, multipliers=(1, 1, 1, 1)))


@pytest.mark.parametrize("size", [16, 28, 32])
def test_presets_accept_the_sizes_they_are_picked_for(size):
    preset = DDPM.PRESETS["32px"]
    model = DDPM(dataclasses.replace(preset.config, size=size))
    assert model.sample(1, steps=1).shape == (1, 1, size, size)


def test_learns_a_gaussian_blob():
    """Seconds of training: constant images of random brightness come out nearly constant and of the right spread."""
    model = tiny(lr=5e-3).train()
    optimizer = model.optimizers()["unet"]
    g = torch.Generator().manual_seed(0)
    for _ in range(120):
        image = (0.4 * torch.randn(32, 1, 1, 1, generator=g)).clamp(-1, 1).expand(32, 1, 8, 8)
        (update,) = model.train_step({"image": image}, Clock())
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    assert update.loss.item() < 0.2
    x = model.eval().sample(100, steps=30).flatten(1)
    assert x.std(dim=1).mean() < 0.15
    assert 0.25 < x.mean(dim=1).std() < 0.55
