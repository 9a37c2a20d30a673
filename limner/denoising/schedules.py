"""Noise schedules of the variance-preserving diffusion in T discrete steps.

A schedule is one float64 tensor `abar` of shape (T + 1,): abar[t] is the product of alpha_1 .. alpha_t of Ho et al. 2020, so that

    q(x_t | x_0) = N(sqrt(abar[t]) x_0, (1 - abar[t]) I)            (eq. 4),    abar[0] = 1.

Everything else (beta_t, the posterior, the signal-to-noise ratio) follows from it, for neighbouring steps and for any s < t alike:
that is what makes sampling with fewer steps a matter of choosing times.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def linear(T: int = 1000) -> Tensor:
    """beta_t linear from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled by 1000 / T for another number of steps.

    Returns abar (T + 1,). For few steps the scaled beta_t is held at 0.999.
    """
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T)
    return from_betas(beta)


def cosine(T: int = 1000, offset: float = 0.008) -> Tensor:
    """abar_t = f(t) / f(0), f(t) = cos^2((t / T + offset) / (1 + offset) * pi / 2) (Nichol & Dhariwal 2021, eq. 17).

    Returns abar (T + 1,). As in the paper beta_t is held at 0.999, so abar[T] is small (2.4e-9 for T = 1000) and not zero.
    """
    t = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
    return from_betas(1 - f[1:] / f[:-1])


def from_betas(beta: Tensor) -> Tensor:
    """beta_1 .. beta_T (T,) -> abar (T + 1,)."""
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta.double().clamp(max=0.999), dim=0)])


SCHEDULES = {"linear": linear, "cosine": cosine}


def respaced(T: int, steps: int) -> list[int]:
    """The times of a sampler of `steps` steps, ascending: 0 = tau_0 < tau_1 < ... < tau_steps = T, tau_i = round(i T / steps).

    The last is T whatever the number of steps, so that sampling starts from the pure noise the network was trained on
    (the "trailing" spacing of Lin et al. 2024). More than T steps are T steps.
    """
    steps = min(steps, T)
    return [round(i * T / steps) for i in range(steps + 1)]


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(c0 x_0 + ct x_t, variance I)."""

    c0: Tensor
    ct: Tensor
    variance: Tensor


def posterior(abar_s: Tensor, abar_t: Tensor) -> Posterior:
    """The posterior of the forward process for times s < t (Ho et al. 2020, eqs. 6 and 7, where s = t - 1)."""
    alpha = abar_t / abar_s
    beta = 1 - alpha
    return Posterior(
        c0=abar_s.sqrt() * beta / (1 - abar_t),
        ct=alpha.sqrt() * (1 - abar_s) / (1 - abar_t),
        variance=(1 - abar_s) / (1 - abar_t) * beta,
    )


def reverse_variance(abar: Tensor, s: Tensor | int, t: Tensor | int, fraction: Tensor | float) -> Tensor:
    """sigma^2 of p(x_s | x_t) for times s < t: exp(f log beta + (1 - f) log beta~) (Nichol & Dhariwal 2021, eq. 15).

    `fraction` f is 0 for the posterior's variance beta~ ("small", right where x_0 is certain), 1 for beta ("large", right where the data
    is locally flat; Ho et al. 2020, section 3.2), or what a network learned. For s = 0, where beta~ is 0, half of beta stands for it.
    """
    beta = 1 - abar[t] / abar[s]
    small = torch.maximum(posterior(abar[s], abar[t]).variance, torch.where(torch.as_tensor(s) == 0, 0.5 * beta, 0.0))
    if isinstance(fraction, Tensor):
        beta, small = ((v.view(-1, *[1] * (fraction.dim() - 1)) if v.dim() else v).to(fraction) for v in (beta, small))
    return small * (beta / small) ** fraction


def signal_and_noise(abar: Tensor) -> tuple[Tensor, Tensor]:
    """(a, s) with x_t = a x_0 + s epsilon: sqrt(abar) and sqrt(1 - abar)."""
    return abar.sqrt(), (1 - abar).sqrt()


def log_snr(abar: Tensor) -> Tensor:
    """log(abar / (1 - abar)), the logarithm of the signal-to-noise ratio; infinite at t = 0."""
    return abar.log() - torch.log1p(-abar)


def time_of_sigma(abar: Tensor, sigma: Tensor) -> Tensor:
    """The (fractional) time at which x_t / sqrt(abar_t) = x_0 + sigma epsilon: log sigma is interpolated between the steps.

    sigma (B,) outside the schedule's range is given its nearest end, 1 or T.
    """
    grid = -0.5 * log_snr(abar[1:])  # log sigma_t, ascending, t = 1 .. T
    wanted = sigma.detach().double().cpu().clamp(min=1e-12).log().clamp(grid[0], grid[-1])
    right = torch.searchsorted(grid, wanted).clamp(1, len(grid) - 1)
    fraction = (wanted - grid[right - 1]) / (grid[right] - grid[right - 1])
    return right + fraction  # grid[right - 1] is the time `right`
