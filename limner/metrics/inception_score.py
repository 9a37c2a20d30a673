"""Inception Score: how sure a classifier is of each sample, and how evenly the samples spread over its classes.

    IS = exp(mean_x KL(p(y|x) || p(y))),  p(y) = mean_x p(y|x);  from 1 to the number of classes K

Salimans et al. 2016, arXiv 1606.03498, section 4 (lectures 000 and 001): p(y|x) of the Inception network and its 1000 classes; with another
classifier it is not comparable and must be named. 1 where p(y|x) is the same for all samples, K where each is certain and all classes
are equally frequent.

Two conventions: over all samples at once, which has a standard error and less bias on small sets; or the mean over ten splits with
their deviation, as papers print it. Both are too low on few samples: N one-hot samples cannot score more than N.

What it misses: real images are not looked at. One perfect image a class, repeated, scores K; so does memorising; classes the network
does not know do not count.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from limner.metrics.accumulate import Estimate, Moments, Rows, checked

SEED = 2020
"""Of the shuffle before splitting: torch-fidelity's."""


def inception_score(logits: Tensor) -> Estimate:
    """Inception Score of a classifier's logits (N, K), all samples at once, in float64, with its standard error.

    The error is the delta method's: the influence of one sample on log IS is KL(p(y|x) || p(y)) - log IS.

    Raises:
        ValueError: no matrix of finite logits.
    """
    whole = InceptionScore()
    whole.update(logits)
    return whole.compute()


def inception_score_splits(logits: Tensor, *, splits: int = 10, seed: int | None = SEED) -> Estimate:
    """Inception Score as papers print it: mean and standard deviation over `splits` parts of the logits (N, K).

    The deviation is that of a score of N / splits samples. The parts are those of torch-fidelity for the same seed; None does not
    shuffle.

    Raises:
        ValueError: fewer samples than splits, or no matrix of finite logits.
    """
    logits = checked(logits)
    if len(logits) < splits:
        raise ValueError(f"{len(logits)} samples cannot be split into {splits} parts")
    if seed is not None:
        logits = logits[torch.from_numpy(np.random.RandomState(seed).permutation(len(logits))).to(logits.device)]
    bounds = [k * len(logits) // splits for k in range(splits + 1)]
    scores = [inception_score(logits[a:b]).value for a, b in itertools.pairwise(bounds)]
    return Estimate(float(np.mean(scores)), float(np.std(scores)))


@dataclass
class InceptionScore:
    """The score of logits that come in batches, in memory of a (K + 1, K + 1) matrix."""

    seen: Moments = field(default_factory=Moments)  # of rows p(y|x), sum_y p log p

    def update(self, logits: Tensor) -> None:
        """Take in a classifier's logits (n, K)."""
        log_p = checked(logits).log_softmax(1)
        p = log_p.exp()
        self.seen.update(torch.cat([p, (p * log_p).sum(1, keepdim=True)], 1))

    def merge(self, other: InceptionScore) -> None:
        """Take in what another accumulator has seen."""
        self.seen.merge(other.seen)

    def compute(self) -> Estimate:
        """The score of all samples so far, with its standard error."""
        q, inner = self.seen.mean[:-1], self.seen.mean[-1]
        score = math.exp(max(0.0, float(inner - torch.special.xlogy(q, q).sum())))
        if self.seen.count < 2:
            return Estimate(score, math.nan)
        # KL of a sample is linear in its row: (p, sum p log p) . (-log q, 1). A class that never occurs has no part in it.
        direction = torch.cat([torch.where(q > 0, -q.log(), 0.0), torch.ones_like(q[:1])])
        variance = max(0.0, float(direction @ self.seen.covariance @ direction))
        return Estimate(score, score * math.sqrt(variance / self.seen.count))


class InceptionScoreSplits(Rows):
    """`inception_score_splits` of logits that come in batches; all are kept, and shuffled from a fixed order."""

    def compute(self) -> Estimate:
        """Mean and deviation over ten parts of all samples so far."""
        return inception_score_splits(self.ordered)
