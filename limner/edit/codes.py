"""The codes of many images and the images of many codes, batch by batch: what every use of a latent space starts from.

A conditional model is told the label of each image, for encoding and decoding, where its methods ask for one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from limner.capabilities import Infers
from limner.data.dataset import Dataset

BATCH = 256


def batches(images: Dataset | Tensor, batch: int = BATCH) -> Iterator[Tensor]:
    """The images (N, C, H, W) in [-1, 1] a batch at a time, in order."""
    for start in range(0, len(images), batch):
        stop = min(start + batch, len(images))
        yield images[start:stop] if isinstance(images, Tensor) else images.batch(range(start, stop))["image"]


@torch.no_grad()
def encode(model: Any, images: Dataset | Tensor, *, labels: Tensor | None = None, batch: int = BATCH) -> Tensor:
    """The codes (N, ...) float32, on the CPU, of all the images. `labels` (N,) if the images are a tensor and the model needs them."""
    return torch.cat([code.float().cpu() for code in _each(model, model.encode, images, labels, batch)])


@torch.no_grad()
def posterior(
    model: Any, images: Dataset | Tensor, *, labels: Tensor | None = None, batch: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Means and log standard deviations (N, ...) float32, on the CPU, of q(z | image)."""
    both = list(_each(model, model.posterior, images, labels, batch))
    mean, log_sigma = (torch.cat([pair[k].float().cpu() for pair in both]) for k in (0, 1))
    return mean, log_sigma


@torch.no_grad()
def decode(model: Any, codes: Tensor, *, labels: Tensor | None = None, batch: int = BATCH) -> Tensor:
    """The images (N, C, H, W) in [-1, 1], on the CPU, of the codes (N, ...)."""
    parts = []
    for start in range(0, len(codes), batch):
        part = codes[start : start + batch].to(model.device)
        parts.append(model.decode(part, **_label(model, model.decode, labels, start, len(part))).float().cpu())
    return torch.cat(parts).clamp(-1, 1)


def inferred(model: Any, images: Dataset | Tensor, *, labels: Tensor | None = None) -> int:
    """How many numbers of a flattened code are inferred from the image: all of them but, in the code of a conditional model, those at
    its end that say the condition (a CVAE's one-hot label)."""
    few = images[:4] if isinstance(images, Tensor) else images.subset(range(min(4, len(images))))
    given = None if labels is None else labels[: len(few)]
    code = encode(model, few, labels=given).flatten(1)
    if isinstance(model, Infers):
        mean = posterior(model, few, labels=given)[0].flatten(1)
        if mean.shape[1] < code.shape[1] and torch.allclose(mean, code[:, : mean.shape[1]], atol=1e-4):
            return mean.shape[1]
    return code.shape[1]


def labels_of(images: Dataset | Tensor) -> Tensor | None:
    """The classes (N,) int64 of images that have them."""
    return None if isinstance(images, Tensor) or images.labels is None else torch.from_numpy(images.labels)


def _each(model: Any, method: Any, images: Dataset | Tensor, labels: Tensor | None, batch: int) -> Iterator[Any]:
    labels = labels_of(images) if labels is None else labels
    start = 0
    for x in batches(images, batch):
        yield method(x.to(model.device), **_label(model, method, labels, start, len(x)))
        start += len(x)


def asks_for_label(model: Any, method: Any) -> bool:
    """Whether `method` of the model wants to know the label: the model has classes, and the method an argument for them."""
    return getattr(model.config, "classes", 0) > 0 and "label" in inspect.signature(method).parameters


def _label(model: Any, method: Any, labels: Tensor | None, start: int, n: int) -> dict[str, Tensor]:
    if labels is None or not asks_for_label(model, method):
        return {}
    return {"label": labels[start : start + n].to(model.device)}
