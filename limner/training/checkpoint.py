"""Checkpoints: everything needed to go on exactly, in one file that appears whole or not at all and never runs code."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from limner.errors import UserError
from limner.files import write_atomically

FORMAT = 1


def save(folder: Path, images: int, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as the checkpoint after `images` images, then remove all but the newest `keep`."""
    path = folder / f"{images:012d}.pt"
    # Into memory first: torch's own file writer aborts the process when the disk is full.
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    write_atomically(path, content.getbuffer())
    for old in files(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    return sorted(folder.glob("[0-9]*.pt"), reverse=True)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU.

    Raises:
        UserError: the file is damaged, is of another format, or holds something other than tensors and plain values (which
            is refused without being run).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders aloud about pickles that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path}' holds more than tensors and plain values: refused, and nothing in it was run"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"'{path}' is damaged and cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"'{path}' is not a checkpoint of this version of limner")
    return state


def latest(folder: Path, warn) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None where there is none. `warn(message)` is told of each damaged one.

    Raises:
        UserError: there are checkpoints, but all are damaged.
    """
    found = files(folder)
    for path in found:
        try:
            return read(path)
        except UserError as error:
            warn(str(error))
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in '{folder}' can be read; train anew with another --out"
        )
    return None
