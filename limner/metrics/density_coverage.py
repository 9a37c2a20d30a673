"""Density and coverage: precision and recall that outliers do not sway.

With balls around the M real features alone, each reaching to its k-th nearest real neighbour (itself not counted):

    density  = 1 / (k N) * sum over the N samples of the number of real balls it lies in;  from 0 up, 1 expected of real images
    coverage = share of the real balls that hold a sample;                                 from 0 to 1

Naeem et al. 2020, arXiv 2002.09797, eqs. 4 and 5, k = 5. Two draws of N images of one distribution have an expected density of 1 and
a coverage of 1 - (N-1)...(N-k) / ((2N-1)...(2N-k)), about 1 - 2^-k, in whatever space (their Lemmas 1 and 2): the place of a figure is
known without a floor. Balls are closed (the authors' code leaves out the edge; it matters only where images repeat).

What they miss: samples that copy training images score well, and so do slightly blurred ones, in pixels above all: density rewards
samples that crowd where real images crowd.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from limner.metrics.accumulate import Estimate, TwoSets, pair
from limner.metrics.precision_recall import share, spread_of_parts, squared_radii, within

K = 5


class DensityCoverage(NamedTuple):
    """Both, each with its standard error."""

    density: Estimate
    coverage: Estimate


def density_coverage(fake: Tensor, real: Tensor, *, k: int = K) -> DensityCoverage:
    """Density and coverage of features of samples (n, d) against real ones (m, d), in float64.

    The standard errors are those of `spread_of_parts`, for coverage the binomial one where it is larger.

    Raises:
        ValueError: too few images for k neighbours, unlike widths, or features that are not finite.
    """
    fake, real = pair(fake, real, least=k + 1, metric=f"density and coverage at k = {k}")

    def both(fake: Tensor, real: Tensor) -> tuple[float, float]:
        found = within(fake, real, squared_radii(real, k))
        return float(found.of_points.double().mean()) / k, float((found.of_balls > 0).double().mean())

    density, coverage = both(fake, real)
    of_density, of_coverage = spread_of_parts(both, fake, real, k)
    return DensityCoverage(Estimate(density, of_density), share(coverage, of_coverage, len(real)))


def expected_coverage(n: int, m: int, k: int = K) -> float:
    """Coverage to expect where n samples and m real images come from one distribution: 1 - (m-1)...(m-k) / ((m+n-1)...(m+n-k))."""
    missed = 1.0
    for j in range(1, k + 1):
        missed *= (m - j) / (m + n - j)
    return 1 - missed


class DensityCoverageAccumulator(TwoSets):
    """Density and coverage of features that come in batches: neighbours are sought among all, so all are kept."""

    def compute(self) -> DensityCoverage:
        """Both, of all features so far."""
        return density_coverage(self.fake.ordered, self.real.ordered)
