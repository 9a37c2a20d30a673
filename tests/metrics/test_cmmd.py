"""CMMD against a written-out reference, in both estimators."""

import math

import numpy as np
import pytest
import torch

from limner.metrics.cmmd import cmmd


def draw(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_loops(x, y, sigma, biased, unit_length):
    if unit_length:
        x, y = ([[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in z] for z in (x, y))
    k = lambda a, b: math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * sigma**2))  # noqa: E731

    def mean(a):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if biased or i != j]
        return sum(k(a[i], a[j]) for i, j in pairs) / len(pairs)

    return 1000 * (mean(x) + mean(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y)))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("unit_length", "sigma"), [(True, 10.0), (False, 2.0)])
def test_equals_the_written_out_reference(biased, unit_length, sigma):
    x, y = draw(11, 5, 0), draw(8, 5, 1, 0.5)
    found = cmmd(x, y, sigma=sigma, biased=biased, unit_length=unit_length)
    assert found.value == pytest.approx(
        by_loops(x.tolist(), y.tolist(), sigma, biased, unit_length), rel=1e-8, abs=1e-10
    )


def test_is_unbiased_and_its_intervals_cover_zero_on_equal_draws():
    found = [cmmd(draw(60, 8, 2 * s), draw(60, 8, 2 * s + 1)) for s in range(200)]
    values = np.array([f.value for f in found])
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
    assert 0.35 < (values < 0).mean() < 0.75
    assert np.mean([abs(f.value) <= 1.96 * f.error for f in found]) >= 0.95
    assert min(cmmd(draw(60, 8, 2 * s), draw(60, 8, 2 * s + 1), biased=True).value for s in range(20)) > 0


def test_error_is_that_of_redrawn_sets():
    found = [cmmd(draw(80, 6, 2 * s, 0.5), draw(80, 6, 2 * s + 1)) for s in range(100)]
    assert np.mean([f.error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.25)


def test_opposite_embeddings_are_as_far_as_it_goes():
    x = torch.zeros(5, 4)
    x[:, 0] = 3  # scaled to length 1
    assert cmmd(x, -x).value == pytest.approx(1000 * 2 * (1 - math.exp(-4 / 200)), rel=1e-9)
    assert cmmd(x, x).value == pytest.approx(0, abs=1e-9)
