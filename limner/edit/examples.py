"""Images to show to a trained model: the held-out ones of its run, other data, or single files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from limner import capabilities, hub
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.decode import Unusable, decode
from limner.data.grid import from_uint8
from limner.data.named import NAMES, PROCEDURAL
from limner.data.order import held_out_order
from limner.data.resizing import to_channels
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.model import Model
from limner.training.device import pick
from limner.training.folder import SETTINGS, RunFolder

Part = Literal["train", "test", "all"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load(run: str | Path, *capability: str, device: str = "auto") -> Model:
    """The trained model of a run folder (or of the hub), if it has one of these capabilities (`limner.capabilities.CAPABILITIES`).

    Raises:
        UserError: there is no such model, or it can do none of them.
    """
    model = hub.load(run, device=pick(device))
    can = capabilities.of(model)
    if capability and not set(capability) & set(can):
        raise UserError(f"'{run}' cannot {' or '.join(capability)}; it can: {', '.join(can) or 'nothing but train'}")
    return model


def examples(run: str | Path, model: Model, data: str | None = None, *, part: Part = "test") -> list[Dataset]:
    """The splits asked for of the run's own data, or of `data` made as large and as colourful as the model's images.

    Of a folder or archive that has no test set every image is taken, those that occur twice as well, as its training split.
    A pair of domains is one set whose classes are the domains.

    Raises:
        UserError: there are no such images, or the model came without a run that names its data.
    """
    channels, size, _ = model.image_shape
    if data is not None:
        config = DataConfig(data=data, size=size, channels=channels)  # type: ignore[arg-type]
        if data not in NAMES and data not in PROCEDURAL:
            config, part = replace(config, test_fraction=0.0, duplicates="keep"), "all"
    elif (Path(run) / SETTINGS).is_file():
        config = RunFolder(run).data_config
    else:
        raise UserError(f"'{run}' has no {SETTINGS} that names its data: say which images to use with --data")
    if part == "all":
        train = open_data(config, split="train")
        sets = [train, train.held_out] if train.held_out is not None else [train]
    else:
        sets = [open_data(config, split=part)]
    return [_one_set(found) for found in sets]


def some(data: Dataset, n: int, *, first: int = 0) -> Dataset:
    """n of the images (fewer if there are not so many), the same ones in every picture: see `held_out_order`."""
    order = held_out_order(len(data))
    return data.subset([order[(first + i) % len(order)] for i in range(min(n, len(order)))])


def read_images(paths: Sequence[str | Path], model: Model) -> Tensor:
    """Image files as (N, C, H, W) in [-1, 1], in the order given, cut and resized to the model's size. Of a folder, all its images
    by name.

    Raises:
        UserError: a path does not exist, or is no image that can be read.
    """
    channels, size, _ = model.image_shape
    found = []
    for path in _files(paths):
        config = DataConfig(data=str(path), size=size, channels=1 if channels == 1 else 3)
        try:
            pixels = decode(path.read_bytes(), size, config).pixels
        except (Unusable, OSError) as error:
            raise UserError(
                f"'{path}' cannot be used as an image: {getattr(error, 'strerror', None) or error}"
            ) from None
        found.append(to_channels(pixels[None], channels))
    return from_uint8(np.concatenate(found))


def _files(paths: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not inside:
                raise UserError(f"the folder '{path}' has no images ({', '.join(SUFFIXES)})")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"there is no image '{path}'")
    return files


def _one_set(data: Dataset) -> Dataset:
    if not data.domains:
        return data
    parts = data.domains.values()
    return replace(
        data,
        images=np.concatenate([d.images for d in parts]),
        labels=np.repeat(np.arange(len(parts)), [len(d) for d in parts]),
        class_names=list(data.domains),
        captions=[c for d in parts for c in d.captions] if all(d.captions for d in parts) else None,  # type: ignore[union-attr]
        names=[f"{key}/{name}" for key, d in data.domains.items() for name in d.names or map(str, range(len(d)))],
        extras={key: np.concatenate([d.extras[key] for d in parts]) for key in next(iter(parts)).extras},
        domains=None,
    )


def picture_beside(run: str | Path, name: str) -> Path:
    """Where a verb writes by default: into the run folder; for a model of the hub, `name` here."""
    return Path(run) / name if Path(run).is_dir() else Path(name)
