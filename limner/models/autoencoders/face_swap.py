"""Face swap ("deepfakes"): one encoder for two domains A and B, and a decoder for each.

Lecture 003, section "Aplicatii AE - Deepfakes"; Perov et al. 2020, "DeepFaceLab", section 3.2. Images of A and of B, which need not be
paired, go through the same encoder f and each through the decoder of its own domain,

    L_own = E_a |g_A(f(w(a))) - a|^2 + E_b |g_B(f(w(b))) - b|^2.

The inputs are distorted by a random warp w, the targets are not: f learns what a distortion leaves (pose, expression), and the decoders
restore what it takes away (the face). A swap reads the code of an image of one domain with the decoder of the other, g_B(f(a)).

Nothing in L_own but a narrow code keeps f from writing the domain itself into it, where the other decoder cannot read it. Three
remedies, each with a weight of its own that may be 0.

`judge`: a judge D of codes is trained to tell their domain, and f to deceive it, which makes the codes of both domains one distribution
(Lample et al. 2017, "Fader Networks", equations 2 and 3):

    L_judge = -E_a log D(f(w(a))) - E_b log(1 - D(f(w(b)))),
    L_code  = -E_a log(1 - D(f(w(a)))) - E_b log D(f(w(b))).

`critic`: a critic D_d of images for each domain d learns to tell its images from swaps, and the autoencoders to deceive it, which makes
the swaps' distribution the domain's (Zhu et al. 2017, "CycleGAN", equation 1; Liu et al. 2017, "UNIT", section 3). Here by the hinge
loss, with the gradient penalty of Mescheder et al. 2018, equation 9:

    L_critic = sum over d of  E max(0, 1 - D_d(x)) + E max(0, 1 + D_d(s)) + r1/2 E |grad D_d(x)|^2,   x of d, s a swap to d,
    L_fool   = -E_a D_B(g_B(f(w(a)))) - E_b D_A(g_A(f(w(b)))).

`cycle`: swapped there and back, an image is to be itself again, so that a swap loses nothing (CycleGAN, equation 2; UNIT, section 3):

    L_cycle = E_a |g_A(f(g_B(f(w(a))))) - a|^2 + E_b |g_B(f(g_A(f(w(b))))) - b|^2,

    L       = L_own + judge L_code + critic L_fool + cycle L_cycle.

A distribution alone does not say which red of A is which of B. So the decoders begin as copies of each other, and for the first
`together` images each decodes the images of both domains,

    L_start = E |g_A(f(w(x))) - x|^2 + E |g_B(f(w(x))) - x|^2,   x of A and of B:

swaps begin as the images themselves, and the critics then change what is not of the domain. The defaults are the plain face swap: a
vector, a warp and L_own alone. The presets of 32 and 64 pixels have a map, no warp (it would blur where things are), critics and the cycle.

Deviations: squared errors (DeepFaceLab adds its structural dissimilarity, CycleGAN takes absolute ones); no masks, and no alignment of
faces; the code is no Gaussian's draw, as UNIT's is; L_start; critics of three strided convolutions, without normalisation; averaged
weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.adversarial import (
    discriminator_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    r1_penalty,
)
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import ConvDecoder, ConvEncoder, ResidualBlock
from limner.nn.mlp import mlp

DOMAINS = ("A", "B")
CONTROL = 5
"""Control points a side of the warp."""
BETAS = (0.5, 0.99)
"""Adam's where there are two players."""


@config
class Config(ImageConfig):
    """A face swap's networks and losses."""

    latent: Positive = 64
    """Numbers in the code, or channels if it is a map."""
    halvings: NonNegative = 0
    """Halvings of the image down to the code, a map, that keeps places and shapes. 0: the code is a vector."""
    width: Positive = 16
    """Channels after the first halving of the image, doubled at each further one."""
    blocks: NonNegative = 1
    """Residual blocks at each size of the feature maps."""
    warp: NonNegativeFloat = 0.02
    """Standard deviation of the random displacement of the encoder's inputs, in shares of the image's side. 0: no warp."""
    together: NonNegative = 0
    """Images of each domain during which both decoders decode both domains."""
    judge: NonNegativeFloat = 0.0
    """Weight of deceiving a judge of the codes. 0: no judge."""
    critic: NonNegativeFloat = 0.0
    """Weight of deceiving the critics of the swapped images. 0: no critics."""
    critic_width: Positive = 32
    """Channels after the critics' first halving, doubled at the second."""
    r1: NonNegativeFloat = 1.0
    """Weight of the critics' gradient penalty."""
    cycle: NonNegativeFloat = 0.0
    """Weight of the error after a swap there and back."""
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


def map_encoder(channels: int, width: int, halvings: int, blocks: int, latent: int) -> nn.Sequential:
    """(B, channels, H, W) -> (B, latent, h, w), H and W divided by 2^halvings: the layers of `ConvEncoder`, but for its linear ones."""
    widths = [channels, *(width * 2**i for i in range(halvings))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), *(ResidualBlock(after) for _ in range(blocks))]
        layers += [nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], latent, 3, padding=1))


def map_decoder(channels: int, width: int, halvings: int, blocks: int, latent: int) -> nn.Sequential:
    """(B, latent, h, w) -> (B, channels, H, W): the encoder upside down, with a convolution on the full-size map at the end."""
    widths = [*(width * 2**i for i in reversed(range(halvings))), width // 2]
    layers: list[nn.Module] = [nn.Conv2d(latent, widths[0], 3, padding=1)]
    for before, after in pairwise(widths):
        layers += [*(ResidualBlock(before) for _ in range(blocks)), nn.SiLU()]
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[-1], channels, 3, padding=1))


def keep_size(module: nn.Module) -> None:
    """Weights with which features are about as large after a layer as before it (He et al. 2015, equation 10).

    PyTorch's own are smaller: without normalisation, what the code knows would hardly reach the image at first.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.ConvTranspose2d):  # of whose 4 x 4 weights, at stride 2, an output sees 2 x 2
        nn.init.normal_(module.weight, std=(2 / (4 * module.in_channels)) ** 0.5)
    elif isinstance(module, ResidualBlock):
        nn.init.zeros_(module.second.weight)  # still the identity at first


def patch_critic(channels: int, width: int) -> nn.Sequential:
    """(B, channels, H, W) -> logits (B, 1, H / 8, W / 8), of which each sees 38 x 38 pixels."""
    layers: list[nn.Module] = []
    for before, after in pairwise([channels, width, 2 * width, 2 * width]):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(2 * width, 1, 3, padding=1))


TRAIN: dict[str, Any] = {"batch": 32, "warmup": 5_000, "schedule": "cosine", "clip": 1.0, "ema_halflife": 5_000}
PLAYING: dict[str, Any] = {**TRAIN, "batch": 16, "warmup": 2_000, "ema_halflife": 3_000}
MAP: dict[str, Any] = {
    "channels": 3,
    "latent": 32,
    "halvings": 2,
    "width": 32,
    "warp": 0.0,
    "lr": 2e-3,
    "critic": 0.05,
    "cycle": 1.0,
}


class FaceSwap(Model):
    """Translates between domains A and B. An image translated to its own domain is reconstructed.

    Raises:
        UserError: the image cannot be halved so often.
    """

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, latent=16), {**TRAIN, "images": 50_000}),
        "32px": Preset(32, Config(size=32, **MAP, together=30_000), {**PLAYING, "images": 115_000}),
        "64px": Preset(64, Config(size=64, **MAP | {"halvings": 3}, together=100_000), {**PLAYING, "images": 500_000}),
    }
    inputs = DOMAINS
    averaged = ("encoder", "decoders")
    autocast = True

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        if c.size % 2**c.halvings:
            raise UserError(
                f"images of {c.size} pixels cannot be halved {c.halvings} times: use fewer --model.halvings"
            )
        if c.halvings:
            self.encoder = map_encoder(c.channels, c.width, c.halvings, c.blocks, c.latent)
            decoder = map_decoder(c.channels, c.width, c.halvings, c.blocks, c.latent)
        else:
            self.encoder = ConvEncoder(c.channels, c.size, c.width, c.latent, blocks=c.blocks)
            decoder = ConvDecoder(c.latent, c.channels, c.size, c.width, blocks=c.blocks)
        for stack in (self.encoder, decoder):
            stack.apply(keep_size)
        self.decoders = nn.ModuleDict({"A": decoder, "B": copy.deepcopy(decoder)})
        if c.judge:
            numbers = c.latent * ((c.size >> c.halvings) ** 2 if c.halvings else 1)
            self.code_judge = nn.Sequential(nn.Flatten(), *mlp([numbers, 256, 256, 1]))  # the logit of a code being A's
        if c.critic:
            self.critics = nn.ModuleDict({d: patch_critic(c.channels, c.critic_width) for d in DOMAINS})
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth quicker on a CPU

    def optimizers(self) -> dict[str, Optimizer]:
        c = self.config
        settings: dict[str, Any] = {"lr": c.lr, "fused": True, **({"betas": BETAS} if c.critic else {})}
        made: dict[str, Optimizer] = {}
        if c.judge:
            made["judge"] = Adam(self.code_judge.parameters(), **settings)
        if c.critic:
            made["critics"] = Adam(self.critics.parameters(), **settings)
        return {**made, "swap": Adam([*self.encoder.parameters(), *self.decoders.parameters()], **settings)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        c, a, b = self.config, batch["A"], batch["B"]
        x = torch.cat([a, b])
        code = self.encoder(warped(x, c.warp)).float()
        if clock.images < c.together:
            yield Update("swap", F.mse_loss(self.draw(code, "A"), x) + F.mse_loss(self.draw(code, "B"), x))
            return
        code_a, code_b = code.chunk(2)
        own_a, own_b = F.mse_loss(self.draw(code_a, "A"), a), F.mse_loss(self.draw(code_b, "B"), b)
        loss, log = own_a + own_b, {"A": own_a.detach(), "B": own_b.detach()}
        if c.judge:
            yield Update("judge", discriminator_loss(*self.code_judge(code.detach()).float().chunk(2)))
            on_a, on_b = self.code_judge(code).float().chunk(2)
            loss = loss + c.judge * discriminator_loss(on_b, on_a)  # as if A's codes were B's
            log["judge right"] = (torch.cat([on_a > 0, on_b < 0])).float().mean()
        if c.critic or c.cycle:
            to_b, to_a = self.draw(code_a, "B"), self.draw(code_b, "A")
        if c.critic:
            critic_a, critic_b = self.critics["A"], self.critics["B"]
            yield Update("critics", self.critic_loss(critic_a, a, to_a) + self.critic_loss(critic_b, b, to_b))
            fooling = hinge_generator_loss(critic_b(to_b).float()) + hinge_generator_loss(critic_a(to_a).float())
            loss, log["fooling"] = loss + c.critic * fooling, fooling.detach()
        if c.cycle:
            from_b, from_a = self.encoder(torch.cat([to_b, to_a])).float().chunk(2)
            cycle = F.mse_loss(self.draw(from_b, "A"), a) + F.mse_loss(self.draw(from_a, "B"), b)
            loss, log["cycle"] = loss + c.cycle * cycle, cycle.detach()
        yield Update("swap", loss, log)

    def critic_loss(self, critic: nn.Module, real: Tensor, swapped: Tensor) -> Tensor:
        """A critic's loss on images of its domain and on swaps to it, (B, C, H, W) each."""
        real = real.detach().requires_grad_(self.config.r1 > 0)
        with torch.autocast(real.device.type, enabled=False):  # the penalty's second derivatives need float32
            on_real, on_swapped = critic(real), critic(swapped.detach())
            loss = hinge_discriminator_loss(on_real, on_swapped)
            if self.config.r1:
                loss = loss + self.config.r1 * r1_penalty(on_real.mean((1, 2, 3)), real)
        return loss

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1], of either domain -> codes (B, latent) or (B, latent, h, w), which the decoder of either domain reads."""
        return self.encoder(image)

    def draw(self, code: Tensor, domain: str) -> Tensor:
        """Codes -> images of a domain (B, C, H, W), not cut to [-1, 1]."""
        return self.decoders[domain](code).float()

    @torch.no_grad()
    def translate(self, image: Tensor, *, target: str) -> Tensor:
        """(B, C, H, W) in [-1, 1], of either domain -> the same shape and range, as an image of the domain `target`, "A" or "B".

        Raises:
            UserError: there is no such domain.
        """
        if target not in DOMAINS:
            raise UserError(f"there is no domain '{target}' to translate to; there are {', '.join(DOMAINS)}")
        return self.draw(self.encode(image), target).clamp(-1, 1)
