"""Maps of a latent space: where the images lie in it, and what is decoded from where (lecture 004, for AE and VAE).

Two panels. Left, the codes of images coloured by class. Right, the images decoded from a regular grid of codes: for a model
without a Gaussian prior equally spaced over a square (lecture 004 takes [-1.5, 1.5]^2); for one with p(z) = N(0, I) at the
quantiles (i + 1/2) / side of the Gaussian in each direction, so that every cell stands for the same share of the prior (Kingma &
Welling 2014, appendix A, figure 4).

A code of two numbers is drawn as it is. Of longer codes the map shows the plane of their first two principal components through
their mean, as its titles say: what varies in other directions is not on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from limner import capabilities
from limner.capabilities import Decodes, Encodes, Infers
from limner.data.dataset import Dataset
from limner.data.grid import to_uint8
from limner.edit.codes import asks_for_label, decode, encode, inferred, labels_of
from limner.edit.examples import examples, load, picture_beside, some
from limner.edit.interpolate import has_gaussian_prior
from limner.errors import UserError
from limner.files import replacing

MOST_CLASSES = 20
"""More have no colours of their own."""
INK, FAINT, TITLE = "#1c1e21", "#70757d", 12
DASHED: dict[str, Any] = {"color": INK, "lw": 1.2, "ls": (0, (4, 3))}


@dataclass(frozen=True)
class LatentMap:
    """What is drawn of one model."""

    points: Tensor
    """(N, 2), the codes in the plane of the map."""
    labels: Tensor | None
    """(N,) their classes."""
    class_names: list[str]
    dimensions: int
    """Numbers in a code."""
    shares: tuple[float, float]
    """Of the codes' variance, how much lies along each axis of the map."""
    origin: Tensor
    """(D,) without the numbers that only say a condition, and with it"""
    axes: Tensor
    """(2, D): the point p of the map is the code origin + p @ axes."""
    ticks: tuple[Tensor, Tensor]
    """Where the decoded points are, (side,) along each axis, rising."""
    decoded: Tensor
    """(side, side, C, H, W) in [-1, 1]; [i, j] is decoded from (ticks[0][j], ticks[1][i])."""
    spacing: str
    """How the decoded points are spaced, in words."""


def latent_map(
    model: Any,
    images: Dataset | Tensor,
    *,
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
    side: int = 15,
    range: tuple[float, float] | None = None,
) -> LatentMap:
    """The codes of images in a plane, and what is decoded from a grid of that plane.

    Args:
        model: anything that `Encodes`.
        images: (N, C, H, W) in [-1, 1], or a data set, whose labels and class names are used.
        labels: (N,) classes of the images, where they are a tensor.
        class_names: of those labels.
        side: images along each side of the decoded grid.
        range: the decoded square, lowest and highest value on both axes; by default the prior's quantiles where the model has a
            Gaussian prior, and else a square around the codes.

    Raises:
        UserError: the model does not encode, its codes are single numbers, or there are fewer than three images.
    """
    if not isinstance(model, Encodes):
        raise UserError("a latent map needs a model that encodes; this one can: " + ", ".join(capabilities.of(model)))
    if range is not None and range[0] >= range[1]:
        raise UserError(f"--range {range[0]:g} {range[1]:g}: the first number must be below the second")
    if isinstance(images, Dataset):
        labels, class_names = labels_of(images), images.class_names or ()
    codes = encode(model, images, labels=labels)
    free = inferred(model, images, labels=labels)
    flat, condition = codes.flatten(1)[:, :free], codes.flatten(1)[:, free:]
    if free < 2 or len(flat) < 3:
        raise UserError(
            f"a map needs codes of two or more numbers, of three or more images; these are {tuple(flat.shape)}"
        )
    if free == 2:
        origin, axes, deviations = torch.zeros(2), torch.eye(2), torch.ones(2)
    else:
        origin = flat.mean(0)
        axes, deviations = principal_axes(flat, 2)
    points = (flat - origin) @ axes.T
    variance = points.double().var(0) / flat.double().var(0).sum().clamp(min=1e-12)
    x, y, spacing = _ticks(model, points, deviations, side, range, plane=free > 2)
    grid = torch.stack([x.expand(side, -1), y[:, None].expand(-1, side)], dim=-1)  # (side, side, 2)
    at = origin + grid.flatten(0, 1) @ axes  # (side * side, free)
    usual = None
    if labels is not None and (free < codes[0].numel() or asks_for_label(model, model.decode)):
        usual = labels.mode().values  # a conditional model decodes the whole grid for one class
        condition = condition[labels == usual]
        spacing += f", as “{class_names[int(usual)] if class_names else usual}”"
    at = torch.cat([at, condition[:1].expand(len(at), -1)], dim=1).view(-1, *codes.shape[1:])
    decoded = decode(model, at, labels=None if usual is None else usual.expand(len(at)))
    decoded = decoded.unflatten(0, (side, side))
    return LatentMap(
        points,
        labels,
        list(class_names),
        free,
        (float(variance[0]), float(variance[1])),
        origin,
        axes,
        (x, y),
        decoded,
        spacing,
    )


def principal_axes(codes: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The first n principal axes (n, D) of the codes (N, D), orthonormal, and the deviations (n,) along them.

    Each axis points to where its largest entry is positive, so that a map does not flip from one call to the next.
    """
    centred = (codes - codes.mean(0)).double()
    wide = centred.shape[1] > len(centred)
    gram = centred @ centred.T if wide else centred.T @ centred
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:n], vectors.flip(1)[:, :n]
    axes = (centred.T @ vectors if wide else vectors).T
    axes = axes / axes.norm(dim=1, keepdim=True).clamp(min=1e-12)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return axes.float(), (values.clamp(min=0) / max(1, len(centred) - 1)).sqrt().float()


def _ticks(
    model: Any, points: Tensor, deviations: Tensor, side: int, range: tuple[float, float] | None, *, plane: bool
) -> tuple[Tensor, Tensor, str]:
    """Where to decode along both axes, and in words."""
    if range is not None:
        t = torch.linspace(*range, side)
        return t, t, f"equally spaced over [{_number(range[0])}, {_number(range[1])}]²"
    if isinstance(model, Infers) or (isinstance(model, Decodes) and has_gaussian_prior(model)):
        quantiles = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).float()
        a, b = deviations.tolist()
        what = f"N(0, {a:.2g}²) and N(0, {b:.2g}²), the codes' deviations" if plane else "the prior N(0, 1)"
        return quantiles * a, quantiles * b, f"at quantiles of {what}"
    # 98 % of the codes along each axis are inside; squares, so that distances in both directions compare.
    low, high = torch.quantile(points, 0.01, dim=0), torch.quantile(points, 0.99, dim=0)
    centre, half = (low + high) / 2, (high - low).max() / 2
    x, y = (torch.linspace(float(c - half), float(c + half), side) for c in centre)
    ends = [_number(float(t)) for t in (x[0], x[-1], y[0], y[-1])]
    return x, y, f"equally spaced over [{ends[0]}, {ends[1]}] × [{ends[2]}, {ends[3]}]"


def draw(maps: Sequence[LatentMap], names: Sequence[str]) -> Figure:
    """One figure: a row for each map, its codes left and its decoded grid right, with one legend where the classes are the same."""
    figure = Figure(figsize=(13.2, 6.1 * len(maps)), layout="constrained")
    shared = all(m.class_names == maps[0].class_names for m in maps)
    for i, (m, name) in enumerate(zip(maps, names, strict=True)):
        left, right = figure.add_subplot(len(maps), 2, 2 * i + 1), figure.add_subplot(len(maps), 2, 2 * i + 2)
        _scatter(left, m, name)
        _decoded(right, m)
        own = [] if shared else _legend(m)
        own.append(Line2D([], [], **DASHED, label="decoded at the right"))
        left.legend(handles=own, loc="best", fontsize=9.5, framealpha=0.85, labelcolor=INK)
    if shared and maps[0].labels is not None:
        handles = _legend(maps[0])
        columns = min(len(handles), 10) if sum(len(n) for n in maps[0].class_names) < 110 else 6
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            fontsize=11,
            frameon=False,
            handletextpad=0.1,
            columnspacing=1.2,
            labelcolor=INK,
        )
    return figure


def save_map(path: str | Path, maps: Sequence[LatentMap], names: Sequence[str], *, dpi: int = 130) -> None:
    """Write `draw` as a PNG.

    Raises:
        UserError: the file cannot be written.
    """
    figure = draw(maps, names)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def colours(n: int) -> list[Any]:
    """n colours that differ, for n up to 20; more are of a wheel, where neighbours look alike."""
    from matplotlib import colormaps

    if n <= 10:
        return [colormaps["tab10"](k) for k in range(n)]
    return (
        [colormaps["tab20"](k) for k in range(n)] if n <= MOST_CLASSES else [colormaps["hsv"](k / n) for k in range(n)]
    )


def _scatter(axes: Any, m: LatentMap, name: str) -> None:
    if m.labels is None:
        colour: Any = "#3b6fb6"
    else:
        colour = np.array(colours(_classes(m)))[m.labels.numpy()]
    # In random order, so that no class hides the others.
    order = np.random.default_rng(0).permutation(len(m.points))
    x, y = m.points[order].T.numpy()
    size = float(np.clip(18000 / len(m.points), 5, 40))
    axes.scatter(x, y, s=size, c=colour[order] if m.labels is not None else colour, alpha=0.75, linewidths=0)
    (x0, x1), (y0, y1) = ((float(t[0]), float(t[-1])) for t in m.ticks)
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **DASHED))
    plane = m.dimensions > 2
    for k, label in enumerate((axes.set_xlabel, axes.set_ylabel)):
        label(f"principal component {k + 1} ({m.shares[k]:.0%} of the variance)" if plane else f"z{k + 1}", fontsize=11)
    where = f"first 2 principal components of {m.dimensions} dimensions" if plane else "2 latent dimensions"
    axes.set_title(f"{name}: codes of {len(m.points):,} images\n{where}", fontsize=TITLE)
    # A square that holds the decoded one and all but the farthest codes.
    low = torch.minimum(torch.quantile(m.points, 0.002, dim=0), torch.tensor([x0, y0]))
    high = torch.maximum(torch.quantile(m.points, 0.998, dim=0), torch.tensor([x1, y1]))
    centre, half = (low + high) / 2, 0.53 * float((high - low).max())
    axes.set_xlim(float(centre[0]) - half, float(centre[0]) + half)
    axes.set_ylim(float(centre[1]) - half, float(centre[1]) + half)
    axes.set_box_aspect(1)
    _plain(axes)


def _decoded(axes: Any, m: LatentMap) -> None:
    side, _, c, h, w = m.decoded.shape
    sheet = to_uint8(m.decoded.flatten(0, 1)).reshape(side, side, h, w, c)
    sheet = sheet[::-1].transpose(0, 2, 1, 3, 4).reshape(side * h, side * w, c)  # the second axis rises upwards
    axes.imshow(np.broadcast_to(sheet, (side * h, side * w, 3)), extent=(-0.5, side - 0.5, -0.5, side - 0.5))
    shown = np.unique(np.linspace(0, side - 1, 5).round().astype(int))
    for k, (ticks, label) in enumerate(((axes.set_xticks, axes.set_xlabel), (axes.set_yticks, axes.set_ylabel))):
        ticks(shown, [_number(float(m.ticks[k][i])) for i in shown])
        label(f"principal component {k + 1}" if m.dimensions > 2 else f"z{k + 1}", fontsize=11)
    plane = " of this plane through the mean code" if m.dimensions > 2 else ""
    axes.set_title(f"decoded: {side} × {side} codes{plane}\n{m.spacing}", fontsize=TITLE)
    _plain(axes)


def _legend(m: LatentMap) -> list[Line2D]:
    n = _classes(m)
    if m.labels is None:
        return []
    if n > MOST_CLASSES:
        return [Line2D([], [], marker="o", ls="", color=FAINT, label=f"{n} classes, by hue")]
    names = m.class_names or [str(k) for k in range(n)]
    return [
        Line2D([], [], marker="o", ls="", ms=8, color=c, label=name) for c, name in zip(colours(n), names, strict=True)
    ]


def _number(value: float) -> str:
    return f"{round(value, 6):.3g}".replace("-", "−")


def _classes(m: LatentMap) -> int:
    return len(m.class_names) or (int(m.labels.max()) + 1 if m.labels is not None else 0)


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=10, colors=FAINT, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.title.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color("#b9bdc4")


def maps_of_runs(
    runs: Sequence[str],
    *,
    n: int = 3000,
    side: int = 15,
    range: tuple[float, float] | None = None,
    data: str | None = None,
    out: str | None = None,
    device: str = "auto",
) -> Path:
    """The picture of the latent maps of one or several runs, each with its held-out images (or `data`); returns its path.

    Raises:
        UserError: a run is none, or its model does not encode.
    """
    if not runs:
        raise UserError("latent-map: give a run folder, or several")
    maps, names = [], []
    for run in runs:
        model = load(run, "encode", device=device)
        shown = some(examples(run, model, data)[0], n)
        maps.append(latent_map(model, shown, side=side, range=range))
        names.append(Path(run).name)
    path = Path(out) if out else picture_beside(runs[0], "latent-map.png") if len(runs) == 1 else Path("latent-map.png")
    save_map(path, maps, names)
    return path
