"""Zip and tar files as trees. Nothing is ever unpacked to disk under a name from the archive; a member whose name leaves the
archive, or that is a link, is refused all the same: such an archive was made to do harm."""

from __future__ import annotations

import gzip
import hashlib
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from limner.data.dataset import Refused
from limner.data.tree import Member, Tree, is_hidden, printable
from limner.errors import UserError
from limner.files import sha256

UNPACKED_FLOOR = 1 << 28
UNPACKED_RATIO = 100
"""A compressed tar that grows beyond the floor and more than so many-fold is taken for a decompression bomb."""


def is_zip(path: Path) -> bool:
    """By its name or its first bytes."""
    return path.suffix.lower() == ".zip" or _begins(path, (b"PK\x03\x04", b"PK\x05\x06"))


def is_tar(path: Path) -> bool:
    """By its name."""
    return re.search(r"\.(tar|tar\.(gz|xz|bz2)|tgz|txz|tbz2?)$", path.name.lower()) is not None


def unsafe(name: str) -> str | None:
    """Why a member of that name is refused; None if it is harmless."""
    if "\0" in name:
        return "a name with a NUL byte in it"
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "a path with '..' in it"
    return None


def zip_tree(path: Path) -> Tree:
    """The files in a zip.

    Raises:
        UserError: it is no zip, or its directory is damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
        infos = archive.infolist()
    except Exception as error:
        # zipfile meets a damaged directory with BadZipFile, OSError, ValueError, struct.error, NotImplementedError ...
        raise UserError(f"--data: '{path}' is not a zip file, or is damaged: {error}") from error
    members: dict[str, Member] = {}
    refused: list[Refused] = []
    for info in infos:
        name = info.filename
        mode = info.external_attr >> 16
        reason = unsafe(info.orig_filename)
        if not reason and mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            reason = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        if not reason and name in members:
            reason = "a second member of this name"
        if not reason and info.flag_bits & 1:
            reason = "encrypted"
        if reason:
            refused.append(Refused(printable(info.orig_filename), reason))
        elif not info.is_dir() and not is_hidden(name):
            members[name] = Member(printable(name), info.file_size, _ZipRead(archive, info))
    return _tree(path, list(members.values()), refused, archive.close)


class _ZipRead:
    """Reads one member; every failure becomes a ValueError with its reason."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
        self.archive, self.info = archive, info

    def __call__(self) -> bytes:
        try:
            with self.archive.open(self.info) as file:
                return file.read(self.info.file_size)
        except MemoryError:
            raise ValueError("needs more memory than there is") from None
        except Exception as error:
            raise ValueError(f"damaged in the zip: {error or type(error).__name__}") from None


def tar_tree(path: Path) -> Tree:
    """The files in a tar, which may be compressed; it is then unpacked into a temporary file without a name.

    Raises:
        UserError: it is no tar, is damaged, or grows out of all proportion.
    """
    try:
        file = _uncompressed(path)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            infos = archive.getmembers()
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise UserError(f"--data: '{path}' is not a tar file, or is damaged: {error}") from error
    members: dict[str, Member] = {}
    refused: list[Refused] = []
    guard = threading.Lock()
    for info in infos:
        name = info.name.removeprefix("./")
        reason = unsafe(info.name)
        if not reason and not (info.isreg() or info.isdir()):
            reason = "a link" if info.issym() or info.islnk() else "not a regular file"
        if not reason and name in members:
            reason = "a second member of this name"
        if reason:
            refused.append(Refused(printable(info.name), reason))
        elif info.isreg() and not is_hidden(name):
            members[name] = Member(printable(name), info.size, _TarRead(file, info, guard))
    return _tree(path, list(members.values()), refused, file.close)


class _TarRead:
    """Reads one member at its place in the uncompressed file."""

    def __init__(self, file: IO[bytes], info: tarfile.TarInfo, guard: threading.Lock):
        self.file, self.guard = file, guard
        self.offset, self.size, self.sparse = info.offset_data, info.size, info.issparse()

    def __call__(self) -> bytes:
        if self.sparse:
            raise ValueError("a sparse member")
        with self.guard:
            self.file.seek(self.offset)
            content = self.file.read(self.size)
        if len(content) != self.size:
            raise ValueError("cut off: the tar ends within it")
        return content


def _uncompressed(path: Path) -> IO[bytes]:
    raw = open(path, "rb")  # noqa: SIM115 - the members read from it for as long as the tree lives
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        packed: Any = gzip.open(raw)  # noqa: SIM115
    elif magic.startswith(b"BZh"):
        import bz2

        packed = bz2.open(raw)  # noqa: SIM115
    elif magic.startswith(b"\xfd7zXZ"):
        import lzma

        packed = lzma.open(raw)  # noqa: SIM115
    else:
        return raw
    limit = max(UNPACKED_FLOOR, UNPACKED_RATIO * path.stat().st_size)
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - as above
    with raw, packed:
        while chunk := packed.read(1 << 20):
            plain.write(chunk)
            if plain.tell() > limit:
                raise ValueError(f"unpacked it is more than {limit} bytes: a decompression bomb")
    plain.seek(0)
    return plain


def _tree(path: Path, members: list[Member], refused: list[Refused], close: Callable[[], None]) -> Tree:
    members.sort(key=lambda m: m.name)
    status = path.stat()
    stamp = hashlib.sha256(
        f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
    )
    return Tree(path.stem.removesuffix(".tar"), members, stamp.hexdigest(), lambda _: sha256(path), refused, close)


def _begins(path: Path, magics: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4).startswith(magics)
    except OSError:
        return False
