"""The cache folder: what was decoded or downloaded once. Anything in it may be deleted at any time; it is made again."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from limner.errors import UserError
from limner.files import explain

T = TypeVar("T")

VARIABLE = "LIMNER_CACHE"


class Damaged(ValueError):
    """What is in the cache is not what was written there."""


def root() -> Path:
    """$LIMNER_CACHE, or the platform's folder for caches."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "limner"


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes on this machine. Where the platform has no such lock nothing is held: the worst
    that follows is the same work done twice.

    Raises:
        UserError: the folder of `path` cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(path.name + ".lock"), "wb")  # noqa: SIM115 - closed below, after the lock
    except OSError as error:
        raise UserError(f"{explain(error, path.parent)}; {VARIABLE} names another folder for the cache") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def stored(kind: str, key: str, build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
    """What `load` reads from the folder `kind/key` of the cache; `build` fills that folder first if it is missing or damaged.

    The folder is filled under another name and renamed, so that a reader sees all of it or none; of several processes one
    builds and the others wait. A cache that cannot be written is done without.

    Raises:
        UserError: the disk is full.
    """
    folder = root() / kind / key
    try:
        with lock(folder):
            found = _load(folder, load)
            if found is None:
                _fill(folder, build)
                found = _load(folder, load)
    except UserError:
        if _writable(folder.parent):
            raise
        found = None
    if found is None:
        with tempfile.TemporaryDirectory(prefix="limner-") as temporary:
            build(Path(temporary))
            return load(Path(temporary))
    return found


def _load(folder: Path, load: Callable[[Path], T]) -> T | None:
    """What is in the folder; None, and no folder, if that is nothing or damaged."""
    try:
        return load(folder) if folder.exists() else None
    except (Damaged, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _fill(folder: Path, build: Callable[[Path], None]) -> None:
    part = folder.with_name(f".{folder.name[:16]}-{uuid.uuid4().hex}.part")
    try:
        part.mkdir()
        build(part)
        with contextlib.suppress(FileExistsError, PermissionError):  # another process was first, where there is no lock
            os.replace(part, folder)
    except OSError as error:
        raise UserError(f"{explain(error, folder)}; {VARIABLE} names another folder for the cache") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
