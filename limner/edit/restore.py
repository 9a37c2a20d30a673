"""Restoring image files of any size with a model that undoes damage, one at a time.

A model of convolutions alone takes images of any size: large ones in tiles that overlap and are blended, so that no seam shows. Any
other has one size, to which images are brought, and back again; how much was lost on the way is not its fault, so it is said.

Orientation is applied, transparency is kept as it is, colour profiles are kept; other metadata is not. A model of grey images restores
red, green and blue each by itself; a model of colour images makes colour images of grey ones.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from limner import capabilities
from limner.data.dataset import Refused
from limner.data.decode import Unusable, flatten, read_header, upright
from limner.data.degrade import Degradation
from limner.data.files import open_tree
from limner.data.grid import from_uint8, grid, to_uint8
from limner.data.layout import is_image
from limner.data.settings import DataConfig
from limner.data.tree import Member, Tree, printable
from limner.errors import UserError
from limner.files import make_folder, replacing
from limner.metrics.psnr import decibels, squared_errors
from limner.noise import mix

How = Literal["auto", "tiles", "resize"]

TILE, OVERLAP = 256, 64
"""Pixels of a tile, and of what two neighbours share at least."""
GRID = 16
"""Tiles begin at multiples of it, so that what a network halves is halved at the same places in each."""

WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": (".png", {}),
    "JPEG": (".jpg", {"quality": 95, "subsampling": 0}),
    "WEBP": (".webp", {"lossless": True}),
    "BMP": (".bmp", {}),
    "TIFF": (".tif", {}),
    "PPM": (".ppm", {}),
}
"""The formats that are written as they were read; any other becomes PNG."""


class Picture(NamedTuple):
    """An image file, decoded."""

    pixels: np.ndarray
    """uint8 (H, W, C), C = 1 or 3."""
    alpha: Image.Image | None
    profile: bytes | None
    """ICC colour profile."""
    format: str


@dataclass
class Report:
    """What came of a folder of images."""

    restored: list[Path] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    errors: list[tuple[float, float]] = field(default_factory=list)
    """With damage: mean squared error of each image before and after, in grey levels squared."""

    @property
    def psnr(self) -> tuple[float, float]:
        """PSNR in dB of the damaged and the restored images, over all."""
        before, after = np.mean(self.errors, axis=0)
        return decibels(float(before)), decibels(float(after))


@torch.no_grad()
def restore_files(
    model: Any,
    source: str | Path,
    out: str | Path,
    *,
    degrade: str | None = None,
    how: How = "auto",
    tile: int = TILE,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Report:
    """Restore the image files in `source` (a file, a folder, a zip or a tar) into the folder `out`, under their own names.

    Args:
        model: anything that `Restores`.
        degrade: damage the images first, and write NAME.strip.png (clean, damaged and restored side by side) beside each result.
        how: tiles (a model that takes any size alone), resize, or auto: tiles where that is possible.
        tile: pixels of a tile's side.
        seed: of the damage.
        say: told what is done, and each file that is left out with the reason.

    Raises:
        UserError: the model cannot restore, there are no images, a result would overwrite an input, or nothing can be written.
    """
    restore = restorer(model, how=how, tile=tile, say=say)
    source, out, report = Path(source).expanduser(), Path(out).expanduser(), Report()
    damage = None if degrade is None else Degradation.parse(degrade)
    with closing(_tree(source)) as tree:
        _check_place(source, out)
        report.refused += tree.refused
        for number, member in enumerate(tree.members):
            try:
                if not is_image(member.name):
                    raise Unusable("not an image by its name")
                path = _restore_file(member, number, restore, out, damage, seed, report)
                say(f"{member.name} -> {path}{_figures(report) if damage else ''}")
                report.restored.append(path)
            except (Unusable, OSError, ValueError) as error:
                report.refused.append(Refused(member.name, str(error)))
    for refused in report.refused:
        say(f"left out: {refused.name}: {refused.reason}")
    if not report.restored and not report.refused:
        raise UserError(f"'{source}' has no images")
    return report


def _restore_file(
    member: Member,
    number: int,
    restore: Callable[[Tensor], Tensor],
    out: Path,
    damage: Degradation | None,
    seed: int,
    report: Report,
) -> Path:
    """Restore one file; returns where to."""
    picture = read_picture(member.read())
    clean = image = from_uint8(picture.pixels[None])  # (1, C, H, W)
    if damage is not None:
        # What a model is shown are 8-bit images, as a damaged file would be.
        image = from_uint8(to_uint8(damage(image, [mix(seed, number)])))
    restored = restore(image)
    path = out / _name(member.name, picture.format)
    if path in report.restored:
        raise Unusable(f"its result would overwrite that of another file, '{path}'")
    write_picture(restored, picture, path)
    if damage is not None:
        three = [x.expand(-1, restored.shape[1], -1, -1) for x in (clean, image, restored)]
        shown = [torch.from_numpy(to_uint8(x)) for x in three]
        report.errors.append(tuple(float(squared_errors(shown[0], x)) for x in shown[1:]))  # type: ignore[arg-type]
        strip = grid(torch.cat(shown).numpy(), columns=3)
        with replacing(path.with_name(f"{path.name}.strip.png")) as temporary:
            strip.save(temporary, format="PNG")
    return path


def _figures(report: Report) -> str:
    before, after = map(decibels, report.errors[-1])
    return f": {before:.2f} dB damaged, {after:.2f} dB restored"


# The model


def restorer(
    model: Any, *, how: How = "auto", tile: int = TILE, say: Callable[[str], None]
) -> Callable[[Tensor], Tensor]:
    """A function that restores one image (1, C, H, W) of any size, whatever the model's size and channels.

    Raises:
        UserError: the model cannot restore, or not in tiles.
    """
    if not isinstance(model, capabilities.Restores):
        can = ", ".join(capabilities.of(model)) or "nothing but train"
        raise UserError(f"this model cannot restore images; it can: {can}")
    if how == "tiles" and not model.any_size:
        raise UserError(
            "this model takes images of its own size alone, so they cannot be restored in tiles; use --how resize"
        )
    if how == "auto":
        how = "tiles" if model.any_size else "resize"
    channels, size = model.config.channels, model.config.size  # type: ignore[attr-defined]
    device = model.device  # type: ignore[attr-defined]
    if how == "tiles":
        say(
            f"images larger than {tile} pixels are restored in tiles of {tile}, which overlap by {min(OVERLAP, tile // 2)}"
        )
        whole = lambda x: tiled(model.restore, x.to(device), tile).cpu()  # noqa: E731
    else:
        say(f"images are resized to the model's {size}x{size} pixels and back, which costs detail")
        whole = lambda x: resized(model.restore, x.to(device), size).cpu()  # noqa: E731

    def restore(image: Tensor) -> Tensor:
        if channels == 1 and image.shape[1] == 3:
            return whole(image.transpose(0, 1)).transpose(0, 1)
        return whole(image.expand(-1, channels, -1, -1)).clamp(-1, 1)

    return restore


def tiled(restore: Callable[[Tensor], Tensor], image: Tensor, tile: int = TILE, overlap: int = OVERLAP) -> Tensor:
    """`restore` of images (B, C, H, W) in tiles, blended where they overlap.

    A tile's weight is 0 for a quarter of the overlap, where the model lacks the surroundings, and then rises to 1 in a straight line.
    """
    overlap = min(overlap, tile // 2)
    H, W = image.shape[2:]
    if max(H, W) <= tile:
        return restore(image)
    total, weight = torch.zeros_like(image), torch.zeros_like(image[:1, :1])
    for top, bottom in spans(H, tile, overlap):
        for left, right in spans(W, tile, overlap):
            part = restore(image[..., top:bottom, left:right])
            w = _ramp(top, bottom, H, overlap)[:, None] * _ramp(left, right, W, overlap)[None]  # (h, w)
            w = w.to(part)
            total[..., top:bottom, left:right] += w * part
            weight[..., top:bottom, left:right] += w
    return total / weight


def spans(side: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Where the tiles along a side begin and end. Neighbours share `overlap` pixels or more; all begin at multiples of `GRID`."""
    n = 1 if side <= tile else 1 + -(-(side - tile) // max(tile - overlap - GRID, GRID))
    for i in range(n):
        # The last one begins where it is at most `tile` long.
        start = -(-i * (side - tile) // (n - 1) // GRID) * GRID if i else 0
        yield start, min(start + tile, side)


def _ramp(start: int, stop: int, side: int, overlap: int) -> Tensor:
    """(stop - start,) weights: 1 inside, falling towards the ends that have a neighbour."""
    margin = overlap // 4
    rise = (torch.arange(1.0, stop - start + 1) - margin) / (overlap + 1 - 2 * margin)
    weight = torch.ones(stop - start)
    if start > 0:
        weight = weight.minimum(rise)
    if stop < side:
        weight = weight.minimum(rise.flip(0))
    return weight.clamp(min=0)


def resized(restore: Callable[[Tensor], Tensor], image: Tensor, size: int) -> Tensor:
    """`restore` of images (B, C, H, W) brought to `size` x `size` (bicubic, antialiased) and back."""
    H, W = image.shape[2:]
    if H == W == size:
        return restore(image)
    small = F.interpolate(image, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    back = F.interpolate(restore(small), (H, W), mode="bicubic", antialias=True, align_corners=False)
    return back.clamp(-1, 1)


# Files


def read_picture(content: bytes) -> Picture:
    """An image file as pixels, upright.

    Raises:
        Unusable: with the reason.
    """
    config = DataConfig(data="restore")
    header = read_header(content, config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `read_header` has looked at the size
            file = Image.open(io.BytesIO(content), formats=[header.format])
            file.load()
        image = upright(file)
        profile = image.info.get("icc_profile") if image.mode in ("L", "LA", "RGB", "RGBA") else None
        alpha = None
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            alpha, image = rgba.getchannel("A"), rgba.convert("RGB")
        plain = flatten(image, config.background_rgb)
    except Unusable:
        raise
    except MemoryError:
        raise Unusable("needs more memory than there is") from None
    except Exception as error:  # Pillow's readers meet damaged files with whatever their parsing ran into
        raise Unusable(f"damaged or truncated ({' '.join(str(error).split())[:100] or type(error).__name__})") from None
    pixels = np.array(plain)
    return Picture(pixels if pixels.ndim == 3 else pixels[..., None], alpha, profile, header.format)


def write_picture(image: Tensor, picture: Picture, path: Path) -> None:
    """Write an image (1, C, H, W) with the transparency and the colour profile of `picture`.

    Raises:
        UserError: it cannot be written.
    """
    pixels = to_uint8(image)[0]
    result = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if picture.alpha is not None:
        result.putalpha(picture.alpha)
    format = picture.format if picture.format in WRITERS else "PNG"
    options = dict(WRITERS[format][1])
    if picture.profile and pixels.shape == picture.pixels.shape:
        options["icc_profile"] = picture.profile
    make_folder(path.parent)
    with replacing(path) as temporary:
        result.save(temporary, format=format, **options)


def _name(name: str, format: str) -> str:
    """The name of the result. One whose format is not written again gets .png behind its whole name."""
    if format not in WRITERS:
        return f"{name}.png"
    return name if "." in name.rpartition("/")[2] else name + WRITERS[format][0]


def _tree(source: Path) -> Tree:
    """The files in `source`; one image file is a tree of itself alone."""
    try:
        if source.is_file() and is_image(source.name) and source.suffix:
            return Tree(
                source.stem,
                [Member(printable(source.name), source.stat().st_size, source.read_bytes)],
                "",
                lambda _: "",
            )
        return open_tree(source)
    except UserError as error:
        raise UserError(str(error).removeprefix("--data: ")) from None


def _check_place(source: Path, out: Path) -> None:
    """Refuse an `out` that would write among the images themselves."""
    if not source.is_dir() and not is_image(source.name):
        return  # an archive
    images, place = (source if source.is_dir() else source.parent).resolve(), out.resolve()
    if place == images or (source.is_dir() and images in place.parents):
        raise UserError(
            f"--out '{out}' is where the images are: they would be overwritten, or restored once more; choose another"
        )
