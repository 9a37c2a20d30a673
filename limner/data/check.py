"""`limner data check`: read everything once and say what there is, how it was decoded, and what is left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from limner.data.dataset import Dataset, Refused
from limner.data.download import Progress
from limner.data.grid import grid
from limner.data.opening import gather
from limner.data.pool import Gathered
from limner.data.settings import DataConfig

SHOWN = 12
"""Kinds of size or class that are listed one by one."""


@dataclass
class Report:
    """What a source holds."""

    name: str
    usable: dict[str, int]
    """Images by split; with domains, by "split domain"."""
    size: int
    channels: int
    levels: int
    sizes: dict[str, int]
    """How many images were so large (width x height) in the source, most frequent first."""
    modes: dict[str, int]
    formats: dict[str, int]
    classes: dict[str, int]
    """Training images of each class; empty if there are no labels."""
    captions: int
    """Training images with a caption."""
    paired: bool | None
    """Whether two domains are paired; None if there are not two."""
    refused: list[Refused]
    policy: list[str]
    fingerprint: str
    """Of the training split."""
    duplicates: list[Refused] = field(default_factory=list)
    """Those of `refused` that are duplicates."""


def check(config: DataConfig | str, *, progress: Progress | None = None) -> Report:
    """Read every image of a source and report.

    Raises:
        UserError: there is no such source, or it cannot be read as a whole. That every image is refused is no error here.
    """
    config = DataConfig(data=config) if isinstance(config, str) else config
    return report(gather(config, progress=progress, fresh=True))


def report(gathered: Gathered) -> Report:
    """The report on what was gathered."""
    train = gathered.splits["train"]
    usable = {}
    for split, data in gathered.splits.items():
        for domain, part in (data.domains or {"": data}).items():
            usable[f"{split} {domain}".strip()] = len(part)
    counts: dict[str, int] = {}
    if train.labels is not None and train.class_names:
        found = np.bincount(train.labels, minlength=len(train.class_names))
        counts = {name: int(n) for name, n in zip(train.class_names, found, strict=True)}
    census = gathered.census
    return Report(
        name=train.name,
        usable=usable,
        size=train.size,
        channels=train.channels,
        levels=train.levels,
        sizes=dict(census.sizes.most_common()),
        modes=dict(census.modes.most_common()),
        formats=dict(census.formats.most_common()),
        classes=counts,
        captions=sum(bool(c) for c in train.captions or []),
        paired=train.paired if train.domains else None,
        refused=gathered.refused,
        policy=gathered.policy,
        fingerprint=train.fingerprint,
        duplicates=[r for r in gathered.refused if r.reason.startswith("duplicate of ")],
    )


def lines(report: Report, refused: int | None = None) -> list[str]:
    """The report for a person, line by line; at most `refused` of the refused files are named (None: all)."""
    text = [f"{report.name}: " + ", ".join(f"{n} {where}" for where, n in report.usable.items()) + " images"]
    text.append(
        f"used as: {report.size}x{report.size}, {'grey' if report.channels == 1 else 'colour'}, {report.levels} levels"
    )
    for title, table in (("sizes", report.sizes), ("modes", report.modes), ("formats", report.formats)):
        if table:
            text.append(f"{title}: {_counted(table)}")
    if report.classes:
        text.append(f"{len(report.classes)} classes: {_counted(report.classes)}")
        empty = [name for name, n in report.classes.items() if n == 0]
        if empty:
            text.append(f"classes without a training image: {', '.join(empty[:SHOWN])}")
    if report.captions:
        text.append(f"captions: {report.captions} of {report.usable.get('train', 0)} training images")
    if report.paired is not None:
        text.append("domains A and B: " + ("paired by file name" if report.paired else "not paired"))
    text += [f"decoding: {sentence}" for sentence in report.policy]
    text += left_out(report.refused, refused)
    text.append(f"fingerprint: {report.fingerprint[:16]}")
    return text


def left_out(refused: list[Refused], most: int | None = None) -> list[str]:
    """What is left out, by name and reason; nothing if nothing is."""
    if not refused:
        return []
    named = refused if most is None else refused[:most]
    text = [f"left out: {len(refused)}"] + [f"  {r.name}: {r.reason}" for r in named]
    if len(named) < len(refused):
        text.append(f"  ... and {len(refused) - len(named)} more: `limner data check` names them all")
    return text


def contact_sheet(dataset: Dataset, n: int = 64) -> Image.Image:
    """Up to n images of a data set, spread evenly over it, as one picture; with domains, one above the other."""
    if dataset.domains:
        sheets = [contact_sheet(d, max(1, n // 2)).convert("RGB") for d in dataset.domains.values()]
        sheet = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), (128, 128, 128))
        top = 0
        for part in sheets:
            sheet.paste(part, (0, top))
            top += part.height
        return sheet
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(n, len(dataset))).round().astype(np.int64))
    return grid(np.asarray(dataset.images[rows]))


def _counted(table: dict[str, int]) -> str:
    most = Counter(table).most_common() if len(table) > SHOWN else list(table.items())
    text = ", ".join(f"{key} ({n})" for key, n in most[:SHOWN])
    return text + (f" and {len(most) - SHOWN} more" if len(most) > SHOWN else "")
