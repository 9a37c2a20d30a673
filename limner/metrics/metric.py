"""What a metric is: when it applies, under which protocol, how it is measured, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from limner.metrics.figure import Figure

Topic = Literal["quality", "variety", "likelihood", "reconstruction", "continuity", "codes", "translation", "cost"]


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    topic: Topic
    """Which question it answers."""
    title: str
    """Short, for the head of a table."""
    meaning: str
    """One or two sentences for the glossary."""
    lacks: Callable[[Any], str]
    """Of a `Bench`: why it does not apply to this model or data; empty where it does."""
    measure: Callable[[Any], dict[str, Any]]
    """The figure's fields: value, error, note, floor ..."""
    protocol: Callable[[Any], str] = lambda bench: ""
    """What another figure must share to be compared with this one; known before measuring."""
    unit: str = ""
    better: str = ""
    """ "lower", "higher", or "" where neither is better in itself."""
    noted: bool = False
    """Whether its figures are not read without their notes."""
    needs_model: bool = False
    """Whether it is of a model and not of its images alone."""
    asked_for: bool = False
    """Whether it takes so long that it is only measured where its name is given."""

    def figure(self, bench: Any) -> Figure:
        """Measure it."""
        return Figure(name=self.name, protocol=self.protocol(bench), **self.measure(bench))
