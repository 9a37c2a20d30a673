"""Numbers as a reader wants them: no more digits than their spread allows, and units that fit their size."""

from __future__ import annotations

import math

from limner.metrics.figure import Figure

SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit: no line ends there."""


def figure(f: Figure, unit: str = "", *, spread: bool = True) -> str:
    """A figure as text, with its standard error where it has one."""
    if f.name in ("seconds_batch", "seconds_one", "train_seconds"):
        return seconds(f.value)
    if f.name in ("parameters", "train_images"):
        return count(f.value)
    if f.name.startswith("psnr") and f.value == math.inf:
        return "exact"
    text = f"{100 * f.value:.0f}{SPACE}%" if f.name == "as_asked" else value(f.value, f.error)
    if spread and (error := spread_of(f)):
        text += f"{SPACE}±{SPACE}{error}"
    return f"{text}{SPACE}{unit}" if unit and math.isfinite(f.value) else text


def spread_of(f: Figure) -> str:
    """The standard error of a figure as text; "" where it has none, or where it is of a time and says little."""
    if not f.error or not math.isfinite(f.error) or f.name.startswith("seconds"):
        return ""
    return f"{100 * f.error:.0f}{SPACE}%" if f.name == "as_asked" else value(f.error, f.error)


def value(x: float, error: float | None = None) -> str:
    """x with as many decimals as give its error two digits (one from 3 up); three digits where there is no error."""
    if not math.isfinite(x):
        return "∞" if x > 0 else "–" if math.isnan(x) else "-∞"
    if error and math.isfinite(error):
        lead = math.floor(math.log10(error))
        decimals = -lead + (1 if error / 10**lead < 2.95 else 0)
    else:
        decimals = 2 - math.floor(math.log10(abs(x))) if x else 2
    return f"{x:.{min(max(decimals, 0), 6)}f}".replace("-", "−")


def seconds(s: float) -> str:
    """A length of time: 35 µs, 4.2 ms, 1.5 s, 3 min 05 s, 2 h 10 min."""
    if not math.isfinite(s):
        return "–"
    if s >= 3600:
        text = f"{int(s // 3600)} h {int(s % 3600 // 60):02d} min"
    elif s >= 100:
        text = f"{int(s // 60)} min {int(s % 60):02d} s"
    else:
        units = ((1, "s"), (1e3, "ms"), (1e6, "µs"))
        x, unit = next(((s * k, u) for k, u in units if s * k >= 0.995), (s * 1e6, "µs"))
        text = f"{x:.2g} {unit}" if x < 99.5 else f"{x:.0f} {unit}"
    return text.replace(" ", SPACE)


def count(n: float) -> str:
    """A count: 950, 12 k, 3.4 M, 1.2 G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{SPACE}{letter}"
    return f"{n:.0f}"


def times(ratio: float) -> str:
    """A ratio in words: 1.4 times, 23 times, 1,300 times."""
    if ratio < 10:
        return f"{ratio:.1f} times"
    digits = 2 - len(str(int(ratio)))
    return f"{round(ratio, digits):,.0f} times"


def listing(names: list[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
