"""All images of a source before they become data sets: which split each belongs to, and which are duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from limner.data.dataset import Dataset, Refused, Split
from limner.data.settings import DataConfig

SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass
class Pool:
    """Images of both splits at their final size."""

    name: str
    images: np.ndarray
    """uint8 (N, H, W, C)."""
    names: list[str]
    """How messages call each image."""
    splits: list[Split | None]
    """Where the source puts each image; None where it does not say."""
    keys: list[bytes] = field(default_factory=list)
    """A digest of each image as it is in the source, whatever size is asked for: this decides the split."""
    labels: np.ndarray | None = None
    class_names: list[str] | None = None
    captions: list[str] | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    levels: int = 256
    files: bool = False
    """Whether `names` are file names, worth keeping."""
    refused: list[Refused] = field(default_factory=list)
    census: Census = field(default_factory=lambda: Census())
    policy: list[str] = field(default_factory=list)


@dataclass
class Gathered:
    """Everything that a source holds: both splits, and what was said about it on the way."""

    splits: dict[Split, Dataset]
    refused: list[Refused]
    census: Census
    policy: list[str]


@dataclass
class Census:
    """What a source is made of, for `limner data check`."""

    sizes: Counter[str] = field(default_factory=Counter)
    """Width x height of the images as they are in the source."""
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)


def digests(images: Iterable[np.ndarray]) -> list[bytes]:
    """16 bytes that stand for the pixels of each image."""
    return [
        hashlib.blake2b(np.ascontiguousarray(i).data, digest_size=16, key=str(i.shape).encode()).digest()
        for i in images
    ]


def split_of(key: bytes, config: DataConfig) -> Split:
    """The split of an image whose source does not say: a hash of its content, so it depends on no other image."""
    word = hashlib.blake2b(key, digest_size=8, key=str(config.data_seed).encode()).digest()
    return "test" if int.from_bytes(word, "big") < config.test_fraction * 2**64 else "train"


def settle(
    pool: Pool, config: DataConfig, final: list[bytes] | None = None
) -> tuple[dict[Split, np.ndarray], dict[Split, list[Refused]]]:
    """The rows of each split, without duplicates, and the duplicates that were set aside.

    Of equal images in one split the first stays (with `config.duplicates` "keep", all do). Of equal images in both, the one in
    test does: a published test set stays whole. Equal means: the same pixels at the final size (`final` are their digests).
    """
    keys = final or digests(pool.images)
    splits = [s or split_of(k, config) for s, k in zip(pool.splits, pool.keys or keys, strict=True)]
    first: dict[bytes, int] = {}
    rows: dict[Split, list[int]] = {"train": [], "test": []}
    refused: dict[Split, list[Refused]] = {"train": [], "test": []}
    for split in reversed(SPLITS):
        for i, key in enumerate(keys):
            if splits[i] != split:
                continue
            j = first.setdefault(key, i)
            if i == j or (config.duplicates == "keep" and splits[j] == split):
                rows[split].append(i)
            else:
                where = "" if splits[j] == split else " (in the test split)"
                refused[split].append(Refused(pool.names[i], f"duplicate of {pool.names[j]}{where}"))
    return {s: np.array(r, np.int64) for s, r in rows.items()}, refused


def data_sets(
    pool: Pool,
    rows: dict[Split, np.ndarray],
    duplicates: dict[Split, list[Refused]],
    take: Callable[[Split, np.ndarray], np.ndarray] | None = None,
) -> dict[Split, Dataset]:
    """The data sets of the two splits; `take` makes their images where they are not simply rows of the pool's."""
    refused = pool.refused + duplicates["train"] + duplicates["test"]
    sets: dict[Split, Dataset] = {}
    for split in SPLITS:
        r = rows[split]
        sets[split] = Dataset(
            name=pool.name,
            images=take(split, r) if take else pool.images[r],
            labels=None if pool.labels is None else pool.labels[r],
            class_names=pool.class_names,
            captions=None if pool.captions is None else [pool.captions[i] for i in r],
            names=[pool.names[i] for i in r] if pool.files else None,
            extras={key: values[r] for key, values in pool.extras.items()},
            levels=pool.levels,
            refused=refused,
            split=split,
            policy=pool.policy,
        )
    return sets
