"""Classifier two-sample test: how well can a simple classifier, trained to tell samples from real images, do so on unseen ones?

    value = mean of the shares of unseen samples and of unseen real images classified rightly;  0.5 = cannot be told apart, 1 = always

Lopez-Paz & Oquab 2017, arXiv 1610.06545, section 3. Here the classifier is a logistic regression with a ridge penalty, on the
standardised features and their squares (the squares see sets that differ in spread alone, such as a collapsed model), fitted to
convergence, so that nothing is drawn but the folds, and these by a fixed seed. Every image is classified once, by a classifier that
saw four fifths of the others (5-fold cross-validation).

What it misses: differences that no quadratic in single features shows; on few images of many features it learns little and stays near 0.5,
so compare only at one N. Easy tell-tales (a lossy file format on one side) make it 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.metrics.accumulate import Estimate, TwoSets, folds, pair

FOLDS = 5
RIDGE = 1.0
"""Penalty RIDGE / 2 |w|^2 beside the summed loss: a unit normal prior on the weights."""
STEPS = 200
"""At most, of L-BFGS."""


def two_sample(fake: Tensor, real: Tensor, *, seed: int = 0) -> Estimate:
    """Accuracy of telling features of samples (n, d) from real ones (m, d), with its standard error; in float64.

    Both sets count alike, whatever their sizes. The error is the binomial one of the two shares.

    Raises:
        ValueError: fewer images than folds, unlike widths, or features that are not finite.
    """
    fake, real = pair(fake, real, least=FOLDS, metric="the two-sample test")
    fold = torch.cat([folds(len(fake), FOLDS, seed), folds(len(real), FOLDS, seed + 1)]).to(fake.device)
    x, label = torch.cat([fake, real]), torch.cat([fake.new_zeros(len(fake)), fake.new_ones(len(real))])
    right = torch.empty_like(label)
    for k in range(FOLDS):
        seen = fold != k
        score = _logistic(x[seen], label[seen])
        # A tie is no knowledge: half right.
        right[~seen] = 0.5 + 0.5 * torch.sign(score(x[~seen])) * (2 * label[~seen] - 1)
    shares = [(float(right[label == side].mean()), count) for side, count in ((0, len(fake)), (1, len(real)))]
    value = sum(share for share, _ in shares) / 2
    return Estimate(value, math.sqrt(sum(share * (1 - share) / count for share, count in shares)) / 2)


class TwoSample(TwoSets):
    """The test on features that come in batches: the classifiers need all, so all are kept."""

    def compute(self) -> Estimate:
        """Accuracy on all features so far."""
        return two_sample(self.fake.ordered, self.real.ordered)


def _logistic(x: Tensor, label: Tensor) -> Callable[[Tensor], Tensor]:
    """The score of a logistic regression fitted to x (n, d), labels 0 or 1: positive for label 1. Both classes weigh alike."""
    mean, scale = x.mean(0), x.std(0)
    scale = torch.where(scale > 0, scale, 1.0)

    def lift(x: Tensor) -> Tensor:
        z = ((x - mean) / scale).clamp(-10, 10)  # an outlier's square should not rule the fit
        return torch.cat([z, z.square() - 1, torch.ones_like(z[:, :1])], 1)

    lifted = lift(x)
    ones = label.mean()
    class_weight = torch.where(label > 0, 0.5 / ones, 0.5 / (1 - ones))
    weights = x.new_zeros(lifted.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=STEPS, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.binary_cross_entropy_with_logits(lifted @ weights, label, class_weight, reduction="mean")
        value = fit + RIDGE / (2 * len(x)) * weights[:-1].square().sum()  # the last one is the intercept
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = weights.detach()
    return lambda x: lift(x) @ found
