"""Inception Score: exact truths, a written-out sum, torch-fidelity's splits, and its standard error."""

import math

import numpy as np
import pytest
import torch

from limner.metrics.inception_score import inception_score, inception_score_splits
from metrics.peers import peer


def random_logits(n, k, seed, scale=3.0):
    return scale * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [2, 10, 1000])
def test_a_constant_answer_scores_one_and_balanced_certainty_the_number_of_classes(k):
    constant = random_logits(1, k, 0).repeat(40, 1)
    assert inception_score(constant).value == pytest.approx(1, abs=1e-12)
    assert inception_score(constant).error == pytest.approx(0, abs=1e-6)
    balanced = 1e4 * torch.eye(k, dtype=torch.float64).repeat(3, 1)  # all other probabilities underflow to 0
    assert inception_score(balanced).value == pytest.approx(k, rel=1e-12)
    assert inception_score(balanced).error == pytest.approx(0, abs=1e-4)


def test_classes_that_never_occur_do_not_count():
    two_of_five = 1e4 * torch.eye(5, dtype=torch.float64)[:2].repeat(8, 1)
    assert inception_score(two_of_five).value == pytest.approx(2, rel=1e-12)
    assert math.isfinite(inception_score(two_of_five).error)


def test_equals_the_written_out_divergence():
    logits = random_logits(30, 4, 1)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    q = p.mean(0)
    divergence = np.mean([sum(p[i, y] * math.log(p[i, y] / q[y]) for y in range(4)) for i in range(30)])
    assert inception_score(logits).value == pytest.approx(math.exp(divergence), rel=1e-12)
    assert inception_score_splits(logits, splits=1, seed=None).value == pytest.approx(math.exp(divergence), rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(500, 10), (1003, 100)])
def test_splits_equal_torch_fidelitys(n, k):
    theirs_of = peer("torch_fidelity.metric_isc").isc_features_to_metric
    logits = random_logits(n, k, 2).float()
    theirs = theirs_of(logits, splits=10, shuffle=True, rng_seed=2020)
    ours = inception_score_splits(logits)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert ours.error == pytest.approx(theirs["inception_score_std"], rel=1e-5)
    unshuffled = inception_score_splits(logits, splits=7, seed=None)
    assert unshuffled.value == pytest.approx(
        theirs_of(logits, splits=7, shuffle=False)["inception_score_mean"], rel=1e-5
    )


def test_error_is_that_of_other_samples():
    found = [inception_score(random_logits(400, 5, seed)) for seed in range(200)]
    assert np.mean([f.error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.15)


def test_refuses_what_has_no_score():
    with pytest.raises(ValueError, match="split into 10 parts"):
        inception_score_splits(torch.zeros(9, 3))
    with pytest.raises(ValueError, match="matrix"):
        inception_score(torch.zeros(9))
