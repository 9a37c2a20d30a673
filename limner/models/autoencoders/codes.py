"""What the models with discrete codes share: how vectors become codes, and what a model with one map of codes can do."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from limner.config import Fraction, ImageConfig, NonNegativeFloat, Positive, config
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


class OneMap:
    """What a model does that has an `encoder`, a `quantizer` of its map of vectors and a `decoder` of the codes' values."""

    config: Any
    encoder: Any
    quantizer: Any
    decoder: Any

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> z_q(x), the values (B, D, h, w) of the image's codes."""
        return self.quantizer.lookup(*self.tokenize(image))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, D, h, w), values of codes or between them -> (B, C, H, W), cut to [-1, 1]."""
        return self.decoder(latent).float().clamp(-1, 1)

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
