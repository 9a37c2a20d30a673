"""Randomness for sampling: one generator for each sample, so that a sample does not depend on the batch it is drawn in.

The numbers are always drawn on the CPU and then moved: the same seed gives the same noise on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Seed: TypeAlias = "int | Sequence[int] | torch.Generator"
"""An int (sample i gets its own seed derived from it and i), one explicit seed per sample, or a generator to draw them from."""


def seeds(generator: Seed, n: int) -> list[int]:
    """The n seeds that `generator` stands for.

    `sample(64, generator=s)` equals sampling in parts with `generator=seeds(s, 64)[a:b]`.

    Raises:
        ValueError: a list of seeds of the wrong length.
    """
    if isinstance(generator, torch.Generator):
        generator = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    if isinstance(generator, int):
        return [mix(generator, i) for i in range(n)]
    if len(generator) != n:
        raise ValueError(f"{len(generator)} seeds were given for {n} samples")
    return [int(s) for s in generator]


def mix(*numbers: int) -> int:
    """A 63-bit seed that depends on all the (non-negative) numbers, in order."""
    return int(np.random.SeedSequence([abs(int(v)) for v in numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SampleNoise:
    """n independent streams of noise, one for each sample."""

    def __init__(self, n: int, generator: Seed = 0, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.generators = [torch.Generator().manual_seed(s) for s in seeds(generator, n)]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int) -> Tensor:
        """(n, *shape) standard normal, float32."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """(n, *shape) uniform on [0, 1), float32."""
        return self._draw(torch.rand, shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(n, *shape) int64, uniform on 0 .. high - 1."""
        return torch.stack([torch.randint(high, shape, generator=g) for g in self.generators]).to(self.device)

    def _draw(self, function, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([function(shape, generator=g) for g in self.generators]).to(self.device)
