"""Denoising autoencoder: given a damaged image, the clean one.

Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising Autoencoders" (section 2.3), and 2010, "Stacked Denoising
Autoencoders"; lecture 003. With M(x~ | x) the damage, g the encoder and f the decoder,

    x~ ~ M(x~ | x),      L = 1/n sum (x - f(g(x~)))^2.

The damage is any of `limner.data.degrade`: that of the data (`--degrade`), else `config.degrade` (noise, as in the papers). Of several
kinds of damage one model learns to undo them all, and is not told which an image suffered. The best answer to the loss is the mean of
the clean images that could be behind the damaged one: where there are several, as under a mask, it is blurred.

- `unet`: f sees what g saw at every resolution, and gives the difference between the damaged image and the clean one. For restoration.
- `bottleneck`: the papers' and the lecture's picture. All that f sees is g's smallest map, which is the image's code: what a
  classifier can be started from (section 3.2 of the first paper).

Both are convolutional, without normalisation: a pixel depends on its surroundings within `reach` alone, so images may be of any size,
and tiles that overlap by that much fit together as if there were none.

Deviations from the papers: convolutions for their single fully connected layers, squared error for cross-entropy, trained end to end
rather than layer by layer, averaged weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, Positive, PositiveFloat, config
from limner.data.degrade import Degradation
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import ResidualBlock
from limner.nn.unet import Downsample, Upsample, near_zero


@config
class Config(ImageConfig):
    """A denoising autoencoder's network, and the damage it learns from where the data bring none."""

    network: Literal["unet", "bottleneck"] = "unet"
    """unet sees the damaged image at every resolution and corrects it; bottleneck makes the image anew from its smallest map."""
    width: Positive = 16
    """Channels at full resolution."""
    multipliers: tuple[Positive, ...] = (1, 2, 4, 8)
    """Channels at each resolution, as multiples of `width`; each further one is half the size of the one before."""
    blocks: Positive = 1
    """Residual blocks at each resolution, on the way down and on the way up."""
    degrade: tuple[str, ...] = ("noise=0.5",)
    """Damage of the training images where the data have none of their own; see --degrade."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""


class Restorer(nn.Module):
    """(B, channels, H, W) -> the same shape, for any H and W."""

    def __init__(self, channels: int, widths: list[int], blocks: int, *, skips: bool):
        super().__init__()
        self.skips = skips
        self.step = 2 ** (len(widths) - 1)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(w, blocks) for w in widths)
        self.shrink = nn.ModuleList(nn.Sequential(Downsample(a), nn.Conv2d(a, b, 1)) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_blocks(w, blocks) for w in widths[:-1])
        self.grow = nn.ModuleList(nn.Sequential(nn.Conv2d(b, a, 1), Upsample(a)) for a, b in pairwise(widths))
        # Linear in the features: an activation here, all of whose inputs are once negative, would stay at zero for ever.
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.apply(keep_size)
        if skips:
            near_zero(self.last)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third quicker on a CPU

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        maps = self.down_maps(whole := self.filled_up(x))
        h = self.up_from(maps.pop(), maps if self.skips else None)
        return (whole + h if self.skips else h)[..., :H, :W]

    def filled_up(self, x: Tensor) -> Tensor:
        """x, its last row and column repeated until its sides can be halved so often."""
        H, W = x.shape[2:]
        whole = F.pad(x, (0, -W % self.step, 0, -H % self.step), mode="replicate")
        return whole.contiguous(memory_format=torch.channels_last)

    def down_maps(self, whole: Tensor) -> list[Tensor]:
        """g: the features (B, widths[i], H / 2^i, W / 2^i) at each resolution."""
        h, maps = self.first(whole), []
        for blocks, shrink in zip(self.down, [*self.shrink, nn.Identity()], strict=True):
            maps.append(blocks(h))
            h = shrink(maps[-1])
        return maps

    def up_from(self, h: Tensor, before: list[Tensor] | None) -> Tensor:
        """f: from the smallest map, and those `before` it where they are seen, to (B, channels, H, W)."""
        for i, (blocks, grow) in reversed(list(enumerate(zip(self.up, self.grow, strict=True)))):
            h = grow(h)
            h = blocks(h if before is None else h + before[i])
        return self.last(h)


def keep_size(module: nn.Module) -> None:
    """Weights with which features are about as large after a convolution as before it (He et al. 2015, equation 10).

    PyTorch's own are smaller: over the way down and up, without normalisation, what the small maps know would hardly reach the image.
    """
    if isinstance(module, ResidualBlock):  # whose second convolution begins at zero, and stays there
        nn.init.kaiming_normal_(module.first.weight, nonlinearity="relu")
    for layer in module.children() if isinstance(module, nn.Sequential | Restorer) else ():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            nn.init.orthogonal_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")


def _blocks(channels: int, n: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(n)))


TRAIN = {"batch": 32, "warmup": 5_000, "schedule": "cosine", "clip": 1.0, "ema_halflife": 5_000}


class DAE(Model):
    """Restores damaged images, of any size; with a bottleneck it encodes. (`reconstruct` is of images that are whole.)"""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, width=32, multipliers=(1, 2)), {**TRAIN, "images": 60_000}),
        "32px": Preset(28, Config(size=28), {**TRAIN, "images": 300_000}),
        "64px": Preset(64, Config(size=64, channels=3, width=32, blocks=2), {**TRAIN, "images": 400_000}),
    }
    averaged = ("network",)
    autocast = True
    any_size = True
    """Whether `restore` takes images of other sizes than those of training."""

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        self.degradation = Degradation.parse(c.degrade)
        if c.degrade != type(c)().degrade:
            self.degradation.check(c.channels)
        widths = [c.width * m for m in c.multipliers]
        self.network = Restorer(c.channels, widths, c.blocks, skips=c.network == "unet")
        if c.network == "bottleneck":  # with skips the smallest map is no code of the image
            self.encode, self.decode = self._encode, self._decode

    @property
    def reach(self) -> int:
        """How far apart, in pixels, an output and an input that it depends on can be at most."""
        c, scales = self.config, [2**i for i in range(len(self.config.multipliers))]
        convolutions = sum(scale * 2 * c.blocks for scale in (*scales, *scales[:-1]))
        return 2 + convolutions + sum(2 * scale for scale in scales[:-1]) * 2

    def optimizers(self) -> dict[str, Optimizer]:
        return {"dae": Adam(self.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"]
        damaged = batch.get("degraded")
        if damaged is None:
            damaged = self.degradation(x, torch.randint(2**62, (len(x),)).tolist())
        loss = F.mse_loss(self.network(damaged).float(), x)
        yield Update("dae", loss, {"damage": F.mse_loss(damaged, x)})

    def restore(self, image: Tensor) -> Tensor:
        """Damaged images (B, C, H, W) in [-1, 1], of any H and W -> f(g(x~)), the same shape and range."""
        return self.network(image).clamp(-1, 1)

    def damage(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> x~, damaged as `config.degrade` says, by the image's place in the batch."""
        return self.degradation(image, range(len(image)))

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> f(g(x)), the same shape and range."""
        return self.restore(image)

    def _encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> g(x), the smallest map (B, C', H', W')."""
        return self.network.down_maps(self.network.filled_up(image))[-1].to(image.dtype)

    def _decode(self, latent: Tensor) -> Tensor:
        """A smallest map (B, C', H', W') -> f(z), an image (B, C, size, size) in [-1, 1]."""
        size = self.config.size
        return self.network.up_from(latent, None)[..., :size, :size].clamp(-1, 1)
