"""The classifier two-sample test: chance on equal draws, certainty on disjoint ones, and what a linear classifier would miss."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from limner.metrics import two_sample as module
from limner.metrics.two_sample import two_sample


def draw(n, d, seed, scale=1.0, shift=0.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_equal_draws_are_a_toss_with_the_binomial_error():
    found = [two_sample(draw(100, 4, 2 * s), draw(100, 4, 2 * s + 1)) for s in range(40)]
    values = np.array([f.value for f in found])
    errors = np.array([f.error for f in found])
    assert errors == pytest.approx(np.full(40, (0.25 / 200) ** 0.5), rel=0.1)
    assert abs(values.mean() - 0.5) < 4 * errors.mean() / 40**0.5
    assert 0.6 < values.std() / errors.mean() < 1.7


def test_disjoint_sets_are_always_told_apart():
    assert two_sample(draw(50, 4, 0), draw(70, 4, 1, shift=20)) == (1, 0)


def test_unequal_sets_do_not_move_chance():
    found = [two_sample(draw(400, 3, 2 * s), draw(60, 3, 2 * s + 1)) for s in range(15)]
    assert abs(np.mean([f.value for f in found]) - 0.5) < 4 * np.mean([f.error for f in found]) / 15**0.5


def test_a_shift_is_found_as_well_as_can_be():
    # The best classifier of N(0, I) and N(s, I) has accuracy Phi(|s| / 2): .841 for |s| = 2.
    x, y = draw(3000, 4, 2), draw(3000, 4, 3, shift=1.0)
    assert two_sample(x, y).value == pytest.approx(0.841, abs=0.015)


def test_sets_of_one_mean_and_unlike_spread_are_told_apart():
    found = two_sample(draw(500, 8, 4), draw(500, 8, 5, scale=2.0))
    assert found.value > 0.85
    collapsed = two_sample(draw(1, 8, 6).mul(0.1).repeat(300, 1), draw(300, 8, 7))
    assert collapsed.value > 0.95


def test_identical_sets_are_no_better_than_chance():
    x = draw(200, 3, 8)
    assert two_sample(x, x).value <= 0.55
    assert two_sample(torch.zeros(20, 3), torch.zeros(20, 3)).value == 0.5


def test_the_fit_is_that_of_scikit_learn():
    x, y = draw(150, 4, 9), draw(100, 4, 10, shift=0.5)
    both = torch.cat([x, y])
    label = torch.cat([torch.zeros(150), torch.ones(100)]).double()
    score = module._logistic(both, label)(both)
    z = ((both - both.mean(0)) / both.std(0)).numpy()
    lifted = np.concatenate([z, z**2 - 1], 1)
    theirs = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10, max_iter=5000).fit(lifted, label.numpy())
    np.testing.assert_allclose(score, theirs.decision_function(lifted), atol=2e-3)


def test_refuses_fewer_images_than_folds():
    with pytest.raises(ValueError, match="at least 5"):
        two_sample(draw(4, 2, 0), draw(9, 2, 1))
