"""Figures as tables: in the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.table import Table

from limner.metrics.figure import Evaluation, Figure
from limner.metrics.registry import METRICS
from limner.report import numbers

if TYPE_CHECKING:
    from limner.report.comparison import Comparison


def evaluation_table(evaluation: Evaluation) -> Table:
    """One model's figures for the terminal, each with its floor and protocol; below, what does not apply and why."""
    data = evaluation.data
    title = f"{evaluation.model} on {data['name']}, {data['height']}x{data['width']}, weights {evaluation.weights}"
    table = Table(title=title, title_justify="left")
    for column in ("figure", "value", "real images", "", "protocol"):
        table.add_column(column, overflow="fold")
    for name, f in evaluation.figures.items():
        metric = METRICS[name]
        floor = "" if f.floor is None else numbers.figure(floor_of(f), metric.unit)
        table.add_row(metric.title, numbers.figure(f, metric.unit), floor, f.note, f.protocol)
    for name, why in evaluation.skipped.items():
        table.add_row(METRICS[name].title, "–", "", why, "", style="dim")
    return table


def floor_of(f: Figure) -> Figure:
    """The floor of a figure as a figure of its own."""
    return replace(f, value=f.floor, error=f.floor_error)


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
