"""Verdicts on the health of training in plain words, each with its evidence and what to try.

`Health` reads the lines of `stats.jsonl` as they are written and nothing else: what it says of a run can be said again from its
file, and a run that is resumed reads its own file first. The rules (`limner.training.health_rules`) look at the names of what is
logged, never at which model logs it:

- what the loop logs for every model: "wait", "norm/OPTIMIZER", "gradient/OPTIMIZER";
- what `limner.training.probe` finds by a model's capabilities: "probe/...";
- what models log by these names, after any prefix: "D(x)" and "D(G(z))", mean probabilities that a critic gives real and
  generated images of being real; "kl" and "reconstruction", terms of a bound; "perplexity" and "codebook_size" of a codebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from limner.training.health_history import History, Verdict
from limner.training.health_rules import RULES

KEY = "health"
"""Of the verdicts in a line of `stats.jsonl`: a list of what `Verdict.as_dict` gives. Absent while all is well."""
CALM = 5
"""Lines of statistics that a verdict outlives its cause, so that one on the edge does not come and go."""


class Health:
    """Watches the statistics of a run."""

    def __init__(self) -> None:
        self.history = History()
        self.layers: dict[str, str] = {}
        """By optimizer: the name of the layer that learns least, where somebody told."""
        self._holding: dict[str, tuple[Verdict, int]] = {}

    def look(self, record: Mapping[str, Any]) -> list[Verdict]:
        """The verdicts that hold after one more line of statistics, the most serious first."""
        self.history.add(record)
        said = [verdict for rule in RULES for verdict in rule(self.history, self.layers)]
        holding = {name: (verdict, calm + 1) for name, (verdict, calm) in self._holding.items() if calm < CALM}
        # One of a name is enough: the first.
        self._holding = holding | {verdict.name: (verdict, 0) for verdict in reversed(said)}
        verdicts = [verdict for verdict, _ in self._holding.values()]
        return sorted(verdicts, key=lambda v: (v.severity != "serious", v.name))

    def replay(self, records: Iterable[Mapping[str, Any]]) -> list[Verdict]:
        """Read the lines of a run; returns the verdicts that hold after the last."""
        verdicts: list[Verdict] = []
        for record in records:
            verdicts = self.look(record)
        return verdicts


class Told:
    """What a person has been told, so that each verdict is said once until it ceases."""

    def __init__(self) -> None:
        self.holding: dict[str, Verdict] = {}

    def news(self, verdicts: Iterable[Verdict]) -> list[str]:
        """Lines for what is new, and for what has ceased."""
        now = {verdict.name: verdict for verdict in verdicts}
        new = [str(verdict) for name, verdict in now.items() if name not in self.holding]
        ceased = [f"recovered: no longer {v.headline}" for name, v in self.holding.items() if name not in now]
        self.holding = now
        return new + ceased
