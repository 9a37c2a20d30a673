"""Classification accuracy score (CAS): how well does a classifier that has seen only a model's samples know real images?

Train a classifier on labelled samples (x, y), x ~ p(x | y), y from the data's class frequencies; the score is its accuracy on real held-out
images. Ravuri & Vinyals 2019, "Classification accuracy score for conditional generative models", arXiv 1905.10887, section 3.
Theirs is a ResNet-50 on ImageNet; here it is limner's small classifier (`limner.metrics.classifier`), so that scores compare only
with scores of the same version of it, from the same number of samples and of the same held-out images.

Range: from chance (1 / classes, where these are equally frequent) to about the accuracy of the same classifier trained on as many real
images, which is the floor to read it beside: `classification_accuracy` of real training images. It sees blur, artefacts, wrong labels
and missing variety all at once, and by class (`by_class`) which are drawn badly. What it misses: anything a classifier does not need, so it
says little of sharpness; and memorised training images score well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from limner.metrics.classifier import SIZE, Network, fit
from limner.metrics.features import in_batches, to_floats

LEAST = 100
"""Samples without which there is nothing to train on."""


class Accuracy(NamedTuple):
    """A classification accuracy score."""

    value: float
    """Share of the held-out images that are named rightly, mean over the trainings."""
    error: float
    """Standard error over the choice of held-out images and, from two trainings on, over the training's randomness; not over a new draw
    of the samples."""
    by_class: Tensor
    """(classes,) float64, the same share among the held-out images of each class; NaN of a class that has none."""
    trainings: int
    """How many classifiers were trained."""


def classification_accuracy(
    samples: Tensor,
    labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    *,
    classes: int,
    trainings: int = 1,
    seed: int = 0,
) -> Accuracy:
    """Accuracy on `held_out` (M, H, W, C) uint8 of classifiers trained on `samples` (N, H, W, C) uint8 with the `labels` (N,) asked for.

    Args:
        trainings: classifiers to train, of the seeds `seed`, `seed` + 1 ... Each takes seconds on small images, and minutes at most.

    Raises:
        ValueError: fewer than 100 samples, labels out of range or of another number, or images of unlike shapes.
    """
    if trainings < 1:
        raise ValueError(f"at least one classifier must be trained, not {trainings}")
    _check(samples, labels, classes)
    _check(held_out, held_out_labels, classes)
    if samples.shape[1:] != held_out.shape[1:]:
        raise ValueError(f"samples are {tuple(samples.shape[1:])} and held-out images {tuple(held_out.shape[1:])}")
    if len(samples) < LEAST or not len(held_out):
        raise ValueError(
            f"a classifier is trained on at least {LEAST} samples, not {len(samples)}, and tested on one or more"
        )
    images, targets = _in_one_order(samples, labels)
    right = torch.stack(
        [_right(images, targets, held_out, held_out_labels, classes, seed + k) for k in range(trainings)]
    )  # (trainings, M)
    each, runs = right.mean(0), right.mean(1)
    variance = float(each.var()) / len(each) if len(each) > 1 else math.nan
    if trainings > 1:
        variance += float(runs.var()) / trainings
    truth = held_out_labels.cpu()
    by_class = torch.stack([each[truth == k].mean() for k in range(classes)])
    return Accuracy(float(each.mean()), math.sqrt(variance), by_class, trainings)


@dataclass
class ClassificationAccuracy:
    """Labelled samples that come in batches, to train on once all are there: the same to the last bit for any split and order."""

    classes: int
    _images: list[Tensor] = field(default_factory=list)
    _labels: list[Tensor] = field(default_factory=list)

    def update(self, samples: Tensor, labels: Tensor) -> None:
        """Take in samples (n, H, W, C) uint8 and the labels (n,) they were asked for."""
        _check(samples, labels, self.classes)
        self._images.append(samples.cpu())
        self._labels.append(labels.cpu())

    def merge(self, other: ClassificationAccuracy) -> None:
        """Take in the samples of another accumulator."""
        self._images += other._images
        self._labels += other._labels

    def compute(self, held_out: Tensor, held_out_labels: Tensor, *, trainings: int = 1, seed: int = 0) -> Accuracy:
        """The score on held-out images (M, H, W, C) uint8; see `classification_accuracy`."""
        if not self._images:
            raise ValueError("no samples were given yet")
        samples, labels = torch.cat(self._images), torch.cat(self._labels)
        return classification_accuracy(
            samples, labels, held_out, held_out_labels, classes=self.classes, trainings=trainings, seed=seed
        )


def _check(images: Tensor, labels: Tensor, classes: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"images are uint8 (N, H, W, C), not {images.dtype} of shape {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise ValueError(f"{len(images)} images need as many integer labels, not {tuple(labels.shape)} {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels of {classes} classes are from 0 to {classes - 1}")


def _in_one_order(samples: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both sorted by content, so that the training does not depend on the order in which they were drawn."""
    images, targets = samples.cpu().contiguous().numpy(), labels.cpu().numpy().astype(np.int64)
    whole = images.reshape(len(images), -1).view(f"V{images[0].size}").ravel()
    order = np.argsort(whole, kind="stable")
    order = order[np.argsort(targets[order], kind="stable")]
    return images[order], targets[order]


@torch.no_grad()
def _right(images: np.ndarray, targets: np.ndarray, held_out: Tensor, truth: Tensor, classes: int, seed: int) -> Tensor:
    """(M,) float64, 1 where a classifier trained on `images` names a held-out image rightly."""
    with torch.random.fork_rng(devices=[]):
        network = Network(images.shape[3], min(images.shape[1], SIZE), classes)
    with torch.enable_grad():
        fit(network, images, targets, torch.arange(len(images)), seed=seed)
    found = in_batches(lambda part: network(to_floats(part, SIZE)).argmax(1), held_out.cpu())
    return (found == truth.cpu()).double()
