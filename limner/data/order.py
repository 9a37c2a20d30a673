"""The order in which training sees the images: a pure function of the seed and of how many images were seen before."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def batch_indices(n: int, seed: int, images_seen: int, batch: int, *, rank: int = 0, world: int = 1) -> np.ndarray:
    """Which of `n` images make up the next batch.

    Training reads one endless sequence: a new permutation of 0 .. n - 1 for each epoch, keyed by (seed, epoch), one after
    another. The global batch is positions `images_seen` to `images_seen + batch` of it (a batch may straddle epochs, and be
    larger than one). Rank r of `world` takes the r-th contiguous part, so that the ranks together see what one process sees.

    Returns:
        int64 (batch // world,), or one longer for the first `batch % world` ranks.

    Raises:
        ValueError: n or batch is not positive, images_seen is negative, or rank is not below world.
    """
    if n <= 0 or batch <= 0 or images_seen < 0 or not 0 <= rank < world:
        raise ValueError(f"no batch of {batch} from {n} images after {images_seen} for rank {rank} of {world}")
    part, rest = divmod(batch, world)
    start = images_seen + rank * part + min(rank, rest)
    stop = start + part + (rank < rest)
    pieces = []
    while start < stop:
        epoch, offset = divmod(start, n)
        end = min(n, offset + stop - start)
        pieces.append(_permutation(n, seed, epoch)[offset:end])
        start += end - offset
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def held_out_order(n: int, seed: int = 0) -> np.ndarray:
    """An order of `n` held-out images, so that "the first few" is a fair choice and the same one in every picture and measure."""
    return np.random.default_rng([seed, n]).permutation(n).astype(np.int64, copy=False)


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(n).astype(np.int64, copy=False)
    order.setflags(write=False)
    return order
