"""The Frechet distance between two sets of features, each taken as one Gaussian.

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)),  from 0 (equal moments) up

Dowson & Landau 1982 (the distance); Heusel et al. 2017, arXiv 1706.08500, eq. 6 (of Inception features, known as FID; lectures 000
and 001). With features of any other network it is not an FID and must not be called one.

The last trace needs no root of the non-symmetric product S1 S2. With any factors S1 = F1 F1', S2 = F2 F2' it is the nuclear norm
of M = F1' F2: the sum of the roots of the eigenvalues of M M'. The factor is a Cholesky one, or, where there are fewer images than
features, the centred features themselves: M then has a row an image, far fewer than there are features. Squaring M costs half the
digits of its smallest singular values; where their bound could reach the seventh digit of the distance, the singular values of M itself
are taken.

**Bias.** The estimate is too large on small samples: for two Gaussians in d dimensions estimated from N images against exact
moments by about d/N + d(d+1)/(4N) for unit covariance, which is why N is part of every protocol and a figure is only read
beside the distance between two sets of real images of the same N (the floor). KID has no such bias.

**What it misses.** All that is not in the first two moments; two very different sets may have the same. Copies of training images
score perfectly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate, Moments, Sides, TwoSets, folds, gram, jackknife, pair

GROUPS = 10
"""Folds of the jackknife."""
TOLERANCE = 1e-7
"""How far squaring may move a distance, relative to itself, before singular values are taken instead."""


def frechet(x: Tensor, y: Tensor) -> float:
    """Squared Frechet distance between the Gaussians fitted to features x (n, d) and y (m, d), in float64.

    Raises:
        ValueError: the widths differ, there are fewer than two rows, or a feature is not finite.
    """
    x, y = pair(x, y, least=2, metric="a Frechet distance")
    return _distance(_of_rows(x), _of_rows(y))


def frechet_gaussians(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance between two Gaussians: means (d,), covariances (d, d)."""
    return _distance(_of_moments(mean1, covariance1), _of_moments(mean2, covariance2))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) of features x (n, d), in float64."""
    found = Moments()
    found.update(x)
    return found.mean, found.covariance


def frechet_spread(x: Tensor, y: Tensor, *, groups: int = GROUPS) -> float:
    """Standard error of `frechet(x, y)` when both sets are redrawn: the jackknife over `groups` random groups of images.

    Leaving a group out changes the bias of all replicates alike, so the bias does not enter the spread.

    Raises:
        ValueError: too few images to leave a group out, unlike widths, or features that are not finite.
    """
    x, y = pair(x, y, least=4, metric="the spread of a Frechet distance")
    groups = min(groups, len(x), len(y))
    pairs = zip(_leaving_out(x, groups), _leaving_out(y, groups), strict=True)
    return jackknife(torch.tensor([_distance(a, b) for a, b in pairs], dtype=torch.float64))


def frechet_bias(d: int, n: int) -> float:
    """Leading bias of the distance of n draws of N(0, I) in d dimensions from N(0, I) itself: d/n + d(d+1)/(4n)."""
    return d / n + d * (d + 1) / (4 * n)


@dataclass
class FrechetMoments(Sides[Moments]):
    """The distance of features that come in batches, in memory of two covariances; without its spread."""

    fake: Moments = field(default_factory=Moments)
    real: Moments = field(default_factory=Moments)

    def compute(self) -> float:
        """The distance of all features so far."""
        return frechet_gaussians(self.fake.mean, self.fake.covariance, self.real.mean, self.real.covariance)


class Frechet(TwoSets):
    """The distance of features that come in batches and its spread, in the memory of the features."""

    def compute(self) -> Estimate:
        """The distance of all features so far, with its standard error."""
        fake, real = self.fake.ordered, self.real.ordered
        return Estimate(frechet(fake, real), frechet_spread(fake, real))


class _Gaussian(NamedTuple):
    """A Gaussian by its mean (d,), the trace of its covariance S, a factor F (d, r) with F F' = S, and a bound of the rank of F."""

    mean: Tensor
    trace: Tensor
    factor: Tensor
    rank: int


def _of_rows(x: Tensor) -> _Gaussian:
    """The Gaussian of rows x (n, d)."""
    if len(x) >= x.shape[1]:
        return _of_moments(*moments(x))
    mean = x.mean(0)
    factor = (x - mean).T / math.sqrt(len(x) - 1)  # (d, n), columns that add up to zero
    return _Gaussian(mean, factor.square().sum(), factor, len(x) - 1)


def _of_moments(mean: Tensor, covariance: Tensor) -> _Gaussian:
    mean, covariance = mean.double(), covariance.double()
    diagonal = covariance.diagonal()
    # A direction whose variance is below this is rounding.
    least = len(diagonal) * torch.finfo(torch.float64).eps * diagonal.max()
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed or factor.diagonal().square().min() < least:
        values, vectors = torch.linalg.eigh(covariance)
        kept = values > least
        factor = vectors[:, kept] * values[kept].sqrt()
    return _Gaussian(mean, diagonal.sum(), factor, factor.shape[1])


def _leaving_out(x: Tensor, groups: int) -> Iterator[_Gaussian]:
    """The Gaussians of x (n, d) without each of its groups; of many rows, from the moments of all and of the group."""
    fold = folds(len(x), groups).to(x.device)
    if len(x) - math.ceil(len(x) / groups) < x.shape[1]:
        for g in range(groups):
            yield _of_rows(x[fold != g])
        return
    every = Moments()
    every.update(x)
    for g in range(groups):
        part = Moments()
        part.update(x[fold == g])
        rest = every.without(part)
        yield _of_moments(rest.mean, rest.covariance)


def _distance(a: _Gaussian, b: _Gaussian) -> float:
    if a.factor.shape[1] > b.factor.shape[1]:
        a, b = b, a
    rest = (a.mean - b.mean).square().sum() + a.trace + b.trace
    product = a.factor.T @ b.factor  # M, (r, s) with r <= s
    if 0 in product.shape:  # a set without any spread
        return max(0.0, float(rest))
    squares = torch.linalg.eigvalsh(gram(product.T))[-min(a.rank, b.rank) :].clamp(min=0)  # ascending
    distance = rest - 2 * squares.sqrt().sum()
    # An eigenvalue is known to a few units of rounding of the largest one.
    noise = 4 * torch.finfo(torch.float64).eps * squares[-1]
    if torch.minimum(noise.sqrt(), noise / (2 * squares.sqrt())).sum() > TOLERANCE * distance:
        distance = rest - 2 * torch.linalg.svdvals(product).sum()
    return max(0.0, float(distance))
