"""A model of two domains on the bench: its images are those of both, and what is measured is its translations.

The held-out images of A and of B stand in one set whose labels are their domains: the classifier of that set tells the styles apart,
and whatever `ModelBench` does with held-out images it does with those of both domains.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limner.data import shapes
from limner.data.dataset import Dataset
from limner.data.resizing import to_channels
from limner.metrics.features import to_bytes
from limner.metrics.model_bench import CHUNK, ModelBench
from limner.metrics.translation import Predictors, predictors_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class PairBench(ModelBench):
    """One model that translates, and the two domains that it is measured on.

    Args:
        model: in evaluation mode.
        train, test: the two splits of a pair of domains.
        arguments: as of `ModelBench`. n and m count the images of both domains together.
    """

    def __init__(self, model: Any, train: Dataset, test: Dataset, **arguments: Any):
        self.domains = list(test.domains or {})
        self.paired = test.paired
        self._translated = torch.empty(0, dtype=torch.uint8)
        super().__init__(model, union(train), union(test), **arguments)

    def can(self, capability: str) -> bool:
        """Whether the model has the capability. Translating an image to its own domain is reconstructing it."""
        return super().can("translate" if capability == "reconstruct" else capability)

    def domain_of(self, n: int) -> Tensor:
        """(n,) int64, the domain of each of the first n held-out images, an index into `domains`."""
        assert self.test.labels is not None
        return torch.from_numpy(self.test.labels[self.held_out_indices[:n].numpy()])

    def copies(self, n: int) -> Tensor:
        """(n, H, W, C) uint8, the first n held-out images translated to the domain that they are of. The last result is kept."""
        if len(self._copies) < n:
            self._copies = self._translate(n, other=False)
        return self._copies[:n]

    def translated(self, n: int) -> Tensor:
        """(n, H, W, C) uint8, the first n held-out images translated to the other domain. The last result is kept."""
        if len(self._translated) < n:
            self._translated = self._translate(n, other=True)
        return self._translated[:n]

    @property
    def has_truth(self) -> bool:
        """Whether the right translation of each image is known: the domains are paired, or shapes drawn in two styles."""
        return self.paired or self.test.name == "shapes-ab"

    def truth(self, n: int) -> Tensor:
        """(n, H, W, C) uint8, the first n held-out images as they look in the other domain."""
        rows, half = self.held_out_indices[:n].numpy(), len(self.test.images) // 2
        if self.paired:
            return torch.from_numpy(self.test.images[(rows + half) % (2 * half)])
        factors, labels = self.test.extras["factors"][rows], self.domain_of(n).numpy()
        size, channels = self.test.size, self.test.channels
        found = np.empty((n, size, size, 3), np.uint8)
        for domain in (0, 1):
            style = shapes.DOMAIN_STYLE[self.domains[1 - domain]]
            if (labels == domain).any():
                found[labels == domain] = shapes.redraw(factors[labels == domain], size, style)
        return torch.from_numpy(to_channels(found, channels))

    @cached_property
    def predictors(self) -> Predictors:
        """Predictors of the factors of images of either domain; trained at the first use on this machine."""
        self.say("predictors of the factors of this data (trained once, then kept)")
        return predictors_of(self.train, self.test)

    def _forget(self) -> None:
        self._copies, self._translated = self._copies[:0], self._translated[:0]
        super()._forget()

    def _translate(self, n: int, *, other: bool) -> Tensor:
        batch, found = self.held_out(n), torch.empty(n, *self.test.images.shape[1:], dtype=torch.uint8)
        for rows, domain in self._by_domain(batch["label"]):
            target = self.domains[1 - domain if other else domain]
            with torch.no_grad():
                image = self.model.translate(batch["image"][rows].to(self.device), target=target)
            found[rows] = to_bytes(image.cpu(), self.test.levels)
        return found

    @staticmethod
    def _by_domain(label: Tensor) -> Iterator[tuple[Tensor, int]]:
        for domain in (0, 1):
            for rows in (label == domain).nonzero().flatten().split(CHUNK):
                yield rows, domain


def union(data: Dataset) -> Dataset:
    """The images of both domains in one set, A's before B's, with their domain as label and the extras that both have."""
    assert data.domains is not None
    names, parts = list(data.domains), list(data.domains.values())
    shared = set.intersection(*(set(part.extras) for part in parts))
    return Dataset(
        name=data.name,
        images=np.concatenate([part.images for part in parts]),
        labels=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        class_names=names,
        extras={key: np.concatenate([part.extras[key] for part in parts]) for key in sorted(shared)},
        levels=data.levels,
        fingerprint=data.fingerprint,
        split=data.split,
    )
