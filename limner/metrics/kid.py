"""Kernel distance (KID): the squared maximum mean discrepancy between two sets of features under a cubic polynomial kernel.

    k(a, b) = (a.b / d + 1)^3
    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

Binkowski et al. 2018, arXiv 1801.01401, section 3; the unbiased estimator is eq. 3 of Gretton et al. 2012. Being unbiased it has
no small-sample inflation: on two draws of one distribution it is negative about as often as positive, and is not clipped here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) cubic polynomial kernel of features a (n, d), b (m, d)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid(x: Tensor, y: Tensor) -> Estimate:
    """KID of features x (n, d) and y (m, d) over all pairs, in float64, with the jackknife's standard error.

    The jackknife leaves out one image at a time. Where both sets come from one distribution it is too large by a factor of
    about sqrt(2) (the statistic is degenerate there), so that intervals err on the careful side.

    Raises:
        ValueError: fewer than three images in a set, or features of unlike width.
    """
    if min(len(x), len(y)) < 3 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"KID needs at least three images a set and features of one width, not {tuple(x.shape)}, {tuple(y.shape)}"
        )
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    rows_xx = xx.sum(1) - xx.diagonal()  # (n,) sum over j != i
    rows_yy = yy.sum(1) - yy.diagonal()
    total_xx, total_yy, total_xy = rows_xx.sum(), rows_yy.sum(), xy.sum()
    value = total_xx / (n * (n - 1)) + total_yy / (m * (m - 1)) - 2 * total_xy / (n * m)
    # Each image left out in turn, from the row sums.
    without_x = (total_xx - 2 * rows_xx) / ((n - 1) * (n - 2)) - 2 * (total_xy - xy.sum(1)) / ((n - 1) * m)
    without_y = (total_yy - 2 * rows_yy) / ((m - 1) * (m - 2)) - 2 * (total_xy - xy.sum(0)) / (n * (m - 1))
    variance = (n - 1) / n * (without_x - without_x.mean()).square().sum()
    variance = variance + (m - 1) / m * (without_y - without_y.mean()).square().sum()
    return Estimate(float(value), math.sqrt(float(variance)))


def kid_subsets(x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Estimate:
    """KID as most papers print it: the mean over random subsets of `size` images of each set, and their standard deviation.

    The deviation is that of a value from `size` images; it is not the error of the mean, since subsets overlap. Use `kid` for that.

    Raises:
        ValueError: a subset is larger than a set.
    """
    if size > min(len(x), len(y)):
        raise ValueError(f"subsets of {size} images cannot be drawn from {len(x)} and {len(y)}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        pick_x = torch.randperm(len(x), generator=generator)[:size].to(x.device)
        pick_y = torch.randperm(len(y), generator=generator)[:size].to(y.device)
        values.append(kid(x[pick_x], y[pick_y]).value)
    found = torch.tensor(values, dtype=torch.float64)
    return Estimate(float(found.mean()), float(found.std(correction=0)))
