"""The Frechet distance between two sets of features, each taken as one Gaussian.

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

Dowson & Landau 1982 (the distance); Heusel et al. 2017, arXiv 1706.08500, eq. 6 (of Inception features, known as FID; lectures 000
and 001). With features of any other network it is not an FID and must not be called one.

Two exact forms of the last trace are used, neither of which needs a matrix square root of a non-symmetric product:

- S1 S2 is similar to the symmetric A S2 A with A = S1^(1/2), so the trace is the sum of the roots of its eigenvalues;
- with centred features X (n, d), Y (m, d), S1 = X'X/(n-1) and S2 = Y'Y/(m-1), the trace is the nuclear norm of
  X Y' / sqrt((n-1)(m-1)), an (n, m) matrix: far cheaper when there are fewer images than features.

**Bias.** The estimate is too large on small samples: for two Gaussians in d dimensions estimated from N images against exact
moments by about d/N + d(d+1)/(4N) for unit covariance, which is why N is part of every protocol and a figure is only read
beside the distance between two sets of real images of the same N (the floor). KID has no such bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def frechet(x: Tensor, y: Tensor) -> float:
    """Squared Frechet distance between the Gaussians fitted to features x (n, d) and y (m, d), in float64.

    Raises:
        ValueError: the widths differ, there are fewer than two rows, or a feature is not finite.
    """
    x, y = _checked(x), _checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} numbers cannot be compared")
    if min(len(x), len(y)) >= x.shape[1]:
        return frechet_gaussians(*moments(x), *moments(y))
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = (x - mean_x) / math.sqrt(len(x) - 1), (y - mean_y) / math.sqrt(len(y) - 1)
    traces = x.square().sum() + y.square().sum()
    root = torch.linalg.svdvals(x @ y.T).sum()  # the nuclear norm
    return _distance(mean_x - mean_y, traces, root)


def frechet_gaussians(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance between two Gaussians: means (d,), covariances (d, d)."""
    mean1, covariance1, mean2, covariance2 = (t.double() for t in (mean1, covariance1, mean2, covariance2))
    values, vectors = torch.linalg.eigh(covariance1)
    root1 = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # Rounding can leave eigenvalues of a singular covariance a hair below zero.
    root = torch.linalg.eigvalsh(root1 @ covariance2 @ root1).clamp(min=0).sqrt().sum()
    return _distance(mean1 - mean2, covariance1.trace() + covariance2.trace(), root)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) of features x (n, d), in float64."""
    x = _checked(x)
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_spread(x: Tensor, y: Tensor, *, groups: int = 10) -> float:
    """Standard error of `frechet(x, y)` when both sets are redrawn: the jackknife over `groups` groups of images.

    Leaving a group out changes the bias of all replicates alike, so the bias does not enter the spread.
    """
    replicates = []
    for k in range(groups):
        keep_x = torch.arange(len(x), device=x.device) % groups != k
        keep_y = torch.arange(len(y), device=y.device) % groups != k
        replicates.append(frechet(x[keep_x], y[keep_y]))
    values = torch.tensor(replicates, dtype=torch.float64)
    return math.sqrt((groups - 1) / groups * float((values - values.mean()).square().sum()))


def frechet_bias(d: int, n: int) -> float:
    """Leading bias of the distance of n draws of N(0, I) in d dimensions from N(0, I) itself: d/n + d(d+1)/(4n)."""
    return d / n + d * (d + 1) / (4 * n)


def _distance(difference: Tensor, traces: Tensor, root: Tensor) -> float:
    return max(0.0, float(difference.square().sum() + traces - 2 * root))


def _checked(x: Tensor) -> Tensor:
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a Frechet distance needs features (n, d) of at least two images, not {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("the features are not all finite")
    return x.double()
