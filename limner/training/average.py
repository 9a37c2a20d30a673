"""Exponential moving average of weights (Polyak averaging), with a half-life in images and a ramp-up (Karras et al. 2022)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """Keeps an averaged copy of some submodules of a model. Parameters are averaged; buffers are copied."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        self.sources = [model.get_submodule(name) for name in names]
        self.names = names
        self.copies = nn.ModuleList(copy.deepcopy(source).requires_grad_(False) for source in self.sources)
        self._parameters = _tensors(self.copies, self.sources, "parameters")
        self._buffers = _tensors(self.copies, self.sources, "buffers")

    @torch.no_grad()
    def update(self, images: int, batch: int, halflife: float, rampup: float) -> None:
        """Move the average towards the weights, after a step of `batch` images that brought the total to `images`."""
        averaged, current = self._parameters
        if averaged:
            # A half-life of h images keeps 0.5^(batch / h) of the old average.
            keep = 0.5 ** (batch / max(min(halflife, images * rampup), 1e-8))
            torch._foreach_lerp_(averaged, current, 1 - keep)
        for mine, theirs in zip(*self._buffers, strict=True):
            mine.copy_(theirs)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; on leaving, its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters and buffers."""
        return self.copies.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take the averages from a checkpoint."""
        self.copies.load_state_dict(state)

    @torch.no_grad()
    def _swap(self) -> None:
        for averaged, current in (self._parameters, self._buffers):
            for mine, theirs in zip(averaged, current, strict=True):
                mine.data, theirs.data = theirs.data, mine.data


def _tensors(copies: nn.ModuleList, sources: list[nn.Module], kind: str) -> tuple[list[Tensor], list[Tensor]]:
    mine = [tensor for module in copies for tensor in getattr(module, kind)()]
    theirs = [tensor for module in sources for tensor in getattr(module, kind)()]
    return mine, theirs
