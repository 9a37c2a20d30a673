"""The variational bound of a discrete-time diffusion model, in bits per dimension.

    E_q[ KL(q(x_T | x_0) || p(x_T)) + sum_{t > 1} KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) - log p(x_0 | x_1) ]
             L_T                              L_{t-1}                                          L_0         (Ho et al. 2020, eq. 5)

The reverse steps have the posterior's variance, so that L_{t-1} is a squared error; the decoder is the discretised Gaussian of eq. 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from limner.denoising.schedules import log_snr, posterior, signal_and_noise
from limner.noise import SampleNoise

Denoiser = Callable[[Tensor, Tensor], Tensor]


def bits_per_dim(
    denoise: Denoiser, x0: Tensor, abar: Tensor, *, noise: SampleNoise, levels: int = 256, timesteps: int | None = None
) -> Tensor:
    """(B,) upper bound of the negative log2-likelihood per dimension of images of `levels` grey levels in [-1, 1].

    L_0 and L_T are always computed. Of the T - 1 terms between, all are (`timesteps=None`: T network calls for each image), or
    `timesteps` are drawn for each image by systematic sampling from `step_probabilities` and weighted so that the expectation is that of
    the full sum. One draw of x_t per term either way; the draws are those of `noise`, one stream for each image.
    """
    T, shape, dims = len(abar) - 1, x0.shape[1:], x0[0].numel()
    total = prior_kl(x0, abar[T]) + decoder_nll(denoise, x0, abar, noise.normal(*shape), levels)
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
            kl = step_kl(denoise, x0, abar, column + 2, noise.normal(*shape))
            total = total + weight[column].to(kl) * kl
    return total / (dims * math.log(2))


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


def step_kl(denoise: Denoiser, x0: Tensor, abar: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
    """(B,) L_{t-1} for times t (B,) >= 2 at x_t made with `epsilon`, nats an image (Ho et al. 2020, eq. 8)."""
    a, s = (_column(v, x0) for v in signal_and_noise(abar[t]))
    xt = a * x0 + s * epsilon
    p = posterior(abar[t - 1], abar[t])
    error = (denoise(xt, t.to(x0.device)) - x0).double().pow(2).flatten(1).sum(1)
    # The two means differ by c0 (x0 - its estimate), the variances are equal.
    return (p.c0**2 / (2 * p.variance)).to(error) * error


def decoder_nll(denoise: Denoiser, x0: Tensor, abar: Tensor, epsilon: Tensor, levels: int) -> Tensor:
    """(B,) L_0 = -log p(x0 | x_1) at x_1 made with `epsilon`, nats an image (Ho et al. 2020, eq. 13).

    The mean is the estimate of x0 and the variance beta_1 (the posterior's is 0 there): what x_1 has lost is of that size.
    """
    a, s = signal_and_noise(abar[1])
    xt = a.item() * x0 + s.item() * epsilon
    mean = denoise(xt, torch.ones(len(x0), dtype=torch.long, device=x0.device))
    return -discretised_gaussian(x0, mean, s.item(), levels).flatten(1).sum(1)


def discretised_gaussian(x: Tensor, mean: Tensor, sigma: float, levels: int) -> Tensor:
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
