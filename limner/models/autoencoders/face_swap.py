"""Face swap ("deepfakes"): one encoder for two domains A and B, and a decoder for each.

Lecture 003, section "Aplicatii AE - Deepfakes"; Perov et al. 2020, "DeepFaceLab", section 3.2. Images of A and of B, which need not be
paired, go through the same encoder f and each through the decoder of its own domain,

    L_own = E_a |g_A(f(w(a))) - a|^2 + E_b |g_B(f(w(b))) - b|^2.

The inputs are distorted by a random warp w, the targets are not: f learns what a distortion leaves (pose, expression), and the decoders
restore what it takes away (the face). A swap reads the code of an image of one domain with the decoder of the other, g_B(f(a)).

Nothing in L_own but the narrow code keeps f from writing the domain itself into it, where the other decoder cannot read it. With
`adversary` > 0 a judge D is trained to tell the domain of a code, and f to deceive it, which makes the codes of both domains one
distribution (Lample et al. 2017, "Fader Networks", equations 2 and 3):

    L_judge = -E_a log D(f(w(a))) - E_b log(1 - D(f(w(b)))),
    L       = L_own + adversary * (-E_a log(1 - D(f(w(a)))) - E_b log D(f(w(b)))).

Deviations: squared error alone, without DeepFaceLab's structural dissimilarity; no masks, and no alignment of faces; averaged weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.adversarial import discriminator_loss
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import ConvDecoder, ConvEncoder
from limner.nn.mlp import mlp

DOMAINS = ("A", "B")
CONTROL = 5
"""Control points a side of the warp."""


@config
class Config(ImageConfig):
    """A face swap's networks and losses."""

    latent: Positive = 64
    """Numbers in the code. Few, so that what both domains share is written in the same way."""
    width: Positive = 16
    """Channels after the first halving of the image, doubled at each further one."""
    blocks: NonNegative = 1
    """Residual blocks at each size of the feature maps."""
    warp: NonNegativeFloat = 0.02
    """Standard deviation of the random displacement of the encoder's inputs, in shares of the image's side. 0: no warp."""
    adversary: NonNegativeFloat = 0.0
    """Weight of deceiving a judge of the codes. 0: no judge, the plain face swap."""
    lr: PositiveFloat = 2e-3
    """Learning rate of Adam."""


def warped(x: Tensor, strength: float) -> Tensor:
    """Images (B, C, H, W) float32, each distorted by a smooth random field that moves, turns and scales nothing as a whole.

    A displacement from N(0, strength^2), in shares of the side, at each of 5 x 5 control points, less the field's affine part (so that
    target and input stay aligned, for which DeepFaceLab transforms its targets), interpolated by cubics. Borders are repeated.
    """
    if not strength:
        return x
    u = torch.linspace(-1, 1, CONTROL, device=x.device)
    down, across = torch.meshgrid(u, u, indexing="ij")
    affine = torch.linalg.qr(torch.stack([torch.ones_like(down), across, down], -1).view(-1, 3)).Q  # (25, 3)
    d = torch.randn(len(x), 2, CONTROL**2, device=x.device)
    d = (d - d @ affine @ affine.T).unflatten(2, (CONTROL, CONTROL))
    field = F.interpolate(d, x.shape[2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)  # (B, H, W, 2)
    still = F.affine_grid(torch.eye(2, 3, device=x.device).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    # The grid spans [-1, 1], so a share of the side is twice as much of it.
    return F.grid_sample(x, still + 2 * strength * field, padding_mode="border", align_corners=False)


TRAIN = {"batch": 32, "warmup": 5_000, "schedule": "cosine", "clip": 1.0, "ema_halflife": 5_000}


class FaceSwap(Model):
    """Translates between domains A and B. An image translated to its own domain is reconstructed."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, latent=16), {**TRAIN, "images": 60_000}),
        "32px": Preset(32, Config(size=32, channels=3), {**TRAIN, "images": 400_000}),
        "64px": Preset(64, Config(size=64, channels=3, latent=128, width=32), {**TRAIN, "images": 1_000_000}),
    }
    inputs = DOMAINS
    averaged = ("encoder", "decoders")
    autocast = True

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        self.encoder = ConvEncoder(c.channels, c.size, c.width, c.latent, blocks=c.blocks)
        self.decoders = nn.ModuleDict(
            {d: ConvDecoder(c.latent, c.channels, c.size, c.width, blocks=c.blocks) for d in DOMAINS}
        )
        if c.adversary:
            self.judge = mlp([c.latent, 256, 256, 1])  # the logit of a code being A's

    def optimizers(self) -> dict[str, Optimizer]:
        lr = self.config.lr
        swap = Adam([*self.encoder.parameters(), *self.decoders.parameters()], lr=lr, fused=True)
        if not self.config.adversary:
            return {"swap": swap}
        return {"judge": Adam(self.judge.parameters(), lr=lr, fused=True), "swap": swap}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        c, a, b = self.config, batch["A"], batch["B"]
        code = self.encoder(warped(torch.cat([a, b]), c.warp)).float()
        code_a, code_b = code.split([len(a), len(b)])
        own_a = F.mse_loss(self.decoders["A"](code_a).float(), a)
        own_b = F.mse_loss(self.decoders["B"](code_b).float(), b)
        loss, log = own_a + own_b, {"A": own_a.detach(), "B": own_b.detach()}
        if c.adversary:
            on_a, on_b = self.judge(code.detach()).float().split([len(a), len(b)])
            yield Update("judge", discriminator_loss(on_a, on_b))
            on_a, on_b = self.judge(code).float().split([len(a), len(b)])
            loss = loss + c.adversary * discriminator_loss(on_b, on_a)  # as if A's codes were B's
            log["judge right"] = (torch.cat([on_a > 0, on_b < 0])).float().mean()
        yield Update("swap", loss, log)

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1], of either domain -> codes (B, latent), which the decoder of either domain reads."""
        return self.encoder(image)

    @torch.no_grad()
    def translate(self, image: Tensor, *, target: str) -> Tensor:
        """(B, C, H, W) in [-1, 1], of either domain -> the same shape and range, as an image of the domain `target`, "A" or "B".

        Raises:
            UserError: there is no such domain.
        """
        if target not in DOMAINS:
            raise UserError(f"there is no domain '{target}' to translate to; there are {', '.join(DOMAINS)}")
        return self.decoders[target](self.encode(image)).clamp(-1, 1)
