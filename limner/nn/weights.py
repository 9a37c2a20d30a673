"""Weights of public networks: where they are found, and how a file of them is read without running what is in it.

They come from a path that the user gives or out of an installed package; nothing is downloaded. State dicts are read as safetensors
or with `torch.load(weights_only=True)`, pickled NumPy arrays by an unpickler that admits NumPy arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from limner.errors import UserError


def in_package(distribution: str, file: str) -> Path | None:
    """The path of a file inside an installed package, which is not imported; None if package or file are not there.

    Args:
        distribution: the package's name in the registry.
        file: path below the folder that packages are installed in.
    """
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(file)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU.

    Raises:
        UserError: no such file, damaged, or it holds something else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file of weights '{path}'")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in whatever way its reader runs into
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"'{path}' cannot be read as weights: {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"'{path}' is not a state dict: tensors by name are wanted")
    return dict(state)


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Nested dicts of NumPy arrays out of a pickle, of which nothing but arrays is admitted.

    Raises:
        UserError: no such file, damaged, or a pickle of anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file of weights '{path}'")
    try:
        with open(path, "rb") as file:
            found = _ArraysOnly(file).load()
    except Exception as error:  # as above
        raise UserError(f"'{path}' cannot be read as weights: {error or type(error).__name__}") from None
    if not isinstance(found, dict):
        raise UserError(f"'{path}' does not hold arrays by name")
    return found


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return _empty_array
        raise pickle.UnpicklingError(f"it wants to call {module}.{name}; only NumPy arrays are admitted")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    # What a pickled array is built upon before its content is set; its own shape is (0,) there.
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError("not a plain NumPy array")
    return np.ndarray(shape, dtype)


def fill(module: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Load `state` into `module`, name by name.

    Raises:
        UserError: a name is missing or too many, or a shape differs; `path` is named.
    """
    try:
        module.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    except (RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).split("\n")]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise UserError(
            f"the weights in '{path}' are not of this network ({type(module).__name__}): {reason[:200]}"
        ) from None


def weights_hash(module: nn.Module) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a module's state: names, shapes, types and values."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
