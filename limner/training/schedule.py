"""The learning rate as a function of the images seen."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from limner.training.settings import TrainConfig


def factor(images: int, settings: TrainConfig) -> float:
    """What the base learning rate is multiplied with after `images` images: linear warm-up, then constant or half cosine.

    The cosine is that of Loshchilov & Hutter 2017 (SGDR, eq. 5) without restarts, ending at zero.
    """
    rise = min(1.0, (images + settings.batch) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "constant":
        return rise
    progress = (images - settings.warmup) / max(1, settings.images - settings.warmup)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def set_learning_rate(optimizer: Optimizer, scale: float) -> None:
    """Set every group to `scale` times the rate that its model gave it."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * scale
