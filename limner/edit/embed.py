"""Codes of many images as a table: for search, clustering, a classifier, or whatever one does with numbers.

Written batch by batch, in the order of the images, so that memory does not grow with their number. Two formats, by the file's name:

- `.npz`, read by `numpy.load(file)` without pickles: `codes` (N, D) float32; or for a model of discrete codes `tokens` (`tokens_0`,
  `tokens_1` ... where an image has several maps, the coarsest first), (N, h * w) int32; `names` (N,) and, where the images have
  classes, `labels` (N,) int64 and `class_names`; `split` (N,); `metadata`, a JSON text.
- `.parquet`, a row an image: `name`, `split`, `label`, `class`, and a list a code. The metadata are in the schema under "limner".

The metadata say what the codes are: the model, its configuration, the SHA-256 of its weights, the shape of one code before it
was flattened (row by row, the last index fastest), the data and their fingerprint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from limner import capabilities, hub
from limner.capabilities import Encodes, Tokenizes
from limner.data.dataset import Dataset
from limner.edit.codes import batches, encode
from limner.errors import UserError
from limner.files import replacing, sha256
from limner.version import __version__

BATCH = 256


@dataclass(frozen=True)
class Embedding:
    """What was written."""

    path: Path
    images: int
    shapes: tuple[tuple[int, ...], ...]
    """Of one image's code, or of each of its maps of codes."""
    kind: str
    """"codes" or "tokens"."""


def embed(
    model: Any,
    data: Dataset | Sequence[Dataset],
    out: str | Path,
    *,
    kind: Literal["auto", "codes", "tokens"] = "auto",
    batch: int = BATCH,
) -> Embedding:
    """Write the codes of all images of the data (of several sets one after another) to `out`.

    Args:
        model: anything that `Encodes` or `Tokenizes`.
        data: one data set or several.
        out: a file called .npz or .parquet.
        kind: numbers (codes) or discrete codes (tokens); auto: tokens where the model has them.
        batch: images encoded at once.

    Raises:
        UserError: the model has no codes of that kind, the name ends in something else, pyarrow is missing, or the file cannot be written.
    """
    out, sets = Path(out), [data] if isinstance(data, Dataset) else list(data)
    if out.suffix not in WRITERS:
        raise UserError(f"--out {out}: the name must end in .npz or .parquet, which says how the table is written")
    if kind == "auto":
        kind = "tokens" if isinstance(model, Tokenizes) else "codes"
    if not isinstance(model, Encodes if kind == "codes" else Tokenizes):
        raise UserError(f"there are no {kind} to write: this model can " + ", ".join(capabilities.of(model)))
    head = next(_codes(model, kind, sets[0].subset([0]), 1))
    shapes = tuple(tuple(code.shape[1:]) for code in head)
    columns = {name: (code.dtype, code[0].size) for name, code in zip(names_of(kind, len(head)), head, strict=True)}
    facts = metadata(model, sets, kind, shapes)
    out.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[out.suffix](out, sets, columns, facts, lambda s: _codes(model, kind, s, batch))
    return Embedding(out, sum(map(len, sets)), shapes, kind)


def names_of(kind: str, maps: int) -> list[str]:
    """The columns that hold the codes."""
    return [kind] if maps == 1 else [f"{kind}_{k}" for k in range(maps)]


def metadata(model: Any, sets: Sequence[Dataset], kind: str, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What the table says about itself."""
    weights = None if model.origin is None else Path(model.origin) / hub.WEIGHTS
    facts = {
        "limner": __version__,
        "model": {**hub.describe(model), "weights_sha256": sha256(weights) if weights and weights.is_file() else None},
        "kind": kind,
        "code_shapes": [list(shape) for shape in shapes],
        "data": [{"name": s.name, "split": s.split, "images": len(s), "fingerprint": s.fingerprint} for s in sets],
    }
    if kind == "tokens":
        facts["codebooks"] = list(model.codebooks)
    return facts


def _codes(model: Any, kind: str, data: Dataset, batch: int) -> Iterator[list[np.ndarray]]:
    """For each batch the code of each image, or the maps of codes: arrays (B, ...) of float32 or int32."""
    labels = None if data.labels is None else torch.from_numpy(data.labels)
    for k, images in enumerate(batches(data, batch)):
        if kind == "codes":
            given = None if labels is None else labels[k * batch : k * batch + len(images)]
            yield [encode(model, images, labels=given, batch=batch).numpy()]
        else:
            with torch.no_grad():
                yield [tokens.cpu().numpy().astype(np.int32) for tokens in model.tokenize(images.to(model.device))]


def _names(data: Dataset) -> list[str]:
    return data.names or [f"{data.name} {data.split} {i}" for i in range(len(data))]


def _write_npz(out: Path, sets: list[Dataset], columns: dict, facts: dict, codes_of: Any) -> None:
    n = sum(map(len, sets))
    # The codes gather in a file beside the table, which numpy then copies piece by piece.
    try:
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error.strerror or error}") from None
    with folder as scratch, replacing(out) as temporary:
        arrays: dict[str, Any] = {
            name: np.lib.format.open_memmap(Path(scratch) / f"{name}.npy", mode="w+", dtype=dtype, shape=(n, size))
            for name, (dtype, size) in columns.items()
        }
        row = 0
        for data in sets:
            for part in codes_of(data):
                for name, code in zip(columns, part, strict=True):
                    arrays[name][row : row + len(code)] = code.reshape(len(code), -1)
                row += len(part[0])
        arrays["names"] = np.array([name for data in sets for name in _names(data)])
        arrays["split"] = np.array([data.split for data in sets for _ in range(len(data))])
        if all(data.labels is not None for data in sets):
            arrays["labels"] = np.concatenate([data.labels for data in sets])  # type: ignore[misc]
            arrays["class_names"] = np.array(sets[0].class_names or [])
        arrays["metadata"] = np.array(json.dumps(facts))
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def _write_parquet(out: Path, sets: list[Dataset], columns: dict, facts: dict, codes_of: Any) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(
            "writing a .parquet table needs pyarrow: pip install 'limner[parquet]'; or give --out a name that ends in .npz"
        ) from None
    labelled = all(data.labels is not None for data in sets)
    fields = [pa.field("name", pa.string()), pa.field("split", pa.string())]
    fields += [pa.field("label", pa.int64()), pa.field("class", pa.string())] if labelled else []
    fields += [pa.field(name, pa.list_(pa.from_numpy_dtype(dtype), size)) for name, (dtype, size) in columns.items()]
    schema = pa.schema(fields, metadata={"limner": json.dumps(facts)})
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for data in sets:
            names, start = _names(data), 0
            for part in codes_of(data):
                stop = start + len(part[0])
                table: dict[str, Any] = {"name": names[start:stop], "split": [data.split] * (stop - start)}
                if labelled:
                    labels = data.labels[start:stop]  # type: ignore[index]
                    classes = data.class_names or []
                    table["label"] = labels
                    table["class"] = [classes[k] if k < len(classes) else None for k in labels]
                for (name, (_, size)), code in zip(columns.items(), part, strict=True):
                    table[name] = pa.FixedSizeListArray.from_arrays(pa.array(code.reshape(-1)), size)
                writer.write_table(pa.table(table, schema=schema))
                start = stop


WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}
