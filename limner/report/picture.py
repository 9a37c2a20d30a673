"""The comparison as one static picture, for a README: a row of samples for each run, with its name and its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from limner.files import replacing
from limner.metrics.registry import METRICS
from limner.report import numbers
from limner.report.charts import colour
from limner.report.comparison import Comparison, Run
from limner.report.images import mosaic

COLUMN_HEADS = {
    "kid": "KID",
    "recall": "recall",
    "bits_per_dim": "bits/dim",
    "psnr": "PSNR",
    "seconds_batch": "per image",
}
"""The figures shown, by metric, and what stands above them."""
COLUMNS = 12
"""Images in a row."""
INK, SOFT, LINE = "#1f2328", "#6b6f76", "#e4e1da"
WIDTH, ROW, TOP = 11.0, 0.86, 0.55
"""Inches: of the picture, of a run's row, and of the head above the rows."""


def comparison_picture(comparison: Comparison, out: str | Path, *, dpi: int = 160) -> Path:
    """Write a PNG with twelve samples of each run (copies of held-out images where it draws none) beside its figures.

    Raises:
        UserError: the file cannot be written.
    """
    height = TOP + ROW * (len(comparison.runs) + 1) + 0.1
    canvas = Canvas(figsize=(WIDTH, height), facecolor="white")
    data = comparison.data
    for x, (name, head) in zip(FIGURES, COLUMN_HEADS.items(), strict=True):
        head = f"{head} {'↑' if METRICS[name].better == 'higher' else '↓'}"
        canvas.text(x, 1 - 0.34 / height, head, ha="right", fontsize=9, color=SOFT)
    canvas.text(LEFT, 1 - 0.34 / height, f"{data['name']}, {data['height']}×{data['width']}", fontsize=9, color=SOFT)
    _row(canvas, height, 0, "Real images", "held out", comparison.held_out, SOFT)
    y = 1 - (TOP + ROW / 2) / height
    for x, name in zip(FIGURES, COLUMN_HEADS, strict=True):
        if (floor := comparison.real().get(name)) is not None:
            text = numbers.value(floor.value, floor.error)
            canvas.text(x, y, text, ha="right", va="center", fontsize=10.5, color=SOFT)
    for i, run in enumerate(comparison.runs, start=1):
        shown = run.pictures.samples if run.pictures.samples is not None else run.pictures.copies
        what = run.family if run.pictures.samples is not None else f"{run.family}, copies"
        _row(canvas, height, i, run.label, what, shown, colour(run.index))
        y = 1 - (TOP + ROW * (i + 0.5)) / height
        for x, (text, best) in zip(FIGURES, _figures(comparison, run), strict=True):
            canvas.text(
                x, y, text, ha="right", va="center", fontsize=10.5, color=INK, weight="bold" if best else "normal"
            )
    out = Path(out)
    with replacing(out) as temporary:
        canvas.savefig(temporary, dpi=dpi, format="png", facecolor="white", metadata={"Software": None})
    return out


LEFT, IMAGES = 0.025, (0.155, 0.605)
FIGURES = (0.665, 0.735, 0.82, 0.9, 0.978)
"""Fractions of the width: names, the samples' left and right end, and the right ends of the columns of figures."""


def _row(canvas: Canvas, height: float, i: int, name: str, what: str, images: np.ndarray | None, dot: str) -> None:
    top = 1 - (TOP + ROW * i) / height
    middle = top - ROW / 2 / height
    if i:
        canvas.add_artist(Line2D([LEFT, 1 - LEFT], [top, top], color=LINE, lw=0.8))
    canvas.text(LEFT, middle + 0.04 / height, name, fontsize=12, weight="bold", color=INK if i else SOFT, va="bottom")
    canvas.text(LEFT, middle - 0.05 / height, what, fontsize=8.5, color=dot, va="top")
    if images is None:
        return
    strip = mosaic(images[:COLUMNS], COLUMNS)
    wide = (IMAGES[1] - IMAGES[0]) * WIDTH
    tall = min(wide * strip.height / strip.width, ROW - 0.14)
    wide = tall * strip.width / strip.height
    axes = canvas.add_axes((IMAGES[0], middle - tall / 2 / height, wide / WIDTH, tall / height))
    axes.imshow(strip, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _figures(comparison: Comparison, run: Run) -> list[tuple[str, bool]]:
    """Text of each of the four figures, and whether it is among the best."""
    found = []
    for name in COLUMN_HEADS:
        f = run.figure(name)
        if f is None:
            found.append(("–", False))
            continue
        text = numbers.figure(f, "dB" if name == "psnr" else "", spread=False)
        text = f"≤ {text}" if "bound" in f.note else text
        found.append((text, run.label in comparison.best.get(name, ())))
    return found
