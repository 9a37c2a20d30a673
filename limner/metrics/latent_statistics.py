"""Is a model's latent space used, and does what the encoder makes of data look like the prior that samples are drawn from?

**Active units** (Burda, Grosse & Salakhutdinov 2016, arXiv 1509.00519, section 5.2): unit u of a VAE's code is active where

    A_u = Var_x( E_q[z_u | x] ) > 0.01.

From 0 (posterior collapse: the decoder ignores the code) to the width of the code. Misses whether the units tell anything useful.

**Codebook** (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1 for its collapse): perplexity exp(-sum_k p_k log p_k) of the
codes' frequencies, from 1 to the size of the codebook, and dead codes, those that no image uses. Codes of one image depend on one
another, so errors are over images. On few images the perplexity is a little low and the dead codes are too many: state N.

**Aggregated posterior** q(z) = mean over images of q(z | x) against the prior N(0, I) (Hoffman & Johnson 2016, "ELBO surgery", for why;
Tolstikhin et al. 2018, arXiv 1711.01558, for MMD), from one draw of z for each image; also of a flow's latents. Where it differs,
samples come from codes that the decoder never saw. Per number of the code its mean and variance (0 and 1 wanted), and two distances:

    KL = 1/2 (tr S + m'm - d - log det S)        of the Gaussian with the moments m, S of q(z): a lower bound of KL(q(z) || p(z))
    MMD^2 = E k(z, z') - 2 E k(z, y) + E k(y, y')   with z, z' ~ q, y, y' ~ N(0, I), k(a, b) = exp(-|a - b|^2 / 2d)

The KL is in nats, from 0; its estimate from N images is too large by about d(d+3)/4N, given beside it as the floor. It misses all
but the first two moments. MMD^2 sees every difference, from 0 to 2; its terms in y are integrals in closed form, so it is unbiased and
negative about as often as not where q(z) is the prior. In high dimensions it is weak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate, Rows, checked

ACTIVE = 0.01
"""Variance over images from which a unit counts as active."""


# ---- active units


class UnitActivity(NamedTuple):
    """How much each unit of a code tells about the image."""

    variance: Tensor
    """(d,) A_u, unbiased."""
    variance_error: Tensor
    """(d,) standard error of each."""

    def active(self, threshold: float = ACTIVE) -> Estimate:
        """How many units are above the threshold, and the standard error: units within their own errors of it may go either way."""
        sure = self.variance_error == 0
        spread = torch.where(sure, torch.ones_like(self.variance), self.variance_error)
        chance = torch.special.ndtr((self.variance - threshold) / spread)
        chance = torch.where(sure, (self.variance > threshold).double(), chance)
        return Estimate(int((self.variance > threshold).sum()), math.sqrt(float((chance * (1 - chance)).sum())))


def unit_activity(means: Tensor) -> UnitActivity:
    """Activity of each unit from the posterior means (N, ...) of N images; all but the first dimension are units.

    Raises:
        ValueError: fewer than two images, or means that are not finite.
    """
    accumulator = ActiveUnits()
    accumulator.update(means)
    return accumulator.compute()


@dataclass
class ActiveUnits:
    """Activity of units from posterior means that come in batches, in memory that does not grow with their number.

    Equal to `unit_activity` of all, to the rounding of float64. The central moments are merged by Pebay 2008, "Formulas for robust,
    one-pass parallel computation of covariances and arbitrary-order statistical moments", eqs. 2.1, 3.1 and 3.2.
    """

    count: int = 0
    _powers: Tensor = field(default_factory=lambda: torch.empty(0))
    """(4, d): mean, and the sums of squares, cubes and fourth powers of the distances from it."""

    def update(self, means: Tensor) -> None:
        """Take in posterior means (n, ...)."""
        x = checked(means.flatten(1))
        if len(x):
            centred = x - x.mean(0)
            self._add(len(x), torch.stack([x.mean(0), *(centred.pow(k).sum(0) for k in (2, 3, 4))]))

    def merge(self, other: ActiveUnits) -> None:
        """Take in the images that another accumulator has seen."""
        if other.count:
            self._add(other.count, other._powers)

    def compute(self) -> UnitActivity:
        """Variance of each unit and its error, from the fourth moment: Var(s^2) = (m4 - s^4) / N."""
        if self.count < 2:
            raise ValueError(f"a variance over images needs at least two, not {self.count}")
        variance = self._powers[1] / (self.count - 1)
        biased = self._powers[1] / self.count
        fourth = self._powers[3] / self.count
        return UnitActivity(variance, ((fourth - biased.square()).clamp(min=0) / self.count).sqrt())

    def _add(self, count: int, powers: Tensor) -> None:
        if not self.count:
            self.count, self._powers = count, powers.clone()
            return
        if powers.shape != self._powers.shape:
            raise ValueError(f"codes of {self._powers.shape[1]} and {powers.shape[1]} units cannot be put together")
        a, b, n = self.count, count, self.count + count
        (mean_a, a2, a3, a4), (mean_b, b2, b3, b4) = self._powers, powers.to(self._powers)
        step = mean_b - mean_a
        fourth = a4 + b4 + step**4 * (a * b * (a * a - a * b + b * b) / n**3)
        fourth = fourth + 6 * step**2 * (a * a * b2 + b * b * a2) / n**2 + 4 * step * (a * b3 - b * a3) / n
        third = a3 + b3 + step**3 * (a * b * (a - b) / n**2) + 3 * step * (a * b2 - b * a2) / n
        self._powers = torch.stack([mean_a + step * (b / n), a2 + b2 + step**2 * (a * b / n), third, fourth])
        self.count = n


# ---- codebooks


class CodebookUse(NamedTuple):
    """How a codebook is used by N images."""

    perplexity: Estimate
    dead: Estimate
    """How many codes no image uses; its error is the jackknife's."""
    awaited: float
    """How many of the dead ones more images would be expected to use (first-order jackknife, Burnham & Overton 1978)."""
    counts: Tensor
    """(size,) int64, how often each code occurs."""


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of counts (size,): cheap enough for every step of training. NaN where nothing was counted."""
    p = counts.double() / counts.sum()
    return math.exp(-float(torch.special.xlogy(p, p).sum()))


def codebook_use(codes: Tensor, size: int) -> CodebookUse:
    """Use of a codebook of `size` codes by the codes (N, ...) of N images, integers in [0, size).

    Raises:
        ValueError: there are no codes, or they are not such integers.
    """
    accumulator = Codebook(size)
    accumulator.update(codes)
    return accumulator.compute()


@dataclass
class Codebook:
    """Use of a codebook by codes that come in batches. It keeps them all; exact but for the rounding of the error's sums."""

    size: int
    _codes: list[Tensor] = field(default_factory=list)

    def update(self, codes: Tensor) -> None:
        """Take in the codes (n, ...) of n images.

        Raises:
            ValueError: not integers in [0, size), or another number of codes an image than before.
        """
        codes = codes.detach().flatten(1)
        if codes.is_floating_point() or (codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.size):
            raise ValueError(f"codes of this codebook are integers from 0 to {self.size - 1}")
        if self._codes and codes.shape[1] != self._codes[0].shape[1]:
            raise ValueError(f"images of {self._codes[0].shape[1]} and {codes.shape[1]} codes cannot be put together")
        self._codes.append(codes.to("cpu", torch.int32))

    def merge(self, other: Codebook) -> None:
        """Take in the codes of another accumulator.

        Raises:
            ValueError: its codebook has another size.
        """
        if other.size != self.size:
            raise ValueError(f"codebooks of {self.size} and {other.size} codes cannot be put together")
        for codes in list(other._codes):
            self.update(codes)

    def compute(self) -> CodebookUse:
        """Perplexity, dead codes and counts."""
        codes = torch.cat(self._codes).long() if self._codes else torch.empty(0, 1, dtype=torch.int64)
        n = len(codes)
        if not codes.numel():
            raise ValueError("no codes were given yet")
        counts = torch.bincount(codes.flatten(), minlength=self.size)
        # The entropy is the mean over images of their mean surprise; so is, to first order, its error.
        surprise = -(counts.double() / counts.sum()).log()[codes].mean(1)
        value = perplexity(counts)
        used = Estimate(value, value * float(surprise.std()) / math.sqrt(n) if n > 1 else math.nan)
        # Without image i the codes that it alone uses would be dead.
        pairs = torch.unique(codes * n + torch.arange(n)[:, None])
        in_images = torch.bincount(pairs // n, minlength=self.size)
        alone = torch.bincount((pairs % n)[in_images[pairs // n] == 1], minlength=n).double()
        error = math.sqrt((n - 1) / n * float((alone - alone.mean()).square().sum()))
        dead = int((counts == 0).sum())
        awaited = min(float(dead), (n - 1) / n * float(alone.sum()))
        return CodebookUse(used, Estimate(dead, error if n > 1 else math.nan), awaited, counts)


# ---- aggregated posterior


class Aggregated(NamedTuple):
    """The aggregated posterior against N(0, I)."""

    mean: Tensor
    """(d,) of each number of the code; its standard error is (variance / N)^(1/2)."""
    variance: Tensor
    """(d,) of each number, unbiased."""
    variance_error: Tensor
    """(d,) standard error of each variance."""
    kl: Estimate
    """Nats, of the Gaussian with the same moments."""
    kl_floor: float
    """What `kl` is expected to be, to leading order, where the posterior is the prior: d(d+3)/4N."""
    mmd: Estimate
    """MMD^2, unbiased; the jackknife's error, which is too large by about sqrt(2) where the posterior is the prior."""


def aggregated_posterior(z: Tensor) -> Aggregated:
    """Compare one draw (N, ...) of the code of each of N images with N(0, I); d is the product of all but the first dimension.

    Raises:
        ValueError: there are not more images than numbers in a code (the covariance has then no inverse), a number of the code never
            changes, or is not finite.
    """
    accumulator = AggregatedPosterior()
    accumulator.update(z)
    return accumulator.compute()


@dataclass
class AggregatedPosterior:
    """The aggregated posterior from codes that come in batches: the same to the last bit for any split and order."""

    _codes: Rows = field(default_factory=Rows)

    def update(self, z: Tensor) -> None:
        """Take in one draw (n, ...) of the code of each of n images."""
        self._codes.update(z.flatten(1))

    def merge(self, other: AggregatedPosterior) -> None:
        """Take in the codes of another accumulator."""
        self._codes.merge(other._codes)

    def compute(self) -> Aggregated:
        """All comparisons."""
        z = self._codes.ordered
        n, d = z.shape
        if n < max(d + 1, 3):
            raise ValueError(
                f"the posterior of codes of {d} numbers is compared from more than {max(d, 2)} images, not {n}"
            )
        activity = unit_activity(z)
        return Aggregated(z.mean(0), activity.variance, activity.variance_error, _kl(z), d * (d + 3) / (4 * n), _mmd(z))


def _kl(z: Tensor) -> Estimate:
    n, d = z.shape
    mean = z.mean(0)
    centred = z - mean
    covariance = centred.T @ centred / (n - 1)
    root, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise ValueError(
            "some number of the code is fixed by the others, or never changes: its distance from N(0, I) is infinite"
        )
    value = 0.5 * float(covariance.trace() + mean @ mean - d - 2 * root.diagonal().log().sum())
    whitened = torch.linalg.solve_triangular(root, centred.T, upper=False).square().sum(0)  # (n,) c' S^-1 c
    # What one image more at z would change, to first order.
    influence = centred @ mean + 0.5 * centred.square().sum(1) - 0.5 * whitened
    # At q = p only the second order is left, of variance d(d+3)/4N^2; there the first, being estimated, brings twice that.
    second = d * (d + 3) / (4 * n * n)
    return Estimate(value, math.sqrt(max(float(influence.var()) / n - second, second)))


def _mmd(z: Tensor, chunk: int = 1024) -> Estimate:
    n, d = z.shape
    squared = z.square().sum(1)
    rows = torch.empty_like(squared)  # (n,) sum over j != i of k(z_i, z_j)
    for start in range(0, n, chunk):
        part = slice(start, min(start + chunk, n))
        distance = squared[part, None] + squared - 2 * z[part] @ z.T
        rows[part] = torch.exp(-distance.clamp(min=0) / (2 * d)).sum(1) - 1
    # Gaussian integrals: E_y k(z, y), and E k(y, y').
    to_prior = (d / (d + 1)) ** (d / 2) * torch.exp(-squared / (2 * (d + 1)))
    prior = (d / (d + 2)) ** (d / 2)
    value = rows.sum() / (n * (n - 1)) - 2 * to_prior.mean() + prior
    without = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2)) - 2 * (to_prior.sum() - to_prior) / (n - 1)
    variance = (n - 1) / n * (without - without.mean()).square().sum()
    return Estimate(float(value), math.sqrt(float(variance)))
