"""The variational bound of a discrete-time diffusion model, in bits per dimension.

    E_q[ KL(q(x_T | x_0) || p(x_T)) + sum_{t > 1} KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) - log p(x_0 | x_1) ]
             L_T                              L_{t-1}                                          L_0         (Ho et al. 2020, eq. 5)

The reverse steps have the variance sigma_t^2 of `schedules.reverse_variance`, fixed or learned; the decoder is the discretised Gaussian of
eq. 13 with sigma_1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from limner.denoising.schedules import log_snr, posterior, reverse_variance, signal_and_noise
from limner.noise import SampleNoise

Denoiser = Callable[[Tensor, Tensor], "Tensor | tuple[Tensor, Tensor]"]


def bits_per_dim(
    denoise: Denoiser,
    x0: Tensor,
    abar: Tensor,
    *,
    noise: SampleNoise,
    levels: int = 256,
    timesteps: int | None = None,
    fraction: float = 0.0,
) -> Tensor:
    """(B,) upper bound of the negative log2-likelihood per dimension of images of `levels` grey levels in [-1, 1].

    L_0 and L_T are always computed. Of the T - 1 terms between, all are (`timesteps=None`: T network calls for each image), or
    `timesteps` are drawn for each image by systematic sampling from `step_probabilities` and weighted so that the expectation is that of
    the full sum. One draw of x_t per term either way; the draws are those of `noise`, one stream for each image. `fraction` chooses the
    variance (0 small, 1 large) unless the denoiser returns its own.
    """
    T, shape, dims = len(abar) - 1, x0.shape[1:], x0[0].numel()
    total = prior_kl(x0, abar[T]) + decoder_nll(denoise, x0, abar, noise.normal(*shape), levels, fraction)
    if T > 1:
        p = step_probabilities(abar)  # (T - 1,), of t = 2 .. T
        if timesteps is None or timesteps >= T:
            drawn = torch.arange(T - 1).expand(len(x0), -1)
            weight = torch.ones(T - 1, dtype=torch.float64)
        else:
            u = (torch.arange(timesteps) + noise.uniform(1).cpu()).double() / timesteps  # (B, timesteps), evenly spaced
            drawn = torch.searchsorted(p.cumsum(0), u).clamp(max=T - 2)
            weight = 1 / (timesteps * p)
        for column in drawn.unbind(dim=1):
            kl = step_kl(denoise, x0, abar, column + 2, noise.normal(*shape), fraction)
            total = total + weight[column].to(kl) * kl
    return total / (dims * math.log(2))


def term(denoise: Denoiser, x0: Tensor, abar: Tensor, t: Tensor, epsilon: Tensor, levels: int) -> Tensor:
    """(B,) the term of the bound that belongs to the time t (B,) of each image, L_{t-1} or L_0, in bits per dimension."""
    first = t == 1
    kl = step_kl(denoise, x0, abar, t.clamp(min=2), epsilon)
    if first.any():
        kl = torch.where(first.to(kl.device), decoder_nll(denoise, x0, abar, epsilon, levels), kl)
    return kl / (x0[0].numel() * math.log(2))


def step_probabilities(abar: Tensor) -> Tensor:
    """(T - 1,) probabilities with which the times 2 .. T are drawn.

    Half uniform, half in proportion to how far the log signal-to-noise ratio falls in the step: most of the bound lies in the few first
    steps, where that is far.
    """
    fall = -log_snr(abar[1:]).diff()
    return 0.5 / len(fall) + 0.5 * fall / fall.sum()


def prior_kl(x0: Tensor, abar_T: Tensor) -> Tensor:
    """(B,) L_T = KL(N(sqrt(abar_T) x0, (1 - abar_T) I) || N(0, I)), nats an image."""
    mean2 = abar_T.item() * x0.double().pow(2).flatten(1).sum(1)
    variance = 1 - abar_T.item()
    return 0.5 * (mean2 + x0[0].numel() * (variance - 1 - math.log(variance)))


def step_kl(denoise: Denoiser, x0: Tensor, abar: Tensor, t: Tensor, epsilon: Tensor, fraction: float = 0.0) -> Tensor:
    """(B,) L_{t-1} for times t (B,) >= 2 at x_t made with `epsilon`, nats an image.

    The KL divergence of the posterior N(c0 x_0 + ct x_t, beta~) from N(c0 x_0' + ct x_t, sigma^2), x_0' the estimate; with
    sigma^2 = beta~ that is eq. 8 of Ho et al. 2020.
    """
    guess, f = _ask(denoise, x0, abar, t, epsilon, fraction)
    p = posterior(abar[t - 1], abar[t])
    c0, small = _column(p.c0, guess), _column(p.variance, guess)
    sigma2 = reverse_variance(abar, t - 1, t, f)
    kl = 0.5 * ((sigma2 / small).log() + small / sigma2 - 1 + (c0 * (x0 - guess)) ** 2 / sigma2)
    return kl.flatten(1).sum(1)


def decoder_nll(
    denoise: Denoiser, x0: Tensor, abar: Tensor, epsilon: Tensor, levels: int, fraction: float = 0.0
) -> Tensor:
    """(B,) L_0 = -log p(x0 | x_1) at x_1 made with `epsilon`, nats an image (Ho et al. 2020, eq. 13)."""
    one = torch.ones(len(x0), dtype=torch.long)
    mean, f = _ask(denoise, x0, abar, one, epsilon, fraction)
    sigma = reverse_variance(abar, one - 1, one, f).sqrt()
    return -discretised_gaussian(x0, mean, sigma, levels).flatten(1).sum(1)


def _ask(
    denoise: Denoiser, x0: Tensor, abar: Tensor, t: Tensor, epsilon: Tensor, fraction: float
) -> tuple[Tensor, Tensor]:
    # The estimate of x_0 and the fraction (B, ...), both float64, at x_t = a x_0 + s epsilon.
    a, s = (_column(v, x0) for v in signal_and_noise(abar[t]))
    xt = a * x0 + s * epsilon
    answer = denoise(xt, t.to(x0.device))
    guess, f = answer if isinstance(answer, tuple) else (answer, torch.full_like(x0, fraction))
    return guess.double(), f.double()


def discretised_gaussian(x: Tensor, mean: Tensor, sigma: Tensor | float, levels: int) -> Tensor:
    """log P of the grey level at x in [-1, 1] when N(mean, sigma^2) is rounded to the nearest of `levels`; the end bins are open.

    Elementwise, float64, exact also far in the tails.
    """
    x, mean, half = x.double(), mean.double(), 1 / (levels - 1)
    upper = ((x + half - mean) / sigma).where(x < 1 - half, torch.inf)
    lower = ((x - half - mean) / sigma).where(x > -1 + half, -torch.inf)
    # Phi(upper) - Phi(lower) = Phi(-lower) - Phi(-upper): take the form whose terms are small, where differences are exact.
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    big, small = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return big + torch.log1p(-torch.exp(small - big))


def _column(v: Tensor, like: Tensor) -> Tensor:
    return v.to(like).view(-1, *[1] * (like.dim() - 1))
