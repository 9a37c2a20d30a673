"""What a denoising network may predict, and how the predictions turn into one another.

With x_t = a x_0 + s epsilon, a^2 + s^2 = 1, each of x_0, epsilon and v = a epsilon - s x_0 (Salimans & Ho 2022) gives the other two when
x_t is known. Samplers and bounds work with x_0. `a` and `s` are tensors that broadcast against the images.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

Prediction: TypeAlias = Literal["epsilon", "v", "x0"]


def target(prediction: Prediction, x0: Tensor, epsilon: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """What the network should have said."""
    return {"epsilon": lambda: epsilon, "v": lambda: a * epsilon - s * x0, "x0": lambda: x0}[prediction]()


def to_x0(prediction: Prediction, output: Tensor, xt: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The clean image that an output of the network stands for. `epsilon` is ill-conditioned where a is near zero, v and x0 nowhere."""
    return {"epsilon": lambda: (xt - s * output) / a, "v": lambda: a * xt - s * output, "x0": lambda: output}[
        prediction
    ]()


def from_x0(prediction: Prediction, x0: Tensor, xt: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The inverse of `to_x0`: what the network would say if it meant x0."""
    return {"epsilon": lambda: (xt - a * x0) / s, "v": lambda: (a * xt - x0) / s, "x0": lambda: x0}[prediction]()


def loss_weight(prediction: Prediction, a: Tensor, s: Tensor) -> Tensor:
    """The weight of the squared error at each time.

    1 for epsilon (L_simple of Ho et al. 2020, eq. 14) and for v (which weighs the error of x_0 by SNR + 1); for x0 the "truncated SNR"
    max(SNR, 1), because unweighted it would hardly train the last, fine steps (Salimans & Ho 2022, section 4).
    """
    return ((a / s) ** 2).clamp(min=1) if prediction == "x0" else (a / a)
