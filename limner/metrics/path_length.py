"""Perceptual path length: how abruptly the image changes along a walk through the latent space (its continuity).

    l_Z = E[ d(G(slerp(z1, z2; t)), G(slerp(z1, z2; t + e))) / e^2 ],   l_W = E[ d(g(lerp(w1, w2; t)), g(lerp(w1, w2; t + e))) / e^2 ]

with z1, z2 from the prior, w = f(z), e = 1e-4, and t uniform on [0, 1) ("full") or 0 ("end"). Karras, Laine & Aila 2019, "A
style-based generator architecture for generative adversarial networks", arXiv 1812.04948, section 4.1, eqs. 2 and 3, whose d is a
perceptual distance (LPIPS with VGG16). Lecture 001 asks for the continuity of the latent space, which IS and FID do not see.

- **Walk.** slerp turns the direction of z1 into that of z2 at constant speed, and the length goes linearly from |z1| to |z2|. For a
  generator that normalises z, as StyleGAN does, these are its images to the bit of the formula; for others the walk stays where the
  prior has its mass.
- **Outliers.** As in the authors' program, pairs outside the 1st and 99th percentile (the nearest values below and above) are
  dropped; `reject=False` keeps them. Their mean is then of a trimmed distribution: state the switch.
- **Crop.** None by default. "face" is the authors' for FFHQ: of the square, rows 3/8 to 7/8 and columns 2/8 to 6/8. Images that then have
  512 pixels or more are reduced to between 256 and 511 by averaging whole blocks, as there.
- **Images** go to d as floats in [-1, 1], never rounded to grey levels: a step of 1e-4 would vanish. For the same reason the generator must
  be deterministic, its noise inputs fixed, and must run in float32 or more.

Range: from 0, without bound; less is smoother. It depends on d, e, the crop and the space, and is compared only where all are equal.
What it misses: a generator that always draws one image has length 0. Read it beside a measure of variety.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.metrics.accumulate import Estimate, Rows
from limner.noise import SampleNoise, Seed, mix, seeds

Crop = Literal["none", "face"]
Distance = Callable[[Tensor, Tensor], Tensor]
"""(B,) distance of images (B, C, H, W) in [-1, 1] from others; one that grows with the square of a small change, such as LPIPS."""


class Latents(Protocol):
    """Draws latents of the prior: `Model.latents`."""

    def __call__(self, n: int, *, generator: Seed) -> Tensor: ...


def path_length(
    decode: Callable[[Tensor], Tensor],
    latents: Latents,
    distance: Distance,
    *,
    n: int = 1000,
    mapping: Callable[[Tensor], Tensor] | None = None,
    sampling: Literal["full", "end"] = "full",
    epsilon: float = 1e-4,
    crop: Crop = "none",
    reject: bool = True,
    batch: int = 64,
    seed: int = 0,
) -> Estimate:
    """Mean path length over n walks, and its standard error.

    Args:
        decode: images (B, C, H, W) in [-1, 1] of latents: of z, or of w where there is a `mapping`.
        latents: `model.latents`.
        distance: what the images are compared by.
        mapping: w of z; the walk is then a straight one through w, otherwise a spherical one through z.
        sampling: walks anywhere between the two ends, or at the first end.
        epsilon: length of a step, as a fraction of the walk.
        reject: leave out walks beyond the 1st and 99th percentile.
        batch: walks at once; the result does not depend on it but for the rounding inside `decode`.

    Raises:
        ValueError: an argument is out of its range, latents are not floating-point vectors, or a distance is not finite.
    """
    walks = PathLength(reject=reject)
    drawn = list(zip(*(seeds(mix(seed, k), n) for k in range(3)), strict=True))
    how: dict[str, Any] = {"mapping": mapping, "sampling": sampling, "epsilon": epsilon, "crop": crop}
    for start in range(0, n, batch):
        walks.update(walk_lengths(decode, latents, distance, drawn[start : start + batch], **how))
    return walks.compute()


@torch.no_grad()
def walk_lengths(
    decode: Callable[[Tensor], Tensor],
    latents: Latents,
    distance: Distance,
    drawn: list[tuple[int, int, int]],
    *,
    mapping: Callable[[Tensor], Tensor] | None = None,
    sampling: Literal["full", "end"] = "full",
    epsilon: float = 1e-4,
    crop: Crop = "none",
) -> Tensor:
    """(B,) float64 d / e^2 of B walks, each given by its seeds of z1, z2 and t; the other arguments as in `path_length`."""
    if sampling not in ("full", "end") or not 0 < epsilon < 1:
        raise ValueError(f"sampling is full or end and epsilon between 0 and 1, not {sampling} and {epsilon}")
    first, second, third = ([one[k] for one in drawn] for k in range(3))
    a, b = (latents(len(drawn), generator=part) for part in (first, second))
    if not a.is_floating_point() or a.flatten(1).shape[1] < 2:
        raise ValueError(
            f"a path needs latents of two or more real numbers, not {a.dtype} of shape {tuple(a.shape[1:])}"
        )
    t = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    if sampling == "full":
        t = SampleNoise(len(drawn), third, a.device).uniform().double()
    walk = slerp
    if mapping is not None:
        a, b, walk = mapping(a), mapping(b), lerp
    # In float64: the step is small beside the latents.
    points = [walk(a.double(), b.double(), s).to(a.dtype) for s in (t, t + epsilon)]
    images = decode(torch.cat(points))
    near, far = prepared(images, crop).chunk(2)
    lengths = distance(near, far).double() / epsilon**2
    if lengths.shape != (len(drawn),) or not torch.isfinite(lengths).all():
        raise ValueError(f"the distance must give one finite number a pair, not {tuple(lengths.shape)}: {lengths}")
    return lengths


@dataclass
class PathLength:
    """Path length of walks that come in batches: the same to the last bit for any split and order."""

    reject: bool = True
    _lengths: Rows = field(default_factory=Rows)

    def update(self, lengths: Tensor) -> None:
        """Take in the lengths (n,) of walks, from `walk_lengths`."""
        self._lengths.update(lengths[:, None])

    def merge(self, other: PathLength) -> None:
        """Take in the walks of another accumulator."""
        self._lengths.merge(other._lengths)

    def compute(self) -> Estimate:
        """Mean and its standard error (of a trimmed mean, Tukey & McLaughlin 1963: from the values drawn in to the cut)."""
        lengths = self._lengths.rows.flatten().sort().values
        count = len(lengths)
        kept, inside = lengths, lengths
        if self.reject:
            low, high = lengths[math.floor(0.01 * (count - 1))], lengths[math.ceil(0.99 * (count - 1))]
            kept, inside = lengths[(lengths >= low) & (lengths <= high)], lengths.clamp(low, high)
        error = float(inside.std()) * math.sqrt(count) / len(kept) if count > 1 else math.nan
        return Estimate(float(kept.mean()), error)


def squared_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """(B,) sum of squared differences: not perceptual, but the length of a linear generator is then known in closed form."""
    return (a.double() - b.double()).square().flatten(1).sum(1)


def lerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The points at the fractions t (B,) of the straight ways from a to b, (B, ...)."""
    t = t.view(-1, *[1] * (a.ndim - 1))
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """The points at the fractions t (B,) of the arcs from a to b, (B, ...): direction along the great circle, length linearly."""
    x, y, t = a.flatten(1), b.flatten(1), t[:, None]
    length_x, length_y = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    u, v = F.normalize(x, dim=1), F.normalize(y, dim=1)
    cosine = (u * v).sum(1, keepdim=True).clamp(-1, 1)
    across = F.normalize(v - cosine * u, dim=1)
    angle = t * torch.acos(cosine)
    direction = torch.cos(angle) * u + torch.sin(angle) * across
    return (lerp(length_x, length_y, t) * direction).view_as(a)


def prepared(images: Tensor, crop: Crop = "none") -> Tensor:
    """Images (B, C, H, W) as the distance is to see them: cropped, and reduced where they are large.

    Raises:
        ValueError: no such crop, or the images are too small for it.
    """
    if crop not in ("none", "face"):
        raise ValueError(f"crop is none or face, not {crop}")
    if crop == "face":
        eighth = images.shape[2] // 8
        if images.shape[2] != images.shape[3] or eighth < 1:
            raise ValueError(f"the face crop is of square images of 8 pixels and more, not {tuple(images.shape[2:])}")
        images = images[:, :, 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]
    factor = images.shape[2] // 256
    return F.avg_pool2d(images, factor) if factor > 1 else images
