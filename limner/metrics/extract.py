"""Features of many images: streamed, in batches, the next batch made ready while the network computes, kept in the cache.

A thread reads (or decodes) the images and does what precedes the network; the calling thread runs the network. Where the
extractor has `prepare` and `embed` (see `Staged`), that includes resizing. How long the network had to wait is measured.

The images are put into batches of exactly `batch` whatever the pieces they come in, so that the features do not depend on those
pieces, to the last bit. On `batch` itself they depend only by the rounding of the network's float32: some 1e-6 of their range.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from limner.data import cache
from limner.errors import UserError
from limner.files import replacing
from limner.metrics.features import Extractor, describe

FILE = "features.safetensors"
PROTOCOL = 1
"""Raised whenever features of the same images by the same extractor change, so that old ones are not taken from the cache."""
AHEAD = 3
"""Batches that are ready or in the making before the network asks for them."""

Images = np.ndarray | Tensor | Iterable[np.ndarray] | Iterable[Tensor]
"""uint8 (N, H, W, C) as one array (in memory or memory-mapped), or batches of it."""


@runtime_checkable
class Staged(Protocol):
    """An extractor whose call is `embed(prepare(images))`, so that the two can run at the same time on different batches."""

    def prepare(self, images: Tensor) -> Tensor:
        """What the network takes, of images (N, H, W, C) uint8. Called in another thread."""
        ...

    def embed(self, prepared: Tensor) -> Tensor:
        """Features (N, d) float64 of what `prepare` gave."""
        ...


@dataclass
class Extraction:
    """Features and what they cost."""

    rows: Tensor
    """(N, d) float64, in the order of the images."""
    computed: float = 0.0
    """Seconds that the network computed; 0 if the features came out of the cache."""
    waited: float = 0.0
    """Seconds that it waited for images."""
    cached: bool = False
    """Whether they came out of the cache."""

    @property
    def wait_share(self) -> float:
        """Share of the time, in [0, 1], that the network waited for images."""
        total = self.computed + self.waited
        return self.waited / total if total else 0.0

    @property
    def images_per_second(self) -> float:
        """Images for each second of computing and waiting; 0 if the features came out of the cache."""
        total = self.computed + self.waited
        return len(self.rows) / total if total else 0.0


def features(
    extractor: Extractor,
    images: Images,
    *,
    batch: int = 64,
    cache_key: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Features (N, d) float64, on the CPU, of images (N, H, W, C) uint8: see `extract`."""
    return extract(extractor, images, batch=batch, cache_key=cache_key, progress=progress, device=device).rows


def extract(
    extractor: Extractor,
    images: Images,
    *,
    batch: int = 64,
    cache_key: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    device: torch.device | str | None = None,
) -> Extraction:
    """Features of images, with the time they took.

    Args:
        extractor: what makes them.
        images: uint8 (N, H, W, C), or an iterable of such batches, which is run through in another thread.
        batch: images taken through the network at once.
        cache_key: stands for the content of the images (a data set's fingerprint with the choice of images, or `content_hash`).
            With it the features are kept in limner's cache, under the extractor's name, hash and resize as well, and are taken
            from there the next time. They are exact there: rows that float32 holds without loss are stored as float32.
        progress: called with the number of images done, and that of all or None where it is not known.
        device: where the network is to compute, if the extractor can be moved; None leaves it where it is.

    Raises:
        ValueError: no images, or not uint8 (N, H, W, C).
        Whatever running through `images` or the extractor raises.
    """
    made: Extraction | None = None

    def make() -> Extraction:
        nonlocal made
        if made is None:  # images that come in a stream come once
            parts = Stream(extractor, images, batch=batch, progress=progress, device=device)
            rows = list(parts)
            if not rows:
                raise ValueError("no images were given to extract features of")
            made = Extraction(torch.cat(rows), parts.computed, parts.waited)
        return made

    if cache_key is None:
        return make()
    count = len(images) if isinstance(images, np.ndarray | Tensor) else None
    protocol = describe(extractor)
    key = hashlib.sha256(json.dumps([cache_key, protocol, PROTOCOL]).encode()).hexdigest()[:20]
    try:
        rows = cache.stored("features", key, lambda folder: _write(folder, make().rows), lambda f: _read(f, count))
    except UserError:
        if made is None:
            raise
        return made  # the disk is full: done without the cache
    return Extraction(rows, cached=True) if made is None else made


class Stream:
    """Features batch by batch, for accumulators that need not hold them all: iterate over it once.

    `computed` and `waited` are the seconds so far that the network computed and waited.
    """

    def __init__(
        self,
        extractor: Extractor,
        images: Images,
        *,
        batch: int = 64,
        progress: Callable[[int, int | None], None] | None = None,
        device: torch.device | str | None = None,
    ):
        if batch < 1:
            raise ValueError(f"a batch has at least one image, not {batch}")
        if device is not None and hasattr(extractor, "to"):
            extractor.to(device)
        self.extractor, self.images, self.batch, self.progress = extractor, images, batch, progress
        self.computed = self.waited = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        """Features (n, d) float64 of `batch` images each, the last fewer; fewer too where the images' size changes."""
        total = len(self.images) if isinstance(self.images, np.ndarray | Tensor) else None
        staged = isinstance(self.extractor, Staged)
        prepare, embed = (
            (self.extractor.prepare, self.extractor.embed) if staged else (lambda x: x, self.extractor)  # type: ignore[attr-defined]
        )
        done = 0
        with ahead((len(x), prepare(x)) for x in batches(self.images, self.batch)) as prepared:
            while True:
                start = time.perf_counter()
                item = next(prepared, None)
                ready = time.perf_counter()
                self.waited += ready - start
                if item is None:
                    return
                count, x = item
                rows = embed(x).cpu().double()
                self.computed += time.perf_counter() - ready
                done += count
                if self.progress is not None:
                    self.progress(done, total)
                yield rows


def batches(images: Images, batch: int) -> Iterator[Tensor]:
    """Tensors of exactly `batch` images (n, H, W, C) uint8, whatever pieces they come in; the last, and those before a change of
    size, may be smaller.

    Raises:
        ValueError: not uint8 (N, H, W, C).
    """
    if isinstance(images, np.ndarray | Tensor):
        _check(images)
        for start in range(0, len(images), batch):
            yield _tensor(images[start : start + batch])
        return
    kept: list[Tensor] = []
    for piece in images:
        _check(piece)
        rest = _tensor(piece)
        if kept and kept[0].shape[1:] != rest.shape[1:]:
            yield torch.cat(kept)
            kept = []
        while len(rest):
            room = batch - sum(map(len, kept))
            kept.append(rest[:room])
            rest = rest[room:]
            if sum(map(len, kept)) == batch:
                yield torch.cat(kept)
                kept = []
    if kept:
        yield torch.cat(kept)


@contextlib.contextmanager
def ahead(items: Iterable[Any], depth: int = AHEAD) -> Iterator[Iterator[Any]]:
    """The items, made in another thread up to `depth` before they are asked for. What making them raises is raised where the
    item would have come. On leaving, the thread is told to stop and waited for."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=max(1, depth - 1))  # one more is in the making
    leave = threading.Event()

    def put(kind: str, value: Any = None) -> bool:
        while not leave.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end")
        except BaseException as error:
            put("error", error)

    def results() -> Iterator[Any]:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    thread = threading.Thread(target=run, name="limner-images", daemon=True)
    thread.start()
    try:
        yield results()
    finally:
        leave.set()
        thread.join()


def content_hash(images: np.ndarray | Tensor) -> str:
    """Hexadecimal digits that stand for the pixels and the shape of images (N, H, W, C) uint8, for `cache_key`."""
    _check(images)
    digest = hashlib.blake2b(json.dumps(list(images.shape)).encode(), digest_size=16)
    for start in range(0, len(images), 1024):
        digest.update(_tensor(images[start : start + 1024]).numpy().data)
    return digest.hexdigest()


def _check(images: Any) -> None:
    if not isinstance(images, np.ndarray | Tensor) or images.ndim != 4 or str(images.dtype).split(".")[-1] != "uint8":
        what = f"{images.dtype} {tuple(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        raise ValueError(f"features are of uint8 images (N, H, W, C), not of {what}")


def _tensor(images: np.ndarray | Tensor) -> Tensor:
    """In memory, contiguous, on the CPU."""
    if isinstance(images, Tensor):
        return images.detach().cpu().contiguous()
    return torch.from_numpy(np.array(images, order="C", copy=True))


def _write(folder: Path, rows: Tensor) -> None:
    narrow = rows.float()
    kept = narrow if torch.equal(narrow.double(), rows) else rows
    with replacing(folder / FILE) as path:
        safetensors.torch.save_file({"features": kept.contiguous()}, path, metadata={"checksum": _checksum(kept)})


def _read(folder: Path, count: int | None) -> Tensor:
    try:
        with safetensors.safe_open(folder / FILE, "pt") as file:
            rows, checksum = file.get_tensor("features"), (file.metadata() or {}).get("checksum")
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise cache.Damaged(str(error)) from None
    if rows.ndim != 2 or checksum != _checksum(rows) or (count is not None and len(rows) != count):
        raise cache.Damaged("not the features that were written, or of another number of images")
    return rows.double()


def _checksum(rows: Tensor) -> str:
    return hashlib.blake2b(rows.contiguous().view(torch.uint8).numpy().data, digest_size=16).hexdigest()
