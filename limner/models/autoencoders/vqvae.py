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
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import NonNegative, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.model import Batch, Clock, Model, Preset, Update
from limner.models.autoencoders.codes import OneMap, QuantizerConfig, log, make_quantizer


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


class VQVAE(OneMap, Model):
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
