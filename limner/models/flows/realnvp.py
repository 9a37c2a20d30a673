"""Real NVP: an image becomes Gaussian noise through invertible layers whose Jacobian is triangular, so that its density is known.

Dinh, Sohl-Dickstein & Bengio 2017, "Density Estimation Using Real NVP"; lecture 000, "Normalizing Flows". With z = f(x),

    log p_x(x) = log N(f(x); 0, I) + log |det df(x)/dx|                 eq. 2-3, the loss is its negative
    y_a = x_a,   y_b = x_b * exp(s(x_a)) + t(x_a)                       eq. 7-8, affine coupling
    log |det| = sum of s(x_a)                                           eq. 6
    x_b = (y_b - t(y_a)) * exp(-s(y_a))                                 eq. 8, the inverse runs the networks forward too

Architecture (section 3.6): at each scale `couplings` couplings on a checkerboard, then a squeeze (2x2 pixels become four
channels) and `couplings` couplings between halves of the channels, then half of the variables leave for the latent. The last
scale has `last_couplings` checkerboard couplings alone. Parts a and b change roles from each coupling to the next.

Likelihood. Grey values k become x = (k + u) / levels with u uniform (section 4.1; `limner.losses.dequantization`), then
logit. The density p_x is exact; that of the *discrete* image, P(k) = integral of p_x over its bin, is bounded:
`bits_per_dim` is one draw of an unbiased estimate of an upper bound, hence `likelihood = "bound"`. It is the figure that
papers on flows give as bits/dim.

Deviations:
- Activation normalisation (Kingma & Dhariwal 2018) before each coupling in place of batch normalisation after it, so that the
  likelihood of an image does not depend on its batch.
- s = clamp * tanh(raw / clamp) with a fixed clamp; the paper learns the factor before tanh.
- alpha + (1 - 2 alpha) x before the logit where the paper has alpha + (1 - alpha) x, to be finite at x = 1; alpha is 0.001 by
  default (0.05 in the paper).
- The checkerboard halves are packed to half the resolution before the s and t networks see them (same partition, same Jacobian,
  a quarter of the cost), and these have one residual block of a 3x3 and a 1x1 convolution where the paper has eight of two 3x3.
- A moving average of the weights is what is saved. No horizontal flips.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.dequantization import bits_per_dim, centre_of, dequantise, uniform_dequantise
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.actnorm import ActNorm
from limner.nn.bijection import Bijection, Chain, Logit, MultiScale, standard_normal_log_density
from limner.nn.coupling import Affine, Checkerboard, Coupling, Halves, ResNet
from limner.nn.squeeze import Squeeze
from limner.noise import SampleNoise, Seed


@config
class Config(ImageConfig):
    """Scales, couplings and the networks in them."""

    levels: Annotated[int, Field(ge=2)] = 256
    """Grey values of a pixel."""
    scales: Positive = 3
    """Scales; the image is halved between two, so its size must be divisible by 2 ** (scales - 1)."""
    couplings: Positive = 3
    """Couplings on a checkerboard, and as many between channels, at each scale but the last."""
    last_couplings: Positive = 4
    """Checkerboard couplings at the last scale."""
    width: Positive = 32
    """Channels inside the s and t networks at the first scale."""
    width_growth: PositiveFloat = 1.5
    """Factor from the width at one scale to that at the next."""
    blocks: NonNegative = 1
    """Residual blocks in each s and t network."""
    clamp: PositiveFloat = 1.0
    """Bound of |s|: no coupling stretches or shrinks a variable by more than exp(clamp)."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    """Margin left at both ends of [0, 1] before the logit. Where many pixels are black, small: the paper's 0.05 costs bits."""
    lr: PositiveFloat = 3e-3
    """Learning rate of Adam."""


class RealNVP(Model):
    """A flow on images. Samples, scores, encodes to (B, D) latents with an N(0, I) prior and back; D = C H W."""

    Config = Config
    PRESETS: ClassVar[dict[str, Preset]] = {
        "8px": Preset(
            8,
            Config(size=8, levels=17, scales=2, alpha=0.01, lr=5e-3),
            {
                "images": 60_000,
                "batch": 64,
                "warmup": 2_000,
                "schedule": "cosine",
                "clip": 10.0,
                "ema_halflife": 3_000,
            },
        ),
        "32px": Preset(
            28,
            Config(size=28),
            {
                "images": 800_000,
                "batch": 64,
                "warmup": 10_000,
                "schedule": "cosine",
                "clip": 10.0,
                "ema_halflife": 10_000,
            },
        ),
        "64px": Preset(
            64,
            Config(channels=3, size=64, scales=4, width=48, blocks=2),
            {
                "images": 4_000_000,
                "batch": 64,
                "warmup": 20_000,
                "schedule": "cosine",
                "clip": 10.0,
                "ema_halflife": 50_000,
            },
        ),
    }
    averaged = ("flow",)
    autocast = True
    likelihood: Literal["exact", "bound"] = "bound"
    """The density of dequantised images is exact; the likelihood of discrete ones is bounded by it."""
    dequantisation = "uniform"

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        check_size(c.size, c.scales)
        shape, scales, shapes = self.image_shape, [], []
        for i in range(c.scales):
            width = round(c.width * c.width_growth**i)
            if i == c.scales - 1:
                layers = self.couplings(Checkerboard, shape, width, c.last_couplings)
            else:
                layers = self.couplings(Checkerboard, shape, width, c.couplings)
                shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
                layers += [Squeeze(), *self.couplings(Halves, shape, width, c.couplings)]
            scales.append(Chain(layers))
            shapes.append(shape)
            shape = (shape[0] // 2, *shape[1:])  # the other half leaves
        self.flow = Chain([Logit(c.alpha), MultiScale(scales, shapes)])

    def couplings(self, kind: type, shape: tuple[int, int, int], width: int, number: int) -> list[Bijection]:
        """`number` couplings with partitions of the given kind. The last one changes the second half: the one that leaves."""
        layers: list[Bijection] = []
        for i in range(number):
            partition = kind(shape, swap=(number - i) % 2 == 0)
            network = ResNet(partition.given, Affine.per_element * partition.changed, width, self.config.blocks)
            layers += [ActNorm(shape[0]), Coupling(partition, Affine(self.config.clamp), network)]
        return layers

    def optimizers(self) -> dict[str, Optimizer]:
        return {"flow": Adam(self.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = uniform_dequantise(batch["image"], self.config.levels)
        z, log_det = self.flow(x)
        prior = standard_normal_log_density(z)
        bits = self.bits(prior + log_det).mean()
        yield Update("flow", bits, {"prior": -prior.mean() / z.shape[1], "log_det": log_det.mean() / z.shape[1]})

    # Density

    def log_density(self, x: Tensor) -> Tensor:
        """(B,) exact log p_x(x) in nats of dequantised images x (B, C, H, W) in [0, 1], with respect to the volume there."""
        z, log_det = self.flow(x)
        return standard_normal_log_density(z) + log_det

    def bits(self, log_density: Tensor) -> Tensor:
        """log p_x in nats as bits per dimension of a discrete image."""
        return bits_per_dim(log_density, self.config.channels * self.config.size**2, self.config.levels)

    @torch.no_grad()
    def bits_per_dim(
        self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, samples: int = 1
    ) -> Tensor:
        """(B,) upper bound of -log2 P(image) per dimension, the mean over `samples` draws of the dequantisation noise."""
        noise = SampleNoise(len(image), generator, self.device)
        total = image.new_zeros(len(image))
        for _ in range(samples):
            u = noise.uniform(*image.shape[1:]).to(image.dtype)
            total += self.bits(self.log_density(dequantise(image, self.config.levels, u)))
        return total / samples

    # Latents

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """(B, D): z = f(x) at the centre of the bin of each image."""
        return self.flow(dequantise(image, self.config.levels, 0.5))[0]

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1], not rounded to grey values: x = f^-1(z), the inverse of `encode`."""
        return centre_of(self.flow.inverse(latent), self.config.levels)

    def reconstruct(self, image: Tensor) -> Tensor:
        """There and back: equals `image`, up to the rounding of float32."""
        return self.decode(self.encode(image))

    # Sampling

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """(n, D) draws of N(0, I)."""
        c = self.config
        return SampleNoise(n, generator, self.device).normal(c.channels * c.size**2)

    def sample(
        self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0, temperature: float = 1.0
    ) -> Tensor:
        """x = f^-1(temperature * z), z ~ N(0, I). Rounded to the nearest grey value and at temperature 1, exact draws of P."""
        return self.decode(temperature * self.latents(n, generator=generator))


def check_size(size: int, scales: int) -> None:
    """Refuse a size that cannot be halved scales - 1 times to 2 pixels or more."""
    step = 2 ** (scales - 1)
    if size % step or size < 2 * step:
        smallest = 2 * step
        sizes = sorted({max(size // step * step, smallest), max(-(-size // step) * step, smallest)})
        fits = max(s for s in range(1, scales + 1) if s == 1 or (size % 2 ** (s - 1) == 0 and size >= 2**s))
        raise UserError(
            f"realnvp with {scales} scales halves its images {scales - 1} times to 2 pixels or more: size {size} does not admit "
            f"that; use --data.size {' or '.join(map(str, sizes))}, or --model.scales {fits}"
        )
