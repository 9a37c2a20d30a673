"""A folder of images on the bench: any tool's samples, or any other images, judged by a data set."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from limner.data import files
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.metrics.bench import Bench

if TYPE_CHECKING:
    from limner.data import Dataset

FEWEST = 10
"""Images below which nothing is measured."""

Against = Literal["test", "train", "all"]


class FolderBench(Bench):
    """The images of a folder (or zip, or tar) judged by `against` a split of a data set, or by all of it.

    The folder's images are read as training images are: made as large as the data's, grey or colour as the data are, duplicates kept.

    Args:
        path: the folder.
        train, test: the splits of the data.
        against: which images of the data: "test", "train", or "all" of them. The floor is
            measured with images of the other split, or between two halves of all.
        n: at most so many images of each side are used, chosen by `seed`; None uses all.
        arguments: as of `Bench`.

    Raises:
        UserError: the folder cannot be read, or holds too few usable images, or images of values that cannot be meant.
    """

    def __init__(
        self,
        path: str | Path,
        train: Dataset,
        test: Dataset,
        *,
        against: Against = "test",
        n: int | None = None,
        **arguments: Any,
    ):
        sets = {"train": [train], "test": [test], "all": [train, test]}[against]
        sets = [part for part in sets if len(part.images)]
        if not sets:
            raise UserError(
                f"'{train.name}' has no images in its {against} split to compare with; choose another --split"
            )
        super().__init__(train, sets[0], **arguments)
        self.against, self.held = against, test.images
        self.path, self.real_name = str(path), {"test": "held-out", "train": "training", "all": "all the"}[against]
        self._real = np.concatenate([part.images for part in sets])
        self._real_hash = sets[0].fingerprint if len(sets) == 1 else _digest(self._real)
        self._fake, self.read_as = _read(path, sets[0], self.say)
        self.n = self.m = len(self._fake) if n is None else min(n, len(self._fake))
        self._real_n = len(self._real) if n is None else min(n, len(self._real))

    @property
    def real_n(self) -> int:
        """How many real images there are to compare with."""
        return self._real_n

    @property
    def samples_name(self) -> str:
        """The folder's images, and whether they were resized."""
        return f"images{self.read_as}"

    @cached_property
    def samples_bytes(self) -> Tensor:
        """(n, H, W, C) uint8."""
        return self._choice(self._fake, self.n)

    @cached_property
    def real_bytes(self) -> Tensor:
        """(real_n, H, W, C) uint8."""
        return self._choice(self._real, self.real_n)

    @cached_property
    def floor_pair(self) -> tuple[Tensor, Tensor]:
        """As of `Bench`, with held-out images where training images are compared with; two halves of the data where all of them are."""
        if self.against == "test":
            return self.spare(self.n), self.real_bytes
        if self.against == "train":
            return self._choice(self.held, self.n), self.real_bytes
        order = np.random.default_rng([self.seed, 1]).permutation(len(self._real))
        half = min(self.n, len(order) // 2)
        return torch.from_numpy(self._real[order[:half]]), torch.from_numpy(self._real[order[half : 2 * half]])

    def unseen(self, n: int) -> Tensor:
        """Held-out images, whatever is compared with."""
        return self._choice(self.held, n)

    @property
    def data_id(self) -> str:
        """The images compared with, in a protocol."""
        height, width, channels = self._real.shape[1:]
        return f"data {self._real_hash[:12]} {height}x{width}x{channels}"

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that stand for the folder's images."""
        return _digest(self._fake)[:12]

    def _choice(self, images: np.ndarray, n: int) -> Tensor:
        """All of `images`, or a seeded choice of n of them in their order."""
        count = len(images)
        rows = (
            np.arange(count)
            if n >= count
            else np.sort(np.random.default_rng([self.seed, count]).permutation(count)[:n])
        )
        return torch.from_numpy(images[rows])


def _digest(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def _read(path: str | Path, like: Dataset, say: Any) -> tuple[np.ndarray, str]:
    """The images (N, H, W, C) uint8 of a folder, of the size and channels of `like`; and what was done to them, for the protocol."""
    config = DataConfig(str(path), size=like.size, channels=like.channels, test_fraction=0.0, duplicates="keep")  # type: ignore[arg-type]
    if not Path(path).expanduser().exists():
        raise UserError(f"'{path}' is neither a run folder nor a folder of images: there is no such path")
    gathered = files.gather(Path(path).expanduser(), config)
    sets = [
        part
        for split in gathered.splits.values()
        for part in (split.domains or {"": split}).values()
        if len(part.images)
    ]
    for refused in gathered.refused[:5]:
        say(f"left out {refused.name}: {refused.reason}")
    if len(gathered.refused) > 5:
        say(f"left out {len(gathered.refused) - 5} more; `limner data check {path}` names them all")
    images = np.concatenate([part.images for part in sets]) if sets else np.empty((0, 1, 1, 1), np.uint8)
    if len(images) < FEWEST:
        raise UserError(
            f"'{path}' has {len(images)} usable images, too few to say anything about their distribution: give at least {FEWEST}, "
            "better a thousand"
        )
    highest = int(images.max())
    if highest == 1:
        raise UserError(
            f"no pixel of '{path}' is brighter than 1 of 255: the images look saved from values in [0, 1]; multiply by 255 before saving"
        )
    native = f"{like.size}x{like.size}"
    others = sum(count for size, count in gathered.census.sizes.items() if size != native)
    if not others:
        return images, ""
    sizes = ", ".join(f"{count} of {size}" for size, count in gathered.census.sizes.most_common(3) if size != native)
    say(f"{others} of {len(images)} images are not {native} ({sizes}): cut square and resized by {config.resize}")
    return images, f" ({others} of them resized to {native} by {config.resize})"
