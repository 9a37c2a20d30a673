"""The comparison in words. Every statement is worked out from the figures; a difference that the spread explains is not stated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limner.metrics.figure import Figure
from limner.report.numbers import count, figure, listing, seconds, times, value

if TYPE_CHECKING:
    from limner.report.comparison import Run

NOTABLE = 1.5
"""Ratio from which a difference in time or size is worth a sentence."""
REPEATS = 0.3
"""Novelty below which samples count as copies of training images."""


@dataclass(frozen=True)
class Statement:
    """One thing that the figures say."""

    topic: str
    """quality, trade, variety, likelihood, reconstruction, speed or cost."""
    title: str
    """A few words, with a full stop or question mark."""
    text: str
    """A sentence or three."""


def separated(a: Figure, b: Figure) -> bool:
    """Whether two figures differ by more than twice the standard error of their difference."""
    if a.value == b.value:
        return False
    if not (math.isfinite(a.value) and math.isfinite(b.value)):
        return not (math.isnan(a.value) or math.isnan(b.value))
    return abs(a.value - b.value) > 2 * math.hypot(a.error or 0.0, b.error or 0.0)


def at_floor(f: Figure) -> bool:
    """Whether a figure is not told from what real images reach."""
    return f.floor is not None and abs(f.value - f.floor) <= 2 * math.hypot(f.error or 0.0, f.floor_error or 0.0)


def statements(runs: Sequence[Run]) -> list[Statement]:
    """All that the figures of these runs say, in the order of a reader's questions."""
    parts = (quality, trade_off, variety, likelihood, reconstruction, speed, cost)
    return [statement for part in parts if (statement := part(runs)) is not None]


def quality(runs: Sequence[Run]) -> Statement | None:
    """Whose samples are nearest to real images."""
    having = ranked(runs, "kid")
    if not having:
        return None
    (best, f), text = having[0], []
    if len(having) == 1:
        text.append(f"{best} is at a kernel distance of {figure(f)} from held-out images.")
    else:
        tied = [name for name, other in having[1:] if not separated(f, other)]
        if tied:
            text.append(
                f"{listing([best, *tied])} come closest to held-out images; the spread does not tell them apart ({figure(f)} for {best})."
            )
        else:
            text.append(f"{best} comes closest to held-out images, at a kernel distance of {figure(f)}.")
        rest = [(name, other) for name, other in having[1:] if name not in tied]
        if rest:
            text.append("After it" if not tied else "After them")
            text[-1] += (
                " "
                + ("comes " if len(rest) == 1 else "come ")
                + listing([f"{name} ({figure(other)})" for name, other in rest])
                + "."
            )
        last, g = having[-1]
        if f.value > 0 and rest and g.value / f.value >= NOTABLE:
            text.append(f"{last} is {times(g.value / f.value)} as far as {best}.")
    level = [name for name, other in having if at_floor(other)]
    floor = figure(Figure("kid", f.floor, "", f.floor_error)) if f.floor is not None else ""
    if level:
        text.append(f"Two sets of real images are {floor} apart, and {listing(level)} cannot be told from that.")
    elif floor:
        text.append(f"Two sets of real images are {floor} apart; no model here is that near.")
    if (novelty := next(r for r in runs if r.label == best).figure("novelty")) and novelty.value < REPEATS:
        text.append(f"But {best} repeats its training images (see Variety): nearness alone does not make a model.")
    return Statement("quality", "Closest to real images.", " ".join(text))


def trade_off(runs: Sequence[Run]) -> Statement | None:
    """Which runs are not beaten in both quality and speed, and what a step from one to the next costs."""
    both = [
        (r.label, r.figure("seconds_batch"), r.figure("kid"))
        for r in runs
        if r.figure("seconds_batch") and r.figure("kid")
    ]
    if len(both) < 2:
        return None
    front = [a for a in both if not any(_beats(b, a) for b in both)]
    front.sort(key=lambda a: a[1].value)
    text = []
    for (slow, t1, k1), (fast, t0, k0) in zip(front[1:], front[:-1], strict=True):
        if not separated(k1, k0) or t1.value / t0.value < NOTABLE:
            continue
        gain = (
            f"{times(k0.value / k1.value)} nearer to real images"
            if k0.value > k1.value > 0
            else f"nearer to real images (KID {figure(k1)} against {figure(k0)})"
        )
        text.append(f"{fast} draws an image {times(t1.value / t0.value)} as fast as {slow}, whose images are {gain}.")
    if len(front) == 1:
        text.append(f"{front[0][0]} is ahead of every other in both quality and speed.")
    behind: dict[str, list[str]] = {}
    for name, t, k in both:
        if ahead := [b[0] for b in front if _beats(b, (name, t, k))]:
            behind.setdefault(ahead[-1], []).append(name)
    if len(front) > 1:
        text += [
            f"{listing(names)} {'are' if len(names) > 1 else 'is'} both slower and farther from real images than {ahead}."
            for ahead, names in behind.items()
        ]
    return Statement("trade", "Quality against speed.", " ".join(text)) if text else None


def _beats(b: tuple[str, Figure, Figure], a: tuple[str, Figure, Figure]) -> bool:
    """Whether b is faster than a by a notable ratio and nearer to real images by more than the spread."""
    return b[1].value * NOTABLE < a[1].value and b[2].value < a[2].value and separated(b[2], a[2])


def variety(runs: Sequence[Run]) -> Statement | None:
    """Who draws fewer kinds of images than there are, and whose images look like copies."""
    having = [(r.label, f) for r in runs if (f := r.figure("classes")) and f.floor is not None]
    text = []
    if having:
        top = having[0][1]
        poor = sorted(((n, f) for n, f in having if f.value < f.floor and not at_floor(f)), key=lambda x: x[1].value)
        if poor:
            each = listing([f"{name} ({figure(f)})" for name, f in poor])
            text.append(
                f"A classifier finds {value(top.floor, top.floor_error)} equally frequent classes in real images; "
                f"fewer in the samples of {each}."
            )
            if (worst := poor[0])[1].value < 0.5 * worst[1].floor:
                text.append(f"{worst[0]} has collapsed onto a part of what there is.")
        else:
            text.append(
                f"All draw as many kinds of images as there are ({value(top.floor, top.floor_error)} equally frequent classes)."
            )
    copies = [(r.label, f) for r in runs if (f := r.figure("novelty")) and f.value < REPEATS]
    for name, f in copies:
        text.append(
            f"{name}'s samples lie at {value(f.value)} of the distance from the training images at which new images lie: it repeats them."
        )
    return Statement("variety", "Variety.", " ".join(text)) if text else None


def likelihood(runs: Sequence[Run]) -> Statement | None:
    """Who gives unseen images how much probability, and who cannot."""
    having = ranked(runs, "bits_per_dim")
    if not having:
        return None
    (best, f), text = having[0], []
    said = lambda g: f"{figure(g, spread=False)}, {g.note}" if g.note else figure(g, spread=False)  # noqa: E731
    text.append(
        f"{best} needs the fewest bits for each value of an unseen image: {figure(f, 'bits')} ({f.note})."
        if len(having) > 1
        else f"{best} needs {figure(f, 'bits')} ({f.note}) for each value of an unseen image."
    )
    if len(having) > 1:
        text.append("Then " + listing([f"{name} ({said(g)})" for name, g in having[1:]]) + ".")
    if any("bound" in g.note for _, g in having):
        text.append("A bound says: no more than that.")
    without = [r.label for r in runs if r.figure("bits_per_dim") is None]
    if without:
        text.append(f"{listing(without)} {'give' if len(without) > 1 else 'gives'} an image no probability at all.")
    return Statement("likelihood", "Probability of unseen images.", " ".join(text))


def reconstruction(runs: Sequence[Run]) -> Statement | None:
    """Who gives an image back, and how well."""
    having = ranked(runs, "psnr", higher=True)
    text = []
    perfect = [name for name, f in having if math.isinf(f.value)]
    if perfect:
        text.append(
            f"{listing(perfect)} {'give' if len(perfect) > 1 else 'gives'} every image back to the grey level: nothing is lost on the way."
        )
    others = [(name, f) for name, f in having if math.isfinite(f.value)]
    if others:
        each = listing([f"{name} {figure(f, 'dB', spread=False)}" for name, f in others])
        text.append(f"Through a bottleneck and back, {each.replace(' ', ' reaches ', 1)}.")
    searched = ranked(runs, "psnr_search", higher=True)
    if searched:
        names, found = (
            listing([name for name, _ in searched]),
            listing([figure(f, "dB", spread=False) for _, f in searched]),
        )
        has = "have" if len(searched) > 1 else "has"
        text.append(f"{names} {has} no encoder; the nearest images that a search of the latents finds are at {found}.")
    without = [r.label for r in runs if not r.figure("psnr") and not r.figure("psnr_search")]
    if text and without:
        text.append(f"{listing(without)} {'have' if len(without) > 1 else 'has'} no latent for an image.")
    return Statement("reconstruction", "Giving an image back.", " ".join(text)) if text else None


def speed(runs: Sequence[Run]) -> Statement | None:
    """Who draws how quickly, many at once and one alone."""
    having = ranked(runs, "seconds_batch")
    if len(having) < 2:
        return None
    (fast, f), (slow, g) = having[0], having[-1]
    if g.value / f.value < NOTABLE:
        return Statement(
            "speed",
            "Time for an image.",
            f"All draw about equally fast, {seconds(f.value)} to {seconds(g.value)} an image.",
        )
    text = [
        f"{fast} draws an image in {seconds(f.value)}, {slow} in {seconds(g.value)}: {times(g.value / f.value)} as long."
    ]
    alone = ranked(runs, "seconds_one")
    if alone:
        ratios = [(name, one.value / dict(having)[name].value) for name, one in alone if name in dict(having)]
        name, ratio = max(ratios, key=lambda x: x[1])
        if ratio >= 3:
            text.append(f"Drawn one alone instead of many at once, an image of {name} takes {times(ratio)} as long.")
    return Statement("speed", "Time for an image.", " ".join(text))


def cost(runs: Sequence[Run]) -> Statement | None:
    """What training took, and how large the models are."""
    text = []
    spent = ranked(runs, "train_seconds")
    if len(spent) > 1:
        (short, a), (long, b) = spent[0], spent[-1]
        if b.value / max(a.value, 1e-9) < NOTABLE:
            span = f"{seconds(a.value)} to {seconds(b.value)}"
            span = seconds(a.value) if seconds(a.value) == seconds(b.value) else span
            text.append(f"All were trained for about the same time ({span}).")
        else:
            text.append(
                f"Training took from {seconds(a.value)} ({short}) to {seconds(b.value)} ({long}): the figures above also reflect that."
            )
    sizes = ranked(runs, "parameters")
    if len(sizes) > 1 and sizes[-1][1].value / max(sizes[0][1].value, 1) >= NOTABLE:
        (small, a), (large, b) = sizes[0], sizes[-1]
        text.append(f"{small} has {count(a.value)} parameters, {large} {count(b.value)}.")
    return Statement("cost", "What it took.", " ".join(text)) if text else None


def ranked(runs: Sequence[Run], name: str, *, higher: bool = False) -> list[tuple[str, Figure]]:
    """(label, figure) of the runs that have this figure, best first."""
    having = [(r.label, f) for r in runs if (f := r.figure(name)) is not None and not math.isnan(f.value)]
    return sorted(having, key=lambda x: -x[1].value if higher else x[1].value)


def headlines(runs: Sequence[Run], best: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    """(question, who, figure) for the top of the page: the best of each kind, where there is one."""
    wanted = (
        ("kid", "Closest to real images", "KID"),
        ("seconds_batch", "Fastest", "an image"),
        ("bits_per_dim", "Best at predicting unseen images", "bits/dim"),
        ("psnr", "Most faithful copy", ""),
    )
    found = []
    for name, question, unit in wanted:
        if not best.get(name):
            continue
        by_label = {r.label: r.figure(name) for r in runs}
        f = by_label[best[name][0]]
        f = min((by_label[label] for label in best[name]), key=lambda x: x.value) if name != "psnr" else f
        if name == "psnr":
            detail = "to the grey level" if math.isinf(f.value) else figure(f, "dB", spread=False)
        else:
            text = figure(f, spread=False)
            detail = f"{unit} {text}" if unit == "KID" else f"{text} {unit}"
        found.append((question, listing(best[name]), detail))
    return found
