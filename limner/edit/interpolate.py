"""Walking from one image to another through a model's latent space (lectures 000 and 001: is that space continuous?).

Linear: z(t) = (1 - t) a + t b. Spherical (Shoemake 1985; for generative models White 2016, arXiv 1609.04468):
z(t) = sin((1 - t) w)/sin(w) a + sin(t w)/sin(w) b with w the angle between a and b. Points between two draws of a Gaussian in many
dimensions are too short under the linear walk (the middle has half the variance) and of the right length under the spherical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from limner.capabilities import Decodes, Encodes
from limner.data.grid import save_grid
from limner.edit.examples import examples, load, picture_beside, read_images, some
from limner.edit.projection import project
from limner.errors import UserError
from limner.noise import Seed


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(B, T, ...) points at the fractions t (T,) of the straight way from a to b, both (B, ...)."""
    t = t.to(a).view(1, -1, *[1] * (a.ndim - 1))
    return (1 - t) * a[:, None] + t * b[:, None]


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(B, T, ...) points at the fractions t (T,) of the arc from a to b, both (B, ...); straight where they are parallel."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine).view(-1, 1, *[1] * (a.ndim - 1))  # (B, 1, ...)
    t = t.to(a).view(1, -1, *[1] * (a.ndim - 1))
    sine = torch.sin(angle)
    safe = sine.abs() > 1e-4
    divisor = torch.where(safe, sine, torch.ones_like(sine))
    weight_a = torch.where(safe, torch.sin((1 - t) * angle) / divisor, 1 - t)
    weight_b = torch.where(safe, torch.sin(t * angle) / divisor, t.expand_as(weight_a))
    return weight_a * a[:, None] + weight_b * b[:, None]


Walk = Literal["linear", "spherical", "auto"]
WALKS = {"linear": linear, "spherical": spherical}


@dataclass(frozen=True)
class Interpolation:
    """The images of a walk and how it was made."""

    images: Tensor
    """(pairs, steps, C, H, W) in [-1, 1]."""
    how: str
    """For a caption: which latents the ends are, and which walk joins them."""


@torch.no_grad()
def interpolate(
    model: Any,
    *,
    images: Tensor | None = None,
    search: bool = False,
    pairs: int = 4,
    steps: int = 9,
    walk: str = "auto",
    generator: Seed = 0,
) -> Interpolation:
    """Walk between pairs of images, or of latents drawn from the prior where the model cannot encode.

    Args:
        model: anything that `Encodes` or `Decodes`.
        images: (2 * pairs, C, H, W) in [-1, 1], the ends: image i is joined to image pairs + i. Needed by models that encode,
            unless they also have a prior to draw from.
        search: of a model that cannot encode, search for the latents nearest to `images` (`limner.edit.projection`) instead of
            drawing latents.
        pairs: number of walks, where `images` does not say it.
        steps: images in a walk, both ends counted.
        walk: "linear", "spherical", or "auto": spherical where the latents' prior looks like a standard Gaussian.
        generator: seed of the latents drawn from the prior.

    Raises:
        UserError: the model has no latents to walk between.
    """
    if steps < 2:
        raise UserError(f"--steps {steps}: a walk has two ends, so give 2 or more")
    t = torch.linspace(0, 1, steps)
    encodes, decodes = isinstance(model, Encodes), isinstance(model, Decodes)
    if images is not None and encodes:
        ends, between = model.encode(images), "codes of two images"
    elif images is not None and decodes and search:
        ends, between = project(model, images, seed=0).latent, "two latents found by latent search"
    elif decodes:
        ends, between = model.latents(2 * pairs, generator=generator), "two latents drawn from the prior"
    elif encodes:
        raise UserError("this model has no prior to draw latents from: give the images to walk between")
    else:
        raise UserError("this model has no latents to walk between: it neither encodes images nor decodes latents")
    if len(ends) % 2:
        raise UserError(f"a walk needs pairs of images; {len(ends)} were given")
    if walk == "auto":
        walk = "spherical" if decodes and has_gaussian_prior(model) else "linear"
    if walk not in WALKS:
        raise UserError(f"--walk {walk}: choose linear, spherical or auto")
    a, b = ends[: len(ends) // 2], ends[len(ends) // 2 :]
    path = WALKS[walk](a, b, t.to(ends.device))  # (pairs, steps, ...)
    decoded = model.decode(path.flatten(0, 1))
    return Interpolation(decoded.unflatten(0, (len(a), steps)).clamp(-1, 1), f"{walk} walk between {between}")


def interpolations(
    run: str,
    *,
    rows: int = 8,
    steps: int = 9,
    seed: int = 0,
    walk: Walk = "auto",
    start: Sequence[str] = (),
    end: Sequence[str] = (),
    data: str | None = None,
    out: str | None = None,
    device: str = "auto",
) -> tuple[Path, str]:
    """A walk through latent space in each row; returns the picture's path and how the walks were made.

    Args:
        run: a run folder, or a model on the hub.
        rows: how many pairs, where they are not files.
        steps: images of a walk, both ends counted.
        seed: which held-out images, or which draws of the prior.
        walk: see `interpolate`.
        start: image files where the walks start, one for each row; held-out images by default.
        end: image files where they end.
        data: other images to walk between than the run's held-out ones.
        out: the picture; interpolation.png in the run folder by default.
        device: auto, cpu, cuda ...

    Raises:
        UserError: the model has no latents, or the files are not pairs of images.
    """
    model = load(run, "encode", "decode", device=device)
    if len(start) != len(end):
        raise UserError(f"--from has {len(start)} images and --to {len(end)}: each walk needs one of both")
    if start:
        ends = torch.cat([read_images(start, model), read_images(end, model)])
    elif isinstance(model, Encodes):
        found = some(examples(run, model, data)[0], 2 * rows, first=seed * 2 * rows)
        found = found.subset(range(len(found) // 2 * 2))
        ends = found.batch(range(len(found)))["image"]
    else:
        ends = None
    images = None if ends is None else ends.to(model.device)
    made = interpolate(model, images=images, search=bool(start), pairs=rows, steps=steps, walk=walk, generator=seed)
    path = Path(out) if out else picture_beside(run, "interpolation.png")
    save_grid(made.images.flatten(0, 1).cpu(), path, columns=steps)
    return path, made.how


def has_gaussian_prior(model: Decodes, *, draws: int = 64) -> bool:
    """Whether latents drawn from the model's prior look like standard normal numbers (mean 0, variance 1, kurtosis 3)."""
    z = model.latents(draws, generator=0).double().flatten()
    if not z.is_floating_point() or len(z) < 64:
        return False
    error = 5 / len(z) ** 0.5  # five standard errors of the mean, in units of the deviation
    mean, variance = float(z.mean()), float(z.var())
    kurtosis = float(((z - mean) ** 4).mean()) / variance**2 if variance > 0 else 0.0
    return abs(mean) < error and abs(variance - 1) < 1.5 * error and abs(kurtosis - 3) < 5 * error
