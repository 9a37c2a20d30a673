"""Accumulators against all rows at once: for any split into batches, order and grouping of merges; and in every metric."""

import math
import pickle

import numpy as np
import pytest
import torch

from limner.metrics import cmmd, density_coverage, frechet, inception_score, kid, precision_recall, two_sample
from limner.metrics.accumulate import Estimate, Mean, Moments, Rows, folds, jackknife, lexicographic


def split(x, seed):
    """Batches of unequal sizes, an empty one among them, of the rows of x in another order."""
    g = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=g)]
    cuts = torch.randint(0, len(x) + 1, (5,), generator=g).sort().values.tolist()
    return [x[:0], *torch.tensor_split(x, cuts)]


def gathered(make, batches):
    """What `make()` finds when two processes take the batches in turn, and a third one merges the two."""
    workers = [make(), make()]
    for i, batch in enumerate(batches):
        workers[i % 2].update(batch)
    whole = make()
    for worker in workers:
        whole.merge(pickle.loads(pickle.dumps(worker)))
    return whole


@pytest.mark.parametrize("seed", range(4))
def test_moments_of_any_split_are_those_of_all_rows(seed):
    # A mean 1e6 spreads away costs a sum of squares its digits, and the centred form none of those that are there.
    x = torch.randn(97, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1e6
    found = gathered(Moments, split(x, seed))
    assert found.count == 97
    assert found.mean.tolist() == pytest.approx(x.mean(0).tolist(), rel=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-7, atol=1e-9)


def test_moments_without_some_rows_are_those_of_the_rest():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    every, part = Moments(), Moments()
    every.update(x)
    part.update(x[:13])
    rest = every.without(part)
    assert rest.count == 47
    torch.testing.assert_close(rest.mean, x[13:].mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(rest.covariance, torch.cov(x[13:].T), rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="cannot be taken out"):
        part.without(every)


@pytest.mark.parametrize("seed", range(4))
def test_mean_of_any_split_and_its_error(seed):
    x = torch.rand(80, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 100
    found = gathered(Mean, split(x, seed))
    assert found.count == 80
    assert found.mean == pytest.approx(float(x.mean()), rel=1e-14)
    assert found.error == pytest.approx(float(x.std()) / math.sqrt(80), rel=1e-10)


def test_mean_of_one_value_has_no_error():
    found = Mean()
    found.update(torch.tensor([3.5]))
    assert found.mean == 3.5
    assert math.isnan(found.error)
    with pytest.raises(ValueError, match="no values"):
        _ = Mean().mean


def test_rows_come_in_one_order_whatever_the_split():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(50, 3, generator=g, dtype=torch.float64)
    x[:30, 0] = torch.randint(-1, 2, (30,), generator=g).double()  # ties, decided by the next column
    x[0, 0], x[1, 0] = 0.0, -0.0
    assert x[lexicographic(x)].tolist() == sorted(x.tolist())
    expected = sorted(x.tolist())
    for seed in range(3):
        assert gathered(Rows, split(x, seed)).ordered.tolist() == expected
    kept = Rows()
    kept.update(x[:20])
    kept.update(x[20:])
    assert torch.equal(kept.rows, x)  # as they came
    assert kept.count == 50


def test_folds_are_even_and_drawn():
    found = folds(103, 10)
    sizes = torch.bincount(found, minlength=10)
    assert sizes.min() == 10
    assert sizes.max() == 11
    assert not torch.equal(found, torch.arange(103) % 10)
    assert torch.equal(found, folds(103, 10))


def test_jackknife_of_a_mean_is_its_standard_error():
    x = torch.randn(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left_out = torch.stack([torch.cat([x[:i], x[i + 1 :]]).mean() for i in range(40)])
    assert jackknife(left_out) == pytest.approx(float(x.std()) / math.sqrt(40), rel=1e-12)


PAIRS = {
    "kid": (kid.Kid, kid.kid),
    "cmmd": (cmmd.Cmmd, cmmd.cmmd),
    "precision_recall": (precision_recall.PrecisionRecallAccumulator, precision_recall.precision_recall),
    "density_coverage": (density_coverage.DensityCoverageAccumulator, density_coverage.density_coverage),
    "two_sample": (two_sample.TwoSample, two_sample.two_sample),
    "frechet": (frechet.Frechet, lambda x, y: Estimate(frechet.frechet(x, y), frechet.frechet_spread(x, y))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_metrics_of_two_sets_are_the_same_to_the_last_bit_for_any_split_and_order(name):
    make, plain = PAIRS[name]
    g = torch.Generator().manual_seed(3)
    fake, real = torch.randn(60, 4, generator=g) + 0.3, torch.randn(45, 4, generator=g)

    def find(seed):
        workers = [make(), make()]
        for i, batch in enumerate(split(fake, seed)):
            workers[i % 2].update(fake=batch)
        for i, batch in enumerate(split(real, seed + 10)):
            workers[i % 2].update(real=batch)
        workers[0].merge(pickle.loads(pickle.dumps(workers[1])))
        return workers[0].compute()

    first = find(0)
    assert find(1) == first
    assert find(2) == first
    # And the plain function on the same rows: to the rounding of another order of sums where the folds do not matter.
    in_order = (fake[lexicographic(fake)], real[lexicographic(real)])
    assert plain(*in_order) == first
    if name in ("kid", "cmmd"):
        assert plain(fake, real) == pytest.approx(first, rel=1e-10)


def test_frechet_from_moments_needs_no_rows():
    g = torch.Generator().manual_seed(4)
    fake, real = torch.randn(60, 4, generator=g) + 0.3, torch.randn(45, 4, generator=g)
    workers = [frechet.FrechetMoments(), frechet.FrechetMoments()]
    for i, (f, r) in enumerate(zip(split(fake, 0), split(real, 1), strict=True)):
        workers[i % 2].update(fake=f, real=r)
    workers[0].merge(workers[1])
    assert workers[0].compute() == pytest.approx(frechet.frechet(fake, real), rel=1e-12)


def test_inception_scores_of_any_split():
    logits = 3 * torch.randn(90, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    whole = inception_score.inception_score(logits)
    for seed in range(3):
        found = gathered(inception_score.InceptionScore, split(logits, seed)).compute()
        assert found == pytest.approx(whole, rel=1e-12)
    parts = [gathered(inception_score.InceptionScoreSplits, split(logits, seed)).compute() for seed in range(2)]
    assert parts[0] == parts[1]


def test_unlike_or_broken_batches_are_refused():
    for kind in (Moments, Rows):
        found = kind()
        found.update(torch.zeros(2, 3))
        with pytest.raises(ValueError, match="3 and 4 numbers"):
            found.update(torch.zeros(2, 4))
        with pytest.raises(ValueError, match="not all finite"):
            found.update(torch.full((2, 3), math.nan))
        with pytest.raises(ValueError, match="matrix"):
            found.update(torch.zeros(3))
    with pytest.raises(ValueError, match="no rows"):
        _ = Rows().rows
    with pytest.raises(ValueError, match="at least two rows"):
        _ = Moments().covariance
    with pytest.raises(ValueError, match="one number an image"):
        Mean().update(torch.zeros(2, 2))
