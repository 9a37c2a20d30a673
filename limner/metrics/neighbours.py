"""Memorisation: are samples copies of training images? Which ones, of which?

Two figures and a list, from the distances of every sample to its nearest training images.

- **Distance ratio**: the median distance of samples to their nearest training image, over the same of held-out images. About 1 for new
  images of the same distribution, 0 for copies, above 1 for images unlike the data. Blurred images lie near to everything.
- **Copies**: a sample counts as a copy of its nearest training image where

      d(sample, nearest) < 1/4 * mean of d(sample, 50 nearest),

  so that plain images, which lie near to many, are not taken for copies. Carlini et al. 2023, "Extracting training data from diffusion
  models", arXiv 2301.13188, section 5.1 (their adaptive threshold, with 1/2 for images of 32 x 32; a quarter because clothes and
  digits repeat more: of Fashion-MNIST's held-out images a hundredth come below a half). Training images that occur more than once
  count once. The share of *held-out* images that would be called copies by the same rule is the floor: where the splits of the data
  overlap, it shows there.

Distances are root mean squared differences per number: in grey levels for uint8 images, in the unit of the features for features.
What this misses: in pixels, copies that are shifted, mirrored, cropped or strongly blurred (use features for these); copies of parts
of images; and what the model has stored but did not happen to draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate

AROUND = 50
"""Nearest training images that say how near is normal around a sample."""
THRESHOLD = 0.25
"""Fraction of that distance below which the nearest one has been copied."""
CHUNK = 2048
"""Training images compared at once: bounds the memory, not the result."""


class Neighbours(NamedTuple):
    """The nearest training image of each query."""

    distance: Tensor
    """(N,) float64, root mean squared difference per number."""
    nearest: Tensor
    """(N,) int64, which training image it is."""


class Copy(NamedTuple):
    """A sample that counts as a copy."""

    sample: int
    """Its index among the samples."""
    training: int
    """The index of the training image that it copies."""
    distance: float
    """Root mean squared difference of the two per number."""
    ratio: float
    """That distance over the mean distance to the nearest training images; 0 for an exact copy."""


class Memorisation(NamedTuple):
    """What `memorisation` finds."""

    ratio: Estimate
    """Median nearest distance of samples over that of held-out images, with the bootstrap's error. NaN where most held-out images are
    training images."""
    share: Estimate
    """Share of samples that count as copies."""
    floor: Estimate
    """Share of held-out images that would."""
    copies: list[Copy]
    """The samples concerned, clearest first."""


@dataclass
class NearestTraining:
    """The `k` nearest of training images that come in batches, for each of fixed queries.

    Images are uint8 of any shape, or rows of features (n, d); queries and training images alike. On uint8 images the distances are
    exact for any split and order of batches and any grouping of merges; on features, to the rounding of float64. Of several training
    images at exactly the k-th distance, any may be left out.
    """

    queries: Tensor
    k: int = 1
    _squared: Tensor = field(init=False)
    """(N, <= k) sums of squared differences, ascending."""
    _index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.k < 1 or len(self.queries) < 1:
            raise ValueError(f"the {self.k} nearest images of {len(self.queries)} queries are no question")
        self._squared = torch.empty(len(self.queries), 0, dtype=torch.float64, device=self.queries.device)
        self._index = self._squared.long()

    def update(self, training: Tensor, *, first: int) -> None:
        """Take in training images (m, ...) of which the first has the index `first`.

        Raises:
            ValueError: their shape or type is not that of the queries.
        """
        if training.shape[1:] != self.queries.shape[1:] or training.dtype != self.queries.dtype:
            raise ValueError(
                f"images {tuple(self.queries.shape[1:])} {self.queries.dtype} cannot be compared with "
                f"{tuple(training.shape[1:])} {training.dtype}"
            )
        q = self.queries.flatten(1).double()
        for start in range(0, len(training), CHUNK):
            t = training[start : start + CHUNK].to(q.device).flatten(1).double()
            # Of integers up to 255 every term is exact in float64.
            squared = (q.square().sum(1, keepdim=True) + t.square().sum(1) - 2 * q @ t.T).clamp(min=0)
            found = squared.topk(min(self.k, len(t)), largest=False)
            self._keep(found.values, found.indices + first + start)

    def merge(self, other: NearestTraining) -> None:
        """Take in what another accumulator with the same queries has found."""
        self._keep(other._squared.to(self._squared), other._index.to(self._index))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Distances (N, k) float64, ascending, and indices (N, k) int64; fewer columns where there are fewer training images."""
        if not self._index.shape[1]:
            raise ValueError("no training images were given yet")
        return (self._squared / self.queries[0].numel()).sqrt(), self._index

    def _keep(self, squared: Tensor, index: Tensor) -> None:
        squared, index = torch.cat([self._squared, squared], 1), torch.cat([self._index, index], 1)
        # By distance, and equal ones by index, whatever the order they came in.
        order = index.argsort(dim=1)
        order = order.gather(1, squared.gather(1, order).argsort(dim=1, stable=True))[:, : self.k]
        self._squared, self._index = squared.gather(1, order), index.gather(1, order)


def nearest(queries: Tensor, training: Tensor) -> Neighbours:
    """The nearest of `training` (M, ...) to each of `queries` (N, ...): uint8 images in pixels, or rows of features."""
    distance, index = nearest_of(queries, training, 1)
    return Neighbours(distance[:, 0], index[:, 0])


def nearest_of(queries: Tensor, training: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances (N, min(k, M)) and indices of the k nearest of `training` (M, ...) to each of `queries` (N, ...)."""
    search = NearestTraining(queries, k)
    search.update(training, first=0)
    return search.compute()


def memorisation_ratio(samples: Tensor, held_out: Tensor, training: Tensor) -> float:
    """Median distance of samples to their nearest training image, over that of held-out images; all (N, ...)."""
    return _ratio(nearest(samples, training).distance, nearest(held_out, training).distance)


def memorisation(
    samples: Tensor,
    held_out: Tensor,
    training: Tensor,
    *,
    around: int = AROUND,
    threshold: float = THRESHOLD,
    seed: int = 0,
) -> Memorisation:
    """The distance ratio and the copies among `samples` (N, ...) of `training` (M, ...), beside `held_out` (K, ...) images.

    All are uint8 images of one shape, or rows of features of one extractor. Samples and held-out images may differ in number, but
    a floor from few images says little.

    Raises:
        ValueError: fewer than `around` + 1 different training images, no samples, or sets that cannot be compared.
    """
    first = distinct(training)
    if len(first) <= around:
        raise ValueError(f"copies are told from {around + 1} or more different training images, not {len(first)}")
    different = training[first.to(training.device)]
    distance, index = nearest_of(samples, different, around)
    real_distance, _ = nearest_of(held_out, different, around)
    ratios, real_ratios = (d[:, 0] / d.mean(1).clamp(min=1e-300) for d in (distance, real_distance))
    found = [
        Copy(i, int(first[index[i, 0]]), float(distance[i, 0]), float(ratios[i]))
        for i in (ratios < threshold).nonzero().flatten().tolist()
    ]
    own, real = distance[:, 0], real_distance[:, 0]
    return Memorisation(
        Estimate(_ratio(own, real), _ratio_error(own, real, seed)),
        _share(ratios < threshold),
        _share(real_ratios < threshold),
        sorted(found, key=lambda copy: (copy.ratio, copy.sample)),
    )


def distinct(rows: Tensor) -> Tensor:
    """Indices, ascending, of the first of every group of equal rows (N, ...)."""
    flat = np.ascontiguousarray(rows.detach().flatten(1).cpu().numpy())
    if flat.dtype.kind == "f":
        flat = flat + 0.0  # -0.0 equals 0.0, but not in its bytes
    whole = flat.view(f"V{flat.shape[1] * flat.itemsize}").ravel()
    _, first = np.unique(whole, return_index=True)
    return torch.from_numpy(np.sort(first))


def _ratio(samples: Tensor, real: Tensor) -> float:
    middle = float(real.median())
    return float(samples.median()) / middle if middle > 0 else math.nan


def _ratio_error(samples: Tensor, real: Tensor, seed: int, draws: int = 200) -> float:
    # Sorted, the result does not depend on the order of the images; a median of draws with replacement needs only their ranks.
    generator = torch.Generator().manual_seed(seed)
    middles = []
    for values in (samples.sort().values, real.sort().values):
        picks = torch.randint(len(values), (draws, len(values)), generator=generator).to(values.device)
        middles.append(values[picks.median(1).values])
    return float((middles[0] / middles[1]).std()) if float(middles[1].min()) > 0 else math.nan


def _share(named: Tensor) -> Estimate:
    n, x = len(named), int(named.sum())
    p = (x + 1) / (n + 2)  # so that none of n images does not claim to be certain (Laplace)
    return Estimate(x / n, math.sqrt(p * (1 - p) / n))
