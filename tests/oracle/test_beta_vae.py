"""The beta-VAE against its equations, and the capacity held on digits."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from limner.losses.gaussian import kl_to_standard_normal
from limner.model import Clock
from limner.models.autoencoders.beta_vae import BetaVAE, Config


def digits():
    """(1797, 1, 8, 8) in [-1, 1], 17 levels."""
    return torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1


def small(**changes):
    torch.manual_seed(0)
    return BetaVAE(Config(size=8, levels=17, network="mlp", hidden=(64,), latent=8, **changes))


def loss_and_terms(model, clock):
    torch.manual_seed(1)
    (update,) = model.train_step({"image": digits()[:32]}, clock)
    torch.manual_seed(1)
    return update.loss * 64 * math.log(2), *model.terms({"image": digits()[:32]})


@pytest.mark.parametrize("beta", [0.0, 1.0, 7.0])
def test_the_loss_is_equation_4_of_higgins(beta):
    loss, reconstruction, kl = loss_and_terms(small(beta=beta), Clock())
    assert loss.item() == pytest.approx((reconstruction + beta * kl).item(), rel=1e-5)


@pytest.mark.parametrize(("images", "capacity"), [(0, 0.0), (250, 3.0), (1000, 12.0), (9000, 12.0)])
def test_the_loss_is_equation_8_of_burgess(images, capacity):
    model = small(capacity=12, capacity_images=1000, gamma=30, beta=5)
    loss, reconstruction, kl = loss_and_terms(model, Clock(images=images))
    assert kl.item() < 3  # before training: C is above it for the last three
    assert loss.item() == pytest.approx((reconstruction + 30 * abs(kl.item() - capacity)).item(), rel=1e-5)
    assert small(capacity=12, capacity_images=0).capacity(0) == 12


def test_the_capacity_is_held():
    """Whether the code would be richer or poorer by itself: within 5 % of the nats asked for, on digits not trained on."""
    x, steps = digits(), 1200
    for capacity in (4.0, 20.0):
        model = small(capacity=capacity, capacity_images=steps * 32, sigma=0.3)
        optimizer, held = model.optimizers()["vae"], {}
        for step in range(steps):
            (update,) = model.train_step({"image": x[torch.randint(1400, (64,))]}, Clock(step, step * 64))
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
            if step == steps // 4:  # half way up
                held = update.log["nats"].item()
        with torch.no_grad():
            nats = kl_to_standard_normal(*model.posterior(x[1400:])).mean().item()
        assert held == pytest.approx(capacity / 2, rel=0.3)
        assert nats == pytest.approx(capacity, rel=0.05)
