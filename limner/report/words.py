"""The comparison in words. Every statement is worked out from the figures; a difference that the spread explains is not stated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limner.metrics.figure import Figure, floor_of
from limner.metrics.registry import METRICS
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
    """quality, trade, both, variety, likelihood, reconstruction, continuity, speed or cost."""
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
    parts = (quality, trade_off, both, variety, likelihood, reconstruction, continuity, speed, cost, health)
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
    floor = figure(floor_of(f)) if f.floor is not None else ""
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
        (r.label, time, kid)
        for r in runs
        if (time := r.figure("seconds_batch")) is not None and (kid := r.figure("kid")) is not None
    ]
    if len(both) < 2:
        return None
    both.sort(key=lambda a: a[1].value)
    front, text = (
        both[:1],
        [],
    )  # from the fastest on, those that are better, by more than the spread, than the last one kept
    for slow in both[1:]:
        (a, t0, k0), (b, t1, k1) = front[-1], slow
        if k1.value < k0.value and separated(k1, k0) and t1.value >= NOTABLE * t0.value:
            front.append(slow)
            smaller = (
                f"{times(k0.value / k1.value)} smaller"
                if k1.value > 0
                else f"smaller ({figure(k1)} against {figure(k0)})"
            )
            faster = times(t1.value / t0.value)
            text.append(
                f"{a} draws an image {faster} as fast as {b}, whose kernel distance from real images is {smaller}."
            )
    if len(front) == 1 and all(_beats(front[0], other) for other in both[1:]):
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


def both(runs: Sequence[Run]) -> Statement | None:
    """Who is precise, who reaches more of the real images, and who pays for one with the other."""
    exact, wide = ranked(runs, "precision"), ranked(runs, "recall")
    if len(exact) < 2 or len(wide) < 2:
        return None
    (sharp, p), (broad, r) = exact[0], wide[0]
    text = []
    leading = leaders(exact), leaders(wide)
    if len(leading[0]) < len(exact):
        have = "have" if len(leading[0]) > 1 else "has"
        text.append(
            f"{listing(leading[0])} {have} the largest share of samples where real images are ({figure(p)} for {sharp})."
        )
    if len(leading[1]) < len(wide):
        reach = "reach" if len(leading[1]) > 1 else "reaches"
        text.append(f"{listing(leading[1])} {reach} the largest part of the real images ({figure(r)} for {broad}).")
    places = dict(wide)
    for name, f in exact:
        g, real = places.get(name), p.floor
        if g is not None and g.floor is not None and g.value < 0.5 * g.floor:
            text.append(
                f"{name} reaches less than half of what real images reach ({figure(g)}): few kinds of images, however good."
            )
        elif g is not None and real is not None and f.value < 0.5 * real and g.value > 0.5 * (g.floor or 1):
            text.append(f"{name} reaches far, but most of its samples lie where no real image is ({figure(f)}).")
    if not text:
        text.append("The spread tells none of them apart in precision or recall.")
    return Statement("both", "Precise or varied?", " ".join(text))


def continuity(runs: Sequence[Run]) -> Statement | None:
    """Whose latent space is smooth, and whose decoder does not listen to its code."""
    text = []
    having = ranked(runs, "path_length")
    if len(having) > 1:
        (smooth, f), (rough, g) = having[0], having[-1]
        if separated(f, g) and f.value > 0:
            text.append(
                f"A small step through the latents changes an image of {smooth} least, one of {rough} {times(g.value / f.value)} as much "
                f"({f.note}). Less is smoother, unless the images are all alike."
            )
        else:
            text.append("The spread tells none of the latent spaces apart in smoothness.")
    for name, units in ranked(runs, "active_units"):
        width = float(units.note.removeprefix("of ")) if units.note.startswith("of ") else math.nan
        if units.value == 0:
            text.append(f"No number of {name}'s code tells anything about the image: its posterior has collapsed.")
        elif units.value < 0.5 * width:
            text.append(f"Of the {width:.0f} numbers of {name}'s code {units.value:.0f} are in use.")
    for name, gap in ranked(runs, "posterior_gap"):
        if gap.floor is not None and gap.value > 2 * gap.floor + 2 * (gap.error or 0):
            far = f"{figure(gap, 'nats')} from the prior, where chance alone gives {value(gap.floor)}"
            text.append(
                f"{name}'s codes of real images are {far}: samples come from codes that it was rarely trained on."
            )
    return Statement("continuity", "The latent space.", " ".join(text)) if text else None


def leaders(having: Sequence[tuple[str, Figure]]) -> list[str]:
    """The first of ranked runs, and those that the spread does not tell from it."""
    return [name for name, f in having if f is having[0][1] or not separated(f, having[0][1])]


def variety(runs: Sequence[Run]) -> Statement | None:
    """Who draws fewer kinds of images than there are, and whose images look like copies."""
    text: list[str] = []
    having = [(r.label, f, floor_of(f)) for r in runs if (f := r.figure("classes")) is not None and f.floor is not None]
    if having:
        top = figure(having[0][2], spread=False)
        poor = sorted(
            ((n, f, real) for n, f, real in having if f.value < real.value and not at_floor(f)),
            key=lambda x: x[1].value,
        )
        if poor:
            each = listing([f"{name} ({figure(f)})" for name, f, _ in poor])
            text.append(
                f"A classifier finds {top} equally frequent classes in real images; fewer in the samples of {each}."
            )
            if gone := [name for name, f, real in poor if f.value < 0.5 * real.value]:
                leave = "leave" if len(gone) > 1 else "leaves"
                text.append(f"{listing(gone)} {leave} out most: collapsed, or not trained enough.")
        else:
            text.append(f"All draw as many kinds of images as there are ({top} equally frequent classes).")
    for r in runs:
        share = r.figure("copies")
        if share is not None and share.value > 0.05 and separated(share, floor_of(share)):
            text.append(f"{share.value:.0%} of {r.label}'s samples are copies of training images ({share.note}).")
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
    tied = [name for name, g in having[1:] if not separated(f, g)]
    if tied:
        start = f"{listing([best, *tied])} need the fewest bits for each value of an unseen image; the spread does not tell them apart"
        text.append(f"{start} ({best}: {figure(f, 'bits')}, {f.note}).")
    else:
        fewest = "the fewest bits" if len(having) > 1 else "this many bits"
        text.append(f"{best} needs {fewest} for each value of an unseen image: {figure(f, 'bits')} ({f.note}).")
    rest = [f"{name} ({figure(g, spread=False)}, {g.note})" for name, g in having[1:] if name not in tied]
    if rest:
        text.append(f"Then {listing(rest)}.")
    if any("bound" in g.note for _, g in having):
        text.append("A bound says: no more than that.")
    without = [r.label for r in runs if r.figure("bits_per_dim") is None]
    if without:
        text.append(f"{listing(without)} {'give' if len(without) > 1 else 'gives'} an image no probability at all.")
    return Statement("likelihood", "Probability of unseen images.", " ".join(text))


def reconstruction(runs: Sequence[Run]) -> Statement | None:
    """Who gives an image back, and how well."""
    having = ranked(runs, "psnr")
    text = []
    perfect = [name for name, f in having if math.isinf(f.value)]
    if perfect:
        text.append(
            f"{listing(perfect)} {'give' if len(perfect) > 1 else 'gives'} every image back to the grey level: nothing is lost on the way."
        )
    others = [(name, f) for name, f in having if math.isfinite(f.value)]
    if others:
        each = listing([f"{name} {figure(f, 'dB', spread=False)}" for name, f in others])
        text.append(f"There and back, {each.replace(' ', ' reaches ', 1)}.")
    searched = ranked(runs, "psnr_search")
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


def health(runs: Sequence[Run]) -> Statement | None:
    """Whose training ended with something wrong."""
    ill = [(r.label, [h.headline for h in r.health if h.lasting]) for r in runs]
    text = [f"{name}'s training ended with {listing(what)}." for name, what in ill if what]
    if not text:
        return None
    return Statement("cost", "Health.", " ".join([*text, "What to try stands below its curve."]))


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


def ranked(runs: Sequence[Run], name: str) -> list[tuple[str, Figure]]:
    """(label, figure) of the runs that have this figure, best first (smallest first where neither is better)."""
    higher = METRICS[name].better == "higher"
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
        by_label = dict(ranked(runs, name))
        f = next(f for label, f in by_label.items() if label in best[name])  # the first is the best
        if name == "psnr":
            detail = "exact, to the grey level" if math.isinf(f.value) else figure(f, "dB", spread=False)
        else:
            text = figure(f, spread=False)
            detail = f"{unit} {text}" if unit == "KID" else f"{text} {unit}"
        found.append((question, listing(best[name]), detail))
    return found
