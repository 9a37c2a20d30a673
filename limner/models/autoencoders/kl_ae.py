"""KL-regularised autoencoder: the first stage of latent diffusion.

Rombach, Blattmann, Lorenz, Esser & Ommer 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", section 3.1 and appendix G;
lecture 003. The encoder gives a Gaussian for each number of a map (B, latent, H / f, W / f), the decoder sees a draw of it,

    z = mu(x) + sigma(x) * epsilon,   L_reg = kl KL(q(z|x) || N(0, I))

with the KL in nats a pixel value (over C H W) and `kl` of 1e-6: it keeps the latents from running away, and makes no prior of N(0, I).
Networks and the other losses (pixels, perceptual, patch-adversarial) are those of `first_stage`.

**The latent's scale** (appendix G). A diffusion model's noise is made for data of unit deviation. The paper divides by the deviation of the
first batch's latents; here their mean m for each channel and one deviation s for all are measured while training, over the latest
tenth of the images seen or so, and are buffers, saved with the weights:

    encode(x) = (mu(x) - m) / s,      decode(z) = g(s z + m),      s^2 = mean (mu - m)^2 over images, channels and places.

So what `encode` gives *is* scaled, and what `decode` takes is too. While training, the networks see the unscaled z.

Deviations beside those of `first_stage`: m (the paper scales only); the scale is that of mu, not of draws (sigma is small).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from limner.config import NonNegativeFloat, Positive, config
from limner.losses.gaussian import kl_to_standard_normal
from limner.model import Batch, Clock, Preset, Update
from limner.models.autoencoders.first_stage import FirstStage, FirstStageConfig

SHARE, WINDOW = 0.1, 10_000
"""The latent's moments are those of the latest tenth of the images seen, and of about so many at the most."""


@config
class Config(FirstStageConfig):
    """A KL-regularised autoencoder's latent."""

    latent: Positive = 4
    """Channels of the latent."""
    kl: NonNegativeFloat = 1e-6
    """Weight of the KL term."""


SMALL: dict[str, Any] = {"size": 28, "adversarial_start": 20_000}
LARGE: dict[str, Any] = {
    "size": 64,
    "channels": 3,
    "width": 64,
    "discriminator_layers": 2,
    "adversarial_start": 100_000,
}
TRAIN = {"batch": 32, "warmup": 2_000, "schedule": "cosine", "clip": 1.0}


class KLAE(FirstStage):
    """Encodes to maps of unit deviation, decodes and reconstructs.

    Raises:
        UserError: the image cannot be halved so often, or is too small for the discriminator.
    """

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(
            8,
            Config(size=8, width=16, multipliers=(1, 2), latent=2, discriminator_width=16, lr=2e-3),
            {**TRAIN, "images": 24_000},
        ),
        "32px": Preset(28, Config(**SMALL), {**TRAIN, "images": 60_000}),
        "64px": Preset(64, Config(**LARGE), {**TRAIN, "images": 500_000}),
        "32px-lpips": Preset(28, Config(**SMALL, perceptual="lpips-alex"), {**TRAIN, "images": 60_000}),
        "64px-lpips": Preset(64, Config(**LARGE, perceptual="lpips-vgg"), {**TRAIN, "images": 500_000}),
    }

    latent_mean: Tensor
    """(latent,) m."""
    latent_variance: Tensor
    """() s^2."""
    latent_count: Tensor
    """() images seen."""

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        latent = self.config.latent
        self.build(2 * latent, latent)
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_variance", torch.ones(()))
        self.register_buffer("latent_count", torch.zeros(()))

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"]
        mu, log_sigma = self.gaussian(x)
        self.measure(mu.detach())
        z = mu + torch.exp(log_sigma) * torch.randn_like(mu)
        kl = kl_to_standard_normal(mu.flatten(1), log_sigma.flatten(1)).mean() / math.prod(self.image_shape)
        yield from self.updates(x, self.decoder(z), self.config.kl * kl, {"kl": kl.detach()}, clock.images)

    def gaussian(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma of q(z|x), (B, latent, h, w) each, not scaled, of images (B, C, H, W) in [-1, 1]."""
        mu, log_sigma = self.encoder(image).to(image.dtype).chunk(2, dim=1)
        return mu, log_sigma.clamp(-15, 10)

    @torch.no_grad()
    def measure(self, mu: Tensor) -> None:
        """Move m and s^2 towards those of mu (B, latent, h, w).

        The moments so far and the batch's are merged (Chan et al. 1979), the batch's with such a weight that old images are forgotten
        exponentially: the encoder moves, and by the last tenth of a cosine schedule hardly any more.
        """
        self.latent_count.add_(len(mu))
        w = len(mu) / (SHARE * self.latent_count).clamp(max=WINDOW).clamp(min=len(mu))
        mean = mu.mean((0, 2, 3))
        delta = mean - self.latent_mean
        spread = (mu - mean[:, None, None]).square().mean()
        self.latent_mean.add_(w * delta)
        self.latent_variance.mul_(1 - w).add_(w * spread + w * (1 - w) * delta.square().mean())

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (mu(x) - m) / s, (B, latent, H / f, W / f): of unit deviation over the training images."""
        mu, _ = self.gaussian(image)
        return (mu - self.latent_mean[:, None, None]) / self.latent_variance.sqrt()

    def decode(self, latent: Tensor) -> Tensor:
        """What `encode` gives, or something like it, (B, latent, h, w) -> (B, C, H, W), cut to [-1, 1]."""
        z = latent * self.latent_variance.sqrt() + self.latent_mean[:, None, None]
        return self.decoder(z).float().clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> g(mu(x)), the same shape and range."""
        return self.decode(self.encode(image))
