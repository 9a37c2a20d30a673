"""Samplers of discrete-time diffusion, as plain functions of a denoiser.

A denoiser is any function `denoise(x, t) -> E[x_0 | x_t = x]` with x (B, ...) and t (B,) whole numbers in 1 .. T; it may return a pair with
the fraction f of the reverse variance (`schedules.reverse_variance`) that it has learned. `abar` is a schedule of
`limner.denoising.schedules`, `times` ascends from 0 to T (`schedules.respaced`), `noise` is called with no argument for a standard
normal draw of the shape of x, `clip` holds the estimates of x_0 in [-1, 1] (as Ho et al. do), and `callback(t, x, x0)`, if
given, sees every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from limner.denoising.schedules import posterior, reverse_variance, signal_and_noise

Denoiser = Callable[[Tensor, Tensor], "Tensor | tuple[Tensor, Tensor]"]
Callback = Callable[[int, Tensor, Tensor], None]


def ancestral(
    denoise: Denoiser,
    x: Tensor,
    abar: Tensor,
    times: Sequence[int],
    *,
    noise: Callable[[], Tensor],
    fraction: float = 0.0,
    clip: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Algorithm 2 of Ho et al. 2020: x_s ~ p(x_s | x_t), the posterior with x_0 replaced by its estimate.

    Lines 3 and 4 there, in terms of x_0 and for any s < t (Nichol & Dhariwal 2021, section 4). `fraction` chooses the variance
    (`schedules.reverse_variance`): 0 small, 1 large; a denoiser that has learned its own overrules it.
    """
    for s, t in _backwards(times):
        x0, learned = estimate(denoise, x, t, clip)
        p = posterior(abar[s], abar[t])
        xt, x = x, _number(p.c0) * x0 + _number(p.ct) * x
        if s > 0:
            variance = reverse_variance(abar, s, t, fraction if learned is None else learned)
            x = x + variance.sqrt().to(x) * noise()
        if callback:
            callback(t, xt, x0)
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    abar: Tensor,
    times: Sequence[int],
    *,
    eta: float = 0.0,
    noise: Callable[[], Tensor] | None = None,
    clip: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, eqs. 12 and 16): deterministic for eta = 0, the ancestral sampler for eta = 1.

    For eta = 0 it is Euler's method for the probability-flow ODE in sigma = s / a: its error is of first order in the step.
    `noise` is needed where eta > 0.
    """
    for s, t in _backwards(times):
        x0, _ = estimate(denoise, x, t, clip)
        a_t, s_t = signal_and_noise(abar[t])
        a_s, s_s = signal_and_noise(abar[s])
        epsilon = (x - _number(a_t) * x0) / _number(s_t)
        sigma = eta * posterior(abar[s], abar[t]).variance.sqrt()  # eq. 16
        xt, x = x, _number(a_s) * x0 + _number((s_s**2 - sigma**2).clamp(min=0).sqrt()) * epsilon
        if eta > 0 and s > 0:
            x = x + _number(sigma) * noise()  # type: ignore[misc]
        if callback:
            callback(t, xt, x0)
    return x


def ddim_inversion(
    denoise: Denoiser,
    x: Tensor,
    abar: Tensor,
    times: Sequence[int],
    *,
    clip: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """From an image to the noise that deterministic DDIM makes (nearly) that image of: the same Euler steps in the other direction.

    The round trip misses by the error of Euler's method: it falls in first order with the number of steps (Song et al. 2021, table 2).
    The noise of the image itself (time 0), where no network was trained, is estimated as that of time 1.
    """
    for s, t in pairwise(times):
        x0, _ = estimate(denoise, x, max(s, 1), clip)
        a, sd = signal_and_noise(abar[max(s, 1)])
        epsilon = (x - _number(a) * x0) / _number(sd)
        a_s, s_s = signal_and_noise(abar[s])
        a_t, s_t = signal_and_noise(abar[t])
        # x0 + s_t / a_t epsilon on the line through x in direction epsilon; for s >= 1 it is a_t x0 + s_t epsilon.
        xs, x = x, _number(a_t / a_s) * (x - _number(s_s) * epsilon) + _number(s_t) * epsilon
        if callback:
            callback(s, xs, x0)
    return x


def _backwards(times: Sequence[int]) -> Iterator[tuple[int, int]]:
    # (s, t) with s the next lower time, from the highest t down
    return ((s, t) for t, s in pairwise(reversed(times)))


def estimate(denoise: Denoiser, x: Tensor, t: int, clip: bool = False) -> tuple[Tensor, Tensor | None]:
    """What the denoiser says of x at the time t: x_0, and the learned fraction or None."""
    answer = denoise(x, torch.full((len(x),), t, device=x.device))
    x0, fraction = answer if isinstance(answer, tuple) else (answer, None)
    return x0.clamp(-1, 1) if clip else x0, fraction


def _number(scalar: Tensor) -> float:
    # Coefficients are computed in float64 and multiply tensors of any device and type.
    return scalar.item()
