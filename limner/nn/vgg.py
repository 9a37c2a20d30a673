"""The convolutions of VGG16 and of AlexNet up to five of their activations, which LPIPS compares.

VGG16: configuration D of Simonyan & Zisserman 2015, arXiv 1409.1556, table 1; activations after the ReLU of conv1_2, 2_2, 3_3, 4_3
and 5_3. AlexNet: the one-tower variant of Krizhevsky 2014, arXiv 1404.5997, as torchvision has it; after each of its five
convolutions. Nothing after the last of these is built, nor the classifiers.

Their weights: torchvision's state dicts (`vgg16-397923af.pth`, `alexnet-owt-7be5be79.pth`, or any with names as `features.0.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(NamedTuple):
    """A convolution and its ReLU."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    tap: bool = False
    """Whether its activations are given out."""
    pool: int = 0
    """Size of the max-pooling of stride 2 before it; 0: none."""


LAYERS = {
    "vgg": (
        *(Layer(64), Layer(64, tap=True)),
        *(Layer(128, pool=2), Layer(128, tap=True)),
        *(Layer(256, pool=2), Layer(256), Layer(256, tap=True)),
        *(Layer(512, pool=2), Layer(512), Layer(512, tap=True)),
        *(Layer(512, pool=2), Layer(512), Layer(512, tap=True)),
    ),
    "alex": (
        Layer(64, 11, 4, 2, tap=True),
        Layer(192, 5, 1, 2, tap=True, pool=3),
        Layer(384, tap=True, pool=3),
        Layer(256, tap=True),
        Layer(256, tap=True),
    ),
}
SMALLEST = {"vgg": 16, "alex": 31}
"""Height and width in pixels below which nothing is left of an image after the pooling."""


class Trunk(nn.Module):
    """Images (N, 3, H, W), normalised -> five activations (N, channels, h, w), not negative."""

    def __init__(self, net: str):
        super().__init__()
        self.net = net
        self.layers = LAYERS[net]
        inputs = (3, *(layer.channels for layer in self.layers))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n, layer.channels, layer.kernel, layer.stride, layer.padding)
            for n, layer in zip(inputs, self.layers, strict=False)
        )

    @property
    def channels(self) -> list[int]:
        """Of each activation given out."""
        return [layer.channels for layer in self.layers if layer.tap]

    def forward(self, x: Tensor) -> list[Tensor]:
        taps = []
        for layer, convolution in zip(self.layers, self.convolutions, strict=True):
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, 2)
            x = F.relu(convolution(x))
            if layer.tap:
                taps.append(x)
        return taps


def from_torchvision(net: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk's state out of torchvision's `vgg16` or `alexnet`, whose layers are counted together with ReLUs and pooling.

    Raises:
        KeyError: a convolution is not there.
    """
    result, place = {}, 0
    for i, layer in enumerate(LAYERS[net]):
        place += bool(layer.pool)
        for key in ("weight", "bias"):
            result[f"convolutions.{i}.{key}"] = state[f"features.{place}.{key}"]
        place += 2
    return result


def from_flax(net: str, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trunk's state out of Flax parameters `Conv_0: {kernel (h, w, in, out), bias (out,)}`, ...

    Raises:
        KeyError: a convolution is not there.
    """
    result = {}
    for i in range(len(LAYERS[net])):
        kernel = np.ascontiguousarray(arrays[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1))
        result[f"convolutions.{i}.weight"] = torch.from_numpy(kernel)
        result[f"convolutions.{i}.bias"] = torch.from_numpy(np.array(arrays[f"Conv_{i}"]["bias"]))
    return result
