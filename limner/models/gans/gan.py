"""Generative adversarial network: a generator of images against a discriminator that tells them from real ones.

Goodfellow et al. 2014, "Generative Adversarial Nets" (algorithm 1, equation 1); lectures 000, 001, 002, 003. The networks are
those of Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional GANs" (DCGAN, section 3): strided
convolutions for pooling, batch normalisation, ReLU and tanh in the generator, leaky ReLU in the discriminator, weights from
N(0, 0.02^2), Adam with beta1 = 0.5. `network="mlp"` has fully connected ones instead.

One training step is the inner loop of algorithm 1 on one batch x and fresh noise z ~ N(0, I); every `discriminator_steps`-th
step ends with the outer loop's update of the generator:

    ascend in D   E log D(x) + E log(1 - D(G(z)))
    descend in G  E log(1 - D(G(z)))  ("minimax")   or   -E log D(G(z))  ("non-saturating", section 3)

Deviations: as in later practice an exponential moving average of the generator's weights is what samples; the smallest feature
map has 2 to 7 pixels a side, whatever divides the image (DCGAN's 64-pixel images end at 4); `r1` adds the penalty of Mescheder
et al. 2018 to the discriminator's loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from limner.config import Fraction, ImageConfig, NonNegativeFloat, Positive, PositiveFloat, config
from limner.losses.adversarial import (
    discriminator_loss,
    minimax_generator_loss,
    non_saturating_generator_loss,
    r1_penalty,
)
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import level_channels, pyramid
from limner.nn.mlp import mlp
from limner.noise import SampleNoise, Seed

MOMENTUM = 0.005
"""Of the generator's running statistics. They must suit the averaged weights that sample, so they are averaged about as long:
two forward passes a step and 1/0.005 passes make 6,400 images at batch 64. (PyTorch's 0.1 would remember ten passes.)"""

GENERATOR_LOSSES = {"minimax": minimax_generator_loss, "non-saturating": non_saturating_generator_loss}


@config
class Config(ImageConfig):
    """The networks and the game of a GAN."""

    network: Literal["dcgan", "mlp"] = "dcgan"
    """Convolutional (DCGAN) or fully connected."""
    loss: Literal["non-saturating", "minimax"] = "non-saturating"
    """The generator's loss."""
    discriminator_steps: Positive = 1
    """Updates of the discriminator for each of the generator, algorithm 1's k."""
    latent: Positive = 64
    """Dimensions of the noise z."""
    width: Positive = 64
    """dcgan: channels next to the image, doubled at each halving. mlp: neurons of a hidden layer."""
    lr: PositiveFloat = 2e-4
    """Learning rate of both Adams."""
    beta1: Fraction = 0.5
    """Adam's beta1."""
    r1: NonNegativeFloat = 0.0
    """Weight gamma of the R1 gradient penalty at real images; 0 leaves it out, as DCGAN does."""


def leaky_relu() -> nn.Module:
    return nn.LeakyReLU(0.2)


class Generator(nn.Sequential):
    """DCGAN's: z (B, latent) -> image (B, channels, size, size) in [-1, 1]."""

    def __init__(self, latent: int, channels: int, size: int, width: int):
        sides = pyramid(size)
        widths = level_channels(sides, width)[::-1]  # from the smallest map up
        layers: list[nn.Module] = [
            nn.Unflatten(1, (latent, 1, 1)),
            nn.ConvTranspose2d(latent, widths[0], sides[-1], bias=False),
        ]
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before, momentum=MOMENTUM), nn.ReLU()]
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(widths[-1], momentum=MOMENTUM), nn.ReLU()]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1), nn.Tanh()]
        super().__init__(*layers)


class Discriminator(nn.Sequential):
    """DCGAN's: image (B, channels, size, size) -> logit (B,)."""

    def __init__(self, channels: int, size: int, width: int):
        sides = pyramid(size)
        widths = level_channels(sides, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), leaky_relu()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after), leaky_relu()]
        layers += [nn.Conv2d(widths[-1], 1, sides[-1]), nn.Flatten(0)]
        super().__init__(*layers)


def dcgan_weights(module: nn.Module) -> None:
    """Radford et al. 2016, section 4: weights from N(0, 0.02^2); batch normalisation's scales from N(1, 0.02^2)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


TRAIN = {"batch": 64, "warmup": 0, "schedule": "constant", "clip": None, "ema_halflife": 10_000}


class GAN(Model):
    """Samples, and decodes latents of the prior N(0, I). `generator` (averaged) and `discriminator` are the two players."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, latent=32), {**TRAIN, "images": 300_000}),
        "32px": Preset(28, Config(size=28), {**TRAIN, "images": 900_000}),
        "64px": Preset(64, Config(size=64, channels=3, latent=100), {**TRAIN, "images": 4_000_000}),
    }
    averaged = ("generator",)

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        self.autocast = c.r1 == 0  # the penalty's second derivatives need float32
        if c.network == "dcgan":
            self.generator: nn.Module = Generator(c.latent, c.channels, c.size, c.width)
            self.discriminator: nn.Module = Discriminator(c.channels, c.size, c.width)
            self.apply(dcgan_weights)
        else:
            pixels = c.channels * c.size**2
            self.generator = nn.Sequential(
                mlp([c.latent, c.width, c.width, pixels]), nn.Tanh(), nn.Unflatten(1, self.image_shape)
            )
            self.discriminator = nn.Sequential(
                nn.Flatten(), mlp([pixels, c.width, c.width, 1], leaky_relu), nn.Flatten(0)
            )

    def optimizers(self) -> dict[str, Optimizer]:
        settings = {"lr": self.config.lr, "betas": (self.config.beta1, 0.999), "fused": True}
        return {
            "discriminator": Adam(self.discriminator.parameters(), **settings),
            "generator": Adam(self.generator.parameters(), **settings),
        }

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"].detach().requires_grad_(self.config.r1 > 0)
        real, fake = self.discriminator(x).float(), self.discriminator(self.fake(len(x)).detach()).float()
        loss = discriminator_loss(real, fake)
        log = {"D(x)": torch.sigmoid(real).mean().detach(), "D(G(z))": torch.sigmoid(fake).mean().detach()}
        if self.config.r1:
            penalty = r1_penalty(real, x)
            loss, log["r1"] = loss + self.config.r1 * penalty, penalty.detach()
        yield Update("discriminator", loss, log)

        if (clock.step + 1) % self.config.discriminator_steps == 0:
            fake = self.discriminator(self.fake(len(x))).float()
            yield Update("generator", GENERATOR_LOSSES[self.config.loss](fake))

    def fake(self, n: int) -> Tensor:
        """n images of the generator for fresh noise from torch's global generator, with gradients."""
        return self.generator(torch.randn(n, self.config.latent, device=self.device))

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n draws (n, latent) of the prior N(0, I)."""
        return SampleNoise(n, generator, self.device).normal(self.config.latent)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) -> G(z), (B, C, H, W) in [-1, 1]."""
        return self.generator(latent)

    @torch.no_grad()
    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        """n images (n, C, H, W) in [-1, 1]. Knows no labels: `label` is ignored."""
        return self.decode(self.latents(n, generator=generator))
