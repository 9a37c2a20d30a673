"""The contract between a model and everything around it.

A model is an `nn.Module` in one file. It says how to make its optimizers, and its `train_step` is a *generator of updates*
that reads like the algorithm box of its paper; one loop (`limner.training`) applies them for every family. What a trained model
can do is said by the protocols of `limner.capabilities`, never by methods here that raise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from limner.config import ImageConfig
from limner.hub import HubModel

Batch = Mapping[str, Tensor]
"""What a training step is given. Always float32 images "image": (B, C, H, W) in [-1, 1]; then, where the data has them,
"label": (B,) int64, and the further keys of the data set. A model names those it needs in `inputs`."""


class Update(NamedTuple):
    """Apply `loss` to the optimizer called `optimizer`, now."""

    optimizer: str
    loss: Tensor
    """Scalar, mean over the batch."""
    log: Mapping[str, Tensor] = {}
    """Parts of the loss and other scalars worth a curve, by name."""


@dataclass
class Clock:
    """All that a model may know about the progress of training."""

    step: int = 0
    images: int = 0


@dataclass(frozen=True)
class Preset:
    """A configuration that is known to work for images of about `size` pixels, with the training it was tuned for."""

    size: int
    config: Any
    train: Mapping[str, Any] = field(default_factory=dict)
    """Values for `limner.training.settings.TrainConfig`: images, batch, warmup ..."""
    of: Literal["images", "codes"] = "images"
    """What it models: images, or the maps of codes of a first stage (see `limner.staged`)."""


class Model(nn.Module, HubModel):
    """Base of every model. Subclasses set `Config` and `PRESETS` and write `optimizers` and `train_step`."""

    Config: ClassVar[type] = ImageConfig
    PRESETS: ClassVar[Mapping[str, Preset]] = {}
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    """Keys the model needs in a batch; a property where that depends on the configuration."""
    averaged: ClassVar[tuple[str, ...]] = ()
    """Submodules whose exponential moving average the loop keeps; the averaged weights are saved and used for sampling."""
    autocast: bool = False
    """Whether `train_step` is safe and faster under bfloat16 autocast. Losses must be computed in float32 all the same."""

    config: Any
    origin: Path | None = None
    """The folder that the model was loaded from."""

    def __init__(self, config: Any = None):
        super().__init__()
        self.config = self.Config() if config is None else config

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.config.channels, self.config.size, self.config.size

    @property
    def device(self) -> torch.device:
        """Where the parameters are (the buffers, if there are none)."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by name. Together they hold every trainable parameter."""
        raise TypeError(f"{type(self).__name__} must define optimizers()")

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        """Yield the updates of one training step, in order. The loop applies each before it asks for the next."""
        raise TypeError(f"{type(self).__name__} must define train_step()")
