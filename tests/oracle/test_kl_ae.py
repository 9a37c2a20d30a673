"""The first stage of latent diffusion: its latent's scale, its game, and the balance of its losses, against what is known of them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Normal, kl_divergence

from limner.errors import UserError
from limner.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from limner.model import Clock
from limner.models.autoencoders.kl_ae import KLAE, Config
from limner.nn.patch_discriminator import PatchDiscriminator, receptive_field
from limner.nn.resnet_stacks import MapDecoder, MapEncoder


def digits(first, last):
    """(n, 1, 8, 8) in [-1, 1], in an order by which the last ones are not other people's handwriting."""
    order = np.random.default_rng(0).permutation(1797)
    return torch.from_numpy(load_digits().images[order[first:last]]).float()[:, None] / 8 - 1


def small(**values):
    return Config(**{"size": 8, "width": 16, "multipliers": (1, 2), "latent": 2, "discriminator_width": 8, **values})


def train(model, x, steps, batch=16):
    """`steps` steps as the loop takes them, the learning rate falling to zero."""
    optimizers = model.optimizers()
    for step in range(steps):
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = model.config.lr * (1 - step / steps)
        images = x[torch.randint(len(x), (batch,))]
        for update in model.train_step({"image": images}, Clock(step, step * batch)):
            optimizers[update.optimizer].zero_grad()
            update.loss.backward(inputs=parameters(optimizers[update.optimizer]))
            optimizers[update.optimizer].step()
    return model.eval()


def parameters(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


@pytest.fixture(scope="module")
def trained():
    """Three seconds of training; the learning rate falls, so that the encoder comes to rest."""
    torch.manual_seed(0)
    model = KLAE(small(width=8, lr=2e-3, adversarial=0))
    return train(model, digits(0, 1300), 200)


# ---- the latent's scale


@torch.no_grad()
def test_latents_of_held_out_images_have_unit_deviation(trained):
    x = digits(1300, 1797)
    z = trained.encode(x)
    raw, _ = trained.gaussian(x)
    assert raw.std() < 0.7 or raw.std() > 1.4  # there was something to do
    assert float((z - z.mean((0, 2, 3), keepdim=True)).square().mean().sqrt()) == pytest.approx(1, abs=0.05)
    assert z.mean((0, 2, 3)).abs().max() < 0.1
    # encode and decode undo each other's scaling: what the networks do is what comes out.
    torch.testing.assert_close(trained.reconstruct(x), trained.decoder(raw).clamp(-1, 1), rtol=0, atol=1e-4)
    assert trained.reconstruct(x).sub(x).square().mean() < 0.25 * x.var()


def test_running_moments_are_those_of_the_batches_by_weight():
    model = KLAE(small(latent=3))
    torch.manual_seed(0)
    offset = torch.tensor([5.0, -1, 0])[:, None, None]
    maps = [(torch.randn(20, 3, 4, 4) * 2 + offset) * (1 + i / 10) for i in range(30)]
    weights = np.zeros(0)
    for i, mu in enumerate(maps):
        model.measure(mu)
        w = min(1, 10 / (i + 1))  # each batch is one of a tenth of those so far
        weights = np.append((1 - w) * weights, w)
    z = torch.stack(maps).double().numpy()  # (steps, B, C, h, w)
    mean = np.einsum("s,sbchw->c", weights, z) / (20 * 16)
    variance = np.einsum("s,sbchw->", weights, (z - mean[:, None, None]) ** 2) / (20 * 3 * 16)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(model.latent_mean.numpy(), mean, atol=1e-4)
    assert float(model.latent_variance) == pytest.approx(variance, rel=1e-4)


def test_kl_is_that_of_torch_distributions_by_pixel_and_pulls_as_weighed():
    torch.manual_seed(0)
    x = digits(0, 6)
    model = KLAE(small(adversarial=0, kl=0.3))
    (update,) = model.train_step({"image": x}, Clock())
    mu, log_sigma = model.gaussian(x)
    truth = kl_divergence(Normal(mu, log_sigma.exp()), Normal(0.0, 1.0)).sum() / x.numel()
    torch.testing.assert_close(update.log["kl"], truth.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(update.loss, update.log["reconstruction"] + 0.3 * truth, rtol=1e-5, atol=0)


# ---- the game


def test_hinge_losses_in_closed_form():
    real, fake = torch.tensor([[2.0, 0.25], [-1.0, 1.0]]), torch.tensor([[-3.0, 0.5], [-1.0, -0.5]])
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(
        (0 + 0.75 + 2 + 0) / 4 + (0 + 1.5 + 0 + 0.5) / 4
    )
    assert float(hinge_generator_loss(fake)) == 1.0
    real.requires_grad_()
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [[0, -0.25], [-0.25, 0]]  # nothing from images of which the discriminator is sure


def test_adaptive_weight_in_closed_form():
    """y = W h: the gradient of a . y in W is a h^T, of norm |a| |h|."""
    w, h = torch.randn(3, 4, requires_grad=True), torch.randn(4)
    a, b = torch.tensor([3.0, 0, 4]), torch.tensor([0, 0, 0.5])
    y = w @ h
    weight = adaptive_weight(a @ y, b @ y, w)
    assert not weight.requires_grad
    assert float(weight) == pytest.approx(5 / 0.5, rel=1e-4)
    assert float(adaptive_weight(a @ y, 0 * y.sum(), w)) == 1e4


def test_adaptive_weight_makes_both_losses_pull_alike():
    torch.manual_seed(0)
    x = digits(0, 16)
    model = KLAE(small(adversarial=1.0))
    torch.manual_seed(1)
    update = next(model.train_step({"image": x}, Clock()))
    torch.manual_seed(1)
    mu, log_sigma = model.gaussian(x)
    y = model.decoder(mu + log_sigma.exp() * torch.randn_like(mu))
    error, fooling = (y - x).abs().mean(), -model.discriminator(y).mean()
    last = model.decoder[-1].weight
    wanted, given = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (error, fooling))
    assert float(update.log["adaptive_weight"]) == pytest.approx(float(wanted.norm() / given.norm()), rel=1e-3)
    (pull,) = torch.autograd.grad(update.loss, last)
    scaled = given * wanted.norm() / given.norm()
    torch.testing.assert_close(pull, wanted + scaled, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_is_as_large_as_stated(layers, side):
    """Pixels in which the middle logit has a gradient. Without batch normalisation, through which all pixels meet."""
    torch.manual_seed(0)
    model = PatchDiscriminator(2, 8, layers, size=128, norm=lambda channels: nn.Identity()).double()
    x = torch.randn(1, 2, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = model(x)
    assert logits.shape == (1, 1, 128 // 2**layers - 2, 128 // 2**layers - 2)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = x.grad[0].abs().sum(0) > 0
    assert int(seen.any(1).sum()) == int(seen.any(0).sum()) == side == receptive_field(layers)


def test_each_player_moves_alone():
    torch.manual_seed(0)
    model = KLAE(small())
    optimizers = model.optimizers()
    judge = dict(model.discriminator.named_parameters(prefix="discriminator"))
    assert {n for n, _ in model.named_parameters() if n.startswith("discriminator")} == judge.keys()
    held = {name: {id(p) for p in parameters(o)} for name, o in optimizers.items()}
    assert held["discriminator"] == {id(p) for p in judge.values()}
    assert held["autoencoder"].isdisjoint(held["discriminator"])
    for update in model.train_step({"image": digits(0, 16)}, Clock()):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        mine = parameters(optimizers[update.optimizer])
        optimizers[update.optimizer].zero_grad()
        update.loss.backward(inputs=mine)
        optimizers[update.optimizer].step()
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert moved
        assert moved <= {n for n, p in model.named_parameters() if id(p) in held[update.optimizer]}


def test_the_discriminator_sees_the_copies_as_constants():
    model = KLAE(small())
    updates = model.train_step({"image": digits(0, 16)}, Clock())
    next(updates)
    judged = next(updates)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(judged.loss, model.decoder.last)


def test_the_game_begins_when_it_is_told_to():
    model = KLAE(small(adversarial_start=100))
    x = digits(0, 4)
    assert [u.optimizer for u in model.train_step({"image": x}, Clock(0, 99))] == ["autoencoder"]
    assert [u.optimizer for u in model.train_step({"image": x}, Clock(0, 100))] == ["autoencoder", "discriminator"]
    alone = KLAE(small(adversarial=0))
    assert list(alone.optimizers()) == ["autoencoder"]
    assert [u.optimizer for u in alone.train_step({"image": x}, Clock())] == ["autoencoder"]


# ---- the networks


@pytest.mark.parametrize(("multipliers", "factor"), [((1,), 1), ((1, 2), 2), ((1, 2, 2, 4), 8)])
def test_maps_are_as_much_smaller_as_multipliers_say(multipliers, factor):
    encoder, decoder = MapEncoder(3, 5, 8, multipliers, 1), MapDecoder(5, 3, 8, multipliers, 2)
    z = encoder(torch.randn(2, 3, 24, 16))
    assert z.shape == (2, 5, 24 // factor, 16 // factor)
    assert decoder(z).shape == (2, 3, 24, 16)
    assert Config(multipliers=multipliers).factor == factor


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="use size 28 or 32"):
        KLAE(Config(size=30))
    with pytest.raises(UserError, match="24 pixels and more"):
        KLAE(Config(size=16, discriminator_layers=3))
    with pytest.raises(UserError, match="multiple of 8"):
        KLAE(Config(width=12))
