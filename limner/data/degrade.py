"""Damage to images, for a model to learn the way back: a data set with `--degrade` is one of pairs (damaged, clean).

    noise=0.2       Gaussian noise of this standard deviation (images span [-1, 1]: 0.2 is 25.5 grey levels of 255)
    salt=0.1        this share of the pixels black or white ("salt and pepper")
    blur=1.5        Gaussian blur of this standard deviation in pixels, borders mirrored
    down=4          means of 4 x 4 pixels (a box filter), each repeated over its square: a smaller image, at the same size
    grey            brightness alone: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601) in every channel
    watermark=text  a word (text) or an emblem (logo) over the image, half transparent; place, size, angle and tone by chance
    mask=box        a box, strokes of a brush (brush) or one half of the image (half) replaced by middle grey
    jpeg=20         through a JPEG file of this quality

Everything may be left out after the name. `noise=0.1-0.5` draws the strength for each image, `watermark` and `mask` alone draw the
kind. A plus sign makes a chain: `blur=1.5+jpeg=20` blurs first. Of several chains each image suffers one, by chance.

What an image suffers is a pure function of that image and a seed of its own: its neighbours in a batch, and the device, change nothing.
"""

from __future__ import annotations

import difflib
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limner.errors import UserError

WORDS = ("SAMPLE", "DRAFT", "PREVIEW", "STOCK", "PROOF", "COPY", "DEMO", "PHOTO")
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Rng = np.random.Generator
Shape = Callable[[int, int, Rng], np.ndarray]


# Each takes one image, float32 (C, H, W) in [-1, 1], its strength and a source of chance, and gives a new image.


def noise(image: np.ndarray, deviation: float, rng: Rng) -> np.ndarray:
    """White Gaussian noise, then cut to [-1, 1]."""
    drawn = rng.standard_normal(image.shape, np.float32)
    return (image + np.float32(deviation) * drawn).clip(-1, 1)


def salt(image: np.ndarray, share: float, rng: Rng) -> np.ndarray:
    """A share of the pixels black or white, all channels of a pixel alike."""
    u = rng.random(image.shape[1:])
    return np.where(u < share, np.where(u < share / 2, np.float32(-1), np.float32(1)), image)


def blur(image: np.ndarray, sigma: float, rng: Rng | None = None) -> np.ndarray:
    """Gaussian blur. The window ends at four deviations and is mirrored at the border, as in `scipy.ndimage.gaussian_filter`."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        side = image.shape[axis]
        place = np.arange(-radius, side + radius) % (2 * side)
        padded = image.take(np.minimum(place, 2 * side - 1 - place), axis)  # d c b a | a b c d | d c b a
        image = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis) @ weights
    return image


def down(image: np.ndarray, factor: int, rng: Rng) -> np.ndarray:
    """Means of squares of `factor` pixels a side, each repeated over its square; the last ones are cut off by the border."""
    for axis in (1, 2):
        starts = np.arange(0, image.shape[axis], factor)
        lengths = np.diff(np.append(starts, image.shape[axis]))
        shape = [-1 if a == axis else 1 for a in range(3)]
        means = np.add.reduceat(image, starts, axis) / lengths.astype(np.float32).reshape(shape)
        image = means.repeat(lengths, axis)
    return image


def grey(image: np.ndarray, _: None, rng: Rng) -> np.ndarray:
    """Brightness in all three channels; an image of one has nothing to lose."""
    return image if len(image) == 1 else np.repeat(np.tensordot(LUMA, image, 1)[None], 3, axis=0)


def jpeg(image: np.ndarray, quality: int, rng: Rng | None = None) -> np.ndarray:
    """Through a JPEG file of this quality, 1 to 95, as Pillow writes it."""
    pixels = ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(file, "JPEG", quality=int(quality))
    decoded = np.asarray(Image.open(file)).reshape(pixels.shape).transpose(2, 0, 1)
    return decoded.astype(np.float32) / np.float32(127.5) - 1


def mask(image: np.ndarray, kind: str, rng: Rng) -> np.ndarray:
    """The pixels of `HOLES[kind]` become 0, which is middle grey."""
    _, height, width = image.shape
    return np.where(HOLES[kind](height, width, rng), np.float32(0), image)


def watermark(image: np.ndarray, kind: str, rng: Rng) -> np.ndarray:
    """A white or black mark of `MARKS[kind]` over the image, of 30 to 70 % opacity."""
    _, height, width = image.shape
    cover = MARKS[kind](height, width, rng) * np.float32(rng.uniform(0.3, 0.7))  # (H, W)
    tone = np.float32(rng.choice((-1, 1)))
    return image + cover * (tone - image)


# Holes: bool (H, W), true where the image is lost


def box(height: int, width: int, rng: Rng) -> np.ndarray:
    """A box of a quarter to a half of each side."""
    hole = np.zeros((height, width), bool)
    h, w = (max(1, round(side * rng.uniform(0.25, 0.5))) for side in hole.shape)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    hole[top : top + h, left : left + w] = True
    return hole


def brush(height: int, width: int, rng: Rng) -> np.ndarray:
    """Two to four bent strokes."""
    sheet = Image.new("1", (width, height))
    pen, side = ImageDraw.Draw(sheet), min(height, width)
    for _ in range(rng.integers(2, 5)):
        thickness = max(1, round(side * rng.uniform(0.05, 0.1)))
        points = (rng.random((3, 2)) * (width, height)).tolist()
        pen.line([tuple(p) for p in points], fill=1, width=thickness, joint="curve")
    return np.array(sheet)


def half(height: int, width: int, rng: Rng) -> np.ndarray:
    """The upper, lower, left or right half."""
    side, hole = rng.integers(4), np.zeros((height, width), bool)
    lines = hole if side < 2 else hole.T
    lines[(slice(None, len(lines) // 2), slice(-(len(lines) // 2), None))[side % 2]] = True
    return hole


HOLES: dict[str, Shape] = {"box": box, "brush": brush, "half": half}


# Marks: float32 (H, W), 1 where the mark covers the image and 0 where it does not


def text(height: int, width: int, rng: Rng) -> np.ndarray:
    """A word over 60 to 100 % of the width, turned by up to 30 degrees."""
    word = WORDS[rng.integers(len(WORDS))]
    share, angle = rng.uniform(0.6, 1.0), rng.uniform(-30, 30)
    # Written in the next larger of a few sizes, and made smaller: that is quick, and sharp at any size of image.
    size = 2 ** min(9, max(5, math.ceil(math.log2(max(width, 1) / 3))))
    written = _written(word, size)
    across = max(1, round(share * width))
    scaled = written.resize((across, max(1, round(across * written.height / written.width))), Image.Resampling.LANCZOS)
    return _placed(scaled.rotate(angle, Image.Resampling.BICUBIC, expand=True), height, width, rng)


def logo(height: int, width: int, rng: Rng) -> np.ndarray:
    """A ring with a figure in it, of 30 to 60 % of the shorter side."""
    side = max(1, round(min(height, width) * rng.uniform(0.3, 0.6)))
    emblem = _emblem(int(rng.integers(3, 7)), 2 ** min(10, max(6, math.ceil(math.log2(side)))))
    return _placed(emblem.resize((side, side), Image.Resampling.LANCZOS), height, width, rng)


MARKS: dict[str, Shape] = {"text": text, "logo": logo}


@lru_cache(maxsize=64)
def _written(word: str, size: int) -> Image.Image:
    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(v) for v in font.getbbox(word))
    sheet = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(sheet).text((-left, -top), word, fill=255, font=font)
    return sheet


@lru_cache(maxsize=64)
def _emblem(corners: int, size: int) -> Image.Image:
    sheet = Image.new("L", (4 * size, 4 * size))
    pen, last = ImageDraw.Draw(sheet), 4 * size - 1
    pen.ellipse((0, 0, last, last), fill=255)
    pen.ellipse((0.12 * last, 0.12 * last, 0.88 * last, 0.88 * last), fill=0)
    pen.regular_polygon((last / 2, last / 2, 0.3 * last), corners, fill=255)
    return sheet.reduce(4)


def _placed(mark: Image.Image, height: int, width: int, rng: Rng) -> np.ndarray:
    """The mark somewhere on an empty sheet; wholly inside where it fits."""
    sheet = Image.new("L", (width, height))
    across, along = (round(rng.random() * (room - used)) for room, used in ((width, mark.width), (height, mark.height)))
    sheet.paste(mark, (across, along))
    return np.asarray(sheet, np.float32) / np.float32(255)


# What a person writes


@dataclass(frozen=True)
class Kind:
    """A kind of damage: its function and the strengths that may be asked for."""

    apply: Callable[[np.ndarray, Any, Rng], np.ndarray]
    default: float = 0.0
    bounds: tuple[float, float] | None = None
    whole: bool = False
    """Whether the strength is a whole number."""
    choices: tuple[str, ...] = ()
    takes_colour: bool = False
    """Whether it takes colour away, and so needs some."""


KINDS = {
    "noise": Kind(noise, 0.2, (0, 10)),
    "salt": Kind(salt, 0.1, (0, 1)),
    "blur": Kind(blur, 1.5, (0.1, 100)),
    "down": Kind(down, 4, (1, 64), whole=True),
    "grey": Kind(grey, takes_colour=True),
    "watermark": Kind(watermark, choices=tuple(MARKS)),
    "mask": Kind(mask, choices=tuple(HOLES)),
    "jpeg": Kind(jpeg, 20, (1, 95), whole=True),
}


@dataclass(frozen=True)
class Step:
    """One damage of a chain: its kind, and between which strengths (or of which choices) one is drawn."""

    name: str
    strengths: tuple[Any, ...]
    """(strength,), (lowest, highest), or the choices."""

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        """A damaged copy of one image (C, H, W)."""
        kind, strength = KINDS[self.name], self.strengths[0] if self.strengths else None
        if len(self.strengths) > 1:
            if kind.choices:
                strength = self.strengths[rng.integers(len(self.strengths))]
            elif kind.whole:
                strength = int(rng.integers(self.strengths[0], self.strengths[1] + 1))
            else:
                strength = rng.uniform(*self.strengths)
        return kind.apply(image, strength, rng)


@dataclass(frozen=True)
class Degradation:
    """Chains of damage, of which each image suffers one."""

    chains: tuple[tuple[Step, ...], ...]
    specs: tuple[str, ...]
    """The chains as they were written."""

    @classmethod
    def parse(cls, specs: str | Sequence[str]) -> Degradation:
        """The degradation that `specs` (one chain each) describe; see the head of this file.

        Raises:
            UserError: an unknown name (the nearest is given), or a strength that is none or out of bounds.
        """
        specs = (specs,) if isinstance(specs, str) else tuple(specs)
        return cls(tuple(tuple(map(_step, spec.split("+"))) for spec in specs), specs)

    def __call__(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Damaged copies of images (B, C, H, W) in [-1, 1], which stay in that range; image i suffers what seeds[i] says."""
        damaged = [self.one(image, seed) for image, seed in zip(images.cpu().numpy(), seeds, strict=True)]
        return torch.from_numpy(np.stack(damaged)).to(images.device)

    def one(self, image: np.ndarray, seed: int) -> np.ndarray:
        """A damaged copy of one image, float32 (C, H, W)."""
        rng = np.random.default_rng(seed)
        chain = self.chains[rng.integers(len(self.chains)) if len(self.chains) > 1 else 0]
        for step in chain:
            image = step(image, rng)
        return np.ascontiguousarray(image, np.float32).clip(-1, 1)

    def check(self, channels: int) -> None:
        """Refuse what cannot be done to images of so many channels.

        Raises:
            UserError: colour is to be taken away where there is none.
        """
        for name in [step.name for chain in self.chains for step in chain if KINDS[step.name].takes_colour]:
            if channels != 3:
                raise UserError(
                    f"--degrade {name}: these images are grey already; it needs colour images (see --channels 3)"
                )


def _step(text: str) -> Step:
    name, equals, value = (part.strip() for part in text.partition("="))
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(KINDS)}"
        raise UserError(f"--degrade {text}: there is no degradation '{name}'; {hint}")
    kind = KINDS[name]
    if not equals:
        return Step(name, kind.choices or ((kind.default,) if kind.bounds else ()))
    if kind.choices:
        if value not in kind.choices:
            raise UserError(
                f"--degrade {text}: choose {' or '.join(f'{name}={c}' for c in kind.choices)}, or {name} alone"
            )
        return Step(name, (value,))
    if kind.bounds is None:
        raise UserError(f"--degrade {text}: '{name}' has no strength; write {name} alone")
    strengths = _numbers(value, int if kind.whole else float)
    low, high = kind.bounds
    if not strengths or strengths[0] > strengths[-1] or not all(low <= s <= high for s in strengths):
        what = "a whole number" if kind.whole else "a number"
        raise UserError(
            f"--degrade {text}: give {what} from {low:g} to {high:g}, or a range of them, such as {name}={kind.default:g}"
        )
    return Step(name, strengths)


def _numbers(value: str, number: type) -> tuple[Any, ...]:
    """ "0.3" -> (0.3,), "0.1-0.5" -> (0.1, 0.5), anything else -> ()."""
    spread = re.fullmatch(r"([^-]*[^-eE])-([^-].*)", value)
    try:
        return tuple(number(part) for part in (spread.groups() if spread else (value,)))
    except ValueError:
        return ()
