"""Changing one factor of an image, the others held; and small variations of an image.

Traversal: one number of the code goes from -3 to 3 deviations, the rest stay as they are (as Higgins et al. 2017 draw them, beta-VAE).
Where the model infers a posterior, these are deviations of the prior N(0, I), and the numbers are shown in the order of what they
tell about the image, KL(q(z_j | x) || N(0, 1)) in nats on average; one whose posterior mean hardly varies, Var_x mu_j(x) <= 0.01, is
inactive (Burda et al. 2016, arXiv 1509.00519) and left out. Otherwise they are deviations of the codes around their
mean, shown in the order of these; a number that varies less than a hundredth of the one that varies most is left out.

Any code may be walked along its principal components instead: of a code that is a map, or an image's size (a flow's), the single
numbers mean little.

Variation (lecture 003, "feature variation"): f(x) + noise * deviation * epsilon, epsilon ~ N(0, I), decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limner import capabilities
from limner.capabilities import Encodes, Infers
from limner.data.dataset import Dataset
from limner.edit.codes import decode, encode, inferred, labels_of, posterior
from limner.edit.examples import examples, load, picture_beside, read_images, some
from limner.edit.latent_map import principal_axes
from limner.edit.strips import save_strips
from limner.errors import UserError
from limner.noise import SampleNoise, Seed

Along = Literal["dimensions", "components"]

ACTIVE_VARIANCE = 0.01
"""Burda et al. 2016: least variance of a posterior mean over images for which a number of the code is active."""
KNOWN = 2000
"""Held-out images from whose codes the factors are told."""
ACTIVE_SHARE = 0.01
"""Where there is no posterior: least deviation, as a share of the largest one."""


@dataclass(frozen=True)
class Factors:
    """Directions of a latent space, the most telling first."""

    directions: Tensor
    """(F, D), each one deviation long."""
    centre: Tensor
    """(D,), the code at zero deviations."""
    numbers: list[int]
    """(F,) which number of the code, or which principal component, from 0."""
    weight: list[float]
    """(F,) KL in nats, or deviation: what they are sorted by."""
    unit: str
    """Of `weight`: "nats" or "deviation"."""
    inactive: int
    """How many were left out because hardly anything depends on them."""
    along: Along

    @property
    def words(self) -> list[str]:
        """A name for each, with its weight."""
        name = "z" if self.along == "dimensions" else "component "
        unit = " nats" if self.unit == "nats" else ""
        sign = "" if self.unit == "nats" else "σ "
        return [f"{name}{n + 1}   {sign}{w:.2g}{unit}" for n, w in zip(self.numbers, self.weight, strict=True)]

    def first(self, n: int) -> Factors:
        """The n most telling ones alone."""
        return self._rows(list(range(min(n, len(self.numbers)))))

    def pick(self, numbers: Sequence[int]) -> Factors:
        """Those with these numbers, counted from 1 as `words` does.

        Raises:
            UserError: there is no such one, or it is inactive.
        """
        for number in numbers:
            if number - 1 not in self.numbers:
                active = ", ".join(str(k + 1) for k in sorted(self.numbers))
                raise UserError(
                    f"--only {number}: the images do not depend on that one, or there is none; choose from {active}"
                )
        return self._rows([self.numbers.index(number - 1) for number in numbers])

    def _rows(self, rows: list[int]) -> Factors:
        numbers, weight = [self.numbers[k] for k in rows], [self.weight[k] for k in rows]
        return replace(self, directions=self.directions[rows], numbers=numbers, weight=weight)


@dataclass(frozen=True)
class Variation:
    """Images and what became of them."""

    original: Tensor
    """(N, C, H, W) in [-1, 1]."""
    reconstruction: Tensor
    """(N, C, H, W)."""
    varied: Tensor
    """Traversal: (N, F, S, C, H, W), for each factor and step. Variations: (N, S, C, H, W)."""


def factors(
    model: Any, images: Dataset | Tensor, *, along: Along = "dimensions", labels: Tensor | None = None
) -> Factors:
    """The factors of a model's codes that are in use, by the codes of these images (some hundred or more).

    Raises:
        UserError: the model does not encode, or nothing in its codes varies.
    """
    if not isinstance(model, Encodes):
        raise UserError("variation needs a model that encodes; this one can: " + ", ".join(capabilities.of(model)))
    if len(images) < 2:
        raise UserError("what varies in a code is told from two images or more")
    labels = labels_of(images) if labels is None else labels
    everything = encode(model, images, labels=labels).flatten(1)
    codes = everything[:, : inferred(model, images, labels=labels)]
    infers = False
    if isinstance(model, Infers):
        mean, log_sigma = (part.flatten(1) for part in posterior(model, images, labels=labels))
        infers = mean.shape == codes.shape
    if along == "components":
        axes, deviation = principal_axes(codes, min(codes.shape[1], len(codes) - 1))
        weight, unit = deviation, "deviation"
        active = deviation > ACTIVE_SHARE * deviation.max().clamp(min=1e-12)
        directions, centre = axes * deviation[:, None], codes.mean(0)
    elif infers:
        weight = 0.5 * (mean.square() + torch.exp(2 * log_sigma) - 1 - 2 * log_sigma).mean(
            0
        )  # Kingma & Welling 2014, appendix B
        unit, active = "nats", mean.var(0) > ACTIVE_VARIANCE
        directions, centre = torch.eye(codes.shape[1]), torch.zeros(codes.shape[1])
    else:
        weight, unit = codes.std(0), "deviation"
        active = weight > ACTIVE_SHARE * weight.max().clamp(min=1e-12)
        directions, centre = torch.diag(weight), codes.mean(0)
    if not active.any():
        raise UserError("nothing in this model's codes varies from image to image: its decoder does not use them")
    # What says a condition is held.
    directions = F.pad(directions, (0, everything.shape[1] - codes.shape[1]))
    centre = F.pad(centre, (0, everything.shape[1] - codes.shape[1]))
    order = [int(k) for k in weight.argsort(descending=True, stable=True) if active[k]]
    return Factors(
        directions[order], centre, order, [float(weight[k]) for k in order], unit, int((~active).sum()), along
    )


def traverse(
    model: Any, images: Dataset | Tensor, factors: Factors, *, values: Sequence[float], labels: Tensor | None = None
) -> Variation:
    """Each factor of each image set to each of `values` (in deviations from the centre), everything else as it is.

    The coordinate along a factor is *replaced*, so that a column of the picture has one value of the factor for all images.
    """
    original, codes, labels = _coded(model, images, labels)
    z = codes.flatten(1)
    d = factors.directions  # (F, D)
    at = (z - factors.centre) @ (d / d.square().sum(1, keepdim=True)).T  # (N, F): where each image is, in deviations
    moves = torch.tensor(values)[None, None] - at[..., None]  # (N, F, S)
    moved = z[:, None, None] + moves[..., None] * d[None, :, None]  # (N, F, S, D)
    varied = _decoded(model, moved, codes.shape[1:], labels)
    return Variation(original, decode(model, codes, labels=labels), varied)


def variations(
    model: Any,
    images: Dataset | Tensor,
    deviation: Tensor,
    *,
    n: int = 8,
    noise: float = 0.3,
    generator: Seed = 0,
    labels: Tensor | None = None,
) -> Variation:
    """n images near each one: its code plus `noise` times `deviation` (D,) times standard normal numbers."""
    original, codes, labels = _coded(model, images, labels)
    z = codes.flatten(1)
    epsilon = SampleNoise(len(z), generator).normal(n, z.shape[1])
    varied = _decoded(model, z[:, None] + noise * deviation * epsilon, codes.shape[1:], labels)
    return Variation(original, decode(model, codes, labels=labels), varied)


def deviations(model: Any, images: Dataset | Tensor, *, labels: Tensor | None = None) -> Tensor:
    """(D,) standard deviation of each number of the code over the images; of those that say a condition, zero."""
    codes = encode(model, images, labels=labels).flatten(1)
    free = inferred(model, images, labels=labels)
    return F.pad(codes[:, :free].std(0), (0, codes.shape[1] - free))


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-6 else f"{value:+.3g}".replace("-", "−")


def _coded(model: Any, images: Dataset | Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    labels = labels_of(images) if labels is None else labels
    tensor = images if isinstance(images, Tensor) else images.batch(range(len(images)))["image"]
    return tensor.cpu(), encode(model, tensor, labels=labels), labels


def _decoded(model: Any, codes: Tensor, shape: torch.Size, labels: Tensor | None) -> Tensor:
    """The images (N, ..., C, H, W) of codes (N, ..., D), each with the label of its image."""
    inner = codes.shape[1:-1]
    each = None if labels is None else labels.repeat_interleave(inner.numel())
    return decode(model, codes.reshape(-1, *shape), labels=each).unflatten(0, (len(codes), *inner))


def variations_of_run(
    run: str,
    *,
    images: Sequence[str] = (),
    n: int = 2,
    count: int = 8,
    only: Sequence[int] = (),
    along: Along = "dimensions",
    reach: float = 3.0,
    steps: int = 7,
    noise: float | None = None,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
) -> tuple[Path, str]:
    """A picture of traversals, or with `noise` of variations, of held-out images or of files; returns its path and what it shows.
    Arguments as the flags of `limner vary`.

    Raises:
        UserError: the model does not encode, or has no such number in its code.
    """
    model = load(run, "encode", device=device)
    if steps < 2 or count < 1 or n < 1:
        raise UserError("--steps must be 2 or more, --factors and -n 1 or more")
    known = some(examples(run, model, data)[0], KNOWN)
    shown: Dataset | Tensor = read_images(images, model) if images else some(known, n, first=seed * n)
    if noise is not None:
        made = variations(model, shown, deviations(model, known), n=steps + 1, noise=noise, generator=seed)
        path = Path(out) if out else picture_beside(run, "variations.png")
        how = f"codes of the images plus {noise:g} of the codes' standard deviation of Gaussian noise"
        rows = [[x, y, *row] for x, y, row in zip(made.original, made.reconstruction, made.varied, strict=True)]
        save_strips(
            path, rows, columns=["original", "decoded", *[f"variation {k + 1}" for k in range(steps + 1)]], note=how
        )
        return path, how
    found = factors(model, known, along=along)
    chosen = found.pick(only) if only else found.first(count)
    values = torch.linspace(-reach, reach, steps).tolist()
    made = traverse(model, shown, chosen, values=values)
    path = Path(out) if out else picture_beside(run, "vary.png")
    rows = []
    for x, y, block in zip(made.original, made.reconstruction, made.varied, strict=True):
        rows += [[x, y, *row] if k == 0 else [None, None, *row] for k, row in enumerate(block)]
    what = (
        "deviations of the prior N(0, 1)"
        if found.unit == "nats"
        else "standard deviations of the codes, around their mean"
    )
    of = "numbers of the code" if along == "dimensions" else "principal components of the codes"
    left = len(found.numbers) - len(chosen.numbers)
    how = f"each row one of the {of} set to {-reach:g} ... {reach:g} {what}, the others held"
    how += f"; {left} weaker ones not shown" if left and not only else ""
    how += f"; {found.inactive} inactive ones left out" if found.inactive else ""
    columns = ["original", "decoded", *(_signed(v) for v in values)]
    save_strips(path, rows, columns=columns, rows=chosen.words * len(shown), block=len(chosen.numbers), note=how)
    return path, how
