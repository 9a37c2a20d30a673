"""Frechet distance and KID against the peers people use, on the same features; and the hard cases of the arithmetic."""

import numpy as np
import pytest
import torch

from limner.metrics import frechet as module
from limner.metrics import kid as kid_module
from limner.metrics.frechet import frechet, frechet_bias, frechet_gaussians, frechet_spread
from limner.metrics.kid import kid, kid_subsets
from metrics.peers import peer


def features(n, d, seed, shift=0.0):
    """Non-negative, correlated, of falling variance, as a network's activations are."""
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(9), dtype=torch.float64) / d**0.5
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z * torch.arange(1, d + 1).pow(-0.7) @ mix).abs() + shift


def numpy_moments(x):
    return x.numpy().mean(0), np.cov(x.numpy(), rowvar=False)


@pytest.mark.parametrize(("n", "m", "d"), [(400, 500, 64), (1000, 300, 128)])
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_frechet_equals_pytorch_fid_clean_fid_and_torch_fidelity(n, m, d):
    x, y = features(n, d, 1), features(m, d, 2, 0.01)
    ours = frechet(x, y)
    statistics = (*numpy_moments(x), *numpy_moments(y))
    assert ours == pytest.approx(peer("pytorch_fid.fid_score").calculate_frechet_distance(*statistics), rel=1e-6)
    assert ours == pytest.approx(peer("cleanfid.fid").frechet_distance(*statistics), rel=1e-6)
    fidelity = peer("torch_fidelity.metric_fid")
    theirs = fidelity.fid_statistics_to_metric(*map(fidelity.fid_features_to_statistics, (x, y)), verbose=False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_fewer_images_than_features_equals_the_peers_on_singular_covariances():
    x, y = features(40, 64, 1), features(50, 64, 2, 0.01)
    fidelity = peer("torch_fidelity.metric_fid")
    theirs = fidelity.fid_statistics_to_metric(*map(fidelity.fid_features_to_statistics, (x, y)), verbose=False)
    assert frechet(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    theirs = peer("pytorch_fid.fid_score").calculate_frechet_distance(*numpy_moments(x), *numpy_moments(y))
    assert frechet(x, y) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 200), (200, 30), (200, 200)])
def test_squared_products_give_the_digits_of_singular_values(n, m, monkeypatch):
    x, y = features(n, 60, 3), features(m, 60, 4)
    fast = frechet(x, y)
    monkeypatch.setattr(module, "TOLERANCE", -1.0)  # always the singular values
    assert fast == pytest.approx(frechet(x, y), rel=1e-7)


@pytest.mark.parametrize("n", [30, 200])
def test_a_tiny_distance_between_large_spreads_keeps_its_digits(n):
    # The distance of a set from itself moved by s is exactly d s^2; the traces are 1e9 times larger.
    x = features(n, 60, 5)
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet(x, x + 1e-4) == pytest.approx(60e-8, rel=1e-5)


@pytest.mark.parametrize("n", [30, 200])
def test_a_set_and_its_enlargement_are_as_far_as_their_spreads(n):
    # y = 3 x has the covariance 9 S and the mean 3 m, so that the distance is 4 |m|^2 + (1 + 9 - 2 * 3) tr S, whatever the rank.
    x = features(n, 60, 15)
    mean, covariance = numpy_moments(x)
    assert frechet(x, 3 * x) == pytest.approx(4 * (mean**2).sum() + 4 * np.trace(covariance), rel=1e-10)


def test_dead_and_repeated_features_add_nothing():
    x, y = features(200, 20, 6), features(300, 20, 7, 0.1)
    dead = lambda z: torch.cat([z, z.new_zeros(len(z), 30)], 1)  # noqa: E731
    assert frechet(dead(x), dead(y)) == pytest.approx(frechet(x, y), rel=1e-9)
    # Every feature twice: all of the distance twice.
    assert frechet(x.repeat(1, 2), y.repeat(1, 2)) == pytest.approx(2 * frechet(x, y), rel=1e-7)


def test_sets_without_spread():
    x = torch.ones(20, 5)
    assert frechet(x, x + 2) == pytest.approx(20)
    y = features(50, 5, 8)
    m, s = numpy_moments(y)
    assert frechet(x, y) == pytest.approx(((m - 1) ** 2).sum() + np.trace(s), rel=1e-12)
    assert frechet_gaussians(torch.zeros(3), torch.zeros(3, 3), torch.zeros(3), torch.eye(3)) == pytest.approx(3)


@pytest.mark.parametrize(("d", "n"), [(30, 60), (60, 40)])
def test_bias_against_exact_moments_at_few_images(d, n):
    # d/N + d(d+1)/(4N) is the leading term: right to a tenth at N = 20 d, and of the right size when N is as small as d.
    draws = [torch.randn(20 * n, d, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(12)]
    eye, zero = torch.eye(d), torch.zeros(d)
    large = np.mean([frechet_gaussians(*module.moments(x), zero, eye) for x in draws])
    assert large == pytest.approx(frechet_bias(d, 20 * n), rel=0.1)
    small = np.mean([frechet_gaussians(*module.moments(x[:n]), zero, eye) for x in draws])
    assert 0.8 < small / frechet_bias(d, n) < 2


@pytest.mark.parametrize(("n", "d"), [(90, 8), (90, 120)])
def test_spread_is_the_jackknife_written_out(n, d):
    x, y = features(n, d, 9), features(n + 20, d, 10)
    of_x, of_y = module.folds(n, 10), module.folds(n + 20, 10)
    values = np.array([frechet(x[of_x != g], y[of_y != g]) for g in range(10)])
    assert frechet_spread(x, y) == pytest.approx(np.sqrt(0.9 * ((values - values.mean()) ** 2).sum()), rel=1e-6)


@pytest.mark.parametrize(("subsets", "size"), [(1, 300), (10, 100)])
def test_kid_equals_torch_fidelity(subsets, size):
    theirs_of = peer("torch_fidelity.metric_kid").kid_features_to_metric
    x, y = features(300, 48, 11), features(300, 48, 12, 0.1)
    theirs = theirs_of(x, y, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    ours = kid_subsets(x, y, subsets=subsets, size=size)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert ours.error == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-5, abs=1e-12)
    if size == 300:
        assert kid(x, y).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)


def test_kid_in_blocks_is_kid():
    x, y = features(150, 12, 13), features(110, 12, 14, 0.1)
    whole = kid(x, y)
    blocked = kid_module.discrepancy(x, y, kid_module.kernel, block=1000)
    assert blocked == pytest.approx(whole, rel=1e-10)
