"""A measured figure and an evaluation: values that carry their spread and the protocol they were measured under."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from limner.errors import UserError
from limner.files import write_atomically

FILE = "evaluation.json"


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    """Of the metric, as in `limner.metrics.registry.METRICS`."""
    value: float
    protocol: str
    """All that another figure must share for the two to stand in one column."""
    error: float | None = None
    """Standard error; None where the figure has none (a count)."""
    note: str = ""
    """What a reader must know beside the number: "exact", "bound", "found by latent search" ..."""
    floor: float | None = None
    """The same measure of real images against other real images: the best a model can be expected to reach."""
    floor_error: float | None = None
    """Standard error of the floor."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one model."""

    model: str
    """Its name in the catalogue (or its class)."""
    weights: str
    """Hash of the weights that were measured."""
    data: dict[str, Any]
    """The data set: name, fingerprint, size, channels, levels, images held out."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """By metric name."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Metrics that this model or data do not admit, and why."""

    def to_json(self) -> str:
        """As JSON. Infinite values are written as the strings "inf" and "-inf" and undefined ones as "nan": JSON has no such numbers."""
        return json.dumps(_without_infinities(asdict(self)), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "evaluation") -> Evaluation:
        """Read what `to_json` wrote.

        Raises:
            UserError: it is not that.
        """
        try:
            document = json.loads(text)
            figures = {name: Figure(**_with_infinities(figure)) for name, figure in document.pop("figures").items()}
            return cls(**document, figures=figures)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"'{where}' does not hold an evaluation ({error}); delete it and evaluate again") from None

    def save(self, folder: str | Path) -> Path:
        """Write `evaluation.json` into a run folder, in one piece."""
        path = Path(folder) / FILE
        write_atomically(path, self.to_json())
        return path


def floor_of(f: Figure) -> Figure:
    """The floor of a figure as a figure of its own."""
    return replace(f, value=math.nan if f.floor is None else f.floor, error=f.floor_error)


def read(folder: str | Path) -> Evaluation | None:
    """The evaluation kept in a run folder, or None where there is none."""
    path = Path(folder) / FILE
    return Evaluation.from_json(path.read_text(encoding="utf-8"), where=str(path)) if path.is_file() else None


def _without_infinities(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    return value


def _with_infinities(figure: dict[str, Any]) -> dict[str, Any]:
    return {key: float(item) if item in ("inf", "-inf", "nan") else item for key, item in figure.items()}
