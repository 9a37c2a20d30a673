"""Fetching the files of a public data set from its official address, with a checksum, into the cache."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from limner.data import cache
from limner.errors import UserError
from limner.files import replacing

TIMEOUT = 20.0
CHUNK = 1 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Remote:
    """One file of a data set."""

    file: str
    md5: str
    """Of the file as it is published, so of the packed one."""


@dataclass(frozen=True)
class Publication:
    """Where a data set can be had."""

    name: str
    addresses: tuple[str, ...]
    """Folders that hold all the files; tried in order."""
    files: tuple[Remote, ...]
    system: tuple[str, ...] = ()
    """Folders in which a system package puts the files."""
    package: str = ""
    """What to install to have them there."""


def folder_of(publication: Publication, progress: Progress | None = None) -> Path:
    """A folder that holds the publication's files: the cache's, a system package's, or the cache's after a download.

    Raises:
        UserError: the files are in neither and cannot be downloaded; the message says what else can be done.
    """
    ours = cache.root() / "downloads" / publication.name
    for folder in (ours, *map(Path, publication.system)):
        if all((folder / remote.file).is_file() for remote in publication.files):
            return folder
    with cache.lock(ours):
        for remote in publication.files:
            if not (ours / remote.file).is_file():
                _fetch(publication, remote, ours, progress)
    return ours


def _fetch(publication: Publication, remote: Remote, folder: Path, progress: Progress | None) -> None:
    reasons = []
    for address in publication.addresses:
        try:
            _download(f"{address}/{remote.file}", folder / remote.file, remote.md5, progress)
            return
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(f"{address}: {getattr(error, 'reason', error)}")
    raise UserError(
        f"{publication.name} could not be downloaded ({'; '.join(reasons)}). {_alternatives(publication, folder)}"
    )


def _download(url: str, path: Path, md5: str, progress: Progress | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, replacing(path) as temporary:
        total = int(answer.headers.get("Content-Length") or 0)
        with open(temporary, "wb") as file:
            for chunk in _pieces(answer):
                digest.update(chunk)
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
        if digest.hexdigest() != md5:
            raise ValueError(f"{path.name} arrived with MD5 {digest.hexdigest()}, {md5} is the published one")


def _pieces(answer) -> Iterator[bytes]:
    # A connection that breaks must not look like a file that cannot be written, which is an OSError too.
    try:
        while chunk := answer.read(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"the connection broke: {error}") from error


def _alternatives(publication: Publication, folder: Path) -> str:
    names: Sequence[str] = [remote.file for remote in publication.files]
    ways = [f"put {', '.join(names)} into '{folder}' or give the folder that holds them with --data FOLDER"]
    if publication.package:
        ways.insert(0, f"install the package {publication.package}")
    ways.append("or use what comes with limner: --data digits, fashion-mini or shapes")
    return "Without a network: " + "; ".join(ways)


FASHION_MNIST = Publication(
    "fashion-mnist",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    (
        Remote("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Remote("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        Remote("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        Remote("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    system=("/usr/share/datasets/fashion-mnist",),
    package="dataset-fashion-mnist (Debian, Ubuntu)",
)

MNIST = Publication(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    (
        Remote("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        Remote("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        Remote("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        Remote("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
)

CIFAR10 = Publication(
    "cifar10",
    ("https://www.cs.toronto.edu/~kriz",),
    (Remote("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
)
