"""Figures as tables: in the terminal, as Markdown, as JSON and as LaTeX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
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
    for name, f in evaluation.figures.items():
        metric = METRICS[name]
        floor = "" if f.floor is None else numbers.figure(floor_of(f), metric.unit)
        table.add_row(metric.title, numbers.figure(f, metric.unit), floor, f.note)
    protocols = {name: f.protocol for name, f in evaluation.figures.items() if f.protocol}
    lines: list[RenderableType] = [
        Text("Protocols"),
        *(Padding(Text(line, style="dim"), (0, 2)) for line in together(protocols)),
    ]
    if evaluation.skipped:
        lines += [
            Text("Not measured"),
            *(Padding(Text(line, style="dim"), (0, 2)) for line in together(evaluation.skipped)),
        ]
    return Group(table, *lines)


def together(texts: Mapping[str, str]) -> list[str]:
    """One line for all metrics of which the same is to be said: their titles, and what."""
    metrics: dict[str, list[str]] = {}
    for name, text in texts.items():
        metrics.setdefault(text, []).append(METRICS[name].title)
    return [f"{', '.join(titles)}: {text}" for text, titles in metrics.items()]


def evaluation_lines(evaluation: Evaluation, format: str) -> str:
    """One model's figures as a Markdown or LaTeX table, with their floors and protocols."""
    rows = []
    for name, f in evaluation.figures.items():
        metric = METRICS[name]
        floor = "" if f.floor is None else numbers.figure(floor_of(f), metric.unit)
        rows.append([metric.title, numbers.figure(f, metric.unit), floor, f.note, f.protocol])
    head = ["figure", "value", "real images", "note", "protocol"]
    if format == "latex":
        return latex_table([head, *rows], columns="lrrlp{6cm}")
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


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
            note = f" ({f.note})" if f is not None and f.note and METRICS[m].noted else ""
            cells.append(f"**{text}**{note}" if run.label in comparison.best.get(m, ()) else text + note)
        lines.append("| " + " | ".join([run.label, *cells]) + " |")
    lines += ["", *(f"- **{s.title}** {s.text}" for s in comparison.statements), "", "Protocols:", ""]
    lines += [f"- {line}" for line in together(comparison.protocols)]
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


def latex(comparison: Comparison) -> str:
    """The comparison as a LaTeX `tabular` (booktabs), the best in bold, the protocols as comments above it."""
    names = comparison.metrics
    arrows = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "": ""}
    head = ["Model", *(_tex(METRICS[m].title) + arrows[METRICS[m].better] for m in names)]
    rows = []
    if real := comparison.real():
        rows.append(
            ["real images", *(_tex(numbers.figure(real[m], METRICS[m].unit)) if m in real else "" for m in names)]
        )
    for run in comparison.runs:
        cells = [_tex(run.label)]
        for m in names:
            f = run.figure(m)
            text = "--" if f is None else _tex(("≤ " if "bound" in f.note else "") + numbers.figure(f, METRICS[m].unit))
            cells.append(rf"\textbf{{{text}}}" if run.label in comparison.best.get(m, ()) else text)
        rows.append(cells)
    comments = [f"% {line}" for line in together(comparison.protocols)]
    comments += [
        f"% {run.label}, {METRICS[m].title}: {f.note}"
        for run in comparison.runs
        for m in names
        if METRICS[m].noted and (f := run.figure(m)) is not None and f.note
    ]
    return "\n".join([*comments, latex_table([head, *rows], columns="l" + "r" * len(names), escaped=True)])


def latex_table(rows: list[list[str]], *, columns: str, escaped: bool = False) -> str:
    """Rows of cells, the first of them the head, as a LaTeX `tabular` that needs the package booktabs."""
    text = [[cell if escaped else _tex(cell) for cell in row] for row in rows]
    lines = [" & ".join(row) + r" \\" for row in text]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    special |= {
        "±": r"$\pm$",
        "≤": r"$\le$",
        "−": "$-$",
        "µ": r"$\mu$",
        "×": r"$\times$",
        "–": "--",
        "∞": r"$\infty$",
        "\u00a0": "~",
    }
    return "".join(special.get(c, c) for c in text)


FORMATS = {"markdown": markdown, "json": as_json, "latex": latex}
"""What a comparison can be printed as."""
