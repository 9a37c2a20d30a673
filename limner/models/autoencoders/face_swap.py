"""Face swap ("deepfakes"): one encoder for two domains, and a decoder for each.

Lecture 003, "Aplicatii AE - Deepfakes"; Perov et al. 2020, "DeepFaceLab". Both decoders read codes of the same encoder f,

    L = E_a |g_A(f(w(a))) - a| + E_b |g_B(f(w(b))) - b|,

and a swap decodes the code of an image of A with the decoder of B, g_B(f(a)).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import ResidualBlock

DOMAINS = ("A", "B")


def encoder(c):
    widths = [c.channels, *(c.width * 2**i for i in range(c.halvings))]
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), *(ResidualBlock(after) for _ in range(c.blocks))]
    return nn.Sequential(*layers, ResidualBlock(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], c.latent, 1))


def decoder(c):
    widths = [c.width * 2**i for i in range(c.halvings)][::-1]
    layers = [nn.Conv2d(c.latent, widths[0], 3, padding=1), ResidualBlock(widths[0])]
    for before, after in pairwise([*widths, c.width]):
        layers += [*(ResidualBlock(before) for _ in range(c.blocks)), nn.SiLU()]
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(c.width, c.channels, 3, padding=1))


CONTROL = 5


@config
class Config(ImageConfig):
    """Networks of the face swap."""

    latent: Positive = 32
    """Channels of the code."""
    halvings: Positive = 3
    """Halvings"""
    width: Positive = 32
    """Channels after the first halving of the image, doubled at each further one."""
    blocks: NonNegative = 1
    """Residual blocks at each size of the feature maps."""
    warp: NonNegativeFloat = 0.02
    """Standard deviation of the warp's displacement."""
    adversary: NonNegativeFloat = 0.0
    """Weight"""
    cycle: NonNegativeFloat = 0.0
    """Weight"""
    mse: bool = False
    """Loss"""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""


TRAIN = {"batch": 64, "warmup": 10_000, "schedule": "cosine", "clip": 1.0, "ema_halflife": 10_000}


class FaceSwap(Model):
    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, latent=16), {**TRAIN, "images": 100_000}),
        "32px": Preset(32, Config(size=32, channels=3), {**TRAIN, "images": 400_000}),
        "64px": Preset(64, Config(size=64, channels=3, latent=128, width=48), {**TRAIN, "images": 1_000_000}),
    }
    inputs = DOMAINS
    averaged = ("encoder", "decoders")
    autocast = True

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        self.encoder = encoder(c)
        self.decoders = nn.ModuleDict({d: decoder(c) for d in DOMAINS})
        if c.adversary:
            side = c.size >> c.halvings
            self.judge = nn.Sequential(
                *(nn.Conv2d(c.latent, 128, 3, padding=1), nn.LeakyReLU(0.2)),
                *(nn.Conv2d(128, 128, 3, padding=1), nn.LeakyReLU(0.2)),
                *(nn.Flatten(), nn.Linear(128 * side**2, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)),
            )

    def optimizers(self) -> dict[str, Optimizer]:
        lr = self.config.lr
        swap = Adam([*self.encoder.parameters(), *self.decoders.parameters()], lr=lr, fused=True)
        if not self.config.adversary:
            return {"swap": swap}
        return {"swap": swap, "judge": Adam(self.judge.parameters(), lr=lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        c = self.config
        a, b = batch["A"], batch["B"]
        z = self.encoder(warped(torch.cat([a, b]), c.warp)).float()
        za, zb = z.chunk(2)
        la = self.loss(self.decoders["A"](za).float(), a)
        lb = self.loss(self.decoders["B"](zb).float(), b)
        loss = la + lb
        log = {"A": la.detach(), "B": lb.detach()}
        if c.adversary:
            zd = z.detach()
            la_, lb_ = self.judge(zd).float().chunk(2)
            yield Update("judge", F.softplus(-la_).mean() + F.softplus(lb_).mean())
            la_, lb_ = self.judge(z).float().chunk(2)
            fool = F.softplus(la_).mean() + F.softplus(-lb_).mean()
            loss = loss + c.adversary * fool
        if c.cycle:
            ab = self.decoders["B"](za)
            ba = self.decoders["A"](zb)
            z2 = self.encoder(torch.cat([ab, ba])).float()
            za2, zb2 = z2.chunk(2)
            cyc = self.loss(self.decoders["A"](za2).float(), a) + self.loss(self.decoders["B"](zb2).float(), b)
            log["cycle"] = cyc.detach()
            loss = loss + c.cycle * cyc
        yield Update("swap", loss, log)

    def loss(self, x, y):
        return F.mse_loss(x, y) if self.config.mse else F.l1_loss(x, y)

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    @torch.no_grad()
    def translate(self, image: Tensor, *, target: str) -> Tensor:
        return self.decoders[target](self.encode(image)).clamp(-1, 1)


def warped(x: Tensor, strength: float) -> Tensor:
    """Images (B, C, H, W), each distorted by a smooth random field of displacements without an affine part."""
    if not strength:
        return x
    u = torch.linspace(-1, 1, CONTROL, device=x.device)
    down, across = torch.meshgrid(u, u, indexing="ij")
    affine = torch.linalg.qr(torch.stack([torch.ones_like(down), across, down], -1).view(-1, 3)).Q  # (25, 3)
    d = torch.randn(len(x), 2, CONTROL**2, device=x.device)
    d = d - d @ affine @ affine.T
    field = F.interpolate(d.unflatten(2, (CONTROL, CONTROL)), x.shape[2:], mode="bicubic", align_corners=True)
    still = F.affine_grid(torch.eye(2, 3, device=x.device).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    grid = still + 2 * strength * field.permute(0, 2, 3, 1)
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)
