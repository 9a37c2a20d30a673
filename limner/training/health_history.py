"""What `limner.training.health` reads and says: the statistics of a run so far, and a verdict on them."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KEPT = 1000
"""Latest values of each statistic that are remembered."""


@dataclass(frozen=True)
class Verdict:
    """One thing that is wrong with a run, or about to be."""

    name: str
    """Stable, lower case with hyphens: "mode-collapse"."""
    headline: str
    """A few words: "mode collapse"."""
    evidence: str
    """The figures that say so."""
    advice: str
    """What to try."""
    severity: Literal["caution", "serious"] = "serious"
    """serious: what is being trained is, or will be, of little use. caution: it costs time or quality."""

    def __str__(self) -> str:
        return f"{self.headline}: {self.evidence}; try {self.advice}"

    def as_dict(self) -> dict[str, str]:
        """Its fields, for JSON."""
        return dataclasses.asdict(self)


class History:
    """The statistics of a run so far, by name."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        """The numbers of the last line."""
        self._lines = 0
        self._columns: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))

    def add(self, record: Mapping[str, Any]) -> None:
        """Remember the finite numbers of one line."""
        self.latest = {k: float(v) for k, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
        self._lines += 1
        for name, value in self.latest.items():
            lines, values = self._columns[name]
            lines.append(self._lines)
            values.append(value)
            del lines[:-KEPT], values[:-KEPT]

    @property
    def step(self) -> float:
        """Steps of training so far."""
        return self.latest.get("step", 0.0)

    def ending(self, *endings: str) -> list[str]:
        """The prefixes before which the last line has all of `endings`: "critic/" for "critic/D(x)"."""
        prefixes = [name.removesuffix(endings[0]) for name in self.latest if name.rpartition("/")[2] == endings[0]]
        return [p for p in prefixes if all(p + e in self.latest for e in endings)]

    def rows(self, *names: str) -> list[tuple[float, ...]]:
        """The values of `names` in the lines that have all of them."""
        columns = [self._columns.get(name, ([], [])) for name in names]
        first, *others = (lines for lines, _ in columns)
        if all(lines == first for lines in others):  # as a rule
            return list(zip(*(values for _, values in columns), strict=True))
        found = [dict(zip(*column, strict=True)) for column in columns]
        return [
            tuple(column[i] for column in found) for i in min(found, key=len) if all(i in column for column in found)
        ]

    def probes(self, kind: str, *names: str) -> list[tuple[float, ...]]:
        """The figures "probe/NAME" (or the "step") of the probes of one kind that looked at as many images as the latest one."""
        found = self.rows(f"probe/{kind}", *(name if name == "step" else f"probe/{name}" for name in names))
        return [row[1:] for row in found if row[0] == found[-1][0]]
