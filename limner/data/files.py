"""Image files, in a folder or an archive, to data sets: list, lay out, decode, set aside, keep in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from PIL import Image, ImageFile

from limner.data import archives, cache, sidecar
from limner.data.dataset import Dataset, Refused, Split, pair
from limner.data.decode import POLICY, Decoded, Header, Unusable, decode, read_header
from limner.data.download import Progress
from limner.data.layout import Item, arrange, is_image
from limner.data.packed import image_file, pack, unpack, write_rows
from limner.data.pool import SPLITS, Census, Gathered, Pool, data_sets, settle
from limner.data.resizing import natural_size
from limner.data.settings import DataConfig
from limner.data.tree import WORKERS, Member, Tree, folder_tree
from limner.errors import UserError
from limner.files import write_atomically

VERSION = 1
"""Of what is in the cache; higher when decoding changes."""

PAIRED_SHARE = 0.9
"""Domains are paired if this share of the images of each has a partner of the same name in the other."""

T = TypeVar("T")


def gather(path: Path, config: DataConfig, *, progress: Progress | None = None, fresh: bool = False) -> Gathered:
    """Both splits of the images in a folder, zip or tar.

    Raises:
        UserError: it cannot be read as a whole, or is no such thing.
    """
    with contextlib.closing(open_tree(path)) as tree:
        listing = _list(tree)
        policy = (config.size, config.channels, config.resize, config.crop, config.background_rgb, config.max_pixels)
        split = (config.test_fraction, config.data_seed, config.duplicates)
        key = json.dumps(
            [VERSION, PIL.__version__, tree.name, _content(tree, listing, fresh), tree.refused, policy, split]
        )
        return cache.stored(
            "decoded",
            hashlib.sha256(key.encode()).hexdigest(),
            lambda folder: pack(folder, _build(tree, listing, config, folder, progress)),
            unpack,
        )


def open_tree(path: Path) -> Tree:
    """What is at `path`, whatever holds it.

    Raises:
        UserError: nothing that holds images.
    """
    if path.is_dir():
        return folder_tree(path)
    if not path.is_file():
        raise UserError(f"--data: '{path}' is neither a folder nor a file")
    if archives.is_zip(path):
        return archives.zip_tree(path)
    if archives.is_tar(path):
        return archives.tar_tree(path)
    raise UserError(f"--data: '{path}' is not a folder, a zip, a tar or an IDX file of images")


@dataclass
class _Listing:
    images: list[Member]
    sidecars: list[Member]
    refused: list[Refused]


def _list(tree: Tree) -> _Listing:
    listing = _Listing([], [], list(tree.refused))
    for member in tree.members:
        if sidecar.is_sidecar(member.name):
            listing.sidecars.append(member)
        elif is_image(member.name):
            listing.images.append(member)
        else:
            listing.refused.append(Refused(member.name, f"not an image (a .{member.name.rpartition('.')[2]} file)"))
    return listing


def _content(tree: Tree, listing: _Listing, fresh: bool) -> str:
    """A digest of all that matters. Kept in the cache under the files' names, sizes and dates, so that it is worked out once."""
    known = cache.root() / "content" / tree.stamp
    if not fresh:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = known.read_text(encoding="ascii")
            if len(text) == 64:
                return text
    digest = tree.digest(listing.images + listing.sidecars)
    with contextlib.suppress(OSError, UserError):
        known.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(known, digest)
    return digest


def _build(tree: Tree, listing: _Listing, config: DataConfig, folder: Path, progress: Progress | None) -> Gathered:
    items, refused = arrange(listing.images)
    refused = listing.refused + refused
    for member in sidecar_order(listing.sidecars):
        refused += sidecar.describe(items, member, tree.name)
    labels, class_names, unlabelled = sidecar.classes(items)
    refused += unlabelled
    rows = [i for i in range(len(items)) if labels is None or labels[i] >= 0]
    items = [items[i] for i in rows]
    labels = None if labels is None else [labels[i] for i in rows]

    size, why = (config.size, "") if config.size else _choose_size(items, config)
    decoded, raw = _decode_all(items, size, config, folder, refused, progress)
    alive = [i for i, d in enumerate(decoded) if d is not None]
    headers = [decoded[i].header for i in alive]
    census = Census()
    for header in headers:
        census.sizes["x".join(map(str, header.size))] += 1
        census.modes[header.mode] += 1
        census.formats[header.format] += 1
    channels = config.channels or (1 if all(decoded[i].grey for i in alive) else 3)
    policy = _policy(config, size, why, headers)

    parts, paired = _domains(items, alive, refused)
    sets: dict[str, dict[Split, Dataset]] = {}
    chosen: dict[Split, np.ndarray] = {}
    for domain, members in parts.items():
        pool = Pool(
            name=tree.name + (f" {domain}" if domain else ""),
            images=raw[:0],
            names=[items[i].member.name for i in members],
            splits=[items[i].split for i in members],
            keys=[decoded[i].key for i in members],
            labels=None if labels is None else np.array([labels[i] for i in members], np.int64),
            class_names=class_names,
            captions=[items[i].caption or "" for i in members] if any(items[i].caption for i in members) else None,
            files=True,
            policy=policy,
        )
        if domain != "B" or not paired:  # partners go where A's image goes
            chosen, duplicates = settle(pool, config, [decoded[i].final for i in members])
            refused += duplicates["train"] + duplicates["test"]

        def take(split: Split, rows: np.ndarray, domain: str = domain, members: list[int] = members) -> np.ndarray:
            return write_rows(folder / image_file(domain, split), raw, np.array(members, np.int64)[rows], channels)

        sets[domain] = data_sets(pool, chosen, {"train": [], "test": []}, take)
    with contextlib.suppress(OSError):  # a platform may keep a mapped file; it only takes room
        (folder / "raw.npy").unlink(missing_ok=True)
    splits = {
        s: sets[""][s] if "" in sets else pair(tree.name, {d: v[s] for d, v in sets.items()}, s, paired, refused)
        for s in SPLITS
    }
    return Gathered(splits, refused, census, policy)


def sidecar_order(sidecars: list[Member]) -> list[Member]:
    """dataset.json first, so that what is said of single images wins."""
    return sorted(sidecars, key=lambda m: (not m.name.endswith("dataset.json"), m.name))


def _choose_size(items: list[Item], config: DataConfig) -> tuple[int, str]:
    def one(item: Item) -> Header | None:
        try:
            return read_header(_read(item.member, config), config)
        except Unusable:
            return None

    sizes = [h.size for h in _parallel(one, items) if h is not None]
    return natural_size(sizes) if sizes else (8, "")


def _decode_all(
    items: list[Item], size: int, config: DataConfig, folder: Path, refused: list[Refused], progress: Progress | None
) -> tuple[list[Any], np.ndarray]:
    """Everything decoded: what is known of each image (None if refused), and their pixels (N, size, size, 3 or 1) in a file of `folder`."""
    channels = config.channels or 3
    if not items:
        return [], np.empty((0, size, size, channels), np.uint8)
    raw = np.lib.format.open_memmap(
        folder / "raw.npy", mode="w+", dtype=np.uint8, shape=(len(items), size, size, channels)
    )

    def one(item: Item) -> Decoded | str:
        try:
            return decode(_read(item.member, config), size, config)
        except Unusable as reason:
            return str(reason)

    found: list[Any] = []
    for i, result in enumerate(_parallel(one, items)):
        if isinstance(result, str):
            refused.append(Refused(items[i].member.name, result))
            found.append(None)
        else:
            raw[i] = result.pixels
            result.pixels = raw[i, :0]
            found.append(result)
        if progress:
            progress(i + 1, len(items))
    return found, raw


def _read(member: Member, config: DataConfig) -> bytes:
    most = 8 * config.max_pixels + (1 << 20)  # 16-bit RGBA, uncompressed
    if member.length > most:
        raise Unusable(f"{member.length} bytes, more than any image of --max-pixels {config.max_pixels} needs")
    try:
        return member.read()
    except (OSError, ValueError) as error:
        raise Unusable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parallel(function: Callable[[Item], T], items: list[Item]) -> Iterator[T]:
    """`map` by threads, a bounded number ahead. Pillow's warnings (bombs, odd metadata) are ours to give, as reasons."""
    Image.init()
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(WORKERS) as pool:
            warnings.simplefilter("ignore")
            ahead = 16 * WORKERS
            for start in range(0, len(items), ahead):
                yield from pool.map(function, items[start : start + ahead])
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _domains(items: list[Item], alive: list[int], refused: list[Refused]) -> tuple[dict[str, list[int]], bool]:
    """The usable images of each domain ("" if there is one), and whether those of two are partners, row by row."""
    if not any(items[i].domain for i in range(len(items))):
        return {"": alive}, False
    both = {
        d: {(items[i].split, items[i].inner): i for i in range(len(items)) if items[i].domain == d} for d in ("A", "B")
    }
    common = both["A"].keys() & both["B"].keys()
    if len(common) < PAIRED_SHARE * max(map(len, both.values())):
        return {d: [i for i in alive if items[i].domain == d] for d in ("A", "B")}, False
    living = set(alive)
    parts: dict[str, list[int]] = {"A": [], "B": []}
    for key in sorted({*both["A"], *both["B"]}, key=lambda k: (k[0] or "", k[1])):
        partners = [table.get(key) for table in both.values()]
        usable = [p for p in partners if p in living]
        if len(usable) == 2:
            for domain, p in zip(parts, usable, strict=True):
                parts[domain].append(p)
        elif usable:
            refused.append(
                Refused(items[usable[0]].member.name, "its partner in the other domain is missing or refused")
            )
    return parts, True


def _policy(config: DataConfig, size: int, why: str, headers: list[Header]) -> list[str]:
    crop = {
        "center": "the longer side cut at its centre",
        "pad": f"padded with {config.background}",
        "stretch": "stretched",
        "none": "other sizes refused",
    }[config.crop]
    antialiased = "not antialiased" if config.resize == "nearest" else "antialiased"
    policy = [
        *POLICY,
        f"transparency composited on {config.background}",
        f"made {size}x{size} by {config.resize} ({antialiased}), {crop}",
    ]
    if why:
        policy.append(why)
    small = sum(min(h.size) < size for h in headers)
    if small:
        policy.append(f"{small} images are smaller than {size} pixels and are enlarged")
    return policy
