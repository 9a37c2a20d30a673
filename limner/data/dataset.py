"""A data set that is ready to be trained on: uint8 images of one size in memory or in a memory-mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limner.data.degrade import Degradation
from limner.data.order import batch_indices
from limner.noise import mix

Split = Literal["train", "test"]

RESIDENT_BYTES = 1 << 30
"""Sets up to this size are held in memory, and on the device that asks for batches; larger ones stay in their file."""


class Refused(NamedTuple):
    """A file that was left out, and why."""

    name: str
    reason: str


@dataclass(eq=False)
class Dataset:
    """Images with what is known about each. Made by `limner.data.open_data`."""

    name: str
    images: np.ndarray
    """uint8 (N, H, W, C), in memory or memory-mapped."""
    labels: np.ndarray | None = None
    """int64 (N,), indices into `class_names`."""
    class_names: list[str] | None = None
    captions: list[str] | None = None
    names: list[str] | None = None
    """File names, relative to the folder or archive."""
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """Further arrays (N, ...). A uint8 one is picture-like, (N, H, W, C)."""
    levels: int = 256
    """How many grey levels the pixels have: level k of L is stored as round(255 k / (L - 1))."""
    fingerprint: str = ""
    """Hex digest of everything above but the names; worked out if not given."""
    refused: list[Refused] = field(default_factory=list)
    split: Split = "train"
    policy: list[str] = field(default_factory=list)
    """How the images were decoded, in sentences."""
    domains: dict[str, Dataset] | None = None
    """The sets "A" and "B" of a pair of domains. `images` are then A's."""
    paired: bool = False
    """Whether image i of A and image i of B belong together."""
    held_out: Dataset | None = field(default=None, repr=False)
    """Of a training set: the test set of the same source, if it has one."""
    degradation: Degradation | None = None
    """Damage that makes each image the clean one of a pair. Not for domains."""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            self.fingerprint = _fingerprint(self)
        steps = self.levels - 1
        level = np.round(np.arange(256) * steps / 255)
        self._values = torch.from_numpy((2 * level / steps - 1).astype(np.float32))
        self._on_device: dict[torch.device, tuple[Tensor | None, Tensor]] = {}

    def __len__(self) -> int:
        if self.domains and not self.paired:
            return max(len(d) for d in self.domains.values())
        return len(self.images)

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[1]

    @property
    def channels(self) -> int:
        """1 grey, 3 RGB."""
        return self.images.shape[3]

    @property
    def classes(self) -> int:
        """Number of classes; 0 if there are no labels."""
        return 0 if self.labels is None else len(self.class_names or [])

    def batch(self, indices: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The images at `indices`, and what is known about them.

        Returns:
            "image": float32 (B, C, H, W) in [-1, 1], where level k of L is the float32 nearest to 2k/(L-1) - 1;
            "label": int64 (B,) if there are labels; each of `extras` under its name, picture-like ones as float32
            (B, C, H, W) in [0, 1]; "degraded": float32 (B, C, H, W) in [-1, 1] if there is a degradation, the same damage to
            an image every time. With domains: "A" and "B" instead of all that. B's image is A's partner if they are
            paired; if not, `draw` gives each domain an order of its own, and here both are taken round and round.
        """
        if self.domains:
            return {key: d.batch(np.asarray(indices) % len(d), device)["image"] for key, d in self.domains.items()}
        rows = np.asarray(indices, np.int64)
        return self._batch(rows, [mix(int(i)) for i in rows] if self.degradation else [], device)

    def _batch(self, rows: np.ndarray, damage: Sequence[int], device: torch.device | str) -> dict[str, Tensor]:
        """`batch`, with the seed of each image's damage."""
        batch = {"image": self._floats(rows, torch.device(device))}
        if self.degradation is not None:
            batch["degraded"] = self.degradation(batch["image"], damage)
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[rows]).to(device)
        for key, values in self.extras.items():
            part = torch.from_numpy(np.ascontiguousarray(values[rows])).to(device)
            batch[key] = part.permute(0, 3, 1, 2).float() / 255 if part.dtype == torch.uint8 else part
        return batch

    def draw(
        self,
        seed: int,
        images_seen: int,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """The batch that training reads after `images_seen` images; see `limner.data.order`. Unpaired domains are shuffled
        independently of one another. Damage is fresh in every epoch: its seed is (seed, place in the endless sequence)."""
        if self.domains and not self.paired:
            parts = {
                key: d.draw(seed + i, images_seen, batch, rank=rank, world=world, device=device)["image"]
                for i, (key, d) in enumerate(self.domains.items())
            }
            return parts
        rows = batch_indices(len(self), seed, images_seen, batch, rank=rank, world=world)
        if self.degradation is None:
            return self.batch(rows, device)
        first = images_seen + rank * (batch // world) + min(rank, batch % world)
        return self._batch(rows, [mix(seed, first + i) for i in range(len(rows))], device)

    def caption(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The captions of the images at `indices`; empty strings where there are none."""
        return [self.captions[i] if self.captions else "" for i in np.asarray(indices, np.int64)]

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The data set of the images at `indices` alone, in that order."""
        rows = np.asarray(indices, np.int64)
        if self.domains:
            domains = {key: d.subset(rows if self.paired else rows[rows < len(d)]) for key, d in self.domains.items()}
            return pair(self.name, domains, self.split, self.paired, self.refused)
        contiguous = len(rows) > 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
        return replace(
            self,
            images=self.images[rows[0] : rows[-1] + 1] if contiguous else self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            captions=None if self.captions is None else [self.captions[i] for i in rows],
            names=None if self.names is None else [self.names[i] for i in rows],
            extras={key: values[rows] for key, values in self.extras.items()},
            fingerprint=hashlib.sha256(self.fingerprint.encode() + rows.tobytes()).hexdigest(),
        )

    def _floats(self, rows: np.ndarray, device: torch.device) -> Tensor:
        if device not in self._on_device:
            resident = self.images.nbytes <= RESIDENT_BYTES
            images = torch.from_numpy(np.ascontiguousarray(self.images)).to(device) if resident else None
            self._on_device[device] = (images, self._values.to(device))
        images, values = self._on_device[device]
        if images is None:
            pixels = torch.from_numpy(self.images[rows]).to(device)
        else:
            pixels = images[torch.from_numpy(rows).to(device)]
        pixels = pixels.permute(0, 3, 1, 2)
        if self.levels == 256:  # (2k - 255) / 255 is rounded once, as a look-up would be, and is faster
            return pixels.float().mul_(2).sub_(255).div_(255).contiguous()
        return values[pixels.int()]


def pair(
    name: str, domains: dict[str, Dataset], split: Split, paired: bool, refused: list[Refused] | None = None
) -> Dataset:
    """One data set of two domains."""
    first = next(iter(domains.values()))
    together = "".join(d.fingerprint for d in domains.values()) + str(paired)
    return Dataset(
        name=name,
        images=first.images,
        names=first.names,
        levels=first.levels,
        fingerprint=hashlib.sha256(together.encode()).hexdigest(),
        refused=[r for d in domains.values() for r in d.refused] if refused is None else refused,
        split=split,
        policy=first.policy,
        domains=domains,
        paired=paired,
    )


def _fingerprint(data: Dataset) -> str:
    digest = hashlib.sha256(f"{data.images.shape} {data.levels} {data.class_names}".encode())
    for start in range(0, len(data.images), 4096):
        digest.update(np.ascontiguousarray(data.images[start : start + 4096]).data)
    if data.labels is not None:
        digest.update(data.labels.tobytes())
    for caption in data.captions or []:
        digest.update(caption.encode("utf-8", "surrogatepass") + b"\n")
    for key in sorted(data.extras):
        digest.update(key.encode() + np.ascontiguousarray(data.extras[key]).tobytes())
    return digest.hexdigest()
