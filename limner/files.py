"""Writing files so that a reader sees the old content or the new, never a part: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from limner.errors import UserError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving without an error it takes the name `path`, else it is removed.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was at `path` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(explain(error, path)) from error
    except RuntimeError as error:
        # torch.save reports a failed write as a RuntimeError of its own zip writer.
        if "PytorchStreamWriter" not in str(error) and "write" not in str(error):
            raise
        raise UserError(
            f"'{path}' could not be written (is the disk full?); what was there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write `content` to `path` in one piece."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def make_folder(folder: str | Path, *, what: str = "folder") -> None:
    """Make a folder, and those above it, if it is not there. `what` it is called in the message.

    Raises:
        UserError: it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the {what} '{folder}' cannot be made: {error.strerror or error}; choose another --out"
        ) from None


def explain(error: OSError, path: Path) -> str:
    """What went wrong with writing `path`, for a person."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: '{path}' could not be written; what was there before is untouched"
    return f"'{path}' could not be written: {error.strerror or error}"


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable; not every platform lets a folder be opened.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
