"""The discretised logistic and its mixture against high-precision arithmetic, enumeration and frequencies."""

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch

from limner.losses.logistic import (
    discretized_logistic_log_prob,
    discretized_logistic_mixture_log_prob,
    invert_categorical,
    levels_of,
    mixture_channels,
    sample_discretized_logistic_mixture,
    values_of,
)


def grid(levels, dtype=torch.float64):
    return values_of(torch.arange(levels, dtype=dtype), levels)


def exact(k, mean, log_scale, levels):
    """log P(k) as F(upper edge) - F(lower edge), with 700 digits to lose to cancellation."""
    with localcontext() as context:
        context.prec = 700
        scale = Decimal(log_scale).exp()

        def cumulative(edge):
            return 1 / (1 + (-(edge - Decimal(mean)) / scale).exp())

        step = Decimal(1) / (levels - 1)
        upper = Decimal(1) if k == levels - 1 else cumulative((2 * k + 1) * step - 1)
        lower = Decimal(0) if k == 0 else cumulative((2 * k - 1) * step - 1)
        return float((upper - lower).ln())


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sums_to_one_at_every_mean_and_scale(levels, dtype, tolerance):
    mean = torch.linspace(-3, 3, 41, dtype=dtype)[:, None, None]
    log_scale = torch.linspace(-40, 40, 81, dtype=dtype)[:, None]
    log_prob = discretized_logistic_log_prob(grid(levels, dtype), mean, log_scale, levels)
    assert torch.isfinite(log_prob).all()
    assert (log_prob <= 0).all()
    assert (log_prob.exp().sum(-1) - 1).abs().max() < tolerance


@pytest.mark.parametrize("log_scale", [-6.5, -4.0, -1.0, 3.0, 12.0])
@pytest.mark.parametrize("mean", [-1.3, 0.125, 0.97])
def test_equals_arithmetic_of_700_digits(mean, log_scale):
    # Tails down to exp(-1500) of the mass, where a difference of float64 sigmoids is 0 and density x bin is wrong.
    chosen = [0, 1, 100, 143, 254, 255]
    truth = torch.tensor([exact(k, mean, log_scale, 256) for k in chosen], dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-4)):
        x = grid(256, dtype)[chosen]
        m, s = torch.tensor(mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype)
        found = discretized_logistic_log_prob(x, m, s)
        torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=tolerance)


def test_gradients_are_those_of_finite_differences_and_finite_at_extremes():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(9, generator=generator, dtype=torch.float64).requires_grad_()
    log_scale = torch.randn(9, generator=generator, dtype=torch.float64).sub(2).requires_grad_()
    x = grid(256)[[0, 0, 1, 60, 128, 129, 254, 255, 255]]
    assert torch.autograd.gradcheck(lambda m, s: discretized_logistic_log_prob(x, m, s), (mean, log_scale))
    mean = torch.tensor([-50.0, 0.0, 50.0], requires_grad=True)
    for extreme in (-60.0, -20.0, 20.0, 60.0):
        log_scale = torch.full((3,), extreme, requires_grad=True)
        for k in (0, 128, 255):
            loss = discretized_logistic_log_prob(grid(256, torch.float32)[k], mean, log_scale).sum()
            for g in torch.autograd.grad(loss, (mean, log_scale)):
                assert torch.isfinite(g).all(), (extreme, k)


def test_grey_mixture_sums_to_one_over_256_levels():
    generator = torch.Generator().manual_seed(1)
    params = 3 * torch.randn(20, mixture_channels(1, 7), 1, 1, generator=generator, dtype=torch.float64)
    x = grid(256)[None, None, :, None]  # (1, 1, 256, 1): the levels as if they were pixels
    total = discretized_logistic_mixture_log_prob(x, params.expand(-1, -1, 256, 1)).exp().sum((1, 2))
    assert (total - 1).abs().max() < 1e-10
    total = discretized_logistic_mixture_log_prob(x.float(), params.float().expand(-1, -1, 256, 1)).exp().sum((1, 2))
    assert (total - 1).abs().max() < 1e-5


@pytest.mark.parametrize("levels", [2, 5])
def test_colour_mixture_sums_to_one_over_all_colours(levels):
    generator = torch.Generator().manual_seed(2)
    params = 2 * torch.randn(10, mixture_channels(3, 4), 1, generator=generator, dtype=torch.float64)
    colours = torch.cartesian_prod(*3 * [grid(levels)]).T[None]  # (1, 3, levels^3)
    log_prob = discretized_logistic_mixture_log_prob(colours, params.expand(-1, -1, levels**3), levels)
    assert log_prob.shape == (10, levels**3)
    assert (log_prob.exp().sum(1) - 1).abs().max() < 1e-10


def test_colour_mixture_equals_the_formula_written_out():
    components, levels = 2, 9
    generator = torch.Generator().manual_seed(3)
    params = torch.randn(1, mixture_channels(3, components), 1, 1, generator=generator, dtype=torch.float64)
    p = params.flatten().tolist()
    logits, means, log_scales, coefficients = p[:2], p[2:8], p[8:14], [math.tanh(v) for v in p[14:]]
    for level in [(0, 3, 8), (4, 4, 4), (8, 0, 1)]:
        r, g, b = (2 * k / (levels - 1) - 1 for k in level)
        total = 0.0
        for k in range(components):
            mu, s, (g_r, b_r, b_g) = (
                means[3 * k : 3 * k + 3],
                log_scales[3 * k : 3 * k + 3],
                coefficients[3 * k : 3 * k + 3],
            )
            mu = [mu[0], mu[1] + g_r * r, mu[2] + b_r * r + b_g * g]
            log_prob = sum(exact(level[c], mu[c], max(s[c], -math.log(8) - 3), levels) for c in range(3))
            total += math.exp(logits[k]) / sum(map(math.exp, logits)) * math.exp(log_prob)
        x = torch.tensor([r, g, b], dtype=torch.float64).reshape(1, 3, 1, 1)
        found = discretized_logistic_mixture_log_prob(x, params, levels)
        assert found.shape == (1, 1, 1)
        assert found.item() == pytest.approx(math.log(total), abs=1e-10)


def test_samples_have_the_frequencies_of_the_mixture():
    levels, n = 3, 200_000
    generator = torch.Generator().manual_seed(4)
    params = torch.randn(1, mixture_channels(3, 3), generator=generator, dtype=torch.float64)
    u = torch.rand(n, 4, generator=generator)
    x = sample_discretized_logistic_mixture(params.expand(n, -1), u[:, 0], u[:, 1:], levels)
    assert x.shape == (n, 3)
    level = levels_of(x, levels).long()
    torch.testing.assert_close(values_of(level.double(), levels), x, rtol=0, atol=0)
    frequencies = torch.bincount(level @ torch.tensor([9, 3, 1]), minlength=27) / n
    colours = torch.tensor(list(itertools.product(grid(levels).tolist(), repeat=3))).double()
    truth = discretized_logistic_mixture_log_prob(colours, params.expand(27, -1), levels).exp()
    # 27 cells: the expected distance of n draws is about 0.5 * sum sqrt(2 p / (pi n)) < 0.005.
    assert 0.5 * (frequencies - truth).abs().sum() < 0.006


def test_low_temperature_draws_the_likeliest_component_at_its_mean():
    params = torch.tensor([[2.0, 0.0, 0.5, -0.5, -2.0, -2.0]])  # weights, means, log-scales of two grey components
    x = sample_discretized_logistic_mixture(params, torch.tensor([0.99]), torch.tensor([[0.9]]), 256, temperature=0.01)
    assert x.item() == pytest.approx(0.5, abs=1 / 255 + 0.01)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_inverting_a_categorical_gives_each_index_its_share_of_the_unit_interval(shape):
    probabilities = torch.tensor([0.1, 0.0, 0.25, 0.65], dtype=torch.float64)
    logits = probabilities.log().clamp(min=-80)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    many = logits.reshape(1, 4, *[1] * len(shape)).expand(1000, 4, *shape)
    index = invert_categorical(many, u.reshape(1000, *[1] * len(shape)).expand(1000, *shape))
    assert index.shape == (1000, *shape)
    assert torch.bincount(index.reshape(1000, -1)[:, -1], minlength=4).tolist() == [100, 0, 250, 650]
    assert invert_categorical(logits[None].float(), torch.tensor([1 - 2**-24])).item() == 3


def test_parameters_of_no_mixture_are_refused():
    with pytest.raises(ValueError, match="31 parameters"):
        discretized_logistic_mixture_log_prob(torch.zeros(1, 3, 2, 2), torch.zeros(1, 31, 2, 2))
