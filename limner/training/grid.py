"""The picture that a training run draws now and then: what the model can do, shown."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from limner import capabilities
from limner.data.dataset import Dataset

SAMPLES = 64
"""Samples in a grid."""
COLUMNS = 12
"""Images beside one another where rows belong together."""


class Picture(NamedTuple):
    """Images for a grid."""

    images: Tensor
    """(N, C, H, W) in [-1, 1]."""
    columns: int | None = None
    """Images in a row; None for as many as rows."""
    samples: bool = False
    """Whether they are new images, drawn by the model."""


@torch.no_grad()
def picture(model: Any, data: Dataset, device: torch.device) -> Picture | None:
    """Samples from fixed noise; else held-out images (where there are any) above what the model makes of them.

    None for a model that does nothing which can be shown.
    """
    if isinstance(model, capabilities.Samples):
        n = min(SAMPLES, len(data))
        label = {} if (labels := cycle_labels(model, n)) is None else {"label": labels}
        return Picture(model.sample(n, generator=list(range(n)), **label), samples=True)
    shown = data.held_out or data
    batch = shown.batch(range(min(COLUMNS, len(shown))), device)
    rows: list[Tensor]
    if isinstance(model, capabilities.Translates) and "A" in batch:
        rows = []
        for own, other in (("A", "B"), ("B", "A")):
            rows += [batch[own], model.translate(batch[own], target=own), model.translate(batch[own], target=other)]
    elif isinstance(model, capabilities.Restores):
        damaged = batch["degraded"] if "degraded" in batch else model.damage(batch["image"])
        rows = [damaged, model.restore(damaged), batch["image"]]
    elif isinstance(model, capabilities.Reconstructs):
        rows = [batch["image"], model.reconstruct(batch["image"])]
    else:
        return None
    return Picture(torch.cat(rows), columns=len(rows[0]))


def cycle_labels(model: Any, n: int) -> Tensor | None:
    """(n,) the classes in turn, for a model that is told which to draw; else None."""
    classes = getattr(model.config, "classes", 0) if "label" in model.inputs else 0
    return torch.arange(n, device=model.device) % classes if classes else None
