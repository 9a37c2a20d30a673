"""The denoising autoencoder: what it learns from, that it is local and of any size, and that it restores."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, median_filter

from limner import capabilities
from limner.data import open_data
from limner.data.degrade import Degradation
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.model import Clock
from limner.models.autoencoders.dae import DAE, Config
from limner.noise import mix

NETWORKS = ["unet", "bottleneck"]


def digits(split="train", **settings):
    return open_data(DataConfig("digits", **settings), split=split)


def awake(config):
    """A model whose every layer does something, as after training."""
    torch.manual_seed(0)
    model = DAE(config).eval()
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=1 / math.sqrt(p[0].numel()))
    return model


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (17, 30), (28, 28), (65, 40)])
def test_images_of_any_size_keep_it(network, height, width):
    model = awake(Config(channels=3, network=network, width=8))
    x = torch.rand(2, 3, height, width) * 2 - 1
    y = model.restore(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1
    assert torch.allclose(model.restore(x[1:])[0], y[1], atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("multipliers", "blocks"), [((1,), 2), ((1, 2), 1), ((1, 2, 4, 8), 1), ((1, 1, 1), 3)])
def test_a_pixel_depends_on_what_is_within_reach(network, multipliers, blocks):
    model = awake(Config(size=8, width=2, network=network, multipliers=multipliers, blocks=blocks)).double()
    side = 2 ** (len(multipliers) - 1)
    n = side * math.ceil((2 * model.reach + 20) / side)
    furthest = 0
    for offset in range(side):  # a pixel's place in the coarsest cell matters
        x = torch.rand(1, 1, n, n, dtype=torch.float64, requires_grad=True)
        here = n // 2 + offset
        (gradient,) = torch.autograd.grad(model.network(x)[0, 0, here, here], x)
        seen = gradient[0, 0].abs().sum(0).nonzero().flatten()
        furthest = max(furthest, here - int(seen.min()), int(seen.max()) - here)
    assert model.reach - side <= furthest <= model.reach


def test_the_loss_is_that_of_the_lecture():
    model = awake(Config(size=8, width=8, multipliers=(1, 2)))
    x, damaged = torch.rand(6, 1, 8, 8) * 2 - 1, torch.rand(6, 1, 8, 8) * 2 - 1
    (update,) = model.train_step({"image": x, "degraded": damaged}, Clock())
    error = (x - model.network(damaged)).square().flatten(1).mean(1)  # of one image
    torch.testing.assert_close(update.loss, error.mean())
    torch.testing.assert_close(update.log["damage"], (x - damaged).square().mean())


def test_without_damage_in_the_data_it_does_its_own():
    model = DAE(Config(size=8, width=8, multipliers=(1, 2), degrade=("noise=0.3",)))
    x = torch.zeros(500, 1, 8, 8)
    torch.manual_seed(3)
    (update,) = model.train_step({"image": x}, Clock())
    assert float(update.log["damage"]) == pytest.approx(0.09, rel=0.05)
    torch.manual_seed(3)
    (again,) = model.train_step({"image": x}, Clock())
    assert update.loss == again.loss
    (other,) = model.train_step({"image": x}, Clock())
    assert update.loss != other.loss, "the next step has other noise"


def test_a_unet_starts_from_the_image_that_it_is_given():
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    assert (DAE(Config(size=8)).restore(x) - x).abs().max() < 0.02
    assert (DAE(Config(size=8, network="bottleneck")).restore(x) - x).abs().max() > 0.2


@pytest.mark.parametrize("network", NETWORKS)
def test_can_restore_and_says_no_more(network):
    model = DAE(Config(size=8, network=network))
    assert (
        [can for can in capabilities.of(model) if can != "encode"] == ["reconstruct", "restore"] == capabilities.of(DAE)
    )
    assert "degraded" not in model.inputs


def test_unknown_damage_is_refused():
    with pytest.raises(UserError, match="did you mean 'noise'"):
        DAE(Config(degrade=("noize",)))
    with pytest.raises(UserError, match="grey already"):
        DAE(Config(degrade=("grey",)))


def trained(data, steps, **settings):
    torch.manual_seed(0)
    model = DAE(Config(size=8, width=16, multipliers=(1, 2), lr=3e-3, **settings))
    optimizer = model.optimizers()["dae"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        (update,) = model.train_step(data.draw(0, 64 * step, 64), Clock(step, 64 * step))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def psnr(a, b):
    return 10 * math.log10(4 / float((a - b).double().square().mean()))


@pytest.mark.parametrize("spec", ["noise=0.5", "mask=box"])
def test_beats_identity_and_filters_on_held_out_digits(spec):
    model = trained(digits(degrade=(spec,)), 200)
    batch = digits("test", degrade=(spec,)).batch(range(360))
    clean, damaged = batch["image"], batch["degraded"]
    with torch.no_grad():
        restored = psnr(model.restore(damaged), clean)
    filters = [median_filter(damaged.numpy(), (1, 1, 3, 3))]
    filters += [gaussian_filter(damaged.numpy(), (0, 0, s, s)) for s in (0.3, 0.5, 0.7, 1)]
    best = max(psnr(torch.from_numpy(np.asarray(f)), clean) for f in filters)
    assert restored > psnr(damaged, clean) + 2
    assert restored > best + 1.5


def test_learns_a_linear_filter_that_is_best():
    """For Gaussian images and Gaussian noise the best restoration is known: the posterior mean, a linear map (Wiener's)."""
    torch.manual_seed(0)
    n, sigma = 4, 0.15
    place = torch.cartesian_prod(torch.arange(n), torch.arange(n)).double()
    covariance = 0.02 * torch.exp(-torch.cdist(place, place).square() / 4)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(n * n))
    wiener = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(n * n))

    def images(count):
        return (torch.randn(count, n * n, dtype=torch.float64) @ root.T).float().view(count, 1, n, n)

    model = DAE(Config(size=n, width=16, multipliers=(1, 2), degrade=(f"noise={sigma}",), lr=3e-3))
    optimizer = model.optimizers()["dae"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for step in range(400):
        (update,) = model.train_step({"image": images(64)}, Clock(step, step))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        schedule.step()
    x = images(4000)
    noisy = Degradation.parse(f"noise={sigma}")(x, [mix(i) for i in range(4000)])
    best = (noisy.flatten(1).double() @ wiener.T).view_as(x)
    with torch.no_grad():
        error = float((model.network(noisy) - x).square().mean())
    least = float((best - x).square().mean())
    assert least < 0.5 * sigma**2
    assert 0.98 * least < error < 1.08 * least


def test_a_bottleneck_is_a_code_and_skips_are_none():
    x = torch.rand(3, 1, 28, 28) * 2 - 1
    model = awake(Config(size=28, width=8, network="bottleneck"))
    code = model.encode(x)
    assert code.shape == (3, 64, 4, 4)  # 28 is filled up to 32, halved three times
    torch.testing.assert_close(model.decode(code), model.restore(x))
    assert isinstance(model, capabilities.Encodes)
    assert not isinstance(DAE(Config(size=28)), capabilities.Encodes)
    kept = copy.deepcopy(model)
    with torch.no_grad():
        model.network.first.weight.zero_()
    torch.testing.assert_close(kept.encode(x), code)  # a copy's encoder is its own
