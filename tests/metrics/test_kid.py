"""KID against a written-out double sum, its unbiasedness, and the coverage of its intervals."""

import numpy as np
import pytest
import torch

from limner.metrics.kid import kid, kid_subsets


def by_loops(x, y):
    d = len(x[0])
    k = lambda a, b: (sum(p * q for p, q in zip(a, b, strict=False)) / d + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_equals_the_written_out_sum():
    g = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(9, 4, generator=g, dtype=torch.float64),
        torch.randn(7, 4, generator=g, dtype=torch.float64) + 0.3,
    )
    assert kid(x, y).value == pytest.approx(by_loops(x.tolist(), y.tolist()), rel=1e-10)


def test_jackknife_equals_leaving_each_image_out():
    g = torch.Generator().manual_seed(1)
    x, y = (
        torch.randn(8, 3, generator=g, dtype=torch.float64),
        torch.randn(6, 3, generator=g, dtype=torch.float64) + 0.5,
    )
    drop = lambda z, i: torch.cat([z[:i], z[i + 1 :]])  # noqa: E731
    of_x = np.array([kid(drop(x, i), y).value for i in range(8)])
    of_y = np.array([kid(x, drop(y, i)).value for i in range(6)])
    variance = 7 / 8 * ((of_x - of_x.mean()) ** 2).sum() + 5 / 6 * ((of_y - of_y.mean()) ** 2).sum()
    assert kid(x, y).error == pytest.approx(variance**0.5, rel=1e-9)


def test_is_unbiased_and_its_intervals_cover_zero_on_equal_draws():
    g = torch.Generator().manual_seed(2)
    draws = [kid(torch.randn(60, 8, generator=g), torch.randn(60, 8, generator=g)) for _ in range(300)]
    values = np.array([d.value for d in draws])
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
    assert 0.35 < (values < 0).mean() < 0.75  # the biased estimator is never negative
    covered = np.mean([abs(d.value) <= 1.96 * d.error for d in draws])
    assert covered >= 0.95


def test_intervals_are_right_where_the_sets_differ():
    g = torch.Generator().manual_seed(3)
    draws = [kid(torch.randn(80, 5, generator=g), torch.randn(80, 5, generator=g) + 0.7) for _ in range(200)]
    values = np.array([d.value for d in draws])
    assert np.mean([d.error for d in draws]) == pytest.approx(values.std(), rel=0.2)
    truth = values.mean()
    assert 0.88 < np.mean([abs(d.value - truth) <= 1.96 * d.error for d in draws]) <= 0.995


def test_subsets_are_seeded_and_one_whole_subset_is_the_whole():
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(40, 5, generator=g), torch.randn(40, 5, generator=g) + 0.2
    assert kid_subsets(x, y, subsets=7, size=20, seed=1) == kid_subsets(x, y, subsets=7, size=20, seed=1)
    whole = kid_subsets(x, y, subsets=3, size=40)
    assert whole.value == pytest.approx(kid(x, y).value, abs=1e-12)
    assert whole.error == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="cannot be drawn"):
        kid_subsets(x, y, size=41)
