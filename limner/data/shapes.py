"""Coloured shapes on plain grounds, drawn on demand: a data set whose factors of variation are all known.

Image i of a seed is a pure function of (seed, i, size), and its scene of (seed, i) alone: the same picture at every size. Each
comes with a label (its shape), a caption, a mask, a box and its factors. `shapes` is filled shapes; `shapes-ab` has two domains,
A filled and B outlined, of different scenes: an unpaired translation whose answer is known.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from limner.data import cache
from limner.data.dataset import Dataset, Split, pair
from limner.data.download import Progress
from limner.data.packed import pack, unpack
from limner.data.pool import SPLITS, Census, Gathered, Pool, data_sets, settle
from limner.data.resizing import to_channels
from limner.data.settings import DataConfig
from limner.data.tree import WORKERS
from limner.errors import UserError

Style = Literal["filled", "outlined"]

VERSION = 1
SHAPES = ["circle", "square", "triangle", "star", "cross", "heart"]
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (240, 205, 20),
    "green": (34, 139, 34),
    "cyan": (0, 190, 200),
    "blue": (31, 80, 200),
    "purple": (128, 40, 160),
    "pink": (245, 110, 180),
}
BACKGROUNDS = {"white": (255, 255, 255), "grey": (160, 160, 160), "brown": (90, 60, 40), "black": (0, 0, 0)}
SIZES = {"small": (0.14, 0.19), "medium": (0.21, 0.27), "large": (0.30, 0.38)}
"""Radius of the circle around the shape, as a share of the image's side."""
FACTORS = ("shape", "colour", "background", "radius", "x", "y", "rotation")
"""Columns of `extras["factors"]`: three indices into the lists above, three shares of the image's side, and degrees."""

SMALLEST, LARGEST, DEFAULT_SIZE, DEFAULT_COUNT = 16, 256, 32, 10_000
TEST_START = 1 << 40
"""Indices from here on are test images: no count of training images reaches them."""
DOMAIN_START = {"A": 0, "B": 1 << 41}
DOMAIN_STYLE: dict[str, Style] = {"A": "filled", "B": "outlined"}
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Scene:
    """What one image shows; fields as in `FACTORS`."""

    shape: int
    colour: int
    background: int
    radius: float
    x: float
    y: float
    rotation: float

    @property
    def caption(self) -> str:
        """Such as "a small red star at the top left on a white background"."""
        size = next(name for name, (_, high) in SIZES.items() if self.radius <= high)
        row = _third(self.y, ("top", "", "bottom"))
        column = _third(self.x, ("left", "", "right"))
        where = f"at the {row} {column}".replace("  ", " ").strip() if row or column else "in the centre"
        colour, background = list(COLOURS)[self.colour], list(BACKGROUNDS)[self.background]
        article = "an" if size[0] in "aeiou" else "a"
        return f"{article} {size} {colour} {SHAPES[self.shape]} {where} on a {background} background"

    @property
    def outline(self) -> np.ndarray:
        """(V, 2) corners x, y of the shape, as shares of the image's side."""
        angle = math.radians(self.rotation)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        return UNIT[SHAPES[self.shape]] @ turn * self.radius + (self.x, self.y)


def scene(seed: int, index: int) -> Scene:
    """The scene of image `index`."""
    u = np.random.default_rng([seed, index]).random(8)
    low, high = list(SIZES.values())[int(u[3] * len(SIZES))]
    radius = low + (high - low) * u[4]
    room = 1 - 2 * radius - 0.04  # the whole shape is inside, with a margin
    x, y = 0.02 + radius + room * u[5], 0.02 + radius + room * u[6]
    shape, colour, background = int(u[0] * len(SHAPES)), int(u[1] * len(COLOURS)), int(u[2] * len(BACKGROUNDS))
    return Scene(shape, colour, background, float(radius), float(x), float(y), float(360 * u[7]))


def draw(scene: Scene, size: int, style: Style = "filled") -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8 (size, size, 3), antialiased, and the mask uint8 (size, size, 1): 255 where at least half of a pixel
    belongs to the shape (outlined: to what its line encloses, the line included)."""
    big = size * SUPERSAMPLING
    corners = [tuple(c) for c in (scene.outline * big - 0.5).tolist()]
    sheet = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(sheet)
    pen.polygon(corners, fill=255)
    whole = sheet.reduce(SUPERSAMPLING)
    cover = whole
    if style == "outlined":
        line = Image.new("L", (big, big), 0)
        width = max(SUPERSAMPLING, round(0.06 * big))
        ImageDraw.Draw(line).line([*corners, corners[0], corners[1]], fill=255, width=width, joint="curve")
        # Only the half of the line that is inside the shape: the silhouette stays that of the filled style.
        cover = Image.composite(line, Image.new("L", (big, big), 0), sheet).reduce(SUPERSAMPLING)
    share = np.asarray(cover, np.float32)[..., None] / 255
    front = np.array(list(COLOURS.values())[scene.colour], np.float32)
    ground = np.array(list(BACKGROUNDS.values())[scene.background], np.float32)
    picture = np.round(ground + share * (front - ground)).astype(np.uint8)
    mask = np.where(np.asarray(whole)[..., None] >= 128, 255, 0).astype(np.uint8)
    return picture, mask


def redraw(factors: np.ndarray, size: int, style: Style) -> np.ndarray:
    """The scenes that rows of `extras["factors"]`, (N, 7), describe, drawn in a style: uint8 (N, size, size, 3)."""
    scenes = [Scene(*(int(v) for v in row[:3]), *(float(v) for v in row[3:])) for row in factors]
    return np.stack([draw(s, size, style)[0] for s in scenes])


def box(scene: Scene, size: int) -> np.ndarray:
    """(4,) left, top, right, bottom of the shape in pixels, from its geometry."""
    corners = scene.outline * size
    return np.concatenate([corners.min(0), corners.max(0)]).astype(np.float32)


def gather(config: DataConfig, progress: Progress | None = None) -> Gathered:
    """Both splits of `shapes` or `shapes-ab`, drawn once and kept in the cache.

    Raises:
        UserError: a size outside 16 to 256.
    """
    size = config.size or DEFAULT_SIZE
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size {size}: shapes are drawn at {SMALLEST} to {LARGEST} pixels")
    counts = _counts(config)
    key = f"{VERSION} {config.data} {size} {config.channels} {config.data_seed} {counts} {Image.__version__}"
    return cache.stored(
        "shapes",
        hashlib.sha256(key.encode()).hexdigest(),
        lambda folder: _build(folder, config, size, counts, progress),
        unpack,
    )


def _counts(config: DataConfig) -> dict[Split, int]:
    train = config.count or DEFAULT_COUNT
    return {"train": train, "test": max(1, round(train * config.test_fraction))}


def _build(folder: Path, config: DataConfig, size: int, counts: dict[Split, int], progress: Progress | None) -> None:
    if config.data == "shapes":
        sets = _styled("shapes", config, size, counts, "filled", 0, progress)
    else:
        parts = {
            d: _styled(f"shapes-ab {d}", config, size, counts, style, DOMAIN_START[d], progress)
            for d, style in DOMAIN_STYLE.items()
        }
        sets = {s: pair("shapes-ab", {d: part[s] for d, part in parts.items()}, s, paired=False) for s in SPLITS}
    n = sum(len(part) for d in sets.values() for part in (d.domains or {"": d}).values())
    census = Census(Counter({f"{size}x{size}": n}), Counter(RGB=n), Counter(drawn=n))
    pack(folder, Gathered(sets, sets["train"].refused, census, sets["train"].policy))


def _styled(
    name: str,
    config: DataConfig,
    size: int,
    counts: dict[Split, int],
    style: Style,
    start: int,
    progress: Progress | None,
) -> dict[Split, Dataset]:
    splits = [s for s in SPLITS for _ in range(counts[s])]
    indices = [start + i for i in range(counts["train"])] + [start + TEST_START + i for i in range(counts["test"])]
    scenes = [scene(config.data_seed, i) for i in indices]
    channels = config.channels or 3
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    masks = np.empty((len(scenes), size, size, 1), np.uint8)
    with ThreadPoolExecutor(WORKERS) as workers:
        for i, (picture, mask) in enumerate(workers.map(lambda s: draw(s, size, style), scenes)):
            images[i], masks[i] = picture, mask
            if progress:
                progress(i + 1, len(scenes))
    pool = Pool(
        name=name,
        images=to_channels(images, channels),
        names=[f"image {i}" for i in indices],
        splits=list(splits),
        labels=np.array([s.shape for s in scenes], np.int64),
        class_names=SHAPES,
        captions=[s.caption for s in scenes],
        extras={
            "mask": masks,
            "boxes": np.stack([box(s, size) for s in scenes]),
            "factors": np.array([[getattr(s, f) for f in FACTORS] for s in scenes], np.float32),
        },
        policy=[f"drawn at {size}x{size}, {SUPERSAMPLING}x{SUPERSAMPLING} samples a pixel"],
    )
    return data_sets(pool, *settle(pool, config))


def _third(position: float, names: tuple[str, str, str]) -> str:
    return names[min(2, int(position * 3))]


def _regular(corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _star(points: int = 5, inner: float = 0.4) -> np.ndarray:
    return _regular(2 * points) * np.where(np.arange(2 * points) % 2, inner, 1.0)[:, None]


def _cross(arm: float = 0.34) -> np.ndarray:
    long = math.sqrt(1 - arm * arm)
    quarter = np.array([[arm, -long], [arm, -arm], [long, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])  # a quarter turn, clockwise as seen
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    curve = np.stack(
        [16 * np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))], 1
    )
    curve -= (curve.min(0) + curve.max(0)) / 2
    return curve / np.linalg.norm(curve, axis=1).max()


UNIT: dict[str, np.ndarray] = {
    "circle": _regular(64),
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
}
"""Corners (V, 2) of each shape in the unit circle, y downwards."""
