"""The data sets that come inside the package: two grey PNG strips and their labels. See LICENSES.md and examples/make_embedded_data.py."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from PIL import Image

DIGITS_SIZE, DIGITS_TRAIN = 8, 1437
FASHION_SIZE, FASHION_TRAIN = 28, 10_000
DIGITS_LEVELS = 17


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1797 handwritten digits: levels 0 .. 16 stored as round(255 k / 16), (1797, 8, 8, 1), and labels. The last 360 are test."""
    images, labels = _strip("digits", DIGITS_SIZE)
    return np.round(images * (255 / (DIGITS_LEVELS - 1))).astype(np.uint8), labels


def fashion_mini() -> tuple[np.ndarray, np.ndarray]:
    """12,000 pictures of clothes (12000, 28, 28, 1), and labels. The last 2,000 are of Fashion-MNIST's test set."""
    return _strip("fashion-mini", FASHION_SIZE)


def _strip(name: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    folder = files(__package__)
    with (folder / f"{name}.png").open("rb") as file, Image.open(file, formats=["PNG"]) as strip:
        images = np.array(strip).reshape(-1, side, side, 1)
    labels = np.frombuffer((folder / f"{name}-labels.bin").read_bytes(), np.uint8)
    return images, labels.astype(np.int64)
