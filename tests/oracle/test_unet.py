"""The U-Net: which sizes it takes, that every parameter learns, that its fast layers are the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from limner.errors import UserError
from limner.nn.attention import SelfAttention2d, attend
from limner.nn.unet import GROUP, UNet, Upsample, adaptive_group_norm, check_size, sinusoidal_embedding


def small(**options) -> UNet:
    torch.manual_seed(0)
    return UNet(1, 1, **{"width": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention": (4,), **options})


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64])
def test_shape(size):
    net = UNet(3, 6, width=8, multipliers=(1, 2, 2), blocks=1, attention=(2, 4))
    assert net(torch.randn(2, 3, size, size), torch.tensor([1.0, 999.0])).shape == (2, 6, size, size)


def test_size_refused_names_what_works():
    check_size(28, 3)
    with pytest.raises(UserError, match=r"28 px is no multiple of 8\. Use images of 24 or 32 px, or at most 3 levels"):
        check_size(28, 4)
    with pytest.raises(UserError, match="Use images of 8 px, or at most 1 level "):
        check_size(5, 4)


def test_width_and_attention_refused():
    with pytest.raises(UserError, match="multiple of 8"):
        small(width=20)
    with pytest.raises(UserError, match="reduction 8"):
        small(attention=(8,))


def test_every_parameter_gets_a_gradient():
    net = small(classes=3, attention=(1, 2, 4))
    out = net(torch.randn(4, 1, 8, 8), torch.tensor([1.0, 300.0, 700.0, 1000.0]), torch.tensor([0, 1, 2, 3]))
    (out - torch.randn_like(out)).pow(2).sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


def test_answer_depends_on_time_label_and_sample_alone():
    net = small(classes=2).eval()
    torch.nn.init.normal_(net.last.weight)
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([5.0, 5.0, 900.0]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        out = net(x, t, y)
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
        assert torch.allclose(out, alone, atol=1e-4)
        assert (net(x, t + 50, y) - out).abs().max() > 1e-3
        assert (net(x, t, y.flip(0)) - out).abs().max() > 1e-3


def test_dropout_only_in_training():
    net = small(dropout=0.5)
    for module in net.modules():  # make the branches count that start near zero
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.2)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])
    assert not torch.allclose(net.train()(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))


def test_upsample_is_nearest_then_convolution():
    layer, x = Upsample(8).double(), torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(x), plain, atol=1e-12)
    seed = torch.randn_like(plain)
    for ours, theirs in zip(
        *(torch.autograd.grad(y, [x, layer.weight, layer.bias], seed) for y in (layer(x), plain)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-11)


def test_adaptive_group_norm_is_group_norm_then_scale_and_shift():
    x = torch.randn(3, 16, 4, 4, dtype=torch.float64)
    scale, shift = torch.randn(2, 3, 16, dtype=torch.float64)
    plain = F.group_norm(x, 16 // GROUP) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    assert torch.allclose(adaptive_group_norm(x, scale, shift), plain, atol=1e-12)


def test_attention_is_softmax_of_scaled_products_and_permutes_with_the_pixels():
    q, k, v = torch.randn(3, 2, 2, 9, 4)
    weights = (torch.einsum("bhid,bhjd->bhij", q, k) / 2).softmax(-1)
    plain = torch.einsum("bhij,bhjd->bhid", weights, v)
    assert torch.allclose(attend(q, k, v), plain, atol=1e-6)
    assert torch.allclose(attend(q.bfloat16(), k.bfloat16(), v.bfloat16()).float(), plain, atol=0.05)
    layer, x, order = (
        SelfAttention2d(16, head_channels=8, norm=torch.nn.Identity()),
        torch.randn(1, 16, 1, 9),
        torch.randperm(9),
    )
    assert layer.heads == 2
    assert torch.allclose(layer(x)[..., order], layer(x[..., order]), atol=1e-6)


def test_embedding_tells_times_apart():
    e = sinusoidal_embedding(torch.tensor([0.0, 1.0, 1.5, 1000.0]), 32)
    assert torch.allclose(e.pow(2).sum(1), torch.full((4,), 16.0))  # cos^2 + sin^2 for each frequency
    assert torch.equal(e[0], torch.tensor([1.0] * 16 + [0.0] * 16))
    assert torch.pdist(e).min() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("bfloat16", [False, True])
def test_compiled_gradient_is_the_eager_one(bfloat16):
    """A compiled U-Net on a CPU has been seen to return zero gradients with a correct forward pass."""
    net, x, t = small(width=8, multipliers=(1, 2), attention=(2,)), torch.randn(4, 1, 16, 16), torch.arange(4.0)

    def gradient(function):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = function(x, t)
        (out.float() - x).pow(2).mean().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    torch.nn.init.normal_(net.last.weight, std=0.1)
    eager = gradient(net)
    for name, grad in gradient(torch.compile(net)).items():
        difference = (grad - eager[name]).norm() / eager[name].norm()
        assert difference < (0.1 if bfloat16 else 1e-3), name
