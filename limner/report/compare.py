"""`limner compare`: runs side by side on one self-contained page, or as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from limner.errors import UserError
from limner.files import make_folder, write_atomically
from limner.metrics.extractors import chooser
from limner.metrics.registry import METRICS
from limner.report import charts, numbers, table, words
from limner.report.comparison import ROW, STEPS, Comparison, Run, gather
from limner.report.images import data_uri, mosaic
from limner.version import __version__

TOPICS = {
    "How like real images are the samples?": ("quality",),
    "How varied are they, and how new?": ("variety",),
    "How well is a real image known, and what lies between two?": ("likelihood", "reconstruction", "continuity"),
    "How short are its codes, and does it translate?": ("codes", "translation"),
    "What does it cost?": ("cost",),
}
"""The tables of the page: what each answers, and with which metrics."""


def compare(
    runs: Sequence[Any],
    out: str | Path = "report.html",
    *,
    data: Any = None,
    n: int = 1000,
    budget: float | None = None,
    seed: int = 0,
    batch: int = 64,
    device: str = "cpu",
    features: str | None = None,
    weights: str | None = None,
    protocol: str | None = None,
    format: Literal["html", "markdown", "json", "latex"] = "html",
    title: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Path | str:
    """Compare trained models of the same data under one protocol.

    Args:
        runs: run folders (paths or `RunFolder`), or models; models need `data`.
        out: the page to write.
        data: a `DataConfig`, or a pair (train, test) of data sets. Default: each run's own, which must be the same.
        n: samples to draw of each, and held-out images to compare them with, score and reconstruct; fewer where the data hold out
            fewer.
        budget: seconds that each of drawing, scoring and reconstructing may take a run; the number of images is halved, for all
            runs alike, until the slowest fits (not below 32).
        seed: of the samples and the choice of held-out images.
        batch: images drawn at once.
        device: where to compute: cpu, cuda, auto ...
        features, weights, protocol: what distances are measured in, as in `limner.evaluate`.
        format: "html" writes the page and returns its path; "markdown", "json" and "latex" return the text.
        title: of the page.
        say: called with a line whenever something long begins.

    Raises:
        UserError: a run cannot be read, the runs are of unlike data, or the page cannot be written.
    """
    if format not in ("html", *table.FORMATS):
        raise UserError(f"--format {format}: choose html, {', '.join(table.FORMATS)}")
    extractor = chooser(features, weights=weights, protocol=protocol, device=device)
    comparison = gather(
        runs, data=data, n=n, budget=budget, seed=seed, batch=batch, device=device, extractor=extractor, say=say
    )
    if format != "html":
        return table.FORMATS[format](comparison)
    return write_page(comparison, out, title=title)


def write_page(comparison: Comparison, out: str | Path, *, title: str = "") -> Path:
    """Write a comparison as one HTML file that needs nothing else, and return its path."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("limner.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        count=numbers.count, strip=strip, hero=hero, two_rows=two_rows, number=numbers.figure, spread=numbers.spread_of
    )
    data = comparison.data
    page = environment.get_template("report.html.j2").render(
        c=comparison,
        title=title or default_title(comparison.runs, data["name"]),
        metrics=METRICS,
        real=comparison.real(),
        headlines=words.headlines(comparison.runs, comparison.best),
        colours=[charts.colour(run.index) for run in comparison.runs],
        scatter=charts.scatter(comparison.runs),
        plane=charts.precision_recall(comparison.runs),
        topics=TOPICS,
        together=table.together,
        losses=[charts.losses(run) for run in comparison.runs],
        steps=STEPS,
        row=ROW,
        today=date.today().isoformat(),
        version=__version__,
    )
    out = Path(out)
    make_folder(out.parent)
    write_atomically(out, page)
    return out


def default_title(runs: Sequence[Run], data: str) -> str:
    """What the page is called: how many models or families, on what."""
    families = {run.family for run in runs}
    words_for = {1: "One", 2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six", 7: "Seven", 8: "Eight", 9: "Nine"}
    what = "ways to paint" if len(families) > 1 else "models of"
    what = what if len(runs) > 1 else {"ways to paint": "way to paint"}.get(what, "model of")
    return f"{words_for.get(len(runs), len(runs))} {what} {data}"


def hero(images: np.ndarray, columns: int = 6) -> str:
    """Samples in rows of six, as a data URI."""
    return data_uri(mosaic(images, columns))


def strip(images: np.ndarray) -> str:
    """Images in one row, as a data URI."""
    return data_uri(mosaic(images, len(images)))


def two_rows(above: np.ndarray, below: np.ndarray) -> str:
    """One row of images above another, as a data URI."""
    count = min(len(above), len(below))
    return data_uri(mosaic(np.concatenate([above[:count], below[:count]]), count))
