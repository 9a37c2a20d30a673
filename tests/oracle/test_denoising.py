"""Schedules, parametrisations, samplers and the bound of discrete-time diffusion against exact truths.

The oracle is a Gaussian N(m, S^2) in every dimension: its denoiser E[x_0 | x_t], its probability-flow map and its likelihood are known.
"""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from limner.denoising import bound, samplers, schedules
from limner.denoising.parametrisation import from_x0, loss_weight, target, to_x0
from limner.noise import SampleNoise, seeds

MEAN, STD = 0.3, 0.5
LINEAR, COSINE = schedules.linear(), schedules.cosine()


def exact_denoiser(abar, mean=MEAN, std=STD):
    def denoise(x, t):
        a, s = (v.view(-1, *[1] * (x.dim() - 1)).to(x) for v in schedules.signal_and_noise(abar[t]))
        return mean + std**2 * a * (x - a * mean) / (a**2 * std**2 + s**2)

    return denoise


def quantile_map(x, abar, mean=MEAN, std=STD):
    """Where the probability-flow ODE takes x_T at time 0: to the same quantile of the data."""
    a, s = schedules.signal_and_noise(abar[-1])
    return mean + std * (x - a * mean) / (a**2 * std**2 + s**2).sqrt()


def probit_grid(n):
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


# Schedules ------------------------------------------------------------------------------------------------------------------------


def test_linear_schedule():
    assert LINEAR.shape == (1001,)
    assert LINEAR[0] == 1
    assert LINEAR[2].item() == pytest.approx(0.9997800921, abs=1e-10)
    assert LINEAR[500].item() == pytest.approx(0.07858724288, rel=1e-9)
    assert LINEAR[1000].item() == pytest.approx(4.035829765e-5, rel=1e-9)


def test_posterior_at_2():
    p = schedules.posterior(LINEAR[1], LINEAR[2])
    assert p.variance.item() == pytest.approx(5.453187661e-5, rel=1e-9)
    assert p.c0.item() == pytest.approx(0.5452914995, rel=1e-9)
    assert p.ct.item() == pytest.approx(0.454708499, rel=1e-9)


@pytest.mark.parametrize("abar", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize(("s", "t"), [(0, 1), (1, 2), (499, 500), (100, 900), (0, 700)])
def test_posterior_is_bayes(abar, s, t):
    """Multiplying q(x_s | x_0) by q(x_t | x_s) and completing the square must give the same Gaussian."""
    p, alpha = schedules.posterior(abar[s], abar[t]), abar[t] / abar[s]
    if s > 0:
        precision = 1 / (1 - abar[s]) + alpha / (1 - alpha)
        assert p.variance.item() == pytest.approx((1 / precision).item(), rel=1e-9)
        assert p.c0.item() == pytest.approx((abar[s].sqrt() / (1 - abar[s]) / precision).item(), rel=1e-9)
        assert p.ct.item() == pytest.approx((alpha.sqrt() / (1 - alpha) / precision).item(), rel=1e-9)
    else:
        assert (p.c0.item(), p.ct.item(), p.variance.item()) == pytest.approx((1, 0, 0), abs=1e-12)


def test_cosine_schedule():
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    assert torch.allclose(COSINE[:1000], torch.tensor(f[:1000], dtype=torch.float64) / f[0], rtol=1e-9, atol=0)
    assert COSINE[1000].item() == pytest.approx(COSINE[999].item() * 0.001, rel=1e-9)  # beta_T is held at 0.999


@pytest.mark.parametrize("T", [10, 100, 4000])
def test_schedules_of_other_lengths(T):
    for abar in (schedules.linear(T), schedules.cosine(T)):
        assert abar.shape == (T + 1,)
        assert (abar.diff() < 0).all()
        assert 0 < abar[-1] < 2e-3


def test_respacing():
    assert schedules.respaced(1000, 1000) == list(range(1001))
    assert schedules.respaced(1000, 4) == [0, 250, 500, 750, 1000]
    assert schedules.respaced(1000, 1) == [0, 1000]
    assert schedules.respaced(8, 50) == list(range(9))
    times = schedules.respaced(1000, 37)
    assert len(times) == 38
    assert (times[0], times[-1]) == (0, 1000)
    assert min(b - a for a, b in pairwise(times)) >= 27


def test_time_of_sigma_inverts_the_schedule():
    times = torch.tensor([1, 2, 37, 500, 999, 1000])
    sigma = ((1 - COSINE[times]) / COSINE[times]).sqrt()
    assert torch.allclose(schedules.time_of_sigma(COSINE, sigma), times.double(), atol=1e-6)
    between = (sigma[1] * ((1 - COSINE[3]) / COSINE[3]).sqrt()).sqrt()[None]
    assert schedules.time_of_sigma(COSINE, between).item() == pytest.approx(2.5, abs=1e-9)
    assert schedules.time_of_sigma(COSINE, torch.tensor([0.0, 1e9])).tolist() == [1, 1000]


# Parametrisations -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 300, 999])
def test_predictions_interconvert(t):
    x0, epsilon = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    a, s = schedules.signal_and_noise(LINEAR[t])
    xt = a * x0 + s * epsilon
    for kind in ("epsilon", "v", "x0"):
        output = target(kind, x0, epsilon, a, s)
        assert torch.allclose(to_x0(kind, output, xt, a, s), x0, atol=1e-10)
        assert torch.allclose(from_x0(kind, x0, xt, a, s), output, atol=1e-10)
    # the rotation (x_t, v) -> (x0, epsilon)
    v = target("v", x0, epsilon, a, s)
    assert torch.allclose(s * xt + a * v, epsilon, atol=1e-10)


def test_loss_weights_are_the_same_loss_of_x0_up_to_the_stated_weight():
    """A wrong x_0 by d gives the loss d^2 SNR for epsilon, d^2 (SNR + 1) for v, d^2 max(SNR, 1) for x0."""
    x0, d = torch.zeros(1, dtype=torch.float64), 0.1
    for t in (1, 400, 990):
        a, s = schedules.signal_and_noise(LINEAR[t])
        snr, xt = (a / s) ** 2, torch.full_like(x0, 0.7)
        for kind, weight in (("epsilon", snr), ("v", snr + 1), ("x0", snr.clamp(min=1))):
            difference = from_x0(kind, x0 + d, xt, a, s) - from_x0(kind, x0, xt, a, s)
            assert (loss_weight(kind, a, s) * difference**2).item() == pytest.approx(d**2 * weight.item(), rel=1e-6)


# Samplers with the exact denoiser of a Gaussian -----------------------------------------------------------------------------------


@pytest.mark.parametrize("abar", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("fraction", [0.0, 1.0], ids=["small", "large"])
def test_ancestral_sampler_returns_the_gaussian(abar, fraction):
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, dtype=torch.float64, generator=noise)
    out = samplers.ancestral(
        exact_denoiser(abar),
        x,
        abar,
        range(1001),
        fraction=fraction,
        noise=lambda: torch.randn(x.shape, dtype=x.dtype, generator=noise),
    )
    assert out.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(20_000))
    assert out.std().item() == pytest.approx(STD, rel=0.025)
    assert stats.kstest((out[:, 0].numpy() - MEAN) / STD, "norm").statistic < 0.02


def test_ancestral_step_is_the_line_of_algorithm_2():
    t, x = 600, torch.randn(5, 3, dtype=torch.float64)
    denoise = exact_denoiser(LINEAR)
    a, s = schedules.signal_and_noise(LINEAR[t])
    epsilon = (x - a * denoise(x, torch.full((5,), t))) / s
    alpha = LINEAR[t] / LINEAR[t - 1]
    line4 = (x - (1 - alpha) / (1 - LINEAR[t]).sqrt() * epsilon) / alpha.sqrt()
    ours = samplers.ancestral(denoise, x, LINEAR, [t - 1, t], noise=lambda: torch.zeros_like(x))
    assert torch.allclose(ours, line4, atol=1e-12)


@pytest.mark.parametrize("steps", [7, 100])
def test_ddim_with_eta_1_is_the_ancestral_sampler(steps):
    x, times = torch.randn(10, 2, dtype=torch.float64), schedules.respaced(1000, steps)

    def noise(generator=None):
        generator = torch.Generator().manual_seed(1)
        return lambda: torch.randn(x.shape, dtype=x.dtype, generator=generator)

    one = samplers.ancestral(exact_denoiser(COSINE), x, COSINE, times, noise=noise())
    other = samplers.ddim(exact_denoiser(COSINE), x, COSINE, times, eta=1.0, noise=noise())
    assert torch.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("abar", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_ddim_maps_quantiles_with_first_order_error(abar):
    x = probit_grid(200)
    truth = quantile_map(x, abar)
    error = []
    for steps in (50, 100, 200, 400):
        out = samplers.ddim(exact_denoiser(abar), x, abar, schedules.respaced(1000, steps))
        assert (out.diff(dim=0) > 0).all()
        error.append((out - truth).abs().max().item())
    assert error[-1] < 0.02
    for coarse, fine in pairwise(error):
        assert 1.7 < coarse / fine < 2.3, error


@pytest.mark.parametrize("abar", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_ddim_round_trip_error_falls_in_first_order(abar):
    x = MEAN + STD * probit_grid(100)
    error = []
    for steps in (50, 100, 200, 400):
        times = schedules.respaced(1000, steps)
        latent = samplers.ddim_inversion(exact_denoiser(abar), x, abar, times)
        back = samplers.ddim(exact_denoiser(abar), latent, abar, times)
        error.append((back - x).abs().max().item())
    assert error[-1] < 0.02
    for coarse, fine in pairwise(error):
        assert 1.7 < coarse / fine < 2.5, error
    assert latent.std().item() == pytest.approx(1, rel=0.03)


def test_clip_holds_the_estimate_and_callback_sees_each_step():
    seen = []
    out = samplers.ddim(
        lambda x, t: 3 * torch.ones_like(x),
        torch.randn(2, 1),
        COSINE,
        [0, 10, 1000],
        clip=True,
        callback=lambda t, x, x0: seen.append((t, x0.max())),
    )
    assert torch.equal(out, torch.ones(2, 1))
    assert seen == [(1000, 1), (10, 1)]


# The bound ------------------------------------------------------------------------------------------------------------------------


def test_discretised_gaussian_is_a_distribution_also_in_the_tails():
    for levels, mean, sigma in ((256, 0.2, 0.01), (17, -0.99, 0.3), (2, 0.0, 0.5), (256, 1.7, 1e-3)):
        x = torch.linspace(-1, 1, levels, dtype=torch.float64)
        log_p = bound.discretised_gaussian(x, torch.full_like(x, mean), sigma, levels)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
        assert torch.isfinite(log_p).all()
    # 50 standard deviations off, the value is still that of the distribution: log Phi(-50) where the bin is open
    far = bound.discretised_gaussian(torch.ones(1), torch.tensor([1 - 1 / 255 - 0.5]), 0.01, 256)
    assert far.item() == pytest.approx(stats.norm.logcdf(-50), rel=1e-6)


def test_bound_of_a_gaussian_is_near_its_entropy():
    """The exact code length of fine levels of N(0, S^2) is known. With the exact denoiser and the exact variance of its
    reverse step the bound comes to it; with the variance "small" or "large" it lies above by a known divergence."""
    levels, std, abar = 256, 0.15, schedules.cosine(1000)
    g = torch.Generator().manual_seed(0)
    draws = std * torch.randn(8, 1024, generator=g, dtype=torch.float64)
    x = ((draws + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1) * 2 - 1
    exact = -bound.discretised_gaussian(x, torch.zeros_like(x), std, levels).mean().item() / math.log(2)

    t = torch.arange(2, 1001)
    p = schedules.posterior(abar[t - 1], abar[t])
    a, s = schedules.signal_and_noise(abar[t])
    right = p.variance + p.c0**2 * (
        std**2 * s**2 / (a**2 * std**2 + s**2)
    )  # Var[x_{t-1} | x_t] by the law of total variance
    beta = 1 - abar[t] / abar[t - 1]
    fraction = torch.cat([torch.ones(1), (right / p.variance).log() / (beta / p.variance).log()])  # of times 1 .. T

    small, large = torch.zeros(1000), torch.ones(1000)
    small[0] = 1  # the decoder is the same in all three

    def gap(fraction):
        def denoise(x, t):
            return exact_denoiser(abar, 0.0, std)(x, t), fraction[t - 1].view(-1, 1).expand_as(x)

        return bound.bits_per_dim(denoise, x, abar, noise=SampleNoise(8, 0), levels=levels).mean().item() - exact

    def divergence(wrong):  # KL(N(., right) || N(., wrong)) summed over the steps, bits
        return (0.5 * (right / wrong - 1 - (right / wrong).log())).sum().item() / math.log(2)

    assert abs(gap(fraction)) < 0.02
    assert gap(small) == pytest.approx(divergence(p.variance), rel=0.05)
    assert divergence(p.variance) > 0.5
    assert gap(large) == pytest.approx(divergence(beta), rel=0.05, abs=0.02)


def test_bound_terms_are_kl_divergences():
    x0, t = torch.full((1, 1), 0.4, dtype=torch.float64), 300
    p = schedules.posterior(LINEAR[t - 1], LINEAR[t])
    a, s = schedules.signal_and_noise(LINEAR[t])
    epsilon = torch.tensor([[0.7]], dtype=torch.float64)
    xt = a * x0 + s * epsilon
    guess = exact_denoiser(LINEAR)(xt, torch.tensor([t]))
    q = torch.distributions.Normal(p.c0 * x0 + p.ct * xt, p.variance.sqrt())
    model = torch.distributions.Normal(p.c0 * guess + p.ct * xt, p.variance.sqrt())
    ours = bound.step_kl(exact_denoiser(LINEAR), x0, LINEAR, torch.tensor([t]), epsilon)
    assert ours.item() == pytest.approx(torch.distributions.kl_divergence(q, model).item(), rel=1e-9)
    last = torch.distributions.Normal(LINEAR[-1].sqrt() * x0, (1 - LINEAR[-1]).sqrt())
    prior = torch.distributions.kl_divergence(
        last, torch.distributions.Normal(torch.zeros_like(x0), torch.ones_like(x0))
    )
    assert bound.prior_kl(x0, LINEAR[-1]).item() == pytest.approx(prior.item(), rel=1e-9)


def test_drawing_timesteps_is_unbiased_and_by_image():
    abar = schedules.cosine(50)
    x = torch.linspace(-0.5, 0.5, 4)[:, None, None, None].expand(4, 1, 8, 8).contiguous()

    def value(timesteps, seed, images=x):
        return bound.bits_per_dim(
            exact_denoiser(abar), images, abar, noise=SampleNoise(len(images), seed), levels=256, timesteps=timesteps
        )

    full = torch.stack([value(None, seed) for seed in range(40)])
    drawn = torch.stack([value(10, seed) for seed in range(150)])
    error = (drawn.std(0) ** 2 / 150 + full.std(0) ** 2 / 40).sqrt()
    assert ((drawn.mean(0) - full.mean(0)).abs() < 4 * error).all()
    assert (error < 0.03 * full.mean(0)).all()
    assert bound.step_probabilities(abar).sum().item() == pytest.approx(1)
    one, alone = value(5, 3), value(5, [seeds(3, 4)[2]], x[2:3])
    assert one[2].item() == pytest.approx(alone.item(), rel=1e-5)
