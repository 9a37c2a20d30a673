"""Finding the latent whose image is nearest to a given one, for models that decode but do not encode (a GAN has no encoder).

Gradient descent on the latent through the decoder: Zhu et al. 2016, arXiv 1609.03552, eq. 5; Lipton & Tripathi 2017,
arXiv 1702.04782. What it finds is the best of several starts, and is called "found by latent search" wherever it is shown: it
measures what the generator *can* draw, not what an encoder would give.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from limner.capabilities import Decodes
from limner.errors import UserError
from limner.noise import mix


class Projection(NamedTuple):
    """The result of a latent search."""

    latent: Tensor
    """(B, ...) the latents found."""
    image: Tensor
    """(B, C, H, W) in [-1, 1], their images."""
    error: Tensor
    """(B,) mean squared error against the images asked for, in the units of [-1, 1]."""


def project(
    model: Decodes,
    image: Tensor,
    *,
    steps: int = 200,
    lr: float = 0.1,
    draws: int = 256,
    starts: int = 2,
    pull: float = 1e-3,
    seed: int = 0,
) -> Projection:
    """Search, for each image, the latent that decodes nearest to it.

    `draws` latents of the prior are decoded once; the `starts` nearest to each image are each refined by `steps` steps of Adam on
    the mean squared error plus `pull` times the latent's mean square (which keeps it where the decoder was trained); the best is kept.

    Args:
        model: has a prior and a decoder through which gradients flow.
        image: (B, C, H, W) in [-1, 1].

    Raises:
        UserError: the decoder does not pass gradients to its latent.
    """
    with torch.no_grad():
        pool = model.latents(draws, generator=mix(seed, draws))
        drawn = model.decode(pool)  # (draws, C, H, W)
        distance = torch.cdist(image.flatten(1).float(), drawn.flatten(1).float())  # (B, draws)
        nearest = distance.topk(min(starts, draws), largest=False).indices  # (B, starts)
    latent = pool[nearest.flatten()].detach().clone().requires_grad_()  # (B * starts, ...)
    target = image.repeat_interleave(nearest.shape[1], dim=0)
    optimizer = torch.optim.Adam([latent], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        with torch.enable_grad():
            decoded = model.decode(latent)
            if not decoded.requires_grad:
                raise UserError(
                    f"{type(model).__name__}.decode passes no gradients to its latent: no search is possible"
                )
            error = (decoded - target).square().flatten(1).mean(1)
            # Summed, not averaged: each latent's descent is independent of how many are searched together.
            loss = (error + pull * latent.square().flatten(1).mean(1)).sum()
            (latent.grad,) = torch.autograd.grad(loss, latent)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        decoded = model.decode(latent).clamp(-1, 1)
        error = (decoded - target).square().flatten(1).mean(1).view(len(image), -1)  # (B, starts)
        best = error.argmin(1) + torch.arange(len(image), device=error.device) * error.shape[1]
    return Projection(latent.detach()[best], decoded[best], error.flatten()[best])
