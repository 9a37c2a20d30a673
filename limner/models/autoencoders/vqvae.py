"""Vector-quantised autoencoder: an image becomes a small map of discrete codes, and the codes an image again.

van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning"; lecture 001. An encoder makes a map of vectors
z_e(x), each is replaced by the nearest code e of a codebook, and a decoder sees the codes z_q alone (equation 3):

    L = -log p(x | z_q(x)) + ||sg[z_e(x)] - e||^2 + beta ||z_e(x) - sg[e]||^2

(the lecture's formula lacks the minus sign of the first term). p(x | z_q) is a Gaussian of variance 1/2 about the decoder's output, so
that the first term is the squared error, with pixels in [-1, 1]; all three terms are means, over pixels and over the numbers of z_e.
With quantizer="ema" moving averages take the place of the second term (appendix A.1); with "fsq" there is no codebook to learn, and the
first term is all (Mentzer et al. 2024). Formulas, gradients and the revival of unused codes are in `limner.nn.quantize`.

The model draws no images by itself: codes of equal probability make none. A prior of the codes is trained in a second run, on top of this
one (`--first-stage`; section 3.2 of the paper).

Deviations: SiLU for ReLU, residual blocks that begin as the identity, and the outer convolutions have half the channels (as in the
authors' published code).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import Fraction, ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.quantize import FSQ, Quantized, Quantizer, VectorQuantizer


@config
class QuantizerConfig(ImageConfig):
    """How vectors become codes."""

    quantizer: Literal["ema", "gradient", "fsq"] = "ema"
    """Codebook by moving averages, codebook by gradient, or finite scalar quantisation."""
    codebook: Positive = 512
    """Codes in the codebook (with fsq: the product of fsq_levels)."""
    code_width: Positive = 64
    """Numbers in a code (with fsq: one for each of fsq_levels)."""
    beta: NonNegativeFloat = 0.25
    """Weight of the commitment, which keeps the encoder near its codes."""
    decay: Fraction = 0.99
    """ema: what the moving averages keep from one step to the next."""
    restart: Fraction = 0.1
    """A code used less than this share of equal use begins afresh on a vector of the batch. 0: never."""
    cosine: bool = False
    """Vectors and codes are scaled to length one."""
    fsq_levels: tuple[Positive, ...] = (8, 6, 5)
    """fsq: values that each number is rounded to."""


@config
class Config(QuantizerConfig):
    """A VQ-VAE's networks."""

    factor: Positive = 4
    """Pixels of a side that one code stands for, a power of 2: 28 pixels and 4 make a map of 7 x 7 codes."""
    width: Positive = 128
    """Channels of the feature maps of the codes' size; half as many on larger maps."""
    blocks: NonNegative = 2
    """Residual blocks of the encoder, and of the decoder."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""


TRAIN = {"batch": 64, "warmup": 5_000, "schedule": "cosine", "clip": 1.0}


class VQVAE(Model):
    """Reconstructs, and turns images into one map of codes and back.

    Raises:
        UserError: the image cannot be halved down to the codes' map; says which sizes can.
    """

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(
            8, Config(size=8, factor=2, codebook=64, code_width=16, width=64, blocks=1), {**TRAIN, "images": 80_000}
        ),
        "32px": Preset(28, Config(size=28), {**TRAIN, "images": 300_000}),
        "64px": Preset(64, Config(size=64, channels=3), {**TRAIN, "images": 1_000_000}),
    }
    autocast = True

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        halvings = halvings_of(c.size, c.factor)
        self.quantizer = make_quantizer(c)
        self.encoder = nn.Sequential(
            Downsampler(c.channels, c.width, halvings, c.blocks), nn.Conv2d(c.width, self.quantizer.width, 1)
        )
        self.decoder = Upsampler(self.quantizer.width, c.width, c.channels, halvings, c.blocks)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"vqvae": Adam(self.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"]
        quantized = self.quantizer(self.encoder(x))
        error = F.mse_loss(self.decoder(quantized.code).float(), x)
        yield Update(
            "vqvae", error + quantized.loss, {"reconstruction": error.detach(), **log(quantized, self.quantizer)}
        )

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> z_q(x), the values (B, D, h, w) of the image's codes."""
        return self.quantizer.lookup(*self.tokenize(image))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, D, h, w), values of codes or between them -> (B, C, H, W), cut to [-1, 1]."""
        return self.decoder(latent).clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> the decoded codes, the same shape and range."""
        return self.detokenize(self.tokenize(image))

    @property
    def codebooks(self) -> tuple[int, ...]:
        """How many codes there are."""
        return (self.quantizer.size,)

    @property
    def code_shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of the map of codes."""
        side = self.config.size // self.config.factor
        return ((side, side),)

    def tokenize(self, image: Tensor) -> tuple[Tensor]:
        """(B, C, H, W) in [-1, 1] -> the codes, int64 (B, h, w)."""
        return (self.quantizer.find(self.encoder(image)),)

    def detokenize(self, codes: tuple[Tensor, ...]) -> Tensor:
        """Codes, int64 (B, h, w) -> (B, C, H, W) in [-1, 1]."""
        return self.decode(self.quantizer.lookup(*codes))


# ---- parts that VQ-VAE-2 is made of as well


class Block(nn.Module):
    """x + conv1x1(act(conv3x3(act(x)))), the last convolution zero at first."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width // 2, 3, padding=1)
        self.second = nn.Conv2d(width // 2, width, 1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Downsampler(nn.Sequential):
    """(B, channels, H, W) -> (B, width, H / 2^halvings, W / 2^halvings): strided convolutions, then residual blocks."""

    def __init__(self, channels: int, width: int, halvings: int, blocks: int):
        layers: list[nn.Module] = []
        for before, after in pairwise([channels, *[width // 2] * (halvings - 1), width]):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        layers += [nn.Conv2d(width, width, 3, padding=1), *(Block(width) for _ in range(blocks)), nn.SiLU()]
        super().__init__(*layers)


class Upsampler(nn.Sequential):
    """(B, inputs, h, w) -> (B, outputs, 2^doublings h, 2^doublings w): the way back."""

    def __init__(self, inputs: int, width: int, outputs: int, doublings: int, blocks: int):
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), *(Block(width) for _ in range(blocks))]
        for before, after in pairwise([width, *[width // 2] * (doublings - 1), outputs]):
            layers += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        super().__init__(*layers)


def make_quantizer(c: QuantizerConfig) -> Quantizer:
    """The quantiser that the configuration asks for."""
    if c.quantizer == "fsq":
        return FSQ(c.fsq_levels)
    return VectorQuantizer(
        c.codebook,
        c.code_width,
        learn=c.quantizer,
        beta=c.beta,
        decay=c.decay,
        restart=c.restart,
        cosine=c.cosine,
    )


def log(quantized: Quantized, quantizer: Quantizer, prefix: str = "") -> dict[str, Tensor]:
    """What a curve is drawn of, and what health watches."""
    size = torch.tensor(float(quantizer.size))
    return {f"{prefix}perplexity": quantized.perplexity.detach(), f"{prefix}codebook_size": size}


def halvings_of(size: int, factor: int, *, further: int = 0) -> int:
    """How often a side of `size` pixels is halved to be divided by `factor`, where it can be halved `further` times after that.

    Raises:
        UserError: it cannot; the message names the nearest sizes that can.
    """
    halvings = int(math.log2(factor))
    if factor < 2 or 2**halvings != factor:
        raise UserError(f"factor {factor} is not a power of 2: use 2, 4 or 8")
    whole = factor * 2**further
    if size % whole:
        nearest = [whole * k for k in (size // whole, size // whole + 1) if k]
        raise UserError(
            f"images of {size} x {size} pixels cannot be divided by {whole}, as their maps of codes must be: "
            f"use size {' or '.join(map(str, nearest))}" + (", or a smaller factor" if factor > 2 else "")
        )
    return halvings
