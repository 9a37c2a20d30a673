"""Losses of the adversarial game, as pure functions of the discriminator's logits.

Goodfellow et al. 2014, "Generative Adversarial Nets": the generator G and the discriminator D play (equation 1; lecture 000
prints min min by a slip)

    min_G max_D  V(D, G) = E log D(x) + E log(1 - D(G(z))),        D = sigmoid(logit).

Against the best discriminator V = -log 4 + 2 JS(p_data || p_G) (theorem 1). Logits may have any shape; all are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-V(D, G) = -E log D(x) - E log(1 - D(G(z))): binary cross-entropy on real and on fake images (lecture 002), added."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))), the generator's part of V (algorithm 1). Its gradient in the logit is -D: it vanishes where D wins."""
    return -F.softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-E log D(G(z)) (section 3, last paragraph): the same fixed point, with gradient -(1 - D) in the logit."""
    return F.softplus(-fake).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """1/2 E ||grad_x logit(x)||^2 at real images, to be multiplied by gamma (Mescheder et al. 2018, equation 9).

    `logits` must have been computed from `images`, which must require gradients; keeps the graph for the second derivative.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.flatten(1).square().sum(dim=1).mean()


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - logit(x)) + E max(0, 1 + logit(G(z))) (Lim & Ye 2017; Miyato et al. 2018, equation 16): no gradient from
    images of which the discriminator is sure."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-E logit(G(z)), the generator's side of the hinge loss (Miyato et al. 2018, equation 17)."""
    return -fake.mean()


def adaptive_weight(error: Tensor, fooling: Tensor, last: Tensor) -> Tensor:
    """lambda = ||grad error|| / (||grad fooling|| + 1e-6), gradients in `last`, the generator's last weights; at most 1e4, a constant.

    Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis", equation 7: lambda times the adversarial loss `fooling`
    pulls at the generator's output as strongly as the reconstruction's `error` does. The graphs of both losses are kept.
    """
    (wanted,) = torch.autograd.grad(error, last, retain_graph=True)
    (given,) = torch.autograd.grad(fooling, last, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-6)).clamp(max=1e4).detach()
