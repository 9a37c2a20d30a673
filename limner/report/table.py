"""Figures as tables: in the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from limner.metrics.figure import Evaluation, floor_of
from limner.metrics.registry import METRICS
from limner.report import numbers

if TYPE_CHECKING:
    from limner.report.comparison import Comparison


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    """One model's figures for the terminal, with their floors; below, the protocols, and what does not apply and why."""
    data = evaluation.data
    title = f"{evaluation.model} on {data['name']}, {data['height']}x{data['width']}, weights {evaluation.weights}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("figure", "value", "real images", ""):
        table.add_column(column, justify="left" if column in ("figure", "") else "right")
    lines: list[Text] = []
    for name, f in evaluation.figures.items():
        metric = METRICS[name]
        floor = "" if f.floor is None else numbers.figure(floor_of(f), metric.unit)
        table.add_row(metric.title, numbers.figure(f, metric.unit), floor, f.note)
        if f.protocol:
            lines.append(Text(f"  {metric.title}: {f.protocol}", style="dim"))
    lines = [Text("Protocols"), *lines, Text("Not measured")] if evaluation.skipped else [Text("Protocols"), *lines]
    lines += [Text(f"  {METRICS[name].title}: {why}", style="dim") for name, why in evaluation.skipped.items()]
    return Group(table, *lines)


def markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table, the statements below it, and the protocols."""
    names = comparison.metrics
    head = [
        "model",
        *(
            METRICS[m].title + (" ↓" * (METRICS[m].better == "lower")) + (" ↑" * (METRICS[m].better == "higher"))
            for m in names
        ),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    real = comparison.real()
    if real:
        cells = [numbers.figure(real[m], METRICS[m].unit) if m in real else "" for m in names]
        lines.append("| " + " | ".join(["*real images*", *cells]) + " |")
    for run in comparison.runs:
        cells = []
        for m in names:
            f = run.evaluation.figures.get(m)
            text = "–" if f is None else numbers.figure(f, METRICS[m].unit)
            note = f" ({f.note})" if f is not None and f.note and m in ("bits_per_dim", "psnr") else ""
            cells.append(f"**{text}**{note}" if run.label in comparison.best.get(m, ()) else text + note)
        lines.append("| " + " | ".join([run.label, *cells]) + " |")
    lines += ["", *(f"- **{s.title}** {s.text}" for s in comparison.statements), "", "Protocols:", ""]
    lines += [f"- {METRICS[m].title}: {p}" for m, p in comparison.protocols.items()]
    return "\n".join(lines)


def as_json(comparison: Comparison) -> str:
    """The comparison as JSON: the data, every run's evaluation, who is best by what, and the statements."""
    document = {
        "data": comparison.data,
        "runs": {run.label: json.loads(run.evaluation.to_json()) for run in comparison.runs},
        "best": {m: list(labels) for m, labels in comparison.best.items()},
        "protocols": comparison.protocols,
        "statements": [asdict(s) for s in comparison.statements],
    }
    return json.dumps(document, indent=2)
