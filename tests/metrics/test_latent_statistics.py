"""Active units, codebooks and aggregated posteriors of hand-made encoders, whose truths are known."""

import math

import numpy as np
import pytest
import torch

from limner.metrics.latent_statistics import (
    ActiveUnits,
    AggregatedPosterior,
    Codebook,
    aggregated_posterior,
    codebook_use,
    perplexity,
    unit_activity,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- active units


def test_active_units_of_a_hand_made_encoder():
    x = torch.tensor([-1.0, 1.0]).repeat(500).double()  # a picture of one pixel, of variance 1 (unbiased: 1000/999)
    means = torch.stack([x, 0.2 * x + 7, 0.05 * x, torch.full_like(x, 1e6), 0.1 * x], 1)
    found = unit_activity(means)
    truth = [1, 0.04, 0.0025, 0, 0.01]
    assert found.variance.tolist() == pytest.approx([v * 1000 / 999 for v in truth], rel=1e-9)
    assert found.active().value == 3  # 0.01 * 1000/999 is above 0.01
    assert found.active(0.02).value == 2
    assert found.variance_error.tolist() == pytest.approx(
        [0] * 5, abs=1e-7
    )  # of two values, the fourth moment is the variance squared
    assert unit_activity(torch.zeros(9, 4)).active() == (0, 0.0)


def test_a_collapsed_posterior_is_seen_through_sampling_noise():
    """A posterior that ignores the image, whose network still jitters a little, beside units that see it."""
    means = torch.cat([0.02 * normal(0, 2000, 30), normal(1, 2000, 2)], 1)
    assert unit_activity(means).active() == (2, pytest.approx(0, abs=1e-6))


def test_the_errors_are_those_of_other_images():
    scale = torch.linspace(0.07, 0.13, 12).double()  # variances 0.005 to 0.017, about the threshold
    found = [unit_activity(scale * normal(k, 200, 12)) for k in range(100)]
    variances = torch.stack([f.variance for f in found])
    stated = torch.stack([f.variance_error for f in found]).mean(0)
    assert (stated / variances.std(0)).tolist() == pytest.approx([1] * 12, rel=0.3)
    counts = [f.active() for f in found]
    assert np.mean([c.error for c in counts]) == pytest.approx(np.std([c.value for c in counts]), rel=0.3)


def test_activity_for_any_split_and_order():
    means = normal(2, 300, 5).exp() + 1e4 * torch.arange(5)
    whole, parts = unit_activity(means), [ActiveUnits() for _ in range(3)]
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for i, rows in enumerate(order.split(17)):
        parts[i % 3].update(means[rows])
    parts[1].merge(parts[0])
    parts[1].merge(parts[2])
    assert parts[1].compute().variance.tolist() == pytest.approx(whole.variance.tolist(), rel=1e-10)
    assert parts[1].compute().variance_error.tolist() == pytest.approx(whole.variance_error.tolist(), rel=1e-8)
    with pytest.raises(ValueError, match="5 and 4 units"):
        parts[1].update(means[:, :4])
    with pytest.raises(ValueError, match="at least two"):
        unit_activity(means[:1])


# ---- codebooks


def test_perplexity_and_dead_codes_of_known_use():
    even = torch.arange(8).repeat(6).view(12, 4)
    found = codebook_use(even, 10)
    assert found.perplexity.value == pytest.approx(8)
    assert found.dead.value == 2
    assert found.dead.error == found.awaited == 0  # every code in use is used by several images
    assert found.counts.tolist() == [6] * 8 + [0, 0]
    assert codebook_use(torch.zeros(5, 3, 3, dtype=torch.int64), 10).perplexity == (pytest.approx(1), pytest.approx(0))
    assert perplexity(torch.tensor([2, 1, 1])) == pytest.approx(2**1.5)
    # A code in one image only: the jackknife awaits (n - 1) / n more.
    once = codebook_use(torch.tensor([[0, 0], [0, 1], [0, 0]]), 4)
    assert once.awaited == pytest.approx(2 / 3)
    assert once.dead.error == pytest.approx(math.sqrt(2 / 3 * (1 - 1 / 3)))


def test_codebook_errors_know_that_codes_of_one_image_go_together():
    g = torch.Generator().manual_seed(5)
    p = torch.linspace(0.02, 1, 40).square()

    def draw():
        one = torch.multinomial(p, 60, replacement=True, generator=g)
        return one[:, None].expand(60, 16)  # each image repeats one code in all its places

    found = [codebook_use(draw(), 40) for _ in range(200)]
    for field in ("perplexity", "dead"):
        values, errors = np.array([getattr(f, field) for f in found]).T
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3), field


def test_codebook_for_any_split_and_order():
    codes = torch.randint(30, (101, 7), generator=torch.Generator().manual_seed(6)) ** 2 % 50
    whole, parts = codebook_use(codes, 50), [Codebook(50), Codebook(50)]
    for i, part in enumerate(codes.flip(0).split(9)):
        parts[i % 2].update(part)
    parts[0].merge(parts[1])
    found = parts[0].compute()
    assert torch.equal(found.counts, whole.counts)
    assert (found.perplexity.value, found.dead.value, found.awaited) == (
        whole.perplexity.value,
        whole.dead.value,
        whole.awaited,
    )
    assert found.perplexity.error == pytest.approx(whole.perplexity.error, rel=1e-12)
    with pytest.raises(ValueError, match="from 0 to 49"):
        parts[0].update(torch.tensor([[50] * 7]))
    with pytest.raises(ValueError, match="50 and 60"):
        parts[0].merge(Codebook(60))
    with pytest.raises(ValueError, match="no codes"):
        Codebook(50).compute()


# ---- aggregated posterior


def gaussian_mmd(d, mean, variance):
    """MMD^2 of N(mean, variance I) from N(0, I) under exp(-|a - b|^2 / 2d), by Gaussian integrals."""
    own = (d / (d + 2 * variance)) ** (d / 2)
    cross = (d / (d + 1 + variance)) ** (d / 2) * math.exp(-float(mean @ mean) / (2 * (d + 1 + variance)))
    return own - 2 * cross + (d / (d + 2)) ** (d / 2)


def test_distances_of_a_gaussian_posterior_are_the_closed_forms():
    d, mean, variance = 4, torch.tensor([0.5, 0, -0.3, 0]).double(), 0.49
    found = aggregated_posterior(mean + math.sqrt(variance) * normal(7, 6000, 2, 2).flatten(1))
    kl = 0.5 * (d * variance + float(mean @ mean) - d - d * math.log(variance))
    assert abs(found.kl.value - kl) < 4 * found.kl.error < 0.1 * kl
    mmd = gaussian_mmd(d, mean, variance)
    assert abs(found.mmd.value - mmd) < 4 * found.mmd.error < 0.15 * mmd
    assert found.mean.tolist() == pytest.approx(mean.tolist(), abs=0.04)
    assert found.variance.tolist() == pytest.approx([variance] * d, abs=5 * float(found.variance_error.max()))


def test_where_the_posterior_is_the_prior():
    d, n = 5, 200
    found = [aggregated_posterior(normal(100 + k, n, d)) for k in range(150)]
    kl, kl_error = np.array([f.kl for f in found]).T
    assert found[0].kl_floor == d * (d + 3) / (4 * n)
    assert kl.mean() == pytest.approx(found[0].kl_floor, rel=0.1)
    assert kl_error.mean() == pytest.approx(kl.std(), rel=0.4)
    mmd, mmd_error = np.array([f.mmd for f in found]).T
    assert abs(mmd.mean()) < 3 * mmd.std() / math.sqrt(150)  # unbiased, so often negative
    assert 0.3 < (mmd < 0).mean() < 0.8
    assert mmd.std() < mmd_error.mean() < 2.2 * mmd.std()


def test_errors_are_those_of_other_images_away_from_the_prior():
    found = [aggregated_posterior(0.6 * normal(300 + k, 200, 3) + 0.4) for k in range(80)]
    for field in ("kl", "mmd"):
        values, errors = np.array([getattr(f, field) for f in found]).T
        assert errors.mean() == pytest.approx(values.std(), rel=0.25), field


def test_mmd_sees_what_moments_do_not():
    """Two clusters on a line with mean 0 and variance 1, as a mixture of collapsed posteriors would leave."""
    z = normal(8, 3000, 3)
    z[:, 0] = z[:, 0].sign() * 0.98 + 0.199 * normal(9, 3000)
    found = aggregated_posterior(z)
    assert found.kl.value < found.kl_floor + 4 * found.kl.error
    assert found.mmd.value > 5 * found.mmd.error


def test_posterior_for_any_split_and_order():
    z = normal(10, 200, 4)
    whole, parts = aggregated_posterior(z), [AggregatedPosterior(), AggregatedPosterior()]
    for i, part in enumerate(z.flip(0).split(23)):
        parts[i % 2].update(part)
    parts[1].merge(parts[0])
    found = parts[1].compute()
    assert (found.kl, found.mmd) == (whole.kl, whole.mmd)
    assert torch.equal(found.variance, whole.variance)


def test_degenerate_posteriors_are_refused():
    with pytest.raises(ValueError, match="more than 8 images, not 8"):
        aggregated_posterior(normal(11, 8, 8))
    with pytest.raises(ValueError, match="infinite"):
        aggregated_posterior(torch.cat([normal(12, 50, 2), torch.ones(50, 1)], 1))
