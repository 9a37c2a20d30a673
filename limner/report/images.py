"""Images as parts of one PNG, ready to be put into a page: small on disk, scaled by the browser without blur."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def mosaic(images: np.ndarray, columns: int, *, gap: int = 1) -> Image.Image:
    """uint8 (N, H, W, C) side by side in rows of `columns`, with `gap` transparent pixels between them."""
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width, :3] = image if channels == 3 else image.repeat(3, axis=-1)
        sheet[top : top + height, left : left + width, 3] = 255
    return Image.fromarray(sheet)


def data_uri(picture: Image.Image) -> str:
    """A picture as a PNG data URI."""
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
