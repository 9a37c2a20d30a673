"""Charts of a comparison as inline SVG whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from limner.metrics.figure import floor_of
from limner.report import numbers
from limner.report.comparison import Run

COLOURS = ("#3b6fb6", "#c8553d", "#3d8f6e", "#9161a8", "#c28a1e", "#4c98a8", "#b0527f", "#6b7280")
"""By order of the runs; told apart by people who see few colours, too, since every mark is labelled."""
INK, FAINT, PAPER = "#010203", "#040506", "#070809"
"""Stand-ins, replaced by the page's CSS variables."""


def scatter(runs: Sequence[Run]) -> str:
    """Distance from held-out images against the time to draw an image; "" where fewer than two runs have both."""
    points = [
        (run.label, colour(run.index), time, kid)
        for run in runs
        if (time := run.figure("seconds_batch")) is not None and (kid := run.figure("kid")) is not None
    ]
    if len(points) < 2:
        return ""
    canvas, axes = _canvas(5.0, 3.6)
    positive = all(kid.value > 0 for *_, kid in points)
    axes.set_xscale("log")
    if positive and max(k.value for *_, k in points) / min(k.value for *_, k in points) > 8:
        axes.set_yscale("log")
    for _, c, time, kid in points:
        low = min(2 * (kid.error or 0), 0.9 * kid.value) if axes.get_yscale() == "log" else 2 * (kid.error or 0)
        axes.errorbar(time.value, kid.value, yerr=[[low], [2 * (kid.error or 0)]], color=c, lw=1.2, capsize=0)
        axes.plot(time.value, kid.value, "o", color=c, ms=8, mec=PAPER, mew=1.2)
    floor = points[0][3].floor
    if floor is not None and (floor > 0 or axes.get_yscale() == "linear"):
        axes.axhline(floor, color=FAINT, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            "real images",
            (1, floor),
            (-2, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=FAINT,
            fontsize=9,
        )
    axes.margins(0.14, 0.12)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: numbers.seconds(s)))
    axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time to draw an image →  slower")
    axes.set_ylabel("KID →  farther from real images")
    _label(canvas, axes, [(label, time.value, kid.value) for label, _, time, kid in points])
    return _svg(canvas, "scatter")


def precision_recall(runs: Sequence[Run]) -> str:
    """Precision against recall; "" where fewer than two runs have both."""
    points = [
        (run.label, colour(run.index), recall, precision)
        for run in runs
        if (recall := run.figure("recall")) is not None and (precision := run.figure("precision")) is not None
    ]
    if len(points) < 2:
        return ""
    canvas, axes = _canvas(5.0, 3.6)
    for _, c, recall, precision in points:
        bars = {"xerr": 2 * (recall.error or 0), "yerr": 2 * (precision.error or 0)}
        axes.errorbar(recall.value, precision.value, **bars, color=c, lw=1.2, capsize=0)
        axes.plot(recall.value, precision.value, "o", color=c, ms=8, mec=PAPER, mew=1.2)
    _, _, recall, precision = points[0]
    if recall.floor is not None and precision.floor is not None:
        axes.plot(recall.floor, precision.floor, "D", color=FAINT, ms=6, mec=PAPER, mew=1.2)
        points.append(("real images", FAINT, floor_of(recall), floor_of(precision)))
    axes.margins(0.16, 0.14)
    low, high = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(max(low[0], -0.05), min(low[1], 1.05))
    axes.set_ylim(max(high[0], -0.05), min(high[1], 1.05))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("recall →  more of the real images reached")
    axes.set_ylabel("precision →  more samples like real ones")
    _label(canvas, axes, [(label, recall.value, precision.value) for label, _, recall, precision in points])
    return _svg(canvas, "plane")


def _label(canvas: Any, axes: Any, points: Sequence[tuple[str, float, float]], size: float = 9.5) -> None:
    """Write a name beside each point, where it hides no other name and no point."""
    canvas.draw_without_rendering()  # fixes the layout, so that places in the picture are known
    scale = canvas.dpi / 72
    at = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale) for x, y in at]
    frame = canvas.bbox
    for (name, *point), (x, y) in sorted(zip(points, at, strict=True), key=lambda item: -item[1][1]):
        width, height = 0.66 * size * scale * len(name), 1.2 * size * scale
        choices = []
        for dx, dy in ((9, 3), (9, -12), (-9, 3), (-9, -12), (0, 10), (0, -19), (9, 16), (9, -25), (-9, 16), (-9, -25)):
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            left = x + dx * scale - {"left": 0, "right": width, "center": width / 2}[side]
            low = y + dy * scale
            box = (left, low, left + width, low + height)
            hidden = sum(_overlap(box, other) for other in taken)
            hidden += width * height - _overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1))
            choices.append((hidden, box, (dx, dy), side))
        _, box, offset, side = min(choices, key=lambda choice: choice[0])  # the first of equals
        taken.append(box)
        style = {"color": INK, "fontsize": size, "weight": "bold", "ha": side, "va": "bottom"}
        axes.annotate(name, point, offset, textcoords="offset points", **style, in_layout=False)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def losses(run: Run) -> str:
    """The losses of one run against training images seen; "" where there is no log."""
    if not run.curves:
        return ""
    canvas, axes = _canvas(3.6, 2.1)
    for k, (name, (x, y)) in enumerate(run.curves.items()):
        c = colour(run.index) if k == 0 else FAINT
        axes.plot(x, y, color=c, lw=0.7, alpha=0.35)
        axes.plot(x, smoothed(y), color=c, lw=1.6, label=name)
    if len(run.curves) > 1:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="best", handlelength=1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: numbers.count(v)))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(0.02, 0.08)
    values = [v for _, y in run.curves.values() for v in y[len(y) // 20 :]]
    if values:
        low, high = min(values), max(values)
        axes.set_ylim(
            low - 0.08 * (high - low or 1), high + 0.08 * (high - low or 1)
        )  # the first steps may lie far above
    return _svg(canvas, f"loss-{run.index}")


def colour(index: int) -> str:
    """The colour of the run with this index."""
    return COLOURS[index % len(COLOURS)]


def smoothed(y: Sequence[float]) -> list[float]:
    """Exponential moving average over about a fortieth of the values, without the start's bias."""
    keep = 1 - 1 / max(1.0, len(y) / 40)
    total = weight = 0.0
    out = []
    for value in y:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(total / weight)
    return out


def _canvas(width: float, height: float) -> tuple[Any, Any]:
    canvas = Canvas(figsize=(width, height), layout="constrained")
    canvas.patch.set_alpha(0)
    axes = canvas.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.grid(color=FAINT, alpha=0.22, lw=0.6)
    axes.xaxis.label.set_color(FAINT)
    axes.yaxis.label.set_color(FAINT)
    axes.xaxis.label.set_fontsize(9.5)
    axes.yaxis.label.set_fontsize(9.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.spines["bottom"].set_alpha(0.5)
    return canvas, axes


def _svg(canvas: Any, salt: str) -> str:
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # Ids are unique within a chart only; several stand on one page.
    text = re.sub(r'id="([^"]+)"', rf'id="{salt}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{salt}-", text)
    text = re.sub(
        r"font: ([^;\"]*?)(\d[\d.]*px) [^;\"]*", r"font-size: \2; font-family: inherit; font-weight: inherit", text
    )
    for stand_in, variable in ((INK, "var(--ink)"), (FAINT, "var(--soft)"), (PAPER, "var(--paper)")):
        text = text.replace(stand_in, variable)
    return re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
