"""A folder, a zip or a tar as the same thing: a list of named members that can be read, and those refused by name."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from limner.data.dataset import Refused
from limner.errors import UserError

IGNORED = frozenset({"thumbs.db", "desktop.ini"})
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Member:
    """One file."""

    name: str
    """Path from the root of the tree, with forward slashes."""
    length: int
    """In bytes."""
    read: Callable[[], bytes]
    """Raises OSError or ValueError (with the reason) if it cannot be read."""


@dataclass
class Tree:
    """All files of a source, by name."""

    name: str
    members: list[Member]
    stamp: str
    """Changes when a file's name, size or date does: cheap."""
    digest: Callable[[list[Member]], str]
    """Changes when the content of one of the members does: reads them all."""
    refused: list[Refused] = field(default_factory=list)
    close: Callable[[], None] = lambda: None


def is_hidden(name: str) -> bool:
    """Whether a path names something that is not meant to be seen: .DS_Store, __MACOSX/..., Thumbs.db."""
    parts = name.split("/")
    return parts[-1].lower() in IGNORED or any(
        p == "__MACOSX" or (p.startswith(".") and p not in (".", "..")) for p in parts
    )


def folder_tree(folder: Path) -> Tree:
    """The regular files under `folder`. Links are followed, each real folder once.

    Raises:
        UserError: the folder itself cannot be read.
    """
    members: list[Member] = []
    refused: list[Refused] = []
    stamps: list[str] = []
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UserError(f"--data: the folder '{folder}' cannot be read: {error.strerror}") from error
    seen = set()

    def failed(error: OSError) -> None:
        refused.append(Refused(_relative(Path(error.filename), folder), f"cannot be read: {error.strerror}"))

    for here, folders, names in os.walk(folder, followlinks=True, onerror=failed):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(names):
            path = Path(here, file)
            name = _relative(path, folder)
            if is_hidden(name):
                continue
            try:
                status = path.stat()
            except OSError as error:
                refused.append(Refused(name, f"cannot be read: {error.strerror}" if path.exists() else "broken link"))
                continue
            if not stat.S_ISREG(status.st_mode):
                refused.append(Refused(name, "not a regular file"))
                continue
            members.append(Member(name, status.st_size, path.read_bytes))
            stamps.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}")
    stamp = hashlib.sha256("\n".join([str(folder.resolve()), *stamps]).encode("utf-8", "surrogateescape")).hexdigest()
    return Tree(folder.resolve().name, members, stamp, _content_digest, refused)


def printable(name: str) -> str:
    """`name` with whatever would upset a terminal or cannot be written as UTF-8 escaped."""
    return (
        name
        if name.isprintable()
        else name.encode("unicode_escape", "surrogateescape").decode("ascii", "backslashreplace")
    )


def _relative(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).as_posix())


def _content_digest(members: list[Member]) -> str:
    def one(member: Member) -> bytes:
        try:
            content = hashlib.sha256(member.read()).digest()
        except (OSError, ValueError):
            content = b"unreadable"
        return member.name.encode("utf-8", "surrogateescape") + b"\0" + content

    total = hashlib.sha256()
    with ThreadPoolExecutor(WORKERS) as pool:
        for line in pool.map(one, members):
            total.update(line)
    return total.hexdigest()
