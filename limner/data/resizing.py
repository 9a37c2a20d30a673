"""Making an image a square: which part of it, and by which filter."""

from __future__ import annotations

import numpy as np
from PIL import Image

from limner.data.settings import DataConfig

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


class WrongSize(ValueError):
    """The size policy refuses the image."""


def square(image: Image.Image, size: int, config: DataConfig) -> Image.Image:
    """`image` (mode L or RGB) as size x size pixels by `config.crop` and `config.resize`.

    Raises:
        WrongSize: `crop` is "none" and the image has another size.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if config.crop == "none":
        raise WrongSize(f"wrong size: {width}x{height}, not {size}x{size} (--crop none)")
    if config.crop == "pad":
        side = max(width, height)
        scaled = max(1, round(width * size / side)), max(1, round(height * size / side))
        colour = config.background_rgb
        grey = round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])
        sheet = Image.new(image.mode, (size, size), grey if image.mode == "L" else colour)
        sheet.paste(image.resize(scaled, FILTERS[config.resize]), ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
        return sheet
    box = None
    if config.crop == "center":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    return image.resize((size, size), FILTERS[config.resize], box=box)


def resize_arrays(images: np.ndarray, size: int, config: DataConfig) -> np.ndarray:
    """uint8 (N, H, W, C) to (N, size, size, C); C is 1 or 3."""
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    result = np.empty((n, size, size, channels), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        result[i] = np.asarray(square(picture, size, config)).reshape(size, size, channels)
    return result


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (N, H, W, C) with 1 or 3 channels: grey is repeated, colour is weighed as ITU-R 601-2 luma."""
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    weights = np.array([19595, 38470, 7471], np.uint32)  # of 65536, as Pillow's
    return ((images @ weights + 32768) >> 16).astype(np.uint8)[..., None]


def is_grey(images: np.ndarray) -> bool:
    """Whether red, green and blue are equal everywhere."""
    if images.shape[-1] == 1:
        return True
    return bool((images[..., 0] == images[..., 1]).all() and (images[..., 0] == images[..., 2]).all())


def natural_size(sizes: list[tuple[int, int]]) -> tuple[int, str]:
    """The size to use where none is asked for, and why: the images' own if they are all equal squares of at most 256 pixels,
    else the largest power of two up to 64 that most images are not smaller than."""
    if len(set(sizes)) == 1 and sizes[0][0] == sizes[0][1] <= 256:
        return sizes[0][0], f"all images are {sizes[0][0]}x{sizes[0][0]}"
    median = int(np.median([min(s) for s in sizes]))
    size = next((s for s in (64, 32, 16) if s <= median), 8)
    return size, f"{size} pixels were chosen, as the images' sizes differ or are large: set --size to change that"
