"""Numbers as a reader wants them: no more digits than their spread allows, and units that fit their size."""

from __future__ import annotations

import math

from limner.metrics.figure import Figure

NARROW = " "


def figure(f: Figure, unit: str = "", *, spread: bool = True) -> str:
    """A figure as text, with its standard error where it has one."""
    if f.name in ("seconds_batch", "seconds_one", "train_seconds"):
        return seconds(f.value)
    if f.name in ("parameters", "train_images"):
        return count(f.value)
    if f.name == "as_asked":
        text = f"{100 * f.value:.0f} %"
        return f"{text} ± {100 * f.error:.0f}" if spread and f.error else text
    text = value(f.value, f.error)
    if spread and f.error:
        text += f" ± {value(f.error, f.error)}"
    return f"{text} {unit}" if unit and math.isfinite(f.value) else text


def value(x: float, error: float | None = None) -> str:
    """x with as many decimals as give its error two digits (one from 3 up); three digits where there is no error."""
    if not math.isfinite(x):
        return "∞" if x > 0 else "–" if math.isnan(x) else "-∞"
    if error and math.isfinite(error):
        lead = math.floor(math.log10(error))
        decimals = -lead + (1 if error / 10**lead < 3 else 0)
    else:
        decimals = 2 - math.floor(math.log10(abs(x))) if x else 2
    return f"{x:.{min(max(decimals, 0), 6)}f}".replace("-", "−")


def seconds(s: float) -> str:
    """A length of time: 35 µs, 4.2 ms, 1.5 s, 3 min 05 s, 2 h 10 min."""
    if not math.isfinite(s):
        return "–"
    if s >= 3600:
        return f"{int(s // 3600)} h {int(s % 3600 // 60):02d} min"
    if s >= 100:
        return f"{int(s // 60)} min {int(s % 60):02d} s"
    scaled, unit = next(
        ((s * k, u) for k, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if s * k >= 0.995), (s * 1e6, "µs")
    )
    return f"{scaled:.2g} {unit}" if scaled < 99.5 else f"{scaled:.0f} {unit}"


def count(n: float) -> str:
    """A count: 950, 12 k, 3.4 M, 1.2 G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {letter}"
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
