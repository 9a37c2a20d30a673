"""Arithmetic with codes: face with glasses - face without + another face.

The attribute vector is the mean code of images that have the attribute minus the mean code of images that have not (Radford et al.
2016, arXiv 1511.06434, section 6.3.2; for autoencoders Larsen et al. 2016, arXiv 1512.09300):

    v = mean_{x in plus} f(x) - mean_{x in minus} f(x),    edited = g(f(x) + s v),    s the strength.

What goes along with the attribute in the examples is in v, too. Two remedies:

- `balance`: the mean of such differences, each within one value of the nuisance (White 2016, arXiv 1609.04468, makes the groups alike by
  replicating examples).
- method "lda": Fisher's linear discriminant, w = W^-1 v with W the covariance within the two groups (shrunk towards a multiple of
  the identity by `shrinkage`), as long as it takes to move w . f(x) from the mean of one group to that of the other at s = 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from limner import capabilities
from limner.capabilities import Encodes
from limner.data.dataset import Dataset
from limner.data.shapes import BACKGROUNDS, COLOURS, FACTORS, SHAPES
from limner.edit.codes import decode, encode
from limner.edit.examples import examples as splits_of
from limner.edit.examples import load, picture_beside, read_images, some
from limner.edit.strips import save_strips
from limner.errors import UserError

Method = Literal["mean", "lda"]

NAMED_FACTORS = {"shape": SHAPES, "colour": list(COLOURS), "background": list(BACKGROUNDS)}
"""Of `shapes`: the factors whose values have names."""
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
COMPARISON = re.compile(r"^\s*(\w+)\s*(=|<|>)\s*(.+?)\s*$")


@dataclass(frozen=True)
class Edit:
    """Images with an attribute vector added at several strengths."""

    original: Tensor
    """(N, C, H, W) in [-1, 1]."""
    edited: Tensor
    """(N, S, C, H, W), one for each strength."""
    strengths: tuple[float, ...]


def have(data: Dataset, what: str) -> np.ndarray:
    """Which images (N,) have the attribute `what`.

    It is looked up in this order: the name of a class; a factor of the data set `shapes` with its value (background=white,
    colour=red, shape=star) or a bound (radius>0.3, x<0.5); a word, or words in a row, of the captions.

    Raises:
        UserError: it is none of these, or no image has it.
    """
    found = _class(data, what)
    if found is None and (comparison := COMPARISON.match(what)):
        found = _factor(data, *comparison.groups(), what=what)
    if found is None and data.captions:
        whole_words = re.compile(rf"(?<!\w){re.escape(what)}(?!\w)", re.IGNORECASE)
        found = np.array([bool(whole_words.search(caption)) for caption in data.captions])
    if found is None or not found.any():
        raise UserError(f"'{what}': no image of '{data.name}' has it; there are {_known(data)}")
    return found


def attribute_vector(
    model: Any,
    plus: Dataset | Tensor,
    minus: Dataset | Tensor,
    *,
    method: Method = "mean",
    shrinkage: float = 0.1,
    balance: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The direction (...), of the shape of a code, from images without an attribute to images with it.

    Args:
        model: anything that `Encodes`.
        plus, minus: images that have it and that have not, (N, C, H, W) in [-1, 1] or data sets.
        method: see above.
        shrinkage: lda: how far the covariance is moved to a multiple of the identity, 0 to 1.
        balance: for the images of `plus` and of `minus`, the value (N,) int64 of a nuisance that is to be kept out. Values that only
            one of the two has are not used.

    Raises:
        UserError: the model does not encode, or no value of the nuisance occurs in both groups.
    """
    if not isinstance(model, Encodes):
        raise UserError("arithmetic needs a model that encodes; this one can: " + ", ".join(capabilities.of(model)))
    a, b = encode(model, plus), encode(model, minus)
    return direction(a.flatten(1), b.flatten(1), method=method, shrinkage=shrinkage, balance=balance).view(a.shape[1:])


def direction(
    plus: Tensor,
    minus: Tensor,
    *,
    method: Method = "mean",
    shrinkage: float = 0.1,
    balance: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`attribute_vector` (D,) from the codes (N, D) of both groups."""
    groups = [(plus.double(), minus.double())]
    if balance is not None:
        both = sorted(set(balance[0].tolist()) & set(balance[1].tolist()))
        if not both:
            raise UserError("--balance: no value of it occurs both with and without the attribute")
        groups = [(groups[0][0][balance[0] == k], groups[0][1][balance[1] == k]) for k in both]
    v = torch.stack([a.mean(0) - b.mean(0) for a, b in groups]).mean(0)
    if method == "mean":
        return v.float()
    within = torch.cat([part - part.mean(0) for pair in groups for part in pair])  # (N, D)
    covariance = within.T @ within / len(within)
    trace = covariance.diagonal().mean().clamp(min=1e-12)
    covariance = (1 - shrinkage) * covariance + shrinkage * trace * torch.eye(len(v), dtype=torch.float64)
    w = torch.linalg.solve(covariance, v)
    return (w * (w @ v) / (w @ w)).float()  # w . (z + this) - w . z = w . v


def arithmetic(
    model: Any,
    images: Dataset | Tensor,
    vector: Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    labels: Tensor | None = None,
) -> Edit:
    """The images with `vector` added to their codes. Strength 0 is the reconstruction, negative ones take the attribute away."""
    codes = encode(model, images, labels=labels)
    s = torch.tensor(strengths).view(1, -1, *[1] * vector.ndim)
    moved = (codes[:, None] + s * vector).flatten(0, 1)  # (N * S, ...)
    if isinstance(images, Dataset):
        labels = None if images.labels is None else torch.from_numpy(images.labels)
        images = images.batch(range(len(images)))["image"]
    each = None if labels is None else labels.repeat_interleave(len(strengths))
    edited = decode(model, moved, labels=each).unflatten(0, (len(codes), len(strengths)))
    return Edit(images.cpu(), edited, tuple(strengths))


def nuisance(data: Dataset, name: str) -> Tensor:
    """The values (N,) int64 of what `--balance` names: class, or a factor of `shapes` whose values have names.

    Raises:
        UserError: there is no such thing.
    """
    if name == "class" and data.labels is not None:
        return torch.from_numpy(data.labels)
    if name in NAMED_FACTORS and "factors" in data.extras:
        return torch.from_numpy(data.extras["factors"][:, FACTORS.index(name)]).long()
    there = [*(["class"] if data.labels is not None else []), *(NAMED_FACTORS if "factors" in data.extras else [])]
    raise UserError(
        f"--balance {name}: '{data.name}' has " + (" and ".join([", ".join(there)]) or "neither classes nor factors")
    )


def _class(data: Dataset, what: str) -> np.ndarray | None:
    names = [name.lower() for name in data.class_names or []]
    if data.labels is None or what.lower() not in names:
        return None
    return data.labels == names.index(what.lower())


def _factor(data: Dataset, name: str, sign: str, value: str, *, what: str) -> np.ndarray | None:
    if "factors" not in data.extras or name not in FACTORS:
        return None
    column = data.extras["factors"][:, FACTORS.index(name)]
    if name in NAMED_FACTORS:
        if sign != "=" or value not in NAMED_FACTORS[name]:
            raise UserError(
                f"'{what}': {name} is one of {', '.join(NAMED_FACTORS[name])}, such as {name}={NAMED_FACTORS[name][0]}"
            )
        return column == NAMED_FACTORS[name].index(value)
    try:
        bound = float(value)
    except ValueError:
        bound = float("nan")
    if sign == "=" or not np.isfinite(bound):
        raise UserError(f"'{what}': {name} is a number; give a bound, such as {name}>{np.median(column):.2f}")
    return column > bound if sign == ">" else column < bound


def _known(data: Dataset) -> str:
    known = []
    if data.class_names:
        known.append("the classes " + ", ".join(data.class_names))
    if "factors" in data.extras:
        known.append("the factors " + ", ".join(FACTORS))
    if data.captions:
        known.append(f"captions such as “{data.captions[0]}”")
    return "; ".join(known) or "no classes, factors or captions (show it by two folders: --with DIR --without DIR)"


def arithmetic_of_run(
    run: str,
    *,
    plus: str | None = None,
    minus: str | None = None,
    plus_images: Sequence[str] = (),
    minus_images: Sequence[str] = (),
    to: Sequence[str] = (),
    strengths: Sequence[float] = STRENGTHS[1:],
    method: Method = "mean",
    balance: str | None = None,
    n: int = 8,
    examples: int = 2000,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
) -> tuple[Path, str]:
    """A picture of held-out images with an attribute added; returns its path and how it was made. The attribute's examples are
    training images of the run, or those of two folders; arguments as the flags of `limner arithmetic`.

    Raises:
        UserError: the attribute is not said, or not known, or there are no examples of it.
    """
    model = load(run, "encode", device=device)
    if bool(plus) == bool(plus_images) or (minus and minus_images):
        raise UserError(
            "say the attribute by --plus (and --minus), or by images with it and without: --with DIR --without DIR"
        )
    if plus_images and not minus_images:
        raise UserError("--with needs --without: images without the attribute")
    if not strengths:
        raise UserError("--strengths: give one number or more")
    values: tuple[Tensor, Tensor] | None = None
    with_it: Dataset | Tensor
    without: Dataset | Tensor
    if plus_images:
        if balance:
            raise UserError("--balance needs the labels of data; two folders of images have none")
        with_it, without = read_images(plus_images, model), read_images(minus_images, model)
        names = "the images given with it", "without it"
    else:
        known = splits_of(run, model, data, part="train")[0]
        rows = have(known, plus or "")
        others = have(known, minus) & ~rows if minus else ~rows
        if not others.any():
            raise UserError(f"'{minus or plus}': no image of '{known.name}' is without '{plus}'")
        with_it, without = sides = [some(known.subset(np.flatnonzero(r)), examples) for r in (rows, others)]
        names = f"“{plus}”", f"“{minus}”" if minus else f"without “{plus}”"
        values = (nuisance(sides[0], balance), nuisance(sides[1], balance)) if balance else None
    vector = attribute_vector(model, with_it, without, method=method, balance=values)

    targets: Dataset | Tensor
    if to:
        targets = read_images(to, model)
    else:
        shown = splits_of(run, model, data)[0]
        if not plus_images:
            shown = shown.subset(np.flatnonzero(have(shown, minus) if minus else ~have(shown, plus or "")))
        targets = some(shown, n, first=seed * n)
    edit = arithmetic(model, targets, vector, strengths=(0.0, *strengths))
    path = Path(out) if out else picture_beside(run, "arithmetic.png")
    kind = {"mean": "difference of mean codes", "lda": "linear discriminant of the codes"}[method]
    how = f"{names[0]} - {names[1]}: {kind} of {len(with_it)} and {len(without)} images" + (
        f", {balance} balanced" if balance else ""
    )
    columns = ["original", "decoded", *(f"{s:+g}".replace("-", "−") for s in strengths)]
    save_strips(path, [[x, *row] for x, row in zip(edit.original, edit.edited, strict=True)], columns=columns, note=how)
    return path, how
