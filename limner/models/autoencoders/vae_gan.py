"""VAE/GAN: a VAE whose decoder is a GAN's generator, and whose likelihood is that of the discriminator's features.

Larsen et al. 2016, "Autoencoding Beyond Pixels Using a Learned Similarity Metric" (algorithm 1); lecture 000. Pixel by pixel, a
slight shift of an edge is a large error, so a VAE blurs. Here the error is measured in a hidden layer Dis_l of the discriminator:

    L_prior = KL(q(z|x) || p(z)),   q = N(mu(x), diag sigma(x)^2),   p(z) = N(0, I)                 (equation 4)
    L_dis_l = -E_q log N(Dis_l(x); Dis_l(x~), sigma^2 I),   x~ = Dec(z),  z ~ q(z|x)                (equations 7, 8)
    L_GAN   = log Dis(x) + log(1 - Dis(x~)) + log(1 - Dis(x_p)),   x_p = Dec(z_p),  z_p ~ p(z)      (equations 5, 10)

Each network descends only its own part of these (section 2.3 and algorithm 1, which has the signs of L_GAN as if it were the
cross-entropy), all three from the weights before the step:

    encoder         L_prior + L_dis_l
    decoder         gamma L_dis_l + L_GAN
    discriminator   -L_GAN          never L_dis_l: it could make that small by having no features

Decoder and discriminator are DCGAN's, as there, with batch normalisation; real images, reconstructions and samples are normalised
each by themselves.

Deviations: the decoder descends the non-saturating form of L_GAN (`loss="minimax"` is the paper's); Adam with beta1 = 0.5 for
RMSProp; the encoder is the `vae`'s, without batch normalisation; the constant of the log-density is left out; sigma, which is 1 in the
paper, may be less, so that small images, whose features are few, still tell the encoder more than the prior does; averaged weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import Fraction, ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.gaussian import kl_to_standard_normal
from limner.model import Batch, Clock, Model, Preset, Update
from limner.models.gans.gan import GENERATOR_LOSSES, Discriminator, Generator, dcgan_weights
from limner.nn.conv_stacks import ConvEncoder
from limner.noise import SampleNoise, Seed


@config
class Config(ImageConfig):
    """The networks of a VAE/GAN and the balance of its losses."""

    latent: Positive = 64
    """Dimensions of the latent."""
    width: Positive = 32
    """Encoder and decoder: channels next to the image, doubled at each halving."""
    blocks: NonNegative = 0
    """Encoder: residual blocks at each size of the feature maps."""
    discriminator_width: Positive = 32
    """Discriminator: channels next to the image, doubled at each halving."""
    layer: Positive = 2
    """Which of the discriminator's halvings gives the features that reconstructions are compared in, 1 next to the image."""
    sigma: PositiveFloat = 1.0
    """Standard deviation of a feature given the latent: the smaller, the more of the image the latent tells."""
    gamma: NonNegativeFloat = 0.003
    """Weight of the feature error beside the adversarial loss, for the decoder."""
    loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """The decoder's adversarial loss."""
    lr: PositiveFloat = 5e-4
    """Learning rate of all three Adams."""
    beta1: Fraction = 0.5
    """Adam's beta1."""


class Critic(nn.Module):
    """DCGAN's discriminator, which also gives the activations after its `layer`-th halving."""

    def __init__(self, channels: int, size: int, width: int, layer: int):
        super().__init__()
        modules = list(Discriminator(channels, size, width))
        activations = [i for i, module in enumerate(modules) if isinstance(module, nn.LeakyReLU)]
        if layer > len(activations):
            raise UserError(
                f"layer {layer}: the discriminator halves images of {size} pixels {len(activations)} times; choose 1 to {len(activations)}"
            )
        end = activations[layer - 1] + 1
        self.features, self.head = nn.Sequential(*modules[:end]), nn.Sequential(*modules[end:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Dis_l(x), (B, features), and the logit (B,) of images (B, C, H, W)."""
        h = self.features(x)
        return h.flatten(1).to(x.dtype), self.head(h).to(x.dtype)


TRAIN = {"batch": 64, "warmup": 0, "schedule": "constant", "clip": None, "ema_halflife": 10_000}


class VAEGAN(Model):
    """Samples, encodes and reconstructs; no likelihood of images. `encoder` and `decoder` are averaged."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, latent=16), {**TRAIN, "images": 50_000}),
        "32px": Preset(28, Config(size=28, latent=16, gamma=0.006), {**TRAIN, "images": 250_000}),
        "64px": Preset(
            64,
            Config(size=64, channels=3, latent=128, width=48, discriminator_width=64, layer=3),
            {**TRAIN, "images": 2_000_000},
        ),
    }
    averaged = ("encoder", "decoder")
    autocast = True

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        self.encoder = ConvEncoder(c.channels, c.size, c.width, 2 * c.latent, blocks=c.blocks)
        self.decoder = Generator(c.latent, c.channels, c.size, c.width).apply(dcgan_weights)
        self.discriminator = Critic(c.channels, c.size, c.discriminator_width, c.layer)
        self.discriminator.apply(dcgan_weights)

    def optimizers(self) -> dict[str, Optimizer]:
        settings = {"lr": self.config.lr, "betas": (self.config.beta1, 0.999), "fused": True}
        return {
            name: Adam(getattr(self, name).parameters(), **settings) for name in ("encoder", "decoder", "discriminator")
        }

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        c, x = self.config, batch["image"]
        mu, log_sigma = self.posterior(x)
        z = mu + torch.exp(log_sigma) * torch.randn_like(mu)
        with torch.no_grad():
            target, _ = self.discriminator(x)
        features, _ = self.discriminator(self.decoder(z))
        prior, error = kl_to_standard_normal(mu, log_sigma).mean(), feature_error(target, features, c.sigma)
        log = {"kl": prior.detach(), "feature_error": error.detach()}
        yield Update("encoder", prior + error, log)

        # z and what is decoded from it are those of before the encoder's update, as in algorithm 1.
        copy, fake = self.decoder(z.detach()), self.decoder(torch.randn_like(mu))  # x~, x_p
        (features, on_copy), (_, on_fake) = self.discriminator(copy), self.discriminator(fake)
        adversarial = GENERATOR_LOSSES[c.loss](on_copy) + GENERATOR_LOSSES[c.loss](on_fake)
        yield Update("decoder", c.gamma * feature_error(target, features, c.sigma) + adversarial)

        logits = [self.discriminator(image)[1] for image in (x, copy.detach(), fake.detach())]
        log = {
            key: torch.sigmoid(v).mean().detach() for key, v in zip(("D(x)", "D(x~)", "D(x_p)"), logits, strict=True)
        }
        yield Update("discriminator", gan_loss(*logits), log)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x), (B, latent) each, of images (B, C, H, W) in [-1, 1]."""
        mu, log_sigma = self.encoder(image).to(image.dtype).chunk(2, dim=1)
        return mu, log_sigma

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> mean of q(z|x), (B, latent)."""
        return self.posterior(image)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) -> Dec(z), (B, C, H, W) in [-1, 1]."""
        return self.decoder(latent)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> the decoded posterior mean, the same shape and range."""
        return self.decode(self.encode(image))

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n draws (n, latent) of the prior N(0, I)."""
        return SampleNoise(n, generator, self.device).normal(self.config.latent)

    @torch.no_grad()
    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        """n images (n, C, H, W) in [-1, 1]. Knows no labels: `label` is ignored."""
        return self.decode(self.latents(n, generator=generator))


def feature_error(target: Tensor, features: Tensor, sigma: float = 1.0) -> Tensor:
    """L_dis_l but for its constant: |Dis_l(x) - Dis_l(x~)|^2 / (2 sigma^2), (B, features) each, mean over the batch."""
    return 0.5 * ((target - features) / sigma).square().sum(dim=1).mean()


def gan_loss(real: Tensor, copy: Tensor, fake: Tensor) -> Tensor:
    """-L_GAN of the logits (B,) of real images, of reconstructions and of samples."""
    return (F.softplus(-real) + F.softplus(copy) + F.softplus(fake)).mean()
