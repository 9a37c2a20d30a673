"""Accumulators: what a metric has to remember of images or features that come in batches, perhaps in several processes.

Each has `update(batch)`, `merge(other)` and its results as properties. The result is that of all rows at once, whatever their split
into batches, their order, and the grouping of merges: `Rows` to the last bit (its rows can be put into one fixed order), `Mean` and
`Moments` to the rounding of float64 (some 1e-15 of the numbers' spread, since batches are centred before they are summed; Chan, Golub
& LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1 and its form for matrices). They hold plain tensors, so
that another process can send its own through pickle or `torch.distributed.all_gather_object`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


@dataclass
class Moments:
    """Count, mean and covariance of feature rows in float64, in memory that does not grow with their number."""

    count: int = 0
    _mean: Tensor | None = None  # (d,)
    _scatter: Tensor | None = None  # (d, d) sum of (x - mean)(x - mean)'

    def update(self, x: Tensor) -> None:
        """Take in rows x (n, d).

        Raises:
            ValueError: x is no matrix, is not finite, or has another width than the rows before.
        """
        x = checked(x)
        if len(x):
            mean = x.mean(0)
            self._add(len(x), mean, gram(x - mean))

    def merge(self, other: Moments) -> None:
        """Take in the rows that another accumulator has seen."""
        if other.count:
            self._add(other.count, other.mean, other._scatter)

    def without(self, other: Moments) -> Moments:
        """The moments of the rows that are left when those of another accumulator, a minority of these, are taken out."""
        rest = self.count - other.count
        if rest <= 0 or self._scatter is None or other._scatter is None:
            raise ValueError(f"{other.count} rows cannot be taken out of {self.count}")
        mean = self.mean + (self.mean - other.mean) * (other.count / rest)
        step = mean - other.mean
        scatter = self._scatter - other._scatter - torch.outer(step, step) * (rest * other.count / self.count)
        return Moments(rest, mean, scatter)

    @property
    def mean(self) -> Tensor:
        """(d,) mean of all rows."""
        if self._mean is None:
            raise ValueError("no rows were given yet")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(d, d) unbiased covariance of all rows."""
        if self._scatter is None or self.count < 2:
            raise ValueError(f"a covariance needs at least two rows, not {self.count}")
        return self._scatter / (self.count - 1)

    def _add(self, count: int, mean: Tensor, scatter: Tensor | None) -> None:
        assert scatter is not None
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = count, mean.clone(), scatter.clone()
            return
        _same_width(len(self._mean), len(mean))
        total = self.count + count
        step = mean.to(self._mean) - self._mean
        self._scatter = self._scatter + scatter.to(self._scatter)
        self._scatter += torch.outer(step, step) * (self.count * count / total)
        self._mean = self._mean + step * (count / total)
        self.count = total


@dataclass
class Rows:
    """All feature rows, for metrics that need every pair of them."""

    _parts: list[Tensor] = field(default_factory=list)

    def update(self, x: Tensor) -> None:
        """Take in rows x (n, d).

        Raises:
            ValueError: x is no matrix, is not finite, or has another width than the rows before.
        """
        x = checked(x)
        if self._parts:
            _same_width(self._parts[0].shape[1], x.shape[1])
        self._parts.append(x)

    def merge(self, other: Rows) -> None:
        """Take in the rows that another accumulator holds."""
        for part in list(other._parts):
            self.update(part)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self._parts))

    @property
    def rows(self) -> Tensor:
        """(n, d) float64, in the order they came."""
        if not self._parts:
            raise ValueError("no rows were given yet")
        if len(self._parts) > 1:
            device = self._parts[0].device
            self._parts = [torch.cat([part.to(device) for part in self._parts])]
        return self._parts[0]

    @property
    def ordered(self) -> Tensor:
        """(n, d) float64 in lexicographic order: the same to the last bit for any order in which the rows came.

        Metrics that shuffle, fold or resample rows by a seed start from here.
        """
        return self.rows[lexicographic(self.rows)]


@dataclass
class Mean:
    """Mean of one number per image, and its standard error."""

    count: int = 0
    _mean: float = 0.0
    _squares: float = 0.0  # sum of (v - mean)^2

    def update(self, values: Tensor) -> None:
        """Take in values (n,).

        Raises:
            ValueError: they are not one number an image.
        """
        if values.ndim != 1:
            raise ValueError(f"one number an image is averaged, not {tuple(values.shape)}")
        if len(values):
            values = values.detach().double()
            mean = values.mean()
            self._add(len(values), float(mean), float((values - mean).square().sum()))

    def merge(self, other: Mean) -> None:
        """Take in the values that another accumulator has seen."""
        if other.count:
            self._add(other.count, other._mean, other._squares)

    @property
    def mean(self) -> float:
        """Mean of all values."""
        if not self.count:
            raise ValueError("no values were given yet")
        return self._mean

    @property
    def variance(self) -> float:
        """Unbiased variance of all values; NaN of a single one."""
        return self._squares / (self.count - 1) if self.count > 1 else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN of a single value."""
        return math.sqrt(self.variance / self.count) if self.count > 1 else math.nan

    def _add(self, count: int, mean: float, squares: float) -> None:
        if not self.count:  # bit for bit, an infinite mean included
            self.count, self._mean, self._squares = count, mean, squares
            return
        total = self.count + count
        step = mean - self._mean
        self._squares += squares + step * step * self.count * count / total
        self._mean += step * count / total
        self.count = total


A = TypeVar("A", Moments, Rows)


@dataclass
class Sides(Generic[A]):
    """What is remembered of samples, and the same of real images."""

    fake: A
    real: A

    def update(self, fake: Tensor | None = None, real: Tensor | None = None) -> None:
        """Take in feature rows of samples (n, d), of real images (m, d), or both."""
        if fake is not None:
            self.fake.update(fake)
        if real is not None:
            self.real.update(real)

    def merge(self, other: Sides[A]) -> None:
        """Take in what another accumulator holds."""
        self.fake.merge(other.fake)
        self.real.merge(other.real)


@dataclass
class TwoSets(Sides[Rows]):
    """The rows of two sets; base of the accumulators of metrics that compare every pair of rows."""

    fake: Rows = field(default_factory=Rows)
    real: Rows = field(default_factory=Rows)


def checked(x: Tensor) -> Tensor:
    """Feature rows (n, d) in float64.

    Raises:
        ValueError: x is no matrix, or not finite.
    """
    if x.ndim != 2:
        raise ValueError(f"features are a matrix (images, numbers), not {tuple(x.shape)}")
    x = x.detach().double()
    # The sum, a single pass, is finite unless a feature is not (or features near the largest float add up beyond it).
    if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
        raise ValueError("the features are not all finite")
    return x


def pair(x: Tensor, y: Tensor, *, least: int, metric: str) -> tuple[Tensor, Tensor]:
    """Two sets of feature rows in float64, ready to be compared.

    Raises:
        ValueError: fewer rows than `least`, unlike widths, or features that are not finite.
    """
    x, y = checked(x), checked(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} numbers cannot be compared")
    if min(len(x), len(y)) < least:
        least_in_words = {2: "two", 3: "three", 4: "four"}.get(least, least)
        raise ValueError(f"{metric} needs at least {least_in_words} images in each set, not {len(x)} and {len(y)}")
    return x, y


def gram(x: Tensor) -> Tensor:
    """(d, d) products x' x of the columns of x (n, d)."""
    if x.device.type == "cpu":
        # numpy sees that the factors are one matrix, and computes only half of the result.
        a = x.numpy()
        return torch.from_numpy(a.T @ a)
    return x.T @ x


def folds(n: int, count: int, seed: int = 0) -> Tensor:
    """(n,) int64: the fold in [0, count) of each of n rows, drawn at random by a fixed seed, of sizes that differ by at most one.

    Drawn, because rows often come in an order (by class, or sorted) that every `count`-th row would follow.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % count


def jackknife(replicates: Tensor) -> float:
    """Standard error from the values (g,) found with each of g folds left out: sqrt((g - 1) / g * sum (v - mean)^2)."""
    g = len(replicates)
    return math.sqrt((g - 1) / g * float((replicates - replicates.mean()).square().sum()))


def lexicographic(x: Tensor) -> Tensor:
    """Indices (n,) that sort the rows of x (n, d) by their first number, then the second, and so on."""
    values = (x.detach().double() + 0.0).cpu().numpy()  # + 0.0 turns -0.0 into 0.0
    bits = values.view("uint64")
    # Order-preserving: negative numbers have all bits flipped, others the sign bit. Then bytes compare as the numbers do.
    sign = bits >> 63
    keys = (bits ^ ((-sign.astype("int64")).view("uint64") | (1 << 63))).astype(">u8")
    whole_rows = keys.view(f"V{8 * keys.shape[1]}").ravel()
    return torch.from_numpy(whole_rows.argsort(kind="stable")).to(x.device)


def _same_width(before: int, now: int) -> None:
    if before != now:
        raise ValueError(f"features of {before} and {now} numbers cannot be put together")
