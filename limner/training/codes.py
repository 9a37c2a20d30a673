"""The codes of a data set under a frozen first stage: worked out once, kept in the cache, and read with each batch."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limner import hub
from limner.capabilities import Tokenizes
from limner.data import cache
from limner.data.dataset import Dataset
from limner.errors import UserError
from limner.files import sha256
from limner.staged import CODES, Staged

AT_ONCE = 256
"""Images tokenised together."""
FILE = "codes.npz"


def load_first_stage(folder: Path) -> Any:
    """The trained model in `folder`.

    Raises:
        UserError: no model is there, or it gives no discrete codes.
    """
    model = hub.load(folder)
    if isinstance(model, Staged):
        return model.first_stage
    if not isinstance(model, Tokenizes):
        raise UserError(
            f"--first-stage: '{folder}' holds a model without discrete codes; vqvae, vqvae2 and vqgan have them"
        )
    return model


def with_codes(dataset: Dataset, folder: Path) -> Dataset:
    """`dataset` with the extras "codes0", "codes1" ..., int32 (N, h, w): each image's codes under the first stage in `folder`."""
    if f"{CODES}0" in dataset.extras:
        return dataset
    key = f"{sha256(folder / hub.WEIGHTS)} {sha256(folder / hub.CONFIG)} {dataset.fingerprint}"
    codes = cache.stored(
        "codes", hashlib.sha256(key.encode()).hexdigest()[:20], lambda place: _build(place, dataset, folder), _load
    )
    changed = dataclasses.replace(dataset, extras={**dataset.extras, **codes}, fingerprint=dataset.fingerprint)
    changed.held_out = dataset.held_out
    return changed


def _build(place: Path, dataset: Dataset, folder: Path) -> None:
    model = load_first_stage(folder)
    parts = []
    for start in range(0, len(dataset), AT_ONCE):
        image = dataset.batch(range(start, min(start + AT_ONCE, len(dataset))))["image"]
        with torch.no_grad():
            parts.append([codes.to(torch.int32).numpy() for codes in model.tokenize(image)])
    maps = {f"{CODES}{i}": np.concatenate(each) for i, each in enumerate(zip(*parts, strict=True))}
    with open(place / FILE, "wb") as file:
        np.savez(file, allow_pickle=False, **maps)


def _load(place: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(place / FILE, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, KeyError, EOFError) as error:
        raise cache.Damaged(str(error)) from None
