"""Mutual information gap: does each factor of the data have one number of the code to itself?

For factor v_k and number z_j of the code (Chen et al. 2018, arXiv 1802.04942, "Isolating Sources of Disentanglement in VAEs", eq. 6):

    MIG = mean over k of (I(z_j1; v_k) - I(z_j2; v_k)) / H(v_k)

where j1 and j2 are the numbers that tell most and second most about v_k. From 0 to 1: 1 where every factor is known from one number and
not at all from any other; 0 where another number tells as much (a duplicate, or a plane of factors that is turned in the code).

Estimated as in Locatello et al. 2019 (arXiv 1811.12359), not by sampling q(z|x): one code for each image (of a VAE the posterior mean),
each number cut into 20 bins of equal width between its least and its greatest value, and the mutual information of the counts. A factor
of more than 20 different values is cut into 10 bins of equal frequency. The standard error is the jackknife's over ten groups of images.

What it misses: a number that stands for two factors at once is no fault in it; the mean of a posterior looks surer than its draws. A
factor of several dimensions, such as a colour, can hardly have one number to itself. Counts from N images overstate each mutual
information by about 19 * 9 / 2N nats at most, which the difference cancels but for numbers that tell nothing.

Of `shapes`, rotation is left out: it cannot be seen of a circle, and of most of the others only up to their symmetry.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from limner.data.shapes import FACTORS
from limner.metrics.accumulate import Estimate, checked

if TYPE_CHECKING:
    from limner.metrics.model_bench import ModelBench

CODE_BINS, FACTOR_BINS = 20, 10
GROUPS = 10
"""Of images, for the standard error."""
AMBIGUOUS = ("rotation",)
"""Factors that pictures do not show without doubt."""


class Gap(NamedTuple):
    """The mutual information gap of a code."""

    mig: Estimate
    gaps: Tensor
    """(K,) of each factor."""
    information: Tensor
    """(d, K) I(z_j; v_k) / H(v_k)."""


def mutual_information_gap(codes: Tensor, factors: Tensor) -> Gap:
    """The gap of the codes (N, ...) of N images and their factors (N, K); all but the first dimension of codes are its d numbers.

    Raises:
        ValueError: unlike numbers of rows, fewer than two an error group, or a factor that is the same in all images.
    """
    z, v = checked(codes.flatten(1)), checked(factors)
    if len(z) != len(v) or len(z) < 2 * GROUPS:
        raise ValueError(
            f"{len(z)} codes and {len(v)} rows of factors: as many of both are needed, at least {2 * GROUPS}"
        )
    columns = [discrete(column) for column in v.T]
    for k, column in enumerate(columns):
        if column.max() == 0:
            raise ValueError(f"factor {k} is the same in all images")
    counts = _counts(equal_widths(z), columns)  # of each factor (groups, d, bins, values)
    information = normalised(counts, range(GROUPS))
    without = torch.stack([_gaps(normalised(counts, set(range(GROUPS)) - {g})).mean() for g in range(GROUPS)])
    gaps = _gaps(information)
    error = math.sqrt((GROUPS - 1) / GROUPS * float((without - without.mean()).square().sum()))
    return Gap(Estimate(float(gaps.mean()), error), gaps, information)


def equal_widths(z: Tensor, bins: int = CODE_BINS) -> Tensor:
    """(N, d) int64, which of the bins of equal width from the least to the greatest value of its column each number is in."""
    low, high = z.amin(0), z.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    return ((z - low) / width * bins).long().clamp(max=bins - 1)


def discrete(v: Tensor, most: int = CODE_BINS, bins: int = FACTOR_BINS) -> Tensor:
    """(N,) int64 from 0: the different values of a factor (N,), or bins of equal frequency where there are more than `most`."""
    values, index = v.unique(return_inverse=True)
    if len(values) <= most:
        return index
    edges = torch.quantile(v, torch.linspace(0, 1, bins + 1, dtype=v.dtype, device=v.device)[1:-1])
    return torch.bucketize(v.contiguous(), edges)


def normalised(counts: list[Tensor], groups: Any) -> Tensor:
    """(d, K) mutual information of each number and factor over the factor's entropy, of these groups' images."""
    return torch.stack([_share(table[list(groups)].sum(0).double()) for table in counts], dim=1)


def _share(joint: Tensor) -> Tensor:
    # (d, bins, values) counts -> (d,) I(z; v) / H(v), with I = H(z) + H(v) - H(z, v).
    p = joint / joint.sum((1, 2), keepdim=True)
    h_v = _entropy(p.sum(1))
    return (_entropy(p.sum(2)) + h_v - _entropy(p.flatten(1))) / h_v


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def _counts(z: Tensor, columns: list[Tensor]) -> list[Tensor]:
    n, d = z.shape
    group = torch.arange(n, device=z.device) % GROUPS
    tables = []
    for column in columns:
        values = int(column.max()) + 1
        cell = ((group[:, None] * d + torch.arange(d, device=z.device)) * CODE_BINS + z) * values + column[:, None]
        table = torch.bincount(cell.flatten(), minlength=GROUPS * d * CODE_BINS * values)
        tables.append(table.view(GROUPS, d, CODE_BINS, values))
    return tables


def _gaps(information: Tensor) -> Tensor:
    best = information.sort(dim=0, descending=True).values
    return best[0] - (best[1] if len(best) > 1 else 0)


# ---- on a bench


def gap_lacks(bench: ModelBench) -> str:
    """Data must come with their factors, and the model must encode."""
    if not (bench.can("infer") or bench.can("encode")):
        return "has no way from an image to a latent"
    if "factors" not in bench.test.extras:
        return "the factors of the images are not known"
    return "" if bench.m >= 2 * GROUPS else f"needs {2 * GROUPS} held-out images"


def gap_protocol(bench: ModelBench) -> str:
    left_out = " and ".join(AMBIGUOUS)
    return f"{bench.m} held-out images of {bench.data_id}, {CODE_BINS} bins, without {left_out}, seed {bench.seed}, {bench.version}"


def gap(bench: ModelBench) -> dict[str, Any]:
    bench.say(f"mutual information of code and factors of {bench.m} held-out images")
    batch = bench.held_out(bench.m)
    if bench.can("infer"):
        codes = bench.posterior(bench.m)[0]
    else:
        with torch.no_grad():
            codes = torch.cat([bench.model.encode(x.to(bench.device)).cpu() for x in batch["image"].split(256)])
    seen = [k for k, name in enumerate(FACTORS) if name not in AMBIGUOUS]
    found = mutual_information_gap(codes, batch["factors"][:, seen])
    note = ", ".join(f"{FACTORS[k]} {value:.2f}" for k, value in zip(seen, found.gaps.tolist(), strict=True))
    return {"value": found.mig.value, "error": found.mig.error, "note": note}
