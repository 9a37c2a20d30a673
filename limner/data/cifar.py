"""CIFAR-10 in its binary version: records of one label byte and 3072 bytes, red, green and blue planes of 32x32.

The better-known "python version" is made of pickles, which run code when they are read; it is not read here.
"""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from limner.data.pool import Pool, digests
from limner.errors import UserError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
RECORD = 1 + 3 * 32 * 32
PER_FILE = 10_000


def is_folder(folder: Path) -> bool:
    """Whether a folder is the unpacked archive."""
    return (folder / TRAIN[0]).is_file() and (folder / TEST).is_file()


def read_folder(folder: Path) -> Pool:
    """The files of an unpacked archive.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        return _pool([(folder / name).read_bytes() for name in (*TRAIN, TEST)], str(folder))
    except OSError as error:
        raise UserError(f"'{folder}': {error.filename} cannot be read: {error.strerror}") from error


def read_archive(path: Path) -> Pool:
    """cifar-10-binary.tar.gz. Only members of the six known names are read, and only as plain files; nothing is unpacked to disk.

    Raises:
        UserError: the archive or one of its files is missing or damaged.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isfile() and name in (*TRAIN, TEST) and member.size <= PER_FILE * RECORD:
                    file = archive.extractfile(member)
                    found[name] = file.read() if file else b""
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"'{path}' cannot be read: {error}; delete it and let it be downloaded again") from error
    missing = [name for name in (*TRAIN, TEST) if name not in found]
    if missing:
        raise UserError(f"'{path}' is not the binary version of CIFAR-10: {', '.join(missing)} not in it")
    return _pool([found[name] for name in (*TRAIN, TEST)], str(path))


def _pool(files: list[bytes], where: str) -> Pool:
    if any(not f or len(f) % RECORD for f in files):
        raise UserError(f"'{where}' is damaged: a file of CIFAR-10's binary version is a multiple of {RECORD} bytes")
    records = np.concatenate([np.frombuffer(f, np.uint8).reshape(-1, RECORD) for f in files])
    n, train = len(records), sum(len(f) for f in files[:-1]) // RECORD
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise UserError(f"'{where}' is damaged: it has a label {labels.max()}")
    images = np.ascontiguousarray(records[:, 1:].reshape(n, 3, 32, 32).transpose(0, 2, 3, 1))
    pool = Pool(
        name="cifar10",
        images=images,
        names=[f"train {i}" if i < train else f"test {i - train}" for i in range(n)],
        splits=["train" if i < train else "test" for i in range(n)],
        keys=digests(images),
        labels=labels,
        class_names=CLASSES,
    )
    pool.census.sizes["32x32"] = pool.census.modes["RGB"] = pool.census.formats["array"] = n
    return pool
