"""Does a model draw all kinds of images, and does it draw new ones?

Two cheap answers: how evenly a classifier's labels are spread over the samples (a collapsed GAN shows here at once), and how near
the samples lie to training images compared with how near held-out images lie (a model that stored its training set shows here).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


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


class Neighbours(NamedTuple):
    """The nearest training image of each query."""

    distance: Tensor
    """(N,) float64, root mean squared difference per value, in grey levels."""
    nearest: Tensor
    """(N,) int64, which training image it is."""


def nearest(queries: Tensor, training: Tensor, *, chunk: int = 8192) -> Neighbours:
    """The nearest of the images `training` (M, ...) uint8 to each of `queries` (N, ...) uint8, in Euclidean distance of pixels."""
    q = queries.flatten(1).float() / 255
    best = torch.full((len(q),), math.inf)
    index = torch.zeros(len(q), dtype=torch.int64)
    for start in range(0, len(training), chunk):
        t = training[start : start + chunk].flatten(1).float() / 255
        squared = q.square().sum(1, keepdim=True) + t.square().sum(1) - 2 * q @ t.T  # (N, chunk)
        value, where = squared.min(1)
        index = torch.where(value < best, where + start, index)
        best = torch.minimum(best, value)
    # The expansion above loses digits near zero: measure the winner itself again.
    exact = (queries.flatten(1).double() - training[index].flatten(1).double()).square().mean(1).sqrt()
    return Neighbours(exact, index)


def memorisation_ratio(samples: Tensor, held_out: Tensor, training: Tensor) -> float:
    """Median distance of samples to their nearest training image, over that of held-out images. All (N, ...) uint8.

    About 1 for new images of the same distribution, 0 for copies. Blurred images lie near to everything: read it beside KID.
    """
    of_samples = nearest(samples, training).distance.median()
    of_real = nearest(held_out, training).distance.median()
    return float(of_samples / of_real) if of_real > 0 else math.nan
