"""The GAN against exact truths: closed-form gradients, the value of the game at the best discriminator, and a ring of modes."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import nn

from limner.losses.adversarial import (
    discriminator_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    r1_penalty,
)
from limner.model import Clock
from limner.models.gans.gan import GAN, Config, Discriminator, Generator, leaky_relu
from limner.nn.mlp import mlp


@pytest.fixture
def logits():
    """Two (9,) float64 vectors of logits, of both signs and large magnitude, that require gradients."""
    generator = torch.Generator().manual_seed(0)
    return [(5 * torch.randn(9, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(2)]


def test_discriminator_loss_is_minus_the_value_of_the_game(logits):
    real, fake = logits
    loss = discriminator_loss(real, fake)
    value = torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(loss, -value)
    d_real, d_fake = torch.autograd.grad(loss, [real, fake])
    torch.testing.assert_close(d_real, -(1 - torch.sigmoid(real)) / 9)
    torch.testing.assert_close(d_fake, torch.sigmoid(fake) / 9)


def test_generator_losses_and_their_gradients(logits):
    fake = logits[0]
    minimax, non_saturating = minimax_generator_loss(fake), non_saturating_generator_loss(fake)
    torch.testing.assert_close(minimax, (1 - torch.sigmoid(fake)).log().mean())
    torch.testing.assert_close(non_saturating, -torch.sigmoid(fake).log().mean())
    torch.testing.assert_close(torch.autograd.grad(minimax, fake)[0], -torch.sigmoid(fake) / 9)
    torch.testing.assert_close(torch.autograd.grad(non_saturating, fake)[0], -(1 - torch.sigmoid(fake)) / 9)


def test_minimax_saturates_where_the_discriminator_is_sure():
    sure = torch.tensor([-30.0], requires_grad=True)
    assert torch.autograd.grad(minimax_generator_loss(sure), sure)[0].abs().item() < 1e-12
    assert torch.autograd.grad(non_saturating_generator_loss(sure), sure)[0].item() == pytest.approx(-1)


def test_best_discriminator_gives_log_4_and_the_jensen_shannon_divergence():
    """Theorem 1: max_D V = -log 4 + 2 JS(p || q), at logit = log p / q."""
    p, q = np.array([1, 2, 5]), np.array([4, 3, 1])  # eighths
    best = torch.from_numpy(np.log(p / q))
    as_drawn = [torch.from_numpy(np.repeat(np.arange(3), n)) for n in (p, q)]
    value = -discriminator_loss(best[as_drawn[0]], best[as_drawn[1]]).item()
    assert value == pytest.approx(-math.log(4) + 2 * jensenshannon(p / 8, q / 8) ** 2, abs=1e-12)
    assert discriminator_loss(torch.zeros(5), torch.zeros(5)).item() == pytest.approx(math.log(4))
    for shift in torch.eye(3).double() * 0.1:
        for other in (best + shift, best - shift):
            assert -discriminator_loss(other[as_drawn[0]], other[as_drawn[1]]).item() < value


def test_r1_of_a_linear_discriminator_is_half_the_squared_norm():
    w = torch.tensor([3.0, -4.0], requires_grad=True)
    x = torch.randn(6, 2, requires_grad=True)
    penalty = r1_penalty(x @ w, x)
    assert penalty.item() == pytest.approx(12.5)
    torch.testing.assert_close(torch.autograd.grad(penalty, w)[0], w.detach())


def apply(model, optimizers, update):
    parameters = [p for group in optimizers[update.optimizer].param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = None
    update.loss.backward(inputs=parameters)
    optimizers[update.optimizer].step()


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


@pytest.mark.parametrize("k", [1, 3])
def test_k_discriminator_steps_for_each_of_the_generator(k):
    torch.manual_seed(0)
    model = GAN(Config(size=8, network="mlp", width=16, latent=4, discriminator_steps=k))
    optimizers, order = model.optimizers(), []
    x = torch.rand(8, 1, 8, 8) * 2 - 1
    for step in range(6):
        for update in model.train_step({"image": x}, Clock(step, 8 * step)):
            before = weights(model.generator), weights(model.discriminator)
            apply(model, optimizers, update)
            moved = [
                not torch.equal(a, weights(m))
                for a, m in zip(before, (model.generator, model.discriminator), strict=True)
            ]
            assert moved == [update.optimizer == "generator", update.optimizer == "discriminator"]
            order.append(update.optimizer[0])
    assert "".join(order) == ("d" * k + "g") * (6 // k)


def test_discriminator_update_does_not_reach_the_generator():
    model = GAN(Config(size=8, width=8, latent=4))
    update = next(model.train_step({"image": torch.zeros(4, 1, 8, 8)}, Clock()))
    gradients = torch.autograd.grad(update.loss, list(model.generator.parameters()), allow_unused=True)
    assert all(g is None for g in gradients)


def test_r1_enters_the_discriminator_loss():
    models, losses = [], []
    for r1 in (2.0, 0.0):
        torch.manual_seed(0)
        models.append(GAN(Config(size=8, network="mlp", width=8, latent=4, r1=r1)))
        x = torch.rand(4, 1, 8, 8) * 2 - 1
        losses.append(next(models[-1].train_step({"image": x}, Clock())).loss.item())
    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(models[1].discriminator(images).sum(), images)
    assert losses[0] - losses[1] == pytest.approx(2.0 / 2 * gradient.square().sum().item() / 4, rel=1e-3)


def test_networks_are_those_of_dcgan():
    """Radford et al. 2016, figure 1: 1024 x 4 x 4, 512 x 8 x 8, 256 x 16 x 16, 128 x 32 x 32, 3 x 64 x 64."""
    generator, discriminator = Generator(100, 3, 64, 128), Discriminator(3, 64, 128)
    x, shapes = torch.randn(2, 100), []
    for layer in generator:
        x = layer(x)
        if isinstance(layer, nn.ConvTranspose2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]
    assert x.abs().max() <= 1
    assert discriminator(x).shape == (2,)
    model = GAN(Config(size=28))
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.weight.numel() > 5000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("loss", ["non-saturating", pytest.param("minimax", marks=pytest.mark.slow)])
def test_covers_all_modes_of_a_ring_of_eight_gaussians(loss):
    """The game itself, on points of the plane: the model's own step with networks of two numbers in and out."""
    torch.manual_seed(0)
    deviation, angle = 0.1, torch.arange(8) * math.pi / 4
    modes = torch.stack([angle.cos(), angle.sin()], dim=1)
    model = GAN(Config(network="mlp", latent=2, lr=1e-3, loss=loss, discriminator_steps=1 if loss != "minimax" else 3))
    model.generator = mlp([2, 64, 64, 2])
    model.discriminator = nn.Sequential(mlp([2, 64, 64, 1], leaky_relu), nn.Flatten(0))
    optimizers = model.optimizers()
    for step in range(3000):
        x = modes[torch.randint(8, (256,))] + deviation * torch.randn(256, 2)
        for update in model.train_step({"image": x}, Clock(step, 256 * step)):
            apply(model, optimizers, update)
    distance, nearest = torch.cdist(model.sample(4000), modes).min(dim=1)
    good = distance < 3 * deviation
    assert good.float().mean() >= 0.8
    assert (torch.bincount(nearest[good], minlength=8) / 4000).min() >= 0.05
