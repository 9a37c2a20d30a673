"""The VAE against exact truths: closed forms, finite differences, enumeration, and a linear model whose likelihood is known."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from limner.errors import UserError
from limner.losses.logistic import discretized_logistic_mixture_log_prob, mixture_channels, values_of
from limner.model import Clock
from limner.models.autoencoders.vae import (
    VAE,
    Config,
    discretized_gaussian_log_prob,
    kl_to_standard_normal,
    mixture_mean,
)

LIKELIHOODS = ["discretized_logistic", "gaussian", "bernoulli"]


def digits(n):
    """(n, 1, 8, 8) in [-1, 1], 17 levels."""
    return torch.from_numpy(load_digits().images[:n]).float()[:, None] / 8 - 1


@pytest.fixture(scope="module")
def trained():
    """A small VAE, trained for about two seconds."""
    torch.manual_seed(0)
    x = digits(1200)
    model = VAE(Config(size=8, levels=17, network="mlp", latent=8, hidden=(128,), mixtures=2, lr=2e-3))
    optimizer = model.optimizers()["vae"]
    for step in range(600):
        (update,) = model.train_step({"image": x[torch.randint(len(x), (64,))]}, Clock(step, step * 64))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    return model.eval()


def test_kl_equals_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    log_sigma = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    truth = kl_divergence(Normal(mu, log_sigma.exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mu, log_sigma), truth, rtol=0, atol=1e-9)
    one = kl_to_standard_normal(torch.tensor([[1.0]]), torch.tensor([[math.log(2.0)]]))
    assert one.item() == pytest.approx(1.3068528194, abs=1e-6)  # KL(N(1, 2^2) || N(0, 1))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_gradient_through_the_sample_equals_finite_differences(likelihood, network):
    torch.manual_seed(0)
    config = Config(
        size=8, levels=17, latent=3, likelihood=likelihood, network=network, hidden=(8,), width=4, mixtures=2
    )
    model = VAE(config).double()
    x = digits(5).double()

    def loss():
        torch.manual_seed(1)  # the same epsilon
        (update,) = model.train_step({"image": x}, Clock())
        return update.loss

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            h, values = 1e-5, []
            for sign in (1, -1):
                parameter.add_(sign * h * direction)
                values.append(loss().item())
                parameter.sub_(sign * h * direction)
        numeric = (values[0] - values[1]) / (2 * h)
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_iwae_is_tighter_than_the_elbo_and_rises_with_k(trained):
    x = digits(1500)[1200:]
    elbo = trained.elbo(x, samples=20).mean().item()
    bounds = [trained.iwae(x, samples=k).mean().item() for k in (2, 10, 50, 250)]
    assert elbo + 0.1 < bounds[0]
    assert all(low + 0.05 < high for low, high in itertools.pairwise(bounds))
    bits = trained.bits_per_dim(x, samples=250).mean().item()
    assert bits == pytest.approx(-bounds[-1] / (64 * math.log(2)), rel=1e-6)
    assert bits < 2.6  # the per-pixel histogram gives 2.43 after its own training, uniform pixels log2(17) = 4.09


def test_iwae_with_one_sample_is_the_elbo_in_expectation(trained):
    x = digits(1)
    seeds = list(range(4000))
    many = x.expand(len(seeds), -1, -1, -1)
    one = trained.iwae(many, generator=seeds, samples=1)
    standard_error = one.std().item() / math.sqrt(len(seeds))
    assert one.mean().item() == pytest.approx(trained.elbo(x, samples=4000).item(), abs=5 * standard_error)


def linear_gaussian(posterior_scale):
    """A VAE with x = W z + b + sigma e, W's columns orthogonal, whose encoder gives the exact posterior, its standard
    deviation multiplied by `posterior_scale`; images on a grid of its grey levels; and their exact log-mass."""
    torch.manual_seed(0)
    sigma, levels, latent, size = 0.1, 2**17 + 1, 2, 2
    model = VAE(
        Config(size=size, levels=levels, network="mlp", hidden=(), latent=latent, likelihood="gaussian", sigma=sigma)
    ).double()
    w = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0][:, :latent] * torch.tensor([0.2, 0.3])
    b = torch.tensor([0.1, -0.2, 0.3, 0.0]).double()
    precision = (w.T @ w).diagonal() / sigma**2 + 1  # of p(z|x), diagonal
    encode = (w / sigma**2 / precision).T  # z = encode @ (x - b)
    encoder, decoder = model.encoder[1][0], model.decoder[0][0]
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(b)
        encoder.weight.copy_(torch.cat([encode, torch.zeros_like(encode)]))
        encoder.bias.copy_(torch.cat([-encode @ b, -0.5 * precision.log() + math.log(posterior_scale)]))
    marginal = MultivariateNormal(b, w @ w.T + sigma**2 * torch.eye(4).double())
    x = values_of(((marginal.sample((6,)) + 1) / 2 * (levels - 1)).round(), levels)
    assert x.abs().max() < 1
    log_p = marginal.log_prob(x) + 4 * math.log(2 / (levels - 1))  # density times the volume of a bin
    return model, x.view(-1, 1, size, size), log_p


def test_elbo_with_the_exact_posterior_is_the_likelihood():
    model, x, log_p = linear_gaussian(posterior_scale=1.0)
    # log p(x|z) p(z) / q(z|x) = log p(x) for every z, so one draw is exact.
    torch.testing.assert_close(model.iwae(x, samples=1), log_p, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.elbo(x, samples=40_000), log_p, rtol=0, atol=0.03)


def test_elbo_falls_short_by_the_kl_to_the_posterior_and_iwae_closes_the_gap():
    scale = 1.6
    model, x, log_p = linear_gaussian(posterior_scale=scale)
    gap = 2 * 0.5 * (scale**2 - 1 - math.log(scale**2))  # KL(q || p(z|x)) over two dimensions
    torch.testing.assert_close(model.elbo(x, samples=40_000), log_p - gap, rtol=0, atol=0.06)
    torch.testing.assert_close(model.iwae(x, samples=20_000), log_p, rtol=0, atol=0.05)


@pytest.mark.parametrize(("likelihood", "levels"), [("discretized_logistic", 3), ("gaussian", 3), ("bernoulli", 2)])
def test_probabilities_of_all_images_sum_to_one(likelihood, levels):
    """exp(IWAE_k) is an unbiased estimate of p(x): over all images of 2 x 2 pixels the estimates sum to about 1."""
    torch.manual_seed(0)
    model = VAE(Config(size=2, levels=levels, network="mlp", latent=2, hidden=(8,), likelihood=likelihood)).eval()
    torch.nn.init.normal_(model.decoder[0][-1].weight)  # pixels that depend on z
    images = torch.tensor(list(itertools.product(range(levels), repeat=4))).float().view(-1, 1, 2, 2)
    log_p = model.iwae(values_of(images, levels), samples=4000)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=0.02)
    assert log_p.max() - log_p.min() > 0.5


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 3.0])
def test_discretised_gaussian_sums_to_one_and_equals_scipy(sigma):
    levels = 17
    x = values_of(torch.arange(levels).double(), levels)[:, None]
    mean = torch.tensor([-1.5, -1.0, -0.3, 0.0, 0.77, 2.0]).double()[None]
    log_mass = discretized_gaussian_log_prob(x, mean, torch.tensor(sigma, dtype=torch.float64).log(), levels)
    torch.testing.assert_close(log_mass.exp().sum(0), torch.ones(6).double(), rtol=0, atol=1e-12)
    edges = np.concatenate([[-np.inf], np.arange(-1, 1, 2 / 16) + 1 / 16, [np.inf]])[:, None]
    truth = np.diff(scipy.stats.norm.cdf(edges, mean.numpy(), sigma), axis=0)
    np.testing.assert_allclose(log_mass.exp().numpy(), truth, atol=1e-12)
    assert torch.isfinite(log_mass).all()  # no underflow far in the tails


def test_mean_image_is_the_mean_of_the_distribution():
    generator = torch.Generator().manual_seed(0)
    params = 2 * torch.randn(30, mixture_channels(1, 3), 1, 1, generator=generator, dtype=torch.float64)
    x = values_of(torch.arange(256).double(), 256)
    mass = torch.stack(
        [discretized_logistic_mixture_log_prob(v.expand(30, 1, 1, 1), params).flatten() for v in x], dim=1
    ).exp()
    torch.testing.assert_close(mixture_mean(params, 1, 256).flatten(), mass @ x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_drawn_pixels_average_to_the_mean_image(likelihood):
    torch.manual_seed(0)
    model = VAE(
        Config(size=2, channels=3, network="mlp", latent=2, hidden=(8,), likelihood=likelihood, sigma=0.1)
    ).eval()
    model.decoder[0][0].weight.data.zero_()  # p(x|z) the same for all z
    drawn, mean = model.sample(20_000, pixels=True), model.sample(1)[0]
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.05)
    assert drawn.std(0).min() > 0.05
    if likelihood == "bernoulli":
        assert set(drawn.unique().tolist()) == {-1.0, 1.0}


def test_scores_do_not_depend_on_the_batch(trained):
    x, seeds = digits(9), list(range(40, 49))
    for samples in (1, 7):
        together = trained.bits_per_dim(x, generator=seeds, samples=samples)
        apart = [
            trained.bits_per_dim(x[i : i + 2], generator=seeds[i : i + 2], samples=samples) for i in range(0, 9, 2)
        ]
        torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-5)
        assert not torch.allclose(together, trained.bits_per_dim(x, generator=1, samples=samples), atol=1e-5)


def test_many_samples_are_decoded_in_parts_without_a_trace(trained, monkeypatch):
    whole = trained.iwae(digits(3), samples=10)
    monkeypatch.setattr("limner.models.autoencoders.vae.DECODED_AT_ONCE", 4)
    torch.testing.assert_close(trained.iwae(digits(3), samples=10), whole, rtol=0, atol=1e-4)


def test_bernoulli_refuses_to_score_grey_images():
    model = VAE(Config(size=8, network="mlp", latent=2, likelihood="bernoulli"))
    with pytest.raises(UserError, match="levels 2"):
        model.bits_per_dim(torch.zeros(1, 1, 8, 8))
