"""Autoencoder: an encoder f to a few numbers and a decoder g back, trained to minimise MSE(g(f(x)), x).

Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks" (trained end to end here, without its
layer-wise pretraining); lecture 004, section "Auto Encoder", whose 256-128-latent network is `network="mlp"`.

Sampling. A plain autoencoder has no prior: lecture 004 decodes a grid of the latent square and gets many images that are
none. Here new images come from *ex-post density estimation* (Ghosh et al. 2020, "From Variational to Deterministic
Autoencoders", section 4): a Gaussian with full covariance is fitted to the latents of the training images,

    z ~ N(m, S),   m = mean f(x),   S = cov f(x),   x = g(z).

Deviations from Ghosh et al.: m and S are not computed by a pass over the data after training but kept as buffers while
training, over the latest `PRIOR_WINDOW` images or so (the encoder hardly moves by then, the learning rate being near zero at
the end of the cosine schedule); and the decoder is not regularised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, Positive, PositiveFloat, config
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import ConvDecoder, ConvEncoder
from limner.nn.mlp import mlp
from limner.noise import SampleNoise, Seed

PRIOR_WINDOW = 10_000


@config
class Config(ImageConfig):
    """An autoencoder's networks."""

    network: Literal["mlp", "conv"] = "conv"
    """Fully connected (lecture 004) or convolutional."""
    latent: Positive = 32
    """Numbers in the bottleneck."""
    hidden: tuple[Positive, ...] = (256, 128)
    """mlp: neurons of the encoder's hidden layers; the decoder has them in reverse."""
    width: Positive = 32
    """conv: channels after the first halving of the image, doubled at each further one."""
    blocks: NonNegative = 1
    """conv: residual blocks at each size of the feature maps."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""


TRAIN = {"batch": 64, "warmup": 10_000, "schedule": "cosine", "clip": 1.0}


class AE(Model):
    """Encodes, reconstructs and decodes; samples by the Gaussian fitted to the training latents."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, network="mlp", latent=8), {**TRAIN, "images": 200_000}),
        "32px": Preset(28, Config(size=28, latent=32), {**TRAIN, "images": 400_000}),
        "64px": Preset(64, Config(size=64, channels=3, latent=128, width=48), {**TRAIN, "images": 1_000_000}),
    }
    autocast = True

    latent_mean: Tensor
    latent_covariance: Tensor
    latent_count: Tensor

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        if c.network == "mlp":
            sizes = [c.channels * c.size * c.size, *c.hidden, c.latent]
            self.encoder = nn.Sequential(nn.Flatten(), mlp(sizes))
            self.decoder = nn.Sequential(mlp(sizes[::-1]), nn.Unflatten(1, self.image_shape))
        else:
            self.encoder = ConvEncoder(c.channels, c.size, c.width, c.latent, blocks=c.blocks)
            self.decoder = ConvDecoder(c.latent, c.channels, c.size, c.width, blocks=c.blocks)
        self.register_buffer("latent_mean", torch.zeros(c.latent))  # m
        self.register_buffer("latent_covariance", torch.eye(c.latent))  # S
        self.register_buffer("latent_count", torch.zeros(()))

    def optimizers(self) -> dict[str, Optimizer]:
        return {"autoencoder": Adam(self.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"]
        z = self.encoder(x).float()  # (B, latent)
        self.fit_prior(z.detach())
        yield Update("autoencoder", F.mse_loss(self.decoder(z).float(), x))

    @torch.no_grad()
    def fit_prior(self, z: Tensor) -> None:
        """Move the prior's moments towards those of the latents z (B, latent).

        Merges the moments of the batch with those so far (Chan et al. 1979, pairwise update), each weighted by its images.
        Exact over the first `PRIOR_WINDOW` images; after that old images are forgotten exponentially.
        """
        self.latent_count.add_(len(z)).clamp_(max=max(PRIOR_WINDOW, len(z)))
        w = len(z) / self.latent_count
        delta = z.mean(0) - self.latent_mean
        centred = z - z.mean(0)
        self.latent_mean.add_(w * delta)
        self.latent_covariance.mul_(1 - w).add_(
            w * centred.T @ centred / len(z) + w * (1 - w) * torch.outer(delta, delta)
        )

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> f(x), (B, latent)."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) -> g(z), (B, C, H, W), cut to [-1, 1] (the network itself ends in a linear layer, as in the lecture)."""
        return self.decoder(latent).clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> g(f(x)), the same shape and range."""
        return self.decode(self.encode(image))

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n draws (n, latent) of N(m, S), the Gaussian fitted to the training latents."""
        # A square root of S by its eigenvalues: Cholesky's would fail on the negative ones that rounding makes of zeros.
        values, vectors = torch.linalg.eigh(self.latent_covariance.double())
        root = (vectors * values.clamp(min=0).sqrt()).float()  # root @ root.T = S
        return self.latent_mean + SampleNoise(n, generator, self.device).normal(self.config.latent) @ root.T

    @torch.no_grad()
    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        """n images (n, C, H, W) in [-1, 1], the decoded draws of the fitted Gaussian. Knows no labels: `label` is ignored."""
        return self.decode(self.latents(n, generator=generator))
