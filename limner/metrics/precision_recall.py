"""Precision and recall: the share of samples that look real, and the share of real images that the samples cover.

A set's manifold is the union of balls, one around each of its features, reaching to its k-th nearest neighbour in the set (itself
not counted).

    precision = share of the samples inside the manifold of the real images
    recall    = share of the real images inside the manifold of the samples;  both from 0 to 1

Kynkaanniemi et al. 2019, arXiv 1904.06991, eqs. 1-3, k = 3. Identical sets have 1 and 1, disjoint ones 0 and 0. Balls are closed, and
two features nearer than the rounding of a distance count as one: a set of one image repeated covers that image and nothing else.
(torch-fidelity gave the two numbers in each other's place up to release 0.3; from 0.4 on they are as here.)

What they miss: blur. A blurred image lies nearer to all others, so that precision rises while recall falls: read the two together. One
outlying real image has a huge ball, which anything may fall into (density mends that). How often each mode is drawn does not count.
Both fall with fewer images and with more features, so N and k belong to the protocol.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate, TwoSets, folds, pair

K = 3
BLOCK = 2**23
"""Distances held at once."""


class PrecisionRecall(NamedTuple):
    """Both shares, each with its standard error."""

    precision: Estimate
    recall: Estimate


def precision_recall(fake: Tensor, real: Tensor, *, k: int = K) -> PrecisionRecall:
    """Improved precision and recall of features of samples (n, d) against real ones (m, d), in float64.

    The standard errors are those of `spread_of_parts`, or the binomial ones where these are larger.

    Raises:
        ValueError: too few images for k neighbours, unlike widths, or features that are not finite.
    """
    fake, real = pair(fake, real, least=k + 1, metric=f"precision and recall at k = {k}")

    def both(fake: Tensor, real: Tensor) -> tuple[float, float]:
        precision = within(fake, real, squared_radii(real, k)).of_points > 0
        recall = within(real, fake, squared_radii(fake, k)).of_points > 0
        return float(precision.double().mean()), float(recall.double().mean())

    precision, recall = both(fake, real)
    of_precision, of_recall = spread_of_parts(both, fake, real, k)
    return PrecisionRecall(
        share(precision, of_precision, len(fake)),
        share(recall, of_recall, len(real)),
    )


class PrecisionRecallAccumulator(TwoSets):
    """Precision and recall of features that come in batches: neighbours are sought among all, so all are kept."""

    def compute(self) -> PrecisionRecall:
        """Both shares of all features so far."""
        return precision_recall(self.fake.ordered, self.real.ordered)


# ---- balls and their spread, for density and coverage too


def squared_radii(x: Tensor, k: int) -> Tensor:
    """(n,) squared distance of each feature x (n, d) to its k-th nearest other one."""
    found = []
    for start, distances in squared_distances(x, x):
        row = torch.arange(len(distances), device=x.device)
        distances[row, row + start] = math.inf  # itself is no neighbour
        found.append(distances.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(found)


class Within(NamedTuple):
    """How many balls each point lies in, and how many points each ball holds."""

    of_points: Tensor
    """(n,) int64"""
    of_balls: Tensor
    """(m,) int64"""


def within(points: Tensor, centres: Tensor, squared: Tensor) -> Within:
    """Which of `points` (n, d) lie in the closed balls around `centres` (m, d) of `squared` (m,) radii."""
    # Two equal features come out apart by the rounding of their lengths.
    rounding = 64 * torch.finfo(torch.float64).eps * (centres - centres.mean(0)).square().sum(1).max()
    of_points, of_balls = [], torch.zeros(len(centres), dtype=torch.int64, device=points.device)
    for _, distances in squared_distances(points, centres):
        inside = distances <= squared + rounding  # (b, m)
        of_points.append(inside.sum(1))
        of_balls += inside.sum(0)
    return Within(torch.cat(of_points), of_balls)


def squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Squared distances of x (n, d) from y (m, d) in blocks of rows: (first row, (b, m) of them)."""
    centre = y.mean(0)  # keeps the lengths below, and with them the rounding, small
    x, y = x - centre, y - centre
    lengths = y.square().sum(1)
    start = 0
    for part in x.split(max(1, BLOCK // len(y))):
        product = part @ y.T
        yield start, product.mul_(-2).add_(lengths).add_(part.square().sum(1, keepdim=True)).clamp_(min=0)
        start += len(part)


def spread_of_parts(
    values: Callable[[Tensor, Tensor], tuple[float, ...]], fake: Tensor, real: Tensor, k: int
) -> list[float]:
    """Standard errors of figures made from nearest neighbours, from those of disjoint random parts of both sets.

    Ten parts, five of fewer than 1000 images; NaN where a part has no k neighbours. The figures of parts of fewer images are others,
    but spread as much when multiplied by the root of the number of parts. (A jackknife overstates the spread of such figures by half
    and more, and a bootstrap's repeated images shrink the balls.)
    """
    least = min(len(fake), len(real))
    parts = 10 if least >= 1000 else 5
    if least < parts * (k + 1):
        return [math.nan] * len(values(fake, real))
    of_fake, of_real = (folds(len(z), parts).to(z.device) for z in (fake, real))
    found = [values(fake[of_fake == part], real[of_real == part]) for part in range(parts)]
    return (torch.tensor(found, dtype=torch.float64).std(0) / math.sqrt(parts)).tolist()


def share(value: float, spread: float, n: int) -> Estimate:
    """A share of n images: its error is not below the binomial one."""
    return Estimate(value, max(math.sqrt(value * (1 - value) / n), spread) if spread == spread else math.nan)
