"""The IDX format of MNIST and its successors: a magic number, the sizes big-endian, then the bytes. Plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from limner.errors import UserError

UNSIGNED_BYTES = 0x08
LIMIT = 1 << 36
"""No IDX file of more bytes than this is read."""


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file.

    Raises:
        UserError: the file is damaged, or is no IDX file of unsigned bytes.
    """
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if zipped else raw as file:
                zero, kind, dimensions = struct.unpack(">HBB", file.read(4))
                if zero != 0 or kind != UNSIGNED_BYTES or not 1 <= dimensions <= 4:
                    raise UserError(f"'{path}' is not an IDX file of unsigned bytes")
                shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
                expected = math.prod(shape)
                if expected > LIMIT:
                    raise UserError(f"'{path}' says that it holds {expected} bytes; that is more than is read")
                content = _read(file, expected + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"'{path}' cannot be read: {error or 'it ends too early'}") from error
    if len(content) != expected:
        more = "more" if len(content) > expected else f"{len(content)}"
        raise UserError(f"'{path}' is damaged: {expected} bytes were announced, {more} are there")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def read_pair(images: Path, labels: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Images uint8 (N, H, W, C) and labels int64 (N,) of an IDX pair.

    Raises:
        UserError: a file is damaged, the shapes are wrong, or the counts differ.
    """
    pixels = read_idx(images)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:]:
        raise UserError(f"'{images}' holds an array of shape {pixels.shape}, not images (N, H, W) or (N, H, W, 3)")
    if labels is None:
        return pixels, None
    classes = read_idx(labels)
    if classes.shape != pixels.shape[:1]:
        raise UserError(f"'{labels}' holds {classes.shape} labels for the {len(pixels)} images of '{images}'")
    return pixels, classes.astype(np.int64)


def labels_beside(images: Path) -> Path | None:
    """The label file that goes with an image file, found by its name."""
    stem = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1").removesuffix(".gz")
    for name in (stem, stem + ".gz"):
        path = images.with_name(name)
        if path != images and path.is_file():
            return path
    return None


def find_images(folder: Path, prefix: str) -> Path | None:
    """The file in `folder` that holds the images of the set called `prefix` ("train", "t10k", "test")."""
    for pattern in (f"{prefix}-images-idx3-ubyte", f"{prefix}-images.idx3-ubyte", f"{prefix}-images-idx4-ubyte"):
        for name in (pattern, pattern + ".gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def is_idx(path: Path) -> bool:
    """Whether a file is called like an IDX file of images."""
    return "idx" in path.name and "images" in path.name


def _read(file, most: int) -> bytes:
    # In pieces, so that a header that announces too much does not reserve memory for it.
    pieces, left = [], most
    while left > 0 and (piece := file.read(min(left, 1 << 22))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
