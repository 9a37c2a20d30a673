"""Beta-VAE: a VAE whose code is kept poor, so that each of its numbers comes to stand for one factor of the data.

Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework"; lecture 004. The VAE
is trained with a weight beta > 1 on the KL term,

    maximise  E_q log p(x|z) - beta KL(q(z|x) || p(z))                                        (equation 4)

With `capacity` > 0 the code is instead given a number of nats that grows while training (Burgess et al. 2018, "Understanding
disentangling in beta-VAE"): first for what explains most of the image, then for less and less,

    maximise  E_q log p(x|z) - gamma |KL(q(z|x) || p(z)) - C|                                 (equation 8)

with C rising linearly from 0 to `capacity` over the first `capacity_images` images. KL is the mean over the batch.

What beta does depends on the likelihood: with N(x; m(z), sigma^2) it is beta sigma^2 alone that weighs the KL against the squared
error, which grows with the number of pixels. So compare two values of beta only under one likelihood; the presets fix sigma. How well
the code's numbers are told apart is measured by the mutual information gap, `limner.metrics.mig`.

Deviations: the networks and likelihoods of the `vae`, convolutional and Gaussian in the presets for the papers' Bernoulli.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

from limner.config import NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.model import Batch, Clock, Preset, Update
from limner.models.autoencoders import vae


@config
class Config(vae.Config):
    """A VAE's, and how its code is kept poor."""

    likelihood: Literal["discretized_logistic", "gaussian", "bernoulli"] = "gaussian"
    """Distribution of a pixel given the latent."""
    sigma: NonNegativeFloat = 0.5
    """gaussian: standard deviation of a pixel (images span [-1, 1]); 0 learns it."""
    latent: Positive = 10
    """Dimensions of the latent."""
    beta: NonNegativeFloat = 4.0
    """Weight of the KL term; not used where there is a capacity."""
    capacity: NonNegativeFloat = 0.0
    """Nats that the KL term is driven to at last; 0 for a weight beta instead."""
    capacity_images: NonNegative = 100_000
    """Training images over which the capacity rises from 0; 0 for all of it from the start."""
    gamma: PositiveFloat = 100.0
    """Weight of the KL term's distance from the capacity."""


TRAIN = {"batch": 64, "warmup": 5_000, "schedule": "cosine", "clip": 1.0, "ema_halflife": 5_000}


class BetaVAE(vae.VAE):
    """A VAE in all it can do: samples, scores by a bound, encodes and reconstructs."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(
            8,
            Config(size=8, levels=17, network="mlp", hidden=(256, 128), sigma=0.25),
            {**TRAIN, "images": 200_000},
        ),
        "32px": Preset(32, Config(size=32, channels=3, beta=8.0, width=16, blocks=0), {**TRAIN, "images": 200_000}),
        "64px": Preset(64, Config(size=64, channels=3, beta=32.0, width=16, blocks=0), {**TRAIN, "images": 400_000}),
    }

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        c = self.config
        reconstruction, kl = self.terms(batch)
        bits = 1 / (math.log(2) * math.prod(self.image_shape))
        log = {"reconstruction": bits * reconstruction.detach(), "kl": bits * kl.detach(), "nats": kl.detach()}
        if c.capacity:
            price = c.gamma * (kl - self.capacity(clock.images)).abs()
        else:
            price = c.beta * kl
        yield Update("vae", bits * (reconstruction + price), log)

    def capacity(self, images: int) -> float:
        """C in nats, after that many training images."""
        c = self.config
        return c.capacity * min(1.0, images / c.capacity_images) if c.capacity_images else c.capacity
