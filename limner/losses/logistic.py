"""Likelihoods of 8-bit images: the discretised logistic distribution, and its mixture with coupled colour channels.

A logistic variable has the distribution function F(y) = sigmoid((y - mean) / scale). Its discretised form gives every
grey level the mass of its own bin, and the darkest and the brightest level all that lies beyond them, so that the
masses sum to one. With L levels, x_k = 2k / (L - 1) - 1 and half a bin h = 1 / (L - 1):

    P(k) = F(x_k + h) - F(x_k - h),    where F(x_0 - h) is replaced by 0 and F(x_{L-1} + h) by 1

Source: Salimans, Karpathy, Chen & Kingma 2017, "PixelCNN++", section 2.1 (equations 1-2) and 2.2 (equation 3).
Deviation: PixelCNN++ replaces P(k) by density times bin width where P(k) < 1e-5, after which the masses no longer sum
to one. Here the difference of sigmoids is written as a product,

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)),

whose logarithm has no cancellation: it is exact at every scale and needs no second branch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_SCALE_BOUND = 30.0
"""|log_scale| is clamped to this, where float32 still holds both the scale and its reciprocal with room to spare."""


def levels_of(x: Tensor, levels: int) -> Tensor:
    """The grey levels 0 .. levels - 1, as floats, of values in [-1, 1]: round((x + 1) / 2 * (levels - 1))."""
    return ((x + 1) * ((levels - 1) / 2)).clamp(0, levels - 1).round()


def values_of(level: Tensor, levels: int) -> Tensor:
    """The values 2k / (levels - 1) - 1 of grey levels k given as floats: the inverse of `levels_of`."""
    return level * 2 / (levels - 1) - 1


def discretized_logistic_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int = 256) -> Tensor:
    """Log-probability, in nats, of each grey level under a discretised logistic distribution.

    Args:
        x: values of the grid 2k / (levels - 1) - 1 in [-1, 1], any shape; others count as their nearest level.
        mean: of the logistic, in the units of x; any value. Broadcasts with x.
        log_scale: natural logarithm of its scale, clamped to [-30, 30]. Broadcasts with x.
        levels: how many grey levels, at least 2.

    Returns:
        Elementwise log P(x) <= 0; over all levels the exponentials sum to 1. No gradient flows into x.
    """
    level = levels_of(x.detach(), levels)
    inverse_scale = torch.exp(-log_scale.clamp(-LOG_SCALE_BOUND, LOG_SCALE_BOUND))
    # Written so that the upper edge of level k and the lower edge of level k + 1 are the same floating-point number.
    above = ((2 * level + 1) / (levels - 1) - 1 - mean) * inverse_scale
    below = ((2 * level - 1) / (levels - 1) - 1 - mean) * inverse_scale
    width = inverse_scale * (2 / (levels - 1))  # = above - below
    not_first, not_last = level > 0, level < levels - 1
    zero = torch.zeros((), dtype=above.dtype, device=above.device)
    return (
        torch.where(not_last, F.logsigmoid(above), zero)
        + torch.where(not_first, F.logsigmoid(-below), zero)
        + torch.where(not_first & not_last, torch.log(-torch.expm1(-width)), zero)
    )


def mixture_channels(channels: int, components: int) -> int:
    """How many parameters a pixel has: for each component a logit and, for each of its channels, a mean, a log-scale
    and a coefficient for each earlier channel. 3 per component for grey, 10 for RGB."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def split_mixture(params: Tensor, channels: int, levels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split raw network output (B, mixture_channels, ...) into what it stands for.

    Returns:
        Log-weights (B, K, ...), means and log-scales (B, K, C, ...), and coupling coefficients (B, K, C(C-1)/2, ...)
        in (-1, 1), ordered (G from R), (B from R), (B from G).

    Scales are kept above 1/20 of half a bin: a narrower logistic is the same distribution, with no gradient.

    Raises:
        ValueError: the number of parameters is not `mixture_channels(channels, K)` for any K.
    """
    pairs = channels * (channels - 1) // 2
    components, rest = divmod(params.shape[1], 1 + 2 * channels + pairs)
    if rest or not components:
        raise ValueError(
            f"{params.shape[1]} parameters a pixel are not those of a logistic mixture over {channels} channels"
        )
    logits, means, log_scales, coefficients = params.split(
        [components, components * channels, components * channels, components * pairs], dim=1
    )
    batch, shape = params.shape[0], params.shape[2:]
    means = means.reshape(batch, components, channels, *shape)
    log_scales = log_scales.reshape(batch, components, channels, *shape).clamp(min=-math.log(levels - 1) - 3)
    coefficients = torch.tanh(coefficients.reshape(batch, components, pairs, *shape))
    return F.log_softmax(logits, dim=1), means, log_scales, coefficients


def couple(means: Tensor, coefficients: Tensor, x: Tensor) -> Tensor:
    """The means given the earlier channels of the same pixel (equation 3): mu_G + a R, mu_B + b R + c G.

    means (B, K, C, ...), coefficients (B, K, C (C - 1) / 2, ...), x (B, C, ...) in [-1, 1]; returns (B, K, C, ...).
    """
    coupled = []
    for c in range(means.shape[2]):
        first = c * (c - 1) // 2
        earlier = coefficients[:, :, first : first + c] * x[:, None, :c]
        coupled.append(means[:, :, c] + earlier.sum(dim=2))
    return torch.stack(coupled, dim=2)


def discretized_logistic_mixture_log_prob(x: Tensor, params: Tensor, levels: int = 256) -> Tensor:
    """Log-probability, in nats, of whole pixels under a mixture of discretised logistics that all channels share.

    Args:
        x: (B, C, ...) values of the grid of `levels` in [-1, 1].
        params: (B, mixture_channels(C, K), ...) raw network output, laid out as in `split_mixture`.

    Returns:
        (B, ...): log p(pixel), summed over the channels; (B, H, W) for images.
    """
    log_weights, means, log_scales, coefficients = split_mixture(params, x.shape[1], levels)
    log_probs = discretized_logistic_log_prob(x[:, None], couple(means, coefficients, x), log_scales, levels)
    return torch.logsumexp(log_weights + log_probs.sum(dim=2), dim=1)


def sample_discretized_logistic_mixture(
    params: Tensor, u_mix: Tensor, u_value: Tensor, levels: int = 256, temperature: float = 1.0
) -> Tensor:
    """Draw pixels by inverting the distribution functions at given uniforms: a pure function of its arguments.

    Args:
        params: (B, mixture_channels(C, K), ...), as in `discretized_logistic_mixture_log_prob`.
        u_mix: (B, ...) uniform on [0, 1): which component.
        u_value: (B, C, ...) uniform on [0, 1): the value of each channel, red first, then green given red ...
        temperature: below 1 sharpens the weights (logits / T) and the logistics (scale * T); 1 draws from the model.

    Returns:
        (B, C, ...) values of the grid of `levels` in [-1, 1].
    """
    channels = u_value.shape[1]
    log_weights, means, log_scales, coefficients = split_mixture(params, channels, levels)
    component = invert_categorical(log_weights / temperature, u_mix)[:, None, None]  # (B, 1, 1, ...)
    means, log_scales, coefficients = (
        p.gather(1, component.expand(-1, -1, *p.shape[2:])) for p in (means, log_scales, coefficients)
    )
    x = torch.zeros_like(u_value, dtype=params.dtype)
    for c in range(channels):
        mean = couple(means[:, :, : c + 1], coefficients, x)[:, 0, c]
        value = mean + temperature * torch.exp(log_scales[:, 0, c]) * torch.logit(u_value[:, c].to(params.dtype))
        x[:, c] = values_of(levels_of(value, levels), levels)
    return x


def invert_categorical(logits: Tensor, u: Tensor) -> Tensor:
    """The first index at which the distribution function of softmax(logits) exceeds u.

    logits (B, K, ...) over dim 1, u (B, ...) on [0, 1); returns (B, ...) int64.
    """
    cumulative = torch.softmax(logits, dim=1).cumsum(dim=1)
    index = (cumulative <= u.to(logits.dtype)[:, None]).sum(dim=1)
    # Rounding may leave the last cumulative sum a little below a u close to one.
    return index.clamp(max=logits.shape[1] - 1)
