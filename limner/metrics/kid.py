"""Kernel distance (KID): the squared maximum mean discrepancy between two sets of features under a cubic polynomial kernel.

    k(a, b) = (a.b / d + 1)^3
    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

Binkowski et al. 2018, arXiv 1801.01401, section 3; the unbiased estimator is eq. 3 of Gretton et al. 2012. Being unbiased it has
no small-sample inflation: on two draws of one distribution it is negative about as often as positive, and is not clipped here.
What it misses: moments beyond the third, and copies of training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate, TwoSets, pair

BLOCK = 2**23
"""Numbers of a kernel matrix held at once."""


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) cubic polynomial kernel of features a (n, d), b (m, d)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid(x: Tensor, y: Tensor) -> Estimate:
    """KID of features x (n, d) and y (m, d) over all pairs, in float64, with the jackknife's standard error.

    The jackknife leaves out one image at a time. Where both sets come from one distribution it is too large by a factor of
    about sqrt(2) (the statistic is degenerate there), so that intervals err on the careful side.

    Raises:
        ValueError: fewer than three images in a set, features of unlike width, or not finite.
    """
    x, y = pair(x, y, least=3, metric="KID")
    return discrepancy(x, y, kernel)


def kid_subsets(x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 2020) -> Estimate:
    """KID as most papers print it: the mean over random subsets of `size` images of each set, and their standard deviation.

    The deviation is that of a value from `size` images; it is not the error of the mean, since subsets overlap. Use `kid` for that.
    The subsets are those torch-fidelity draws from the same seed (2020 is its default).

    Raises:
        ValueError: a subset is larger than a set, or what `kid` refuses.
    """
    if size > min(len(x), len(y)):
        raise ValueError(f"subsets of {size} images cannot be drawn from {len(x)} and {len(y)}")
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        pick_x = torch.from_numpy(draw.choice(len(x), size, replace=False)).to(x.device)
        pick_y = torch.from_numpy(draw.choice(len(y), size, replace=False)).to(y.device)
        values.append(kid(x[pick_x], y[pick_y]).value)
    return Estimate(float(np.mean(values)), float(np.std(values)))


class Kid(TwoSets):
    """KID of features that come in batches: every pair counts, so all of them are kept."""

    def compute(self) -> Estimate:
        """KID of all features so far, with its standard error."""
        return kid(self.fake.ordered, self.real.ordered)


def discrepancy(
    x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], *, biased: bool = False, block: int = BLOCK
) -> Estimate:
    """Squared maximum mean discrepancy of x (n, d) and y (m, d) under a kernel, with the jackknife's standard error.

    Args:
        biased: count each image's kernel with itself too (eq. 5 of Gretton et al. 2012): never negative, too large on few images.
        block: numbers of a kernel matrix to hold at once.
    """
    n, m = len(x), len(y)
    rows_xx, _, self_x = _sums(x, x, kernel, block)
    rows_yy, _, self_y = _sums(y, y, kernel, block)
    rows_xy, columns_xy, _ = _sums(x, y, kernel, block)
    total_xy = rows_xy.sum()
    if biased:
        value = rows_xx.sum() / n**2 + rows_yy.sum() / m**2 - 2 * total_xy / (n * m)
    rows_xx, rows_yy = rows_xx - self_x, rows_yy - self_y  # sums over j != i
    total_xx, total_yy = rows_xx.sum(), rows_yy.sum()
    if not biased:
        value = total_xx / (n * (n - 1)) + total_yy / (m * (m - 1)) - 2 * total_xy / (n * m)
    # Each image left out in turn, from the row sums.
    without_x = (total_xx - 2 * rows_xx) / ((n - 1) * (n - 2)) - 2 * (total_xy - rows_xy) / ((n - 1) * m)
    without_y = (total_yy - 2 * rows_yy) / ((m - 1) * (m - 2)) - 2 * (total_xy - columns_xy) / (n * (m - 1))
    variance = (n - 1) / n * (without_x - without_x.mean()).square().sum()
    variance = variance + (m - 1) / m * (without_y - without_y.mean()).square().sum()
    return Estimate(float(value), math.sqrt(float(variance)))


def _sums(
    a: Tensor, b: Tensor, kernel: Callable[[Tensor, Tensor], Tensor], block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row sums (n,) and column sums (m,) of the kernel matrix of a (n, d) and b (m, d), and its diagonal (min(n, m),)."""
    rows, columns, diagonal = [], torch.zeros(len(b), dtype=a.dtype, device=a.device), []
    start = 0
    for part in a.split(max(1, block // len(b))):
        k = kernel(part, b)
        rows.append(k.sum(1))
        columns += k.sum(0)
        diagonal.append(k.diagonal(start))
        start += len(part)
    return torch.cat(rows), columns, torch.cat(diagonal)
