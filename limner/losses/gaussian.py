"""Terms of lower bounds with diagonal Gaussians: their density, their divergence from N(0, I), their mass in a grey level's bin.

Shared by the models that infer a Gaussian code: the VAE and those that build on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limner.losses.logistic import levels_of, values_of


def kl_to_standard_normal(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, diag exp(log_sigma)^2) || N(0, I)) in nats, (B, D) each -> (B,). Kingma & Welling 2014, appendix B."""
    return 0.5 * (mu.square() + torch.exp(2 * log_sigma) - 1 - 2 * log_sigma).sum(dim=1)


def normal_log_density(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log N(x; mean, exp(log_sigma)^2), elementwise, in nats."""
    return -0.5 * ((x - mean) * torch.exp(-log_sigma)).square() - log_sigma - 0.5 * math.log(2 * math.pi)


def discretized_gaussian_log_prob(x: Tensor, mean: Tensor, log_sigma: Tensor, levels: int = 256) -> Tensor:
    """Log-mass, in nats, of N(mean, exp(log_sigma)^2) in the bin of each grey level of x, elementwise.

    The bin of level k reaches half a level to both sides, the first and last to infinity, so the masses sum to 1.
    """
    k, half = levels_of(x, levels), 1 / (levels - 1)
    inf = torch.full_like(mean, math.inf)
    upper = torch.where(k < levels - 1, (values_of(k, levels) + half - mean) * torch.exp(-log_sigma), inf)
    lower = torch.where(k > 0, (values_of(k, levels) - half - mean) * torch.exp(-log_sigma), -inf)
    # Phi(upper) - Phi(lower) = Phi(-lower) - Phi(-upper): use the side where both are small, lest they cancel.
    flip = lower + upper > 0
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_upper, log_lower = torch.special.log_ndtr(upper.double()), torch.special.log_ndtr(lower.double())
    return (log_upper + torch.log(-torch.expm1(log_lower - log_upper))).to(x.dtype)
