"""Rows of images with words beside and above them, pixel for pixel: strips of traversals, of arithmetic, of variations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limner.data.grid import GAP, to_uint8
from limner.files import replacing

CELL = 72
"""Least height and width of an image in the picture: pixels are repeated to reach it."""
FONT, INK, FAINT, FRAME, PAPER = 14, (20, 20, 20), (105, 105, 105), (190, 190, 190), (255, 255, 255)


def strips(
    images: Sequence[Sequence[Tensor | None]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    block: int = 0,
    note: str = "",
) -> Image.Image:
    """A table of images with headings.

    Args:
        images: rows of (C, H, W) in [-1, 1]; None leaves a place empty.
        columns: a heading above each column.
        rows: words to the left of each row.
        block: rows that belong together, set apart from the next ones; 0 if all do.
        note: a line below, broken where it is too long.
    """
    font = _font(FONT)
    first = next(image for row in images for image in row if image is not None)
    scale = max(1, -(-CELL // max(first.shape[1:])))
    height, width = first.shape[1] * scale, first.shape[2] * scale
    cell = max([width, *(int(font.getlength(c)) + 8 for c in columns)]) + GAP
    left = max((int(font.getlength(r)) + 16 for r in rows), default=GAP)
    top = FONT + 12 if columns else GAP
    apart = 3 * FONT // 4 if block else 0
    total = left + max(map(len, images)) * cell + GAP
    lines = _broken(note, font, total - 2 * 8)
    bottom = top + len(images) * (height + GAP) + (len(images) - 1) // (block or len(images)) * apart
    sheet = Image.new("RGB", (total, bottom + (len(lines) * (FONT + 5) + 8 if lines else GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, heading in enumerate(columns):
        pen.text((left + k * cell + cell // 2, top - 5), heading, INK, font, anchor="ms")
    for i, row in enumerate(images):
        y = top + i * (height + GAP) + (i // block * apart if block else 0)
        if i < len(rows):
            pen.text((left - 8, y + height // 2), rows[i], INK, font, anchor="rm")
        for k, image in enumerate(row):
            if image is not None:
                pixels = to_uint8(image[None])[0].repeat(scale, 0).repeat(scale, 1)  # (height, width, C)
                picture = Image.fromarray(np.broadcast_to(pixels, (height, width, 3)).copy())
                x = left + k * cell + (cell - width) // 2
                pen.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
                sheet.paste(picture, (x, y))
    for k, line in enumerate(lines):
        pen.text((8, bottom + 6 + k * (FONT + 5)), line, FAINT, font, anchor="la")
    return sheet


def save_strips(path: str | Path, images: Sequence[Sequence[Tensor | None]], **words) -> None:
    """Write `strips` as a PNG.

    Raises:
        UserError: the file cannot be written.
    """
    picture = strips(images, **words)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # whose font, unlike Pillow's own, knows most alphabets that class names are written in

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _broken(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
