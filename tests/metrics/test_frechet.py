"""The Frechet distance against its closed form, scipy's matrix root, and its own stated bias."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from limner.metrics.frechet import frechet, frechet_bias, frechet_gaussians, frechet_spread


def by_sqrtm(x, y):
    x, y = x.numpy(), y.numpy()
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(root))


def features(n, d, seed):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 5, 40])
def test_closed_form_of_scaled_gaussians(d):
    # N(0, I) against N(0, 4I): tr(I + 4I - 2 * 2I) = d; with means 1 apart in each dimension, 2d.
    zero, one, eye = torch.zeros(d), torch.ones(d), torch.eye(d)
    assert frechet_gaussians(zero, eye, zero, 4 * eye) == pytest.approx(d, abs=1e-9)
    assert frechet_gaussians(zero, eye, one, 4 * eye) == pytest.approx(2 * d, abs=1e-9)


def test_equals_scipy_sqrtm_where_covariances_have_full_rank():
    x, y = features(400, 30, 1), features(300, 30, 2)
    assert frechet(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-9)


def test_nuclear_norm_form_equals_the_eigenvalue_form():
    x, y = features(50, 80, 1), features(60, 80, 2)  # fewer images than features: `frechet` takes the nuclear norm
    mean1, mean2 = x.mean(0), y.mean(0)
    wide = frechet_gaussians(mean1, torch.cov(x.T), mean2, torch.cov(y.T))
    assert frechet(x, y) == pytest.approx(wide, rel=1e-6)


def test_is_symmetric_zero_on_itself_and_unmoved_by_order():
    x, y = features(100, 12, 3), features(120, 12, 4)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-10)
    assert frechet(x, x[torch.randperm(100)]) < 1e-9


def test_bias_on_small_samples_is_as_stated():
    d, n = 20, 400
    g = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(200):
        x = torch.randn(n, d, generator=g, dtype=torch.float64)
        runs.append(frechet_gaussians(x.mean(0), torch.cov(x.T), torch.zeros(d), torch.eye(d)))
    mean, error = np.mean(runs), np.std(runs) / math.sqrt(len(runs))
    assert frechet_bias(d, n) == pytest.approx(20 / 400 + 20 * 21 / 1600)
    assert abs(mean - frechet_bias(d, n)) < 4 * error + 0.03 * frechet_bias(d, n)


def test_spread_is_that_of_redrawn_sets():
    g = torch.Generator().manual_seed(5)
    draw = lambda shift: torch.randn(300, 6, generator=g, dtype=torch.float64) + shift  # noqa: E731
    values = [frechet(draw(0.0), draw(0.5)) for _ in range(200)]
    spreads = [frechet_spread(draw(0.0), draw(0.5)) for _ in range(20)]
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.25)


def test_refuses_what_has_no_distance():
    with pytest.raises(ValueError, match="at least two"):
        frechet(torch.randn(1, 3), torch.randn(5, 3))
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet(torch.randn(5, 3), torch.randn(5, 4))
    with pytest.raises(ValueError, match="finite"):
        frechet(torch.full((5, 3), math.nan), torch.randn(5, 3))
