"""`open_data`: from what a person writes after --data to a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from limner.data import cifar, idx, named
from limner.data.dataset import Dataset, Split
from limner.data.degrade import Degradation
from limner.data.download import Progress
from limner.data.pool import Gathered, Pool, data_sets, settle
from limner.data.resizing import WrongSize, is_grey, natural_size, resize_arrays, to_channels
from limner.data.settings import DataConfig
from limner.errors import UserError


def open_data(config: DataConfig | str, *, split: Split = "train", progress: Progress | None = None) -> Dataset:
    """The images of one split of a source.

    Args:
        config: where from and how; a string is `DataConfig(data=string)`.
        split: "train" or "test".
        progress: called with (images decoded, images in all) where decoding or downloading takes a while.

    Raises:
        UserError: there is no such source, nothing in it can be used, or a download is not possible; the message says what
            to do.
    """
    config = DataConfig(data=config) if isinstance(config, str) else config
    gathered = gather(config, progress=progress)
    data, held_out = chosen(gathered.splits[split], config), gathered.splits["test"]
    smallest = min(len(d) for d in data.domains.values()) if data.domains else len(data)
    if smallest == 0 and len(gathered.splits[split]):
        raise UserError(f"--only and --without leave no image of '{config.data}' in the {split} split")
    if smallest == 0:
        raise _empty(gathered, config, split)
    if split == "train" and len(held_out):
        data.held_out = chosen(held_out, config)
    if config.degrade:
        for part in filter(None, (data, data.held_out)):
            part.degradation = degradation_of(config, part)
    if config.limit is not None and config.limit < len(data):
        rows = np.random.default_rng(config.data_seed).permutation(len(data))[: config.limit]
        data = data.subset(np.sort(rows))
    return data


def degradation_of(config: DataConfig, data: Dataset) -> Degradation:
    """The damage that `config.degrade` describes.

    Raises:
        UserError: it cannot be read, or cannot be done to these images.
    """
    if data.domains:
        raise UserError(f"--degrade makes pairs of the images of one set, but '{config.data}' has two domains")
    degradation = Degradation.parse(config.degrade)
    degradation.check(data.channels)
    return degradation


def chosen(data: Dataset, config: DataConfig) -> Dataset:
    """The images of the classes that `config.only` and `config.without` leave.

    Raises:
        UserError: the data have no labels, or no class of that name.
    """
    if not (config.only or config.without):
        return data
    if data.labels is None or not data.class_names:
        flag = "only" if config.only else "without"
        raise UserError(f"--{flag}: '{config.data}' has no classes to choose from")
    keep = np.ones(len(data), bool)
    for flag, names in (("only", config.only), ("without", config.without)):
        if names:
            named_ones = [class_index(name, data.class_names, flag=flag) for name in names]
            keep &= np.isin(data.labels, named_ones) == (flag == "only")
    return data.subset(np.flatnonzero(keep))


def class_index(name: str, class_names: list[str], *, flag: str) -> int:
    """The number of the class called `name`, which may also be that number.

    Raises:
        UserError: no such class; the message names `flag` and the classes there are.
    """
    if name in class_names:
        return class_names.index(name)
    lower = [known.lower() for known in class_names]
    if name.lower() in lower:
        return lower.index(name.lower())
    if name.isdecimal() and int(name) < len(class_names):
        return int(name)
    raise UserError(f"--{flag} {name}: there is no such class; there are {', '.join(class_names)}")


def gather(config: DataConfig, *, progress: Progress | None = None, fresh: bool = False) -> Gathered:
    """Both splits of a source. `fresh` reads every file even if the cache knows it by its date.

    Raises:
        UserError: there is no such source, or it is damaged as a whole.
    """
    if config.data in named.PROCEDURAL:
        from limner.data import shapes

        return shapes.gather(config, progress)
    if config.data in named.NAMES:
        return _from_pool(named.NAMES[config.data](config, progress), config)
    path = Path(config.data).expanduser()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise named.unknown(config.data) from None
    except OSError as error:
        raise UserError(f"--data: '{config.data}' cannot be read: {error.strerror}") from error
    if path.is_dir():
        if cifar.is_folder(path):
            return _from_pool(cifar.read_folder(path), config)
        if pool := named.idx_folder(path, path.name):
            return _from_pool(pool, config)
    elif path.name.startswith("cifar-10-binary"):
        return _from_pool(cifar.read_archive(path), config)
    elif idx.is_idx(path):
        return _from_pool(named.idx_file(path, path.name), config)
    from limner.data import files

    return files.gather(path, config, progress=progress, fresh=fresh)


def _from_pool(pool: Pool, config: DataConfig) -> Gathered:
    """Arrays that were read whole: resize, choose the channels, set duplicates aside."""
    height, width = pool.images.shape[1:3]
    size = config.size or natural_size([(width, height)])[0]
    policy = []
    if (height, width) != (size, size):
        policy.append(f"resized from {width}x{height} to {size}x{size}: {config.resize}, {config.crop}")
        pool.levels = 256
    try:
        images = resize_arrays(pool.images, size, config)
    except WrongSize as error:
        raise UserError(f"{pool.name}: {error}") from None
    channels = config.channels or (1 if is_grey(images) else 3)
    pool.images = (
        to_channels(images[..., :1], 1) if channels == 1 and is_grey(images) else to_channels(images, channels)
    )
    pool.policy = policy
    sets = data_sets(pool, *settle(pool, config))
    return Gathered(sets, sets["train"].refused, pool.census, policy)


def _empty(gathered: Gathered, config: DataConfig, split: Split) -> UserError:
    other = gathered.splits["test" if split == "train" else "train"]
    if len(other):
        return UserError(
            f"'{config.data}' has no image for the {split} split: all {len(other)} fell into the other one "
            f"(--test-fraction {config.test_fraction}); give train/ and test/ sub-folders or another fraction"
        )
    if gathered.refused:
        first = "; ".join(f"{r.name}: {r.reason}" for r in gathered.refused[:3])
        more = f" and {len(gathered.refused) - 3} more" if len(gathered.refused) > 3 else ""
        return UserError(f"'{config.data}' has no usable image; refused were {first}{more}. See `limner data check`")
    return UserError(f"'{config.data}' has no images")
