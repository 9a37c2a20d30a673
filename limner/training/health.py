"""Verdicts on the health of training in plain words, each with its evidence and what to try.

Two that hold for any model: divergence ahead (the gradient norm climbs away from its own history) and data starvation (the loop
waits for images).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque

RISE = 20.0
"""How many times its earlier median a gradient norm must reach to be called a climb."""
STARVED = 0.5
"""Share of the time spent waiting for data, over the last `PATIENCE` lines, from which the loop counts as starved."""
PATIENCE = 5


class Health:
    """Watches the statistics of a run; `look` returns the verdicts that hold now."""

    def __init__(self, history: int = 50):
        self.norms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=history))
        self.waits: deque[float] = deque(maxlen=PATIENCE)

    def look(self, record: dict[str, float]) -> list[str]:
        """The verdicts after one more line of statistics."""
        verdicts = []
        for key, norm in record.items():
            if not key.startswith("norm/"):
                continue
            past = sorted(self.norms[key])
            # Ten lines of history first: early training is restless in every family.
            if len(past) >= 10 and norm > RISE * past[len(past) // 2] > 0:
                verdicts.append(
                    f"divergence ahead: the gradient norm of '{key.removeprefix('norm/')}' is {norm:.3g}, "
                    f"{norm / past[len(past) // 2]:.0f} times its recent median; try a lower --model.lr, a longer --warmup or --clip 1"
                )
            if math.isfinite(norm):
                self.norms[key].append(norm)
        self.waits.append(record.get("wait", 0.0))
        wait = sum(self.waits) / len(self.waits)
        if len(self.waits) == PATIENCE and wait > STARVED:
            verdicts.append(
                f"data starvation: {wait:.0%} of the time goes into waiting for images; a local copy of the data or a smaller --size helps"
            )
        return verdicts
