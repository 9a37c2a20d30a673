"""One image file to 8-bit pixels, or the reason why not.

What is done, in this order: the EXIF orientation is applied; a palette becomes colour; 16-bit grey is scaled so that 65535
becomes 255; transparency is composited on the stated background; CMYK becomes RGB by Pillow's plain formula (colour profiles
are not applied); of an animation the first frame is used. A truncated file is refused, never filled up with grey.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from limner.data.pool import digests
from limner.data.resizing import WrongSize, is_grey, square, to_channels
from limner.data.settings import DataConfig

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Raster formats alone: EPS would start Ghostscript, and formats without a magic number would take anything for an image."""

EXTENSIONS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".jpx"}
)

POLICY = [
    "EXIF orientation applied; palettes to colour; 16-bit grey scaled, not clipped; CMYK by Pillow's formula, no colour "
    "profiles; first frame of animations; truncated files refused",
]

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(ValueError):
    """The file is refused; the message is the reason, for a person."""


LARGE = 1 << 24
"""Images of more pixels are decoded one at a time, to bound memory."""
_one_at_a_time = threading.Lock()


@dataclass
class Header:
    """What a file says about itself before it is decoded."""

    size: tuple[int, int]
    mode: str
    format: str


@dataclass
class Decoded:
    """An image at its final size."""

    pixels: np.ndarray
    """uint8 (size, size, 3); (size, size, 1) if one channel is asked for."""
    key: bytes
    """A digest of the decoded pixels at their own size: equal pictures have equal keys, whatever file format they are in."""
    final: bytes
    """A digest of what a model will see of it."""
    grey: bool
    header: Header


def read_header(content: bytes, config: DataConfig) -> Header:
    """Size, mode and format.

    Raises:
        Unusable: not an image, empty, or too many pixels.
    """
    with _opened(content, config) as image:
        return Header(image.size, image.mode, image.format or "")


def decode(content: bytes, size: int, config: DataConfig) -> Decoded:
    """The pixels of an image file at `size`.

    Raises:
        Unusable: not an image, empty, truncated, too many pixels, or refused by the size policy.
    """
    with _opened(content, config) as image:
        header = Header(image.size, image.mode, image.format or "")
        large = image.width * image.height > LARGE
        with _one_at_a_time if large else contextlib.nullcontext():
            return _decode(image, header, size, config)


def _decode(image: Image.Image, header: Header, size: int, config: DataConfig) -> Decoded:
    try:
        image.load()
        plain = flatten(upright(image), config.background_rgb)
    except Unusable:
        raise
    except MemoryError:
        raise Unusable("needs more memory than there is") from None
    except Exception as error:
        # Pillow's readers meet damaged files with whatever their parsing ran into: OSError, SyntaxError, IndexError ...
        raise Unusable(f"damaged or truncated ({_brief(error)})") from None
    array = np.asarray(plain)
    colour = np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array
    try:
        small = np.asarray(square(plain, size, config))
    except WrongSize as error:
        raise Unusable(str(error)) from None
    pixels = np.repeat(small[..., None], 3, axis=2) if small.ndim == 2 else small
    if config.channels == 1:
        pixels = to_channels(pixels[None], 1)[0]
    key, final = digests([colour, pixels])
    return Decoded(pixels, key, final, is_grey(colour), header)


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation wants it seen. EXIF data that cannot be read are passed over."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Any mode to L or RGB.

    Raises:
        Unusable: a mode whose range of values is not known.
    """
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return Image.fromarray(_from_16_bit(np.asarray(image)))
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        sheet = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(sheet, rgba).convert("RGB")
    if image.mode in ("P", "CMYK", "YCbCr", "RGBX", "HSV"):
        return image.convert("RGB")
    raise Unusable(f"pixels of mode {image.mode}, whose range is not known; save it as 8 or 16 bit")


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise Unusable("32-bit integer pixels, whose range is not known; save it as 8 or 16 bit")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow reads; asking it for another is a KeyError."""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


def _opened(content: bytes, config: DataConfig) -> Image.Image:
    if not content:
        raise Unusable("zero bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        raise Unusable("not an image, or its beginning is damaged") from None
    except Image.DecompressionBombError:
        raise Unusable(
            f"decompression bomb: more pixels than Pillow reads (--max-pixels {config.max_pixels})"
        ) from None
    except MemoryError:
        raise Unusable("needs more memory than there is") from None
    except (Exception, struct.error) as error:
        raise Unusable(f"damaged ({_brief(error)})") from None
    width, height = image.size
    if width * height > config.max_pixels:
        raise Unusable(f"decompression bomb: {width}x{height} pixels, more than --max-pixels {config.max_pixels}")
    if width == 0 or height == 0:
        raise Unusable("has no pixels")
    return image


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."
