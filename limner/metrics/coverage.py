"""Does a model draw all kinds of images?

A cheap answer: how evenly a classifier's labels are spread over the samples (a collapsed GAN shows here at once).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limner.metrics.neighbours import memorisation_ratio, nearest

__all__ = ["effective_classes", "effective_classes_error", "label_entropy", "memorisation_ratio", "nearest"]


def label_entropy(labels: Tensor, classes: int) -> float:
    """Entropy in nats of the labels (N,) int64; log(classes) when they are spread evenly."""
    p = torch.bincount(labels, minlength=classes).double() / max(1, len(labels))
    return float(-torch.special.xlogy(p, p).sum())


def effective_classes(labels: Tensor, classes: int) -> float:
    """exp(entropy): the number of equally frequent classes that would be as varied. Between 1 and `classes`.

    The estimate is a little low on few samples, by a factor of about exp(-(classes - 1) / 2N).
    """
    return math.exp(label_entropy(labels, classes))


def effective_classes_error(labels: Tensor, classes: int) -> float:
    """Standard error of `effective_classes`, by the delta method: Var(H) = Var(log p(label)) / N."""
    p = torch.bincount(labels, minlength=classes).double() / max(1, len(labels))
    surprise = -p[labels].log()
    return effective_classes(labels, classes) * float(surprise.std(correction=0)) / math.sqrt(max(1, len(labels)))
