"""Image files for the tests, made on the spot."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 24, height: int = 24, channels: int = 3) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, channels)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), np.uint8)
    picture = Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, channels)


def encode(pixels: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    """The pixels as a file's bytes."""
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    pixels.save(buffer, format, **options)
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def write_zip(path: Path, files: dict[str, bytes | str]) -> Path:
    """A zip with these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def photos(n: int, prefix: str = "", start: int = 0, **options) -> dict[str, bytes]:
    """n different PNG files."""
    return {f"{prefix}{i:03d}.png": encode(photo(start + i, **options)) for i in range(n)}
