"""A comparison of runs: everything that its page, table or picture shows, gathered under one protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limner import models
from limner.edit.interpolate import interpolate
from limner.errors import UserError
from limner.metrics import neighbours
from limner.metrics.bench import Bench
from limner.metrics.evaluate import measure, open_bench
from limner.metrics.features import Extractor, to_bytes
from limner.metrics.figure import Evaluation, Figure, floor_of
from limner.metrics.model_bench import ModelBench
from limner.metrics.registry import METRICS
from limner.report.words import Statement, separated, statements

HEROES = 24
"""Samples shown of each run."""
ROW = 10
"""Images in a row of reconstructions and neighbours."""
WALKS, STEPS = 4, 9
"""Interpolations shown of each run, and images in each."""
POINTS = 300
"""Points of a curve: more are not seen, and make the page heavy."""


@dataclass
class Pictures:
    """What a run shows. All uint8 (..., H, W, C) of 256 grey levels; None where the run has nothing to show, and why in `missing`."""

    samples: np.ndarray | None = None
    """(24, H, W, C), of the same seeds for every run."""
    neighbours: np.ndarray | None = None
    """(10, H, W, C), the training image nearest to each of the first samples."""
    copies: np.ndarray | None = None
    """(24 or 10, H, W, C), reconstructions of the same held-out images for every run; 10 where each takes a search."""
    walk: np.ndarray | None = None
    """(4, 9, H, W, C)."""
    copies_how: str = ""
    walk_how: str = ""
    missing: dict[str, str] = field(default_factory=dict)


@dataclass
class Complaint:
    """A verdict on the health of a training, and when it held."""

    headline: str
    evidence: str
    """As it was said last."""
    advice: str
    since: int
    until: int
    """Training images seen when it was first and last said."""
    lasting: bool
    """Whether it held when training ended."""


@dataclass(eq=False)
class Run:
    """One of the models compared."""

    index: int
    """Its place among them, which decides its colour."""
    label: str
    """Its model's name, or its folder's where a name stands twice."""
    title: str
    family: str
    paper: str
    folder: str
    evaluation: Evaluation
    pictures: Pictures
    curves: dict[str, tuple[list[float], list[float]]]
    """By name of the loss: training images seen, and the loss."""
    health: list[Complaint] = field(default_factory=list)
    """What was wrong during training, in the order it was first said."""

    def figure(self, name: str) -> Figure | None:
        """The figure of this name, if it has one."""
        return self.evaluation.figures.get(name)


@dataclass
class Comparison:
    """Runs measured on the same data under the same protocols."""

    runs: list[Run]
    data: dict[str, Any]
    held_out: np.ndarray
    """(24, H, W, C) uint8."""
    metrics: list[str]
    """Those that at least one run has, in the order of a table."""
    protocols: dict[str, str]
    best: dict[str, list[str]]
    """By metric: the labels of the best run and of those that its spread does not tell from it; empty where all are alike."""
    statements: list[Statement]

    def of_topics(self, topics: Sequence[str]) -> list[str]:
        """The metrics of these topics."""
        return [m for m in self.metrics if METRICS[m].topic in topics]

    def real(self) -> dict[str, Figure]:
        """By metric: what real images reach, where that is a question."""
        found = {}
        for m in self.metrics:
            f = next((f for run in self.runs if (f := run.figure(m)) is not None and f.floor is not None), None)
            if f is not None:
                found[m] = floor_of(f)
        return found


def gather(
    runs: Sequence[Any],
    *,
    data: Any = None,
    n: int = 1000,
    budget: float | None = None,
    seed: int = 0,
    batch: int = 64,
    device: str = "cpu",
    extractor: Callable[[Bench], Extractor] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Measure all runs under one protocol and collect what there is to show. See `limner.report.compare.compare`.

    Raises:
        UserError: a run cannot be read, or the runs are of unlike data.
    """
    if not runs:
        raise UserError("name at least one run to compare")
    arguments: dict[str, Any] = {"n": n, "batch": batch, "seed": seed, "device": device, "extractor": extractor}
    benches = [open_bench(r, data=data, **arguments) for r in runs]
    check_same_data([(str(folder or name), bench) for bench, folder, name, _ in benches])
    if budget is not None:
        counts = [bench.fit(budget) for bench, *_ in benches]
        for bench, *_ in benches:
            bench.limit(min(n for n, _ in counts), min(m for _, m in counts))  # one number for all, that of the slowest
    evaluations = []
    for bench, folder, name, weights in benches:
        bench.say = _prefixed(say, name)
        evaluations.append(measure(bench, name, weights, folder=folder))
    check_same_protocols(evaluations)
    names = [name for _, _, name, _ in benches]
    columns: list[Run] = []
    for (bench, folder, name, _), evaluation in zip(benches, evaluations, strict=True):
        label = name if names.count(name) == 1 or folder is None else folder.name
        entry = models.catalogue().get(name)
        title, family, paper = (entry.title, entry.family, entry.paper) if entry else (name, "", "")
        say(f"{name}: pictures")
        columns.append(
            Run(
                len(columns),
                label,
                title,
                family,
                paper,
                str(folder or ""),
                evaluation,
                pictures(bench),
                curves(bench.stats),
                complaints(bench.stats),
            )
        )
    metrics = [m for m in METRICS if any(m in e.figures for e in evaluations)]
    shown = {m: next(e.figures[m].protocol for e in evaluations if m in e.figures) for m in metrics}
    best = {m: winners(columns, m) for m in metrics if METRICS[m].better}
    held_out = benches[0][0].held_out_bytes(HEROES).numpy()
    return Comparison(
        columns,
        evaluations[0].data,
        held_out,
        metrics,
        {m: p for m, p in shown.items() if p},
        best,
        statements(columns),
    )


def _prefixed(say: Callable[[str], None], name: str) -> Callable[[str], None]:
    return lambda line: say(f"{name}: {line}")


def check_same_data(benches: Sequence[tuple[str, ModelBench]]) -> None:
    """Raise a UserError that says what differs, unless all are measured on the same held-out images."""
    first_name, first = benches[0]
    for name, bench in benches[1:]:
        a, b = first.test, bench.test
        if tuple(a.images.shape[1:]) != tuple(b.images.shape[1:]):
            what = f"images of {a.size}x{a.size} with {a.channels} channels and of {b.size}x{b.size} with {b.channels}"
        elif a.levels != b.levels:
            what = f"images of {a.levels} and of {b.levels} grey levels"
        elif a.fingerprint != b.fingerprint:
            what = f"unlike held-out images ({a.name} {a.fingerprint[:12]} and {b.name} {b.fingerprint[:12]})"
        else:
            continue
        raise UserError(
            f"'{first_name}' and '{name}' cannot stand in one table: they are of {what}; compare runs of the same data"
        )


def check_same_protocols(evaluations: Sequence[Evaluation]) -> None:
    """Raise a UserError that names the figure and both protocols, unless figures of one name share their protocol."""
    seen: dict[str, tuple[str, str]] = {}
    for evaluation in evaluations:
        for name, f in evaluation.figures.items():
            other, protocol = seen.setdefault(name, (evaluation.model, f.protocol))
            if protocol != f.protocol:
                raise UserError(
                    f"{METRICS[name].title} of '{other}' and '{evaluation.model}' cannot stand in one column: "
                    f"measured by unlike protocols ({protocol}; {f.protocol}); evaluate them again together"
                )


def winners(runs: Sequence[Run], metric: str) -> list[str]:
    """Labels of the best run by this metric and of those not told from it; none where all are alike or only one has the figure."""
    figures = [(run.label, run.figure(metric)) for run in runs]
    having = [(label, f) for label, f in figures if f is not None and not math.isnan(f.value)]
    if len(having) < 2:
        return []
    sign = 1 if METRICS[metric].better == "lower" else -1
    best = min((f for _, f in having), key=lambda f: sign * f.value)
    tied = [label for label, f in having if f is best or not separated(f, best)]
    return tied if len(tied) < len(having) else []


def pictures(bench: ModelBench) -> Pictures:
    """What the model on the bench has to show."""
    shown, levels = Pictures(), bench.test.levels
    rows = min(ROW, bench.n)
    if bench.can("sample"):
        samples = to_bytes(bench.draw(min(HEROES, bench.n)), levels)
        shown.samples = samples.numpy()
        found = neighbours.nearest(samples[:rows], bench.training_bytes)
        shown.neighbours = bench.training_bytes[found.nearest].numpy()
    else:
        shown.missing["samples"] = "It draws no new images."
    if bench.can("reconstruct"):
        shown.copies = bench.copies(min(HEROES, bench.n)).numpy()
        shown.copies_how = "through the model and back"
    elif bench.can("decode"):
        shown.copies = bench.found(rows).numpy()
        shown.copies_how = "found by latent search: it has no encoder"
    else:
        shown.missing["copies"] = "it has no latent that stands for an image"
    try:
        ends = bench.held_out(min(2 * WALKS, bench.n // 2 * 2))["image"].to(bench.device)
        walk = interpolate(bench.model, images=ends, pairs=WALKS, steps=STEPS, generator=bench.seed)
        shown.walk = to_bytes(walk.images.flatten(0, 1).cpu(), levels).unflatten(0, walk.images.shape[:2]).numpy()
        shown.walk_how = walk.how
    except UserError as error:
        shown.missing["walk"] = str(error)
    return shown


def complaints(stats: Sequence[Mapping[str, Any]]) -> list[Complaint]:
    """The verdicts of a training log, one a name."""
    found: dict[str, Complaint] = {}
    for line in stats:
        for verdict in line.get("health", ()):
            images = int(line.get("images", 0))
            first = found[verdict["name"]].since if verdict["name"] in found else images
            found[verdict["name"]] = Complaint(
                verdict["headline"], verdict["evidence"], verdict["advice"], first, images, line is stats[-1]
            )
    return list(found.values())


def curves(stats: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """The losses of a training log by name, against images seen; means of neighbours where there are more than 300 lines."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in stats:
        for key, value in line.items():
            if key.startswith("loss/") and "images" in line and math.isfinite(value):
                found.setdefault(key.removeprefix("loss/"), []).append((float(line["images"]), float(value)))
    thinned = {}
    for name, points in found.items():
        parts = np.array_split(np.array(points), min(len(points), POINTS))
        means = [part.mean(0) for part in parts]
        thinned[name] = ([float(x) for x, _ in means], [float(y) for _, y in means])
    return thinned
