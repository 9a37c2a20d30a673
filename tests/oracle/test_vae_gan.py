"""The VAE/GAN against closed forms, and which of its losses reaches which network."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional as F

from limner.errors import UserError
from limner.losses.gaussian import kl_to_standard_normal
from limner.model import Clock
from limner.models.autoencoders.vae_gan import VAEGAN, Config, feature_error, gan_loss

NETWORKS = ("encoder", "decoder", "discriminator")


def small(**changes):
    torch.manual_seed(0)
    return VAEGAN(Config(size=8, latent=3, width=4, discriminator_width=4, **changes)).double()


def batch(n=6):
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1}


def updates(model, between=lambda update: None):
    """The three updates of one step, with the same noise every time."""
    torch.manual_seed(1)
    found = {}
    for update in model.train_step(batch(), Clock()):
        found[update.optimizer] = update
        between(update)
    return found


def parts(model):
    """The terms of algorithm 1, written out, with the noise of `updates`."""
    torch.manual_seed(1)
    x = batch()["image"]
    mu, log_sigma = model.encoder(x).chunk(2, dim=1)
    z = mu + log_sigma.exp() * torch.randn_like(mu)
    copy, fake = model.decoder(z), model.decoder(torch.randn_like(mu))
    (dis_x, real), (dis_copy, on_copy), (_, on_fake) = (model.discriminator(image) for image in (x, copy, fake))
    prior = kl_to_standard_normal(mu, log_sigma).mean()
    dis_l = (dis_x - dis_copy).square().sum(1).mean() / 2
    gan = F.logsigmoid(real).mean() + F.logsigmoid(-on_copy).mean() + F.logsigmoid(-on_fake).mean()
    return prior, dis_l, gan


def gradient(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None]) if any(g is not None for g in found) else None


def test_losses_are_their_closed_forms():
    generator = torch.Generator().manual_seed(0)
    a, b, real, copy, fake = 3 * torch.randn(5, 4, 7, generator=generator, dtype=torch.float64)
    for sigma in (1.0, 0.3):
        constant = 7 / 2 * math.log(2 * math.pi * sigma**2)
        truth = -Normal(b, sigma).log_prob(a).sum(1).mean() - constant  # equation 8
        torch.testing.assert_close(feature_error(a, b, sigma), truth)
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(gan_loss(real, copy, fake), bce(real, one) + bce(copy, zero) + bce(fake, zero))


def test_each_network_descends_its_own_losses():
    """Algorithm 1, by gradients: minimax, so that the decoder's part of L_GAN is the discriminator's with its sign changed."""
    model = small(gamma=0.3, loss="minimax")
    found = updates(model)
    prior, dis_l, gan = parts(model)
    wanted = {"encoder": prior + dis_l, "decoder": 0.3 * dis_l + gan, "discriminator": -gan}
    for name in NETWORKS:
        mine, truth = (gradient(loss, getattr(model, name)) for loss in (found[name].loss, wanted[name]))
        torch.testing.assert_close(mine, truth, rtol=1e-6, atol=1e-9)
        assert truth.abs().max() > 1e-6


def test_what_must_not_reach_a_network_does_not():
    model = small()
    found = updates(model)
    assert gradient(found["encoder"].loss, model.discriminator.head) is None  # no adversarial gradient for the encoder
    assert gradient(found["decoder"].loss, model.encoder) is None
    for name in ("encoder", "decoder"):
        assert gradient(found["discriminator"].loss, getattr(model, name)) is None
    # The discriminator never sees the feature error: gamma makes no difference to it, and some to the decoder.
    others = updates(small(gamma=5.0))
    assert torch.equal(others["discriminator"].loss, found["discriminator"].loss)
    assert not torch.allclose(others["decoder"].loss, found["decoder"].loss)


def test_all_three_gradients_are_of_the_weights_before_the_step():
    apart, model = updates(small()), small()

    def step(update):
        optimizer = torch.optim.SGD(getattr(model, update.optimizer).parameters(), lr=0.1)
        update.loss.backward(inputs=list(getattr(model, update.optimizer).parameters()), retain_graph=True)
        if update.optimizer == "encoder":
            optimizer.step()

    together = updates(model, step)
    for name in ("decoder", "discriminator"):
        torch.testing.assert_close(together[name].loss, apart[name].loss, rtol=1e-9, atol=1e-12)


def test_non_saturating_is_the_default():
    model = small(gamma=0.0)
    torch.manual_seed(1)
    mu = model.posterior(batch()["image"])[0]
    noise, z_p = torch.randn_like(mu), torch.randn_like(mu)
    log_sigma = model.posterior(batch()["image"])[1]
    logits = [model.discriminator(model.decoder(z))[1] for z in (mu + log_sigma.exp() * noise, z_p)]
    truth = -sum(F.logsigmoid(v).mean() for v in logits)
    torch.testing.assert_close(updates(model)["decoder"].loss, truth)


def test_features_are_of_the_layer_asked_for():
    image = batch()["image"]
    assert small(layer=1).discriminator(image)[0].shape == (6, 4 * 4 * 4)
    assert small(layer=2).discriminator(image)[0].shape == (6, 8 * 2 * 2)
    torch.testing.assert_close(small(layer=1).discriminator(image)[1], small(layer=2).discriminator(image)[1])
    with pytest.raises(UserError, match="choose 1 to 2"):
        small(layer=3)


@pytest.mark.slow
def test_sharper_than_the_same_vae(tmp_path):
    """By KID in the features of the digits' classifier, same networks and images; and the price, in decibels of the copies."""
    script = Path(__file__).parents[2] / "docs" / "gallery" / "sharper.py"
    line = [sys.executable, script, "--data", "digits", "--images", "60000", "--out", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    (gan, gan_error), (vae, vae_error) = found["vae-gan"]["kid"], found["vae"]["kid"]
    assert gan + 3 * math.hypot(gan_error, vae_error) < vae
    assert found["vae-gan"]["psnr"][0] < found["vae"]["psnr"][0]  # a VAE minimises what PSNR measures
