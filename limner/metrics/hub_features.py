"""DINO and CLIP image towers as extractors, by Hugging Face hub id or from a local folder, through the package `transformers`.

- `dino`: the last layer's class token (after its normalisation) of a self-supervised vision transformer. Default: DINOv2 ViT-S/14,
  384 features (Oquab et al. 2023, arXiv 2304.07193). Stein et al. 2023, arXiv 2306.04675, found distances in DINOv2 features (theirs:
  ViT-L/14, `facebook/dinov2-large`) to agree with people where those in Inception's features do not.
- `clip`: the image embedding after its projection, not normalised to length 1 (CMMD does that itself). Default: ViT-L/14 at 336
  pixels, 768 features, which CMMD is defined with (Radford et al. 2021, arXiv 2103.00020; Jayasumana et al. 2024, arXiv 2401.09603).

What is done to an image (resize, crop, filter, mean, deviation) is read from the model's own `preprocessor_config.json` and stated in the
protocol. It is done by Pillow, as by the processors that the models were published with.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import UserError
from limner.metrics.networks import NetworkExtractor, Preparation

DEFAULTS = {"dino": "facebook/dinov2-small", "clip": "openai/clip-vit-large-patch14-336"}
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""Pillow's numbers for its filters, as `resample` has them."""


class ClassToken(nn.Module):
    """Prepared images (N, 3, s, s) -> the last layer's first token (N, d) of a vision transformer."""

    def __init__(self, model: nn.Module):
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # type: ignore[assignment]  # unused; not all checkpoints have one, and random weights must not enter the hash
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).last_hidden_state[:, 0]


class Embedding(nn.Module):
    """Prepared images (N, 3, s, s) -> CLIP's projected image embedding (N, d)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).image_embeds


def hub_features(kind: str, model: str | Path | None = None) -> NetworkExtractor:
    """The extractor `dino` or `clip`.

    Args:
        kind: which.
        model: hub id, or a local folder with the weights and `preprocessor_config.json`. Default: `DEFAULTS[kind]`.

    Raises:
        UserError: `transformers` is missing, the model cannot be had (no network, wrong id), is of another kind, or says of its
            input what cannot be done here.
    """
    if kind not in DEFAULTS:
        raise UserError(f"there is no extractor '{kind}' of the hub; choose from {', '.join(DEFAULTS)}")
    where = str(model or DEFAULTS[kind])
    transformers = _transformers(kind)
    preparation = preparation_of(_processor_config(where), where)
    loader = transformers.AutoModel if kind == "dino" else transformers.CLIPVisionModelWithProjection
    try:
        with _quiet(transformers):
            network, loading = loader.from_pretrained(where, output_loading_info=True)
    except Exception as error:  # transformers passes on whatever its readers of files run into
        raise _unavailable(where, error) from None
    missing = [key for key in loading["missing_keys"] if not key.startswith("pooler.")]
    if missing:  # transformers would leave them at random values
        raise UserError(f"'{where}' is no {kind} model: it has no weights '{sorted(missing)[0]}'")
    wrapped = (ClassToken if kind == "dino" else Embedding)(network.float())
    # A local folder is called by its last part: where it lies is no part of a protocol.
    extractor = NetworkExtractor(f"{kind} {Path(where).name if Path(where).is_dir() else where}", wrapped, preparation)
    try:
        found = extractor(torch.zeros(1, preparation.size, preparation.size, 3, dtype=torch.uint8))
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise UserError(f"'{where}' cannot serve as {kind}: {_first_line(error)}") from None
    if found.ndim != 2:
        raise UserError(f"'{where}' cannot serve as {kind}: it is no vision transformer with a class token")
    return extractor


def preparation_of(config: Mapping[str, Any], where: str) -> Preparation:
    """What a processor's configuration says is done to an image.

    Raises:
        UserError: it says something that is not done here; `where` is named.
    """

    def refuse(key: str) -> UserError:
        return UserError(
            f"the preprocessor_config.json of '{where}' says {key} = {config.get(key)!r}, which limner does not do"
        )

    if not config.get("do_resize", True):
        raise refuse("do_resize")
    if config.get("resample") not in FILTERS:
        raise refuse("resample")
    crops = bool(config.get("do_center_crop", False))
    size, edge = config.get("size"), 0
    if isinstance(size, int):
        edge = size if crops else 0  # the older form: the shorter edge for those that crop, else both
        side: Any = size
    elif isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        side = edge = size["shortest_edge"]
    elif isinstance(size, Mapping) and size.get("height") == size.get("width") is not None:
        side = size["height"]
    else:
        raise refuse("size")
    if crops:
        crop = config.get("crop_size")
        height, width = (crop.get("height"), crop.get("width")) if isinstance(crop, Mapping) else (crop, crop)
        if not isinstance(height, int) or height != width or (not edge and height != side):
            raise refuse("crop_size")
        side = height
    mean, std = [0.0] * 3, [1.0] * 3
    if config.get("do_normalize", True):
        mean, std = config.get("image_mean", ()), config.get("image_std", ())
        if len(mean) != 3 or len(std) != 3:
            raise refuse("image_mean")
    # (f v - mean) / std is (v / 255 - mean / 255 f) / (std / 255 f).
    factor = 255 * (config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0)
    if math.isclose(factor, 1):
        factor = 1.0
    return Preparation(
        side,
        FILTERS[config["resample"]],
        tuple(m / factor for m in mean),
        tuple(s / factor for s in std),
        edge=edge,
    )


def _transformers(kind: str) -> Any:
    try:
        module = importlib.import_module("transformers")
        for name in ("AutoModel", "CLIPVisionModelWithProjection"):
            getattr(module, name)  # imports what it needs only now
    except ImportError as error:
        if getattr(error, "name", None) == "transformers":
            raise UserError(f"{kind} features need the package transformers: pip install 'limner[hub]'") from None
        reason = _first_line(error.__cause__ or error)
        raise UserError(
            f"{kind} features need the package transformers, which does not import here: {reason}; if torchvision is the reason, "
            f"remove it or install the one that belongs to this PyTorch"
        ) from None
    return module


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the table of weights that were and were not found: what matters of it is checked, and said in one line."""
    log = transformers.utils.logging
    before = log.get_verbosity()
    log.set_verbosity(log.CRITICAL)
    try:
        yield
    finally:
        log.set_verbosity(before)


def _processor_config(where: str) -> dict[str, Any]:
    from transformers.utils import cached_file

    try:
        path = cached_file(where, "preprocessor_config.json")
    except OSError as error:
        try:
            path = cached_file(where, "processor_config.json")
        except OSError:
            raise _unavailable(where, error) from None
    try:
        config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None
    return config.get("image_processor", config)


def _unavailable(where: str, error: Exception) -> UserError:
    return UserError(
        f"the model '{where}' cannot be had: {_first_line(error)} Give the path of a local folder with its files, or a hub id"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().split("\n") if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
