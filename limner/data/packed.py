"""A gathered source as a folder of the cache: `meta.json` and one .npy for each array. No pickles."""

from __future__ import annotations

import dataclasses
import io
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from limner.data.cache import Damaged
from limner.data.dataset import RESIDENT_BYTES, Dataset, Refused, pair
from limner.data.pool import SPLITS, Census, Gathered

META = "meta.json"
CHUNK = 2048


def write_rows(path: Path, images: np.ndarray, rows: np.ndarray, channels: int) -> np.ndarray:
    """Copy `images[rows]` to a .npy file, a part at a time, keeping `channels` of them; returns it memory-mapped."""
    shape = (len(rows), *images.shape[1:3], channels)
    if not len(rows):
        np.save(path, np.empty(shape, np.uint8))
        return np.load(path)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, len(rows), CHUNK):
        out[start : start + CHUNK] = images[rows[start : start + CHUNK]][..., :channels]
    out.flush()
    return out


def image_file(domain: str, split: str) -> str:
    """The name of the file that holds the images of a split (of a domain)."""
    return f"{domain}{'-' if domain else ''}{split}-images.npy"


def pack(folder: Path, gathered: Gathered) -> None:
    """Write all but those image files that are there already (see `write_rows`)."""
    sets: dict[str, Any] = {}
    checksums: dict[str, Any] = {}
    for split in SPLITS:
        data = gathered.splits[split]
        parts = data.domains or {"": data}
        sets[split] = {
            "paired": data.paired,
            "domains": {domain: _write(folder, domain, split, part, checksums) for domain, part in parts.items()},
        }
    meta = {
        "name": gathered.splits["train"].name,
        "refused": gathered.refused,
        "policy": gathered.policy,
        "census": {f.name: dict(getattr(gathered.census, f.name)) for f in dataclasses.fields(Census)},
        "sets": sets,
        "checksums": checksums,
    }
    text = json.dumps(meta)
    (folder / META).write_text(f"{zlib.crc32(text.encode()):08x}\n{text}", encoding="ascii")


def unpack(folder: Path) -> Gathered:
    """Read what `pack` wrote. Arrays up to a gigabyte are checked byte by byte and held; larger ones are memory-mapped and
    only their length is checked.

    Raises:
        Damaged: it is not what was written.
        OSError: it is not all there.
    """
    checksum, _, text = (folder / META).read_text(encoding="ascii", errors="replace").partition("\n")
    if f"{zlib.crc32(text.encode()):08x}" != checksum:
        raise Damaged(f"'{folder / META}' is damaged")
    meta = json.loads(text)
    refused = [Refused(*r) for r in meta["refused"]]
    splits = {}
    for split in SPLITS:
        entry = meta["sets"][split]
        parts = {
            domain: _read(folder, domain, split, record, meta, refused) for domain, record in entry["domains"].items()
        }
        splits[split] = parts[""] if "" in parts else pair(meta["name"], parts, split, entry["paired"], refused)
    census = Census(**{key: Counter(value) for key, value in meta["census"].items()})
    return Gathered(splits, refused, census, meta["policy"])


def _write(folder: Path, domain: str, split: str, data: Dataset, checksums: dict[str, Any]) -> dict[str, Any]:
    prefix = image_file(domain, split).removesuffix("images.npy")
    arrays = {"images": data.images, **{f"extra-{k}": v for k, v in data.extras.items()}}
    if data.labels is not None:
        arrays["labels"] = data.labels
    for key, values in arrays.items():
        path = folder / f"{prefix}{key}.npy"
        if not path.exists():
            np.save(path, values, allow_pickle=False)
        checksums[path.name] = (path.stat().st_size, _crc(path) if path.stat().st_size <= RESIDENT_BYTES else None)
    return {
        "labels": data.labels is not None,
        "extras": sorted(data.extras),
        "class_names": data.class_names,
        "captions": data.captions,
        "names": data.names,
        "levels": data.levels,
        "fingerprint": data.fingerprint,
    }


def _read(
    folder: Path, domain: str, split: Any, record: dict[str, Any], meta: dict[str, Any], refused: list[Refused]
) -> Dataset:
    prefix = image_file(domain, split).removesuffix("images.npy")

    def array(key: str) -> np.ndarray:
        path = folder / f"{prefix}{key}.npy"
        size, checksum = meta["checksums"][path.name]
        if path.stat().st_size != size:
            raise Damaged(f"'{path}' has {path.stat().st_size} bytes; {size} were written")
        if checksum is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        content = path.read_bytes()
        if zlib.crc32(content) != checksum:
            raise Damaged(f"'{path}' is damaged")
        return np.load(io.BytesIO(content), allow_pickle=False)

    return Dataset(
        name=meta["name"] + (f" {domain}" if domain else ""),
        images=array("images"),
        labels=array("labels") if record["labels"] else None,
        class_names=record["class_names"],
        captions=record["captions"],
        names=record["names"],
        extras={key: array(f"extra-{key}") for key in record["extras"]},
        levels=record["levels"],
        fingerprint=record["fingerprint"],
        refused=refused,
        split=split,
        policy=meta["policy"],
    )


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            value = zlib.crc32(chunk, value)
    return value
