"""A pretrained network as an extractor: what is done to an image before the network sees it, and how the network is run.

The pictures are resized by Pillow, on 8-bit values: its filters are antialiased (when reducing, their support grows with the
factor), which those that PyTorch uses by default are not (Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN
Evaluation", arXiv 2104.11222: this alone moves a Frechet distance by several units). Grey images are repeated into three channels.

The networks run in float32, autocast and TF32 off. Rounding is that of float32: the same image in batches of another size differs
by some 1e-6 of the features' range, as matrix products are split differently.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from limner.data.resizing import FILTERS
from limner.nn.weights import weights_hash

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in [0, 1], as most networks trained on it take them."""

CHUNK = 16
"""Images taken through a network at once on a CPU: a third faster than 64, as the activations stay in its cache (measured)."""


@dataclass(frozen=True)
class Preparation:
    """From uint8 images of any size to what a network takes."""

    size: int
    """Height and width that the network sees."""
    filter: str
    """Pillow's filter: bilinear, bicubic, lanczos, box or nearest."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Taken off each channel's values in [0, 1] ..."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """... which are then divided by this."""
    edge: int = 0
    """Length that the shorter edge is resized to, before the middle `size` x `size` is cut out (black where it is smaller).
    0: the whole picture becomes `size` x `size`, whatever its aspect."""

    def __str__(self) -> str:
        how = f"antialiased {self.filter}, 8 bit"
        resize = (
            f"shorter edge to {self.edge}, middle {self.size} px, {how}"
            if self.edge
            else f"whole picture to {self.size} px, {how}"
        )
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"{resize}; minus {mean}, over {std}"

    def resized(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, size, size), channels last in memory, of images (N, H, W, C) uint8; C is 1 or 3.

        Raises:
            ValueError: not uint8 images of one or three channels.
        """
        checked(images)
        n, height, width, channels = images.shape
        if (height, width) == (self.size, self.size):
            out = images
        else:
            pixels = images.numpy()
            small = np.empty((n, self.size, self.size, channels), np.uint8)

            def resize(i: int) -> None:
                picture = Image.fromarray(pixels[i, ..., 0] if channels == 1 else pixels[i])
                small[i] = np.asarray(self._resized(picture)).reshape(self.size, self.size, channels)

            if (workers := _workers()) > 1 and n > 1:
                with ThreadPoolExecutor(workers) as pool:  # Pillow lets other threads run while it resizes
                    list(pool.map(resize, range(n)))
            else:
                for i in range(n):
                    resize(i)
            out = torch.from_numpy(small)
        return out.expand(-1, -1, -1, 3).contiguous().permute(0, 3, 1, 2)

    def normalised(self, x: Tensor) -> Tensor:
        """float32 (N, 3, size, size) of uint8 ones."""
        std = torch.tensor(self.std, dtype=torch.float64)
        scale = (1 / (255 * std)).float().to(x.device)[:, None, None]
        shift = (-torch.tensor(self.mean, dtype=torch.float64) / std).float().to(x.device)[:, None, None]
        return x.float().mul_(scale).add_(shift)

    def _resized(self, picture: Image.Image) -> Image.Image:
        if not self.edge:
            return picture.resize((self.size, self.size), FILTERS[self.filter])
        width, height = picture.size
        short = min(width, height)
        width, height = (max(self.edge, int(side * self.edge / short)) for side in (width, height))
        if picture.size != (width, height):
            picture = picture.resize((width, height), FILTERS[self.filter])
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))


class NetworkExtractor:
    """A network from prepared images (N, 3, s, s) float32 to features (N, d), as an `Extractor`.

    `__call__` is `prepare` followed by `embed`; `limner.metrics.extract` runs the two at the same time, on different batches.
    """

    def __init__(self, name: str, network: nn.Module, preparation: Preparation):
        self.name = name
        self.preparation = preparation
        self.resize = str(preparation)
        self.hash = weights_hash(network)
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> NetworkExtractor:
        """The same extractor, moved."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, s, s) of images (N, H, W, C) uint8: the work of the CPU that needs no network."""
        return self.preparation.resized(images.cpu())

    @torch.no_grad()
    def embed(self, prepared: Tensor) -> Tensor:
        """Features (N, d) float64, on the CPU, of what `prepare` gave."""
        if not len(prepared):
            raise ValueError("no images were given")
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with exact, torch.autocast(self.device.type, enabled=False):
            parts = prepared.split(CHUNK if self.device.type == "cpu" else len(prepared))
            rows = [self.network(self.preparation.normalised(part.to(self.device))) for part in parts]
        return torch.cat(rows).cpu().double()

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, d) float64 of images (N, H, W, C) uint8."""
        return self.embed(self.prepare(images))


def checked(images: Tensor) -> Tensor:
    """The images, if they are (N, H, W, C) uint8 of one or three channels.

    Raises:
        ValueError: they are not (another range or layout would silently give wrong figures).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"images are uint8 (N, H, W, C) with one or three channels here, not {images.dtype} {tuple(images.shape)}"
        )
    return images


def _workers() -> int:
    """Threads that resize: all cores but the one on which the network runs."""
    return min(8, max(1, (os.cpu_count() or 1) - 1))
