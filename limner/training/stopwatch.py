"""Time in training: what counts, and what may take how much of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds spent training, over all sessions of a run."""

    def __init__(self, seconds: float = 0.0):
        self._before, self._since = seconds, float("nan")

    @property
    def seconds(self) -> float:
        """What the watch shows."""
        return self._before + (time.perf_counter() - self._since if self._since == self._since else 0.0)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Inside, the watch runs."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._before, self._since = self.seconds, float("nan")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the watch stands still."""
        self._before, self._since = self.seconds, float("nan")
        try:
            yield
        finally:
            self._since = time.perf_counter()


class Budget:
    """Lets something happen only while it takes at most a share of the time: a slow sampler draws fewer grids."""

    def __init__(self, share: float):
        self.share, self.cost, self.since = share, 0.0, 0.0

    def allows(self, now: float) -> bool:
        """Whether it may happen again at `now` seconds of training."""
        return self.cost <= self.share * (now - self.since) or self.since == 0.0

    def spent(self, cost: float, now: float) -> None:
        """It took `cost` seconds."""
        self.cost, self.since = cost, now
