"""Activation normalisation of flows."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limner.nn.bijection import Bijection


class ActNorm(Bijection):
    """y = exp(log_scale) * (x + bias) per channel (Kingma & Dhariwal 2018, section 3.1).

    The first batch seen in training mode (over all processes) sets both so that y has zero mean and unit variance in every
    channel; from then on they are ordinary parameters. Works on (B, C, H, W) and on (B, C).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))
        self.initialised: Tensor

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set the parameters from the batch x."""
        dims = [d for d in range(x.ndim) if d != 1]
        mean, square = x.mean(dims), x.square().mean(dims)
        if dist.is_available() and dist.is_initialized():
            for moment in (mean, square):
                dist.all_reduce(moment)
                moment /= dist.get_world_size()
        self.bias.copy_(-mean)
        self.log_scale.copy_(-0.5 * (square - mean.square()).clamp(min=1e-6).log())
        self.initialised.fill_(True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self.initialised:
            self.initialise(x)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        y = (x + self.bias.view(shape)) * self.log_scale.exp().view(shape)
        places = x[0, 0].numel()
        return y, (places * self.log_scale.sum()).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (y.ndim - 2)
        return y * (-self.log_scale).exp().view(shape) - self.bias.view(shape)
