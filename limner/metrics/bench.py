"""The bench: images to be judged, the real images they are judged by, and the features of both, each made once and only if asked for.

`Bench` is what every metric of sets of images needs; `limner.metrics.model_bench` draws the images from a model and lets it score
and reconstruct, `limner.metrics.folder_bench` reads them from a folder.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from limner.data.order import held_out_order
from limner.metrics import extract
from limner.metrics.classifier import Classifier, classifier_of, reserved
from limner.metrics.features import Extractor, Pixels, describe
from limner.version import __version__

if TYPE_CHECKING:
    from limner.data import Dataset

EVERY = 10.0
"""Seconds between reports on a long extraction."""
T = TypeVar("T")
Kind = Literal["samples", "real", "floor", "floor_real"]
"""Sets of images: those judged; the real ones they are compared with; and the two sets of the floor (see `Bench.floor_pair`)."""


class Bench(ABC):
    """Images to be judged, and the data they are judged by.

    Args:
        train, test: the two splits of the data; `test` holds the images compared with.
        n: images judged, and images of `test` compared with; fewer where there are fewer.
        seed: of the choice of images.
        extractor: makes the extractor of features when it is first needed; by default the data's classifier, or the pixels.
        say: called with a line whenever something long begins.
    """

    model: Any = None
    options: dict[str, dict[str, Any]]
    stats: list[Any]
    device = torch.device("cpu")
    real_name = "held-out"
    """What the images compared with are called in a protocol."""

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        *,
        n: int = 1000,
        seed: int = 0,
        extractor: Callable[[Bench], Extractor] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.train, self.test, self.seed, self.say = train, test, seed, say
        self.n = self.m = min(n, len(test.images))
        self.options, self.stats = {}, []
        self._make_extractor = extractor
        self._made: dict[Hashable, Any] = {}

    def can(self, capability: str) -> bool:
        """Whether there is a model that has the capability of this name."""
        return False

    @property
    def has_samples(self) -> bool:
        """Whether there are images to judge."""
        return True

    @property
    @abstractmethod
    def samples_bytes(self) -> Tensor:
        """(n, H, W, C) uint8, the images judged."""

    @property
    def real_n(self) -> int:
        """How many real images they are compared with."""
        return self.n

    @property
    def samples_name(self) -> str:
        """What the images judged are, for a protocol: with all that was done to them."""
        return "samples"

    @property
    def conditional(self) -> bool:
        """Whether the images judged were asked for by class."""
        return self.asked is not None

    @property
    def asked(self) -> Tensor | None:
        """(n,) int64, the classes asked for, if any were."""
        return None

    def limit(self, n: int, m: int) -> None:
        """Set n and m to these where they are less."""
        self.n, self.m = min(n, self.n), min(m, self.m)
        self._forget()

    def _forget(self) -> None:
        for name in ("floor_pair", "real_bytes", "asked", "samples_bytes"):
            self.__dict__.pop(name, None)
        self._made.clear()

    # ---- data

    @property
    def data_id(self) -> str:
        """The data in a protocol: the held-out split's fingerprint and its shape."""
        height, width, channels = self.test.images.shape[1:]
        return f"data {self.test.fingerprint[:12]} {height}x{width}x{channels}"

    @property
    def version(self) -> str:
        """limner's version in a protocol."""
        return f"limner {__version__}"

    @cached_property
    def held_out_indices(self) -> Tensor:
        """Which n held-out images are used: a seeded choice of which a smaller n takes the first."""
        return torch.from_numpy(held_out_order(len(self.test.images), self.seed))

    def held_out(self, n: int) -> dict[str, Tensor]:
        """The first n held-out images as a batch: "image" (n, C, H, W) in [-1, 1] and, where there are labels, "label"."""
        return dict(self.test.batch(self.held_out_indices[:n].numpy(), "cpu"))

    def held_out_bytes(self, n: int) -> Tensor:
        """The first n held-out images (n, H, W, C) uint8."""
        return torch.from_numpy(self.test.images[self.held_out_indices[:n].numpy()])

    def unseen(self, n: int) -> Tensor:
        """Up to n real images (n, H, W, C) uint8 that are not among the training images."""
        return self.held_out_bytes(n)

    @cached_property
    def training_bytes(self) -> Tensor:
        """(M, H, W, C) uint8, all training images."""
        return torch.from_numpy(np.ascontiguousarray(self.train.images))

    @cached_property
    def real_bytes(self) -> Tensor:
        """(real_n, H, W, C) uint8, the real images compared with."""
        return self.held_out_bytes(self.real_n)

    def spare(self, n: int) -> Tensor:
        """Up to n training images (n, H, W, C) uint8 that the extractor was not trained on, a seeded choice."""
        count = len(self.train.images)
        indices = reserved(count) if isinstance(self.extractor, Classifier) else torch.arange(count)
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.seed))
        return torch.from_numpy(self.train.images[indices[order[:n]].sort().values.numpy()])

    @cached_property
    def floor_pair(self) -> tuple[Tensor, Tensor]:
        """Two sets of real images that no model made: what a distance between them is, is the best that a model can be expected to reach.

        Spare training images, as many as are judged if there are so many, and the real images compared with.
        """
        return self.spare(self.n), self.real_bytes

    # ---- features

    @property
    def labelled(self) -> bool:
        """Whether the data have labels of at least two classes."""
        return self.train.labels is not None and self.test.labels is not None and len(self.train.class_names or ()) > 1

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier of this data; trained at the first use on this machine."""
        self.say("the classifier of this data (trained once, then kept)")
        return classifier_of(self.train, self.test)

    @cached_property
    def extractor(self) -> Extractor:
        """What distances between sets are measured in: as asked for; else the classifier where the data have labels, or the pixels."""
        if self._make_extractor is not None:
            return self._make_extractor(self)
        return self.classifier if self.labelled else Pixels()

    def images(self, kind: Kind) -> Tensor:
        """(N, H, W, C) uint8, one of the four sets."""
        if kind in ("samples", "real"):
            return self.samples_bytes if kind == "samples" else self.real_bytes
        return self.floor_pair[kind == "floor_real"]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def features(self, kind: Kind) -> Tensor:
        """(N, d) float64 features of one of the four sets."""
        if kind == "floor_real" and self.floor_pair[1] is self.real_bytes:
            kind = "real"
        return self.once(("features", kind), lambda: self._extract(kind))

    @property
    def width(self) -> int:
        """Numbers in a feature."""
        return self.once("width", lambda: self.extractor(self.real_bytes[:2]).shape[1])

    def _extract(self, kind: Kind) -> Tensor:
        images, extractor = self.images(kind), self.extractor
        self.say(f"features of {len(images)} images")
        # Features of real images by a large network are worth keeping; those of samples would only fill the disk.
        keep = kind != "samples" and not isinstance(extractor, Classifier | Pixels)
        said = time.perf_counter()

        def progress(done: int, total: int | None) -> None:
            nonlocal said
            if time.perf_counter() - said > EVERY:
                said = time.perf_counter()
                self.say(f"features of {done} of {total} images")

        return extract.features(
            extractor, images, cache_key=extract.content_hash(images) if keep else None, progress=progress
        )

    @property
    def extractor_id(self) -> str:
        """The extractor in a protocol."""
        return describe(self.extractor)
