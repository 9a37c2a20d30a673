"""VQGAN: an image becomes a map of discrete codes, with codebook, perceptual and patch-adversarial losses trained together.

Esser, Rombach & Ommer 2021, "Taming Transformers for High-Resolution Image Synthesis", section 3.1; lectures 001, 003. As in a VQ-VAE each
vector of the encoder's map is replaced by the nearest code of a codebook; but the copy is judged by how it looks, so that one code can
stand for more pixels. With z = E(x), z_q its codes, y = G(z_q) and sg for no gradient,

    L_reg = L_VQ - |x - y| = ||sg[z] - z_q||^2 + beta ||z - sg[z_q]||^2                      (equation 4)
    loss  = L_rec + L_reg + adversarial lambda L_GAN                                         (equations 6 and 7)

Networks and the other losses (pixels, perceptual, patch-adversarial with lambda) are those of `first_stage`; the quantiser is that of
`vqvae`, where moving averages may take the place of the first term of L_reg.

The model draws no images by itself: a prior of the codes is trained in a second run on top of this one (`--first-stage`; section 3.2).

Deviations beside those of `first_stage`: the codebook moves by averages (quantizer="gradient" is the paper's); unused codes begin afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from limner.config import Positive, config
from limner.model import Batch, Clock, Preset, Update
from limner.models.autoencoders.codes import OneMap, QuantizerConfig, log, make_quantizer
from limner.models.autoencoders.first_stage import FirstStage, FirstStageConfig


@config
class Config(FirstStageConfig, QuantizerConfig):
    """A VQGAN's networks, losses and quantiser."""

    code_width: Positive = 32
    """Numbers in a code (with fsq: one for each of fsq_levels)."""


SMALL: dict[str, Any] = {"size": 28, "adversarial_start": 20_000}
LARGE: dict[str, Any] = {
    "size": 64,
    "channels": 3,
    "width": 64,
    "codebook": 512,
    "discriminator_layers": 2,
    "adversarial_start": 100_000,
}
TRAIN = {"batch": 32, "warmup": 2_000, "schedule": "cosine", "clip": 1.0}


class VQGAN(OneMap, FirstStage):
    """Reconstructs, and turns images into one map of codes and back.

    Raises:
        UserError: the image cannot be halved so often, or is too small for the discriminator.
    """

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(
            8,
            Config(size=8, width=16, multipliers=(1, 2), codebook=64, code_width=16, discriminator_width=16, lr=2e-3),
            {**TRAIN, "images": 24_000},
        ),
        "32px": Preset(28, Config(**SMALL), {**TRAIN, "images": 60_000}),
        "64px": Preset(64, Config(**LARGE), {**TRAIN, "images": 500_000}),
        "32px-lpips": Preset(28, Config(**SMALL, perceptual="lpips-alex"), {**TRAIN, "images": 60_000}),
        "64px-lpips": Preset(64, Config(**LARGE, perceptual="lpips-vgg"), {**TRAIN, "images": 500_000}),
    }

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        self.quantizer = make_quantizer(self.config)
        self.build(self.quantizer.width, self.quantizer.width)

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"]
        quantized = self.quantizer(self.encoder(x))
        y = self.decoder(quantized.code)
        yield from self.updates(x, y, quantized.loss, log(quantized, self.quantizer), clock.images)
