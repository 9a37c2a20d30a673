"""Where in an image a model finds it strange: heat maps and the picture that shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure as Canvas
from torch import Tensor

from limner.capabilities import Predicts, Reconstructs
from limner.data.grid import to_uint8
from limner.files import replacing
from limner.losses.logistic import levels_of

SMOOTHING = 1 / 28
"""Standard deviation of the blur, as a share of the image's side: one pixel of 28."""
COLOURS = "inferno"


class Heat(NamedTuple):
    """Heat maps of some images."""

    heat: Tensor
    """(B, H, W), not negative for errors. The sum over an image is its mean squared error, or its bits per dimension."""
    copies: Tensor | None
    """(B, C, H, W), the reconstructions that were compared with; None where there are none."""
    what: str
    """For a caption."""


@torch.no_grad()
def heat_map(model: Any, image: Tensor) -> Heat | None:
    """Where a model finds images (B, C, H, W) strange; None for a model that can say nothing of single pixels.

    The squared error of the reconstruction at each pixel, or for a model that predicts pixel by pixel the bits that each takes.
    Blurred, since a single pixel says little; the blur moves heat and neither makes nor loses any.
    """
    if isinstance(model, Reconstructs):
        copies = model.reconstruct(image)
        heat, what = (image - copies).square().sum(1), "squared error of the reconstruction"
    elif isinstance(model, Predicts):
        copies, heat, what = None, surprise(model, image), "bits of each pixel"
    else:
        return None
    return Heat(blur(heat / image[0].numel(), SMOOTHING * image.shape[-1]), copies, what)


def surprise(model: Predicts, image: Tensor) -> Tensor:
    """(B, H, W) bits that each pixel takes given those before it, over all channels: the model is told the image value by value."""
    values = levels_of(image, model.config.levels).permute(0, 2, 3, 1)  # type: ignore[attr-defined]  # (B, H, W, C), raster order
    bits = torch.zeros(values.shape, dtype=torch.float64, device=image.device)
    rows, told = torch.arange(len(image), device=image.device), model.predict(len(image))
    logits = next(told)
    sequence = values.flatten(1).long().unbind(1)
    for i, value in enumerate(sequence):
        bits.flatten(1)[:, i] = -torch.log_softmax(logits.double(), dim=1)[rows, value] / math.log(2)
        if i + 1 < len(sequence):
            logits = told.send(value)
    told.close()
    return bits.sum(3)


def blur(heat: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of maps (B, H, W) by `sigma` pixels. What would leave a map at its edge stays in it: sums do not change."""

    def spread(n: int) -> Tensor:
        i = torch.arange(n, dtype=heat.dtype, device=heat.device)
        weights = torch.exp(-((i[:, None] - i) ** 2) / (2 * sigma**2))
        return weights / weights.sum(0)  # column j: where the heat of pixel j goes

    _, height, width = heat.shape
    return spread(height) @ heat @ spread(width).T


def overlay(image: Tensor, heat: Tensor, hottest: float) -> np.ndarray:
    """uint8 (B, H, W, 3): the images in grey, the more covered by colour the hotter; `hottest` and above are covered most."""
    grey = to_uint8(image.mean(1, keepdim=True))[..., :1] / 255.0
    share = (heat / max(hottest, 1e-12)).clamp(0, 1).cpu().double().numpy()
    colour = matplotlib.colormaps[COLOURS](share)[..., :3]
    cover = 0.85 * np.sqrt(share)[..., None]
    return np.round(255 * ((1 - cover) * grey + cover * colour)).astype(np.uint8)


class Strip(NamedTuple):
    """A row of images to show, with what is to be said of each."""

    title: str
    images: Tensor
    words: Sequence[str]


def picture(model: Any, strips: Sequence[Strip], path: Path) -> None:
    """Write strips of images, each above its reconstruction (where there is one) and its heat map, on one scale of heat.

    Raises:
        UserError: the file cannot be written.
    """
    found = [heat_map(model, strip.images.to(model.device)) for strip in strips]
    maps = (
        torch.cat([one.heat.flatten() for one in found if one is not None]) if found[0] is not None else torch.zeros(1)
    )
    hottest = float(torch.quantile(maps.double().cpu()[:: 1 + len(maps) // 1_000_000], 0.998))
    columns = max(len(strip.images) for strip in strips)
    shown: list[tuple[str, list[tuple[str, np.ndarray]], Sequence[str]]] = []
    for strip, one in zip(strips, found, strict=True):
        rows = [("image", to_uint8(strip.images))]
        if one is not None:
            rows += [("reconstruction", to_uint8(one.copies))] if one.copies is not None else []
            rows += [("heat", overlay(strip.images, one.heat.cpu(), hottest))]
        shown.append((strip.title, rows, strip.words))
    heights = [h for _, rows, _ in shown for h in (0.55, *[1.0] * len(rows))]
    canvas = Canvas(figsize=(0.9 + 0.9 * columns, 0.9 * sum(heights) + 0.35), dpi=110)
    layout = canvas.add_gridspec(
        len(heights), columns, height_ratios=heights, left=0.9 / (0.9 + 0.9 * columns), right=0.995, top=0.995,
        bottom=0.35 / (0.9 * sum(heights) + 0.35), wspace=0.04, hspace=0.04,
    )  # fmt: skip
    row = 0
    for title, rows, words in shown:
        head = canvas.add_subplot(layout[row, :])
        head.axis("off")
        head.text(0, 0.62, title, fontsize=10, weight="bold", va="center", transform=head.transAxes)
        for column, text in enumerate(words):
            x = (column + 0.5) / columns
            head.text(x, 0.02, text, fontsize=6.5, ha="center", va="bottom", color="#444444", transform=head.transAxes)
        row += 1
        for name, images in rows:
            for column, image in enumerate(images):
                axes = canvas.add_subplot(layout[row, column])
                flat = image[..., 0] if image.shape[-1] == 1 else image
                axes.imshow(flat, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
                axes.set_xticks([])
                axes.set_yticks([])
                for side in axes.spines.values():
                    side.set_visible(False)
                if column == 0:
                    axes.set_ylabel(name, fontsize=7, color="#444444")
            row += 1
    if found[0] is not None:
        canvas.text(0.01, 0.012, f"heat: {found[0].what}, blurred; one scale for all", fontsize=7, color="#444444")
    with replacing(path) as temporary:
        canvas.savefig(temporary, format="png", facecolor="white")
