"""Images as entropy-coded codes in one file, and back: lossy compression by a model that `Tokenizes`, with priors that `Predict`.

A first stage maps an image to codes; a range coder (Martin 1979) writes each code in about -log2 p bits, p being its probability
under the prior given the codes before it (Shannon 1948), so the file is about as long as the prior finds the images improbable.
Without a prior all codes are equally likely. The decoder asks the prior the same questions, in the same order, gets the codes
back exactly, and the first stage decodes them: to exactly the model's reconstructions.

Coder and decoder must agree on every probability to the last bit. Logits are computed in float64 and rounded to a grid of 1/256,
far coarser than the differences between two machines' sums and far too fine to cost anything (below 1e-6 nats a code); the
probabilities are integers looked up from the rounded logits. Should two machines disagree all the same, a checksum of the codes
says so: a file is decoded rightly or not at all. The weights of the model are not in the file; their hash is.

The file, little-endian: the header `HEADER`; the names of the images, NUL between them, deflated (nothing where they are but numbered);
the range coder's words; a CRC-32 of
all that. Images are coded in batches, in each the labels (of priors with classes) and then map after map, the coarsest first, of
each map one place after the other, and of each place one image after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limner.capabilities import Predicts, Tokenizes
from limner.data.grid import from_uint8, to_uint8
from limner.errors import UserError

MAGIC = b"LIMNER\x00\x01"  # the last byte is the version: of the file, the grid and the table
HEADER = struct.Struct("<8s16sBHHIHIII")
"""Magic; hash of the weights; channels, height, width; images, images in a batch; bytes of names and of words; CRC-32 of the codes."""
LARGEST_BATCH = 1024
MOST_NAMES = 1 << 26
"""Bytes of the names, inflated."""
MOST_NUMBERED = 1 << 20
"""Images without names of their own."""

GRID = 256
"""Logits are rounded to multiples of 1 / GRID."""
_PRECISION = 1 << 24
_DEEPEST = math.ceil(math.log(_PRECISION) * GRID)
_TABLE = np.array([max(1, round(_PRECISION * math.exp(-d / GRID))) for d in range(_DEEPEST + 1)], np.float64)
"""exp(-d / GRID) in integers, at least 1: what a logit that is d steps below the largest weighs."""


@dataclasses.dataclass(frozen=True)
class Compressed:
    """The content of a file."""

    weights: bytes
    """Of the model it was written with, see `fingerprint`."""
    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    names: tuple[str, ...]
    """Relative paths, one for each image."""
    batch: int
    """Images coded at once: a decoder must do as the coder did."""
    payload: bytes
    """Words of the range coder."""
    checksum: int
    """CRC-32 of the codes."""

    def to_bytes(self) -> bytes:
        """The file."""
        given = self.names != numbered(len(self.names))
        names = zlib.compress("\0".join(self.names).encode(), 9) if given else b""
        numbers = (*self.shape, len(self.names), self.batch, len(names), len(self.payload), self.checksum)
        body = HEADER.pack(MAGIC, self.weights, *numbers) + names + self.payload
        return body + struct.pack("<I", zlib.crc32(body))

    @staticmethod
    def from_bytes(data: bytes, *, where: str) -> Compressed:
        """The content of the file called `where`.

        Raises:
            UserError: it is no such file, of another version, truncated, damaged, or its names lead out of a folder.
        """
        if data[: len(MAGIC) - 1] != MAGIC[:-1]:
            raise UserError(f"'{where}' was not written by `limner compress`")
        if len(data) < HEADER.size + 4:
            raise UserError(f"'{where}' is truncated: {len(data)} bytes are less than its header")
        magic, weights, *shape, count, batch, of_names, of_words, checksum = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise UserError(f"'{where}' is of version {magic[-1]}, this limner reads version {MAGIC[-1]}")
        if len(data) != HEADER.size + of_names + of_words + 4:
            raise UserError(f"'{where}' is truncated or has something appended: {len(data)} bytes")
        if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise UserError(f"'{where}' is damaged: its checksum does not fit")
        if not 1 <= batch <= LARGEST_BATCH or of_words % 4:
            raise UserError(f"'{where}' is damaged: its header makes no sense")
        if of_names:
            names = _inflate(data[HEADER.size : HEADER.size + of_names], where)
        else:
            names = numbered(min(count, MOST_NUMBERED))
        if len(names) != count:
            raise UserError(f"'{where}' is damaged: {len(names)} names for {count} images")
        start = HEADER.size + of_names
        channels, height, width = shape
        return Compressed(weights, (channels, height, width), names, batch, data[start : start + of_words], checksum)


@dataclasses.dataclass(frozen=True)
class Report:
    """What compressing came to."""

    file: Compressed
    ideal_bits: float
    """Sum of -log2 p of all codes (and labels) under the model's own, unrounded probabilities."""
    uniform_bits: float
    """The same if all codes were equally likely."""
    codes: int
    prior: bool
    reconstructions: np.ndarray
    """uint8 (N, H, W, C): what decompressing will give."""


def compress(
    model: Any,
    images: np.ndarray,
    names: Sequence[str],
    *,
    batch: int = 64,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Code the images.

    Args:
        model: anything that `Tokenizes`; its `priors` (the coarsest map's first), where it has them, must `Predict`.
        images: uint8 (N, H, W, C), of the model's shape.
        names: of the images, relative paths.
        batch: images coded at once, here and by the decoder; at most 1024.
        say: told how far it is.

    Raises:
        UserError: the model cannot do this, the images are of another shape, or the package `constriction` is not there.
    """
    constriction, priors = _constriction(), priors_of(model)
    shape = images.shape[3], images.shape[1], images.shape[2]
    if shape != tuple(model.image_shape):
        raise UserError(f"images of {_times(shape)} were given, the model has images of {_times(model.image_shape)}")
    if not 1 <= batch <= LARGEST_BATCH:
        raise UserError(f"--batch {batch}: choose 1 to {LARGEST_BATCH}")
    family = constriction.stream.model.Categorical(perfect=False)
    encoder = constriction.stream.queue.RangeEncoder()
    ideal, checksum, decoded = 0.0, 0, []
    for i in range(0, len(images), batch):
        x = from_uint8(images[i : i + batch]).to(model.device)
        n, label = len(x), _best_label(model, priors, x)
        known = iter([*([label] if label is not None else []), *_values(model.tokenize(x))])

        def answer(logits: Tensor, known: Iterator[Tensor] = known) -> Tensor:
            nonlocal ideal
            value = next(known)
            ideal -= float(logits.double().log_softmax(1).gather(1, value[:, None]).sum()) / math.log(2)
            encoder.encode(value.cpu().numpy().astype(np.int32), family, frequencies(logits))
            return value

        codes = dialogue(model, priors, n, answer)
        checksum = _crc(codes, checksum)
        decoded.append(to_uint8(_detokenize(model, codes)))
        say(f"{i + n} of {len(images)} images")
    places = [h * w for h, w in model.code_shapes]
    file = Compressed(
        weights=fingerprint(model),
        shape=shape,
        names=tuple(output_names(names)),
        batch=batch,
        payload=encoder.get_compressed().astype("<u4").tobytes(),
        checksum=checksum,
    )
    return Report(
        file=file,
        ideal_bits=ideal,
        uniform_bits=len(images) * sum(p * math.log2(k) for p, k in zip(places, model.codebooks, strict=True)),
        codes=len(images) * sum(places),
        prior=bool(priors),
        reconstructions=np.concatenate(decoded) if decoded else np.empty_like(images),
    )


def decompress(model: Any, file: Compressed) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """The images, a batch at a time: their names, and uint8 (n, H, W, C).

    Nothing is given out before all codes are known to be right.

    Raises:
        UserError: the file was written with another model, or its codes cannot be those that were coded.
    """
    constriction, priors = _constriction(), priors_of(model)
    if file.weights != fingerprint(model):
        raise UserError("the file was compressed with another model: only the very same weights can read it")
    if file.shape != tuple(model.image_shape):
        raise UserError(f"the file has images of {_times(file.shape)}, the model of {_times(model.image_shape)}")
    family = constriction.stream.model.Categorical(perfect=False)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(file.payload, "<u4").astype(np.uint32))

    def answer(logits: Tensor) -> Tensor:
        try:
            value = decoder.decode(family, frequencies(logits))
        except (AssertionError, ValueError):  # "Tried to decode from compressed data that is invalid for the model"
            raise UserError(_MISMATCH) from None
        return torch.from_numpy(value.astype(np.int64)).to(logits.device)

    checksum, batches = 0, []
    for i in range(0, len(file.names), file.batch):
        codes = dialogue(model, priors, min(file.batch, len(file.names) - i), answer)
        checksum = _crc(codes, checksum)
        batches.append(codes)
    if checksum != file.checksum:
        raise UserError(_MISMATCH)
    for i, codes in enumerate(batches):
        yield file.names[i * file.batch : (i + 1) * file.batch], to_uint8(_detokenize(model, codes))


_MISMATCH = (
    "the codes that came out are not those that went in: the file is damaged, or this machine's arithmetic is not that of the one "
    "that wrote it (try the same --device)"
)


@torch.no_grad()
def dialogue(model: Any, priors: Sequence[Any], n: int, answer: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """All codes of n images, int64 (n, h, w) for each map: `answer` is given the logits (n, K) of each and says which it is.

    With priors that have classes, the first answer is the labels, all equally likely.
    """
    classes = _classes(priors)
    label = answer(torch.zeros(n, classes, dtype=torch.float64, device=model.device)) if classes else None
    codes: list[Tensor] = []
    for i, (levels, (height, width)) in enumerate(zip(model.codebooks, model.code_shapes, strict=True)):
        if priors:
            asking = priors[i].predict(n, label=label, condition=codes[-1] if codes else None)
        else:
            asking = _indifferent(n, levels, height * width, model.device)
        values: list[Tensor] = []
        with contextlib.closing(asking):
            for _ in range(height * width):
                values.append(answer(asking.send(values[-1] if values else None)))
        codes.append(torch.stack(values, dim=1).view(n, height, width))
    return tuple(codes)


def frequencies(logits: Tensor) -> np.ndarray:
    """(n, K) logits to whole numbers proportional to the probabilities, float64: a function of the rounded logits alone.

    Raises:
        UserError: a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise UserError("the prior's prediction is not finite: was its training sound?")
    steps = (logits.double() * GRID).round()
    below = (steps.amax(dim=1, keepdim=True) - steps).clamp(max=_DEEPEST).long()
    return _TABLE[below.cpu().numpy()]


def priors_of(model: Any) -> list[Any]:
    """The model's priors, the coarsest map's first; none where it has none.

    Raises:
        UserError: the model has no codes, or a prior that cannot predict.
    """
    if not isinstance(model, Tokenizes):
        raise UserError(
            "compression needs discrete codes, which this model does not have; train a vqvae, and a prior with --first-stage"
        )
    priors = list(getattr(model, "priors", []))
    for prior in priors:
        if not isinstance(prior, Predicts):
            raise UserError(
                f"the prior {type(prior).__name__} cannot predict codes one by one; pixelcnn and transformer can"
            )
    return priors


def fingerprint(model: Any) -> bytes:
    """16 bytes of the SHA-256 of the models' configurations and of all names, types, shapes and values of the weights."""
    digest = hashlib.sha256()
    for part in (model, getattr(model, "first_stage", None), *getattr(model, "priors", [])):
        if dataclasses.is_dataclass(settings := getattr(part, "config", None)):
            digest.update(json.dumps(dataclasses.asdict(settings), sort_keys=True, default=str).encode())  # type: ignore[arg-type]
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()[:16]


def numbered(n: int) -> tuple[str, ...]:
    """The names of images that have none: 00000.png, 00001.png ..."""
    return tuple(f"{i:05d}.png" for i in range(n))


def output_names(names: Sequence[str]) -> list[str]:
    """The names as PNG files, each once: photo.jpg becomes photo.png, or photo.jpg.png where another photo is there."""
    stems = [str(PurePosixPath(name.replace("\\", "/")).with_suffix("")) for name in names]
    result, used = [], set()
    for name, stem in zip(names, stems, strict=True):
        made = f"{stem}.png" if stems.count(stem) == 1 else f"{name}.png"
        while made in used:
            made = made.removesuffix(".png") + "-.png"
        used.add(made)
        result.append(made)
    return result


def _inflate(packed: bytes, where: str) -> tuple[str, ...]:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, MOST_NAMES)
        if not inflater.eof:
            raise UserError(f"'{where}' is damaged: its names do not end")
        names = tuple(text.decode().split("\0")) if text else ()
    except (zlib.error, UnicodeDecodeError):
        raise UserError(f"'{where}' is damaged: its names cannot be read") from None
    for name in names:
        path = PurePosixPath(name)
        strange = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name.isprintable()
        if strange or not path.name.endswith(".png"):
            raise UserError(f"'{where}' has an image called {name[:80]!r}, which is no name of a picture in a folder")
    if len(set(names)) != len(names):
        raise UserError(f"'{where}' is damaged: two images have one name")
    return names


def _values(codes: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """(n,) of each place, in the order of the file."""
    for each in codes:
        yield from each.flatten(1).unbind(1)


def _indifferent(n: int, levels: int, places: int, device: torch.device) -> Generator[Tensor, Tensor, None]:
    for _ in range(places):
        yield torch.zeros(n, levels, dtype=torch.float64, device=device)


def _classes(priors: Sequence[Any]) -> int:
    return max((getattr(prior.config, "classes", 0) for prior in priors), default=0)


@torch.no_grad()
def _best_label(model: Any, priors: Sequence[Any], x: Tensor) -> Tensor | None:
    """The class under which the codes of each image are shortest: images to be compressed come without labels."""
    classes = _classes(priors)
    if not classes:
        return None
    bits = [model.code_bits(x, label=torch.full((len(x),), k, device=x.device)) for k in range(classes)]
    return torch.stack(bits).argmin(dim=0)


@torch.no_grad()
def _detokenize(model: Any, codes: tuple[Tensor, ...]) -> Tensor:
    return model.detokenize(codes)


def _crc(codes: tuple[Tensor, ...], start: int) -> int:
    for each in codes:
        start = zlib.crc32(each.cpu().numpy().astype("<i4").tobytes(), start)
    return start


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise UserError("entropy coding needs the package constriction: pip install 'limner[compress]'") from None
    return constriction


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
