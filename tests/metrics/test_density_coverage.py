"""Density and coverage against a written-out reference, the authors' lemmas, and known failures of precision and recall."""

import numpy as np
import pytest
import torch

from limner.metrics.density_coverage import density_coverage, expected_coverage
from limner.metrics.precision_recall import precision_recall


def draw(n, d, seed, scale=1.0, shift=0.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_loops(fake, real, k):
    distance = lambda a, b: sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5  # noqa: E731
    radii = [sorted(distance(a, b) for j, b in enumerate(real) if j != i)[k - 1] for i, a in enumerate(real)]
    inside = [[distance(f, r) <= radius for r, radius in zip(real, radii, strict=True)] for f in fake]
    density = sum(map(sum, inside)) / (k * len(fake))
    coverage = sum(any(row[j] for row in inside) for j in range(len(real))) / len(real)
    return density, coverage


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("n", "m"), [(30, 45), (45, 30)])
def test_equals_the_written_out_reference(n, m, k):
    fake, real = draw(n, 3, 0, 1.3), draw(m, 3, 1)
    found = density_coverage(fake, real, k=k)
    assert (found.density.value, found.coverage.value) == pytest.approx(
        by_loops(fake.tolist(), real.tolist(), k), abs=1e-12
    )


def test_equal_draws_have_the_density_and_coverage_of_the_lemmas():
    found = [density_coverage(draw(100, 10, 2 * s), draw(140, 10, 2 * s + 1)) for s in range(80)]
    density = np.array([f.density.value for f in found])
    coverage = np.array([f.coverage.value for f in found])
    assert abs(density.mean() - 1) < 4 * density.std() / 80**0.5
    assert abs(coverage.mean() - expected_coverage(100, 140)) < 4 * coverage.std() / 80**0.5
    assert expected_coverage(10**6, 10**6) == pytest.approx(1 - 2**-5, abs=1e-5)


def test_identical_disjoint_and_collapsed_sets():
    x = draw(100, 8, 4)
    same = density_coverage(x, x)
    assert same.coverage.value == 1
    assert same.density.value >= 1 + 1 / 5  # each image lies in its own ball too
    apart = density_coverage(x, x + 100)
    assert (apart.density.value, apart.coverage.value) == (0, 0)
    collapsed = density_coverage(x[:1].repeat(100, 1), x)
    assert collapsed.coverage.value < 0.2


def test_one_outlier_does_not_sway_density_as_it_does_precision():
    real = draw(300, 2, 5)
    outlier = torch.cat([real, torch.tensor([[30.0, 0.0]], dtype=torch.float64)])
    fake = draw(300, 2, 6, 1.0, 15.0)  # nowhere near the data, but some within the outlier's ball
    assert precision_recall(fake, real).precision.value == 0
    assert precision_recall(fake, outlier).precision.value > 0.9
    assert density_coverage(fake, outlier).density.value < 0.25


def test_errors_are_the_spread_of_redrawn_sets():
    found = [density_coverage(draw(300, 5, 2 * s, 1.2), draw(300, 5, 2 * s + 1)) for s in range(60)]
    for name in ("density", "coverage"):
        stated = np.mean([getattr(f, name).error for f in found])
        seen = np.std([getattr(f, name).value for f in found])
        assert 0.75 < stated / seen < 1.6, (name, stated, seen)
