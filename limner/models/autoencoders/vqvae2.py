"""VQ-VAE-2: two maps of codes, a coarse one of what the image is and a finer one of the details that the coarse one leaves open.

Razavi, van den Oord & Vinyals 2019, "Generating Diverse High-Fidelity Images with VQ-VAE-2", section 3.1 and algorithm 1:

    h_top = E_top(x),               e_top = Quantize(h_top)
    h_bottom = E_bottom(x, e_top),  e_bottom = Quantize(h_bottom)
    x^ = D(e_top, e_bottom)

Both encoders share the convolutions down to the bottom map's size; the top one halves it once more. The bottom encoder also sees the
decoded top, and so need not say again what that says. The loss is that of `limner.models.autoencoders.vqvae`, with the terms of both
codebooks; the paper's are moving averages ("ema").

The model draws no images by itself: its priors, the bottom's conditioned on the top's codes, are trained in a second run on top of this
one (`--first-stage`; section 3.2 of the paper).

Deviations: as in `vqvae`, and the side of the top map is half the bottom's at any size of image (28 pixels: 7 and 14), while the paper has
factors of 4 and 8 for 256 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import NonNegative, Positive, PositiveFloat, config
from limner.model import Batch, Clock, Model, Preset, Update
from limner.models.autoencoders.codes import QuantizerConfig, log, make_quantizer
from limner.models.autoencoders.vqvae import Downsampler, Upsampler, halvings_of


@config
class Config(QuantizerConfig):
    """The networks of a VQ-VAE-2. Both maps have codebooks of the same kind and size."""

    factor: Positive = 2
    """Pixels of a side that one code of the bottom map stands for, a power of 2; of the top map, twice as many."""
    width: Positive = 96
    """Channels of the feature maps of the codes' sizes; half as many on larger maps."""
    blocks: NonNegative = 1
    """Residual blocks of each encoder and decoder."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""


TRAIN = {"batch": 64, "warmup": 5_000, "schedule": "cosine", "clip": 1.0}


class VQVAE2(Model):
    """Reconstructs, and turns images into two maps of codes, the top first, and back.

    Raises:
        UserError: the image cannot be halved down to the codes' maps; says which sizes can.
    """

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, codebook=64, code_width=16, width=64), {**TRAIN, "images": 50_000}),
        "32px": Preset(28, Config(size=28, codebook=256), {**TRAIN, "images": 200_000}),
        "64px": Preset(64, Config(size=64, channels=3, factor=4, width=128, blocks=2), {**TRAIN, "images": 1_000_000}),
    }
    autocast = True

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        halvings = halvings_of(c.size, c.factor, further=1)
        self.quantize_top, self.quantize_bottom = make_quantizer(c), make_quantizer(c)
        code = self.quantize_top.width
        self.encode_image = Downsampler(c.channels, c.width, halvings, c.blocks)  # to the bottom's size
        self.encode_top = nn.Sequential(Downsampler(c.width, c.width, 1, c.blocks), nn.Conv2d(c.width, code, 1))
        self.decode_top = Upsampler(code, c.width, c.width, 1, c.blocks)
        self.encode_bottom = nn.Conv2d(2 * c.width, code, 1)
        self.widen_top = nn.ConvTranspose2d(code, code, 4, stride=2, padding=1)
        self.decoder = Upsampler(2 * code, c.width, c.channels, halvings, c.blocks)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"vqvae2": Adam(self.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"]
        features = self.encode_image(x)
        top = self.quantize_top(self.encode_top(features))
        bottom = self.quantize_bottom(self.encode_bottom(self.given_top(features, top.code)))
        error = F.mse_loss(self.decoder(self.joined(top.code, bottom.code)).float(), x)
        logged = log(top, self.quantize_top, "top/") | log(bottom, self.quantize_bottom, "bottom/")
        yield Update("vqvae2", error + top.loss + bottom.loss, {"reconstruction": error.detach(), **logged})

    def given_top(self, features: Tensor, top: Tensor) -> Tensor:
        """What the bottom encoder sees: the image's features (B, width, h, w), and those decoded from the top's codes."""
        return torch.cat([features, self.decode_top(top).to(features.dtype)], dim=1)

    def joined(self, top: Tensor, bottom: Tensor) -> Tensor:
        """What the decoder sees: the values of the top's codes, brought to the bottom's size, and those of the bottom's."""
        wide = self.widen_top(top)
        return torch.cat([wide, bottom.to(wide.dtype)], dim=1)

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, 2 D, h, w), the values of the codes of both maps as the decoder sees them."""
        top, bottom = self.tokenize(image)
        return self.joined(self.quantize_top.lookup(top), self.quantize_bottom.lookup(bottom))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, 2 D, h, w) -> (B, C, H, W), cut to [-1, 1]."""
        return self.decoder(latent).clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> the decoded codes, the same shape and range."""
        return self.detokenize(self.tokenize(image))

    @property
    def codebooks(self) -> tuple[int, ...]:
        """How many codes there are for the top map and for the bottom map."""
        return self.quantize_top.size, self.quantize_bottom.size

    @property
    def code_shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of the top map and of the bottom map."""
        side = self.config.size // self.config.factor
        return (side // 2, side // 2), (side, side)

    def tokenize(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [-1, 1] -> the top's codes, int64 (B, h, w), and the bottom's, (B, 2 h, 2 w)."""
        features = self.encode_image(image)
        top = self.quantize_top.find(self.encode_top(features))
        given = self.given_top(features, self.quantize_top.lookup(top))
        return top, self.quantize_bottom.find(self.encode_bottom(given))

    def detokenize(self, codes: tuple[Tensor, ...]) -> Tensor:
        """Codes of the top and of the bottom -> (B, C, H, W) in [-1, 1]."""
        top, bottom = codes
        return self.decode(self.joined(self.quantize_top.lookup(top), self.quantize_bottom.lookup(bottom)))
