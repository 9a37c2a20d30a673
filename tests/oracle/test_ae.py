"""The autoencoder against exact truths: the singular value decomposition bounds it, and its prior's moments are numpy's."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from limner.errors import UserError
from limner.model import Clock
from limner.models.autoencoders import ae
from limner.models.autoencoders.ae import AE, Config
from limner.nn.conv_stacks import pyramid


@pytest.fixture(scope="module")
def digits():
    """(360, 1, 8, 8) in [-1, 1]."""
    return torch.from_numpy(load_digits().images[:360]).float()[:, None] / 8 - 1


def train(model, image, steps):
    optimizer = model.optimizers()["autoencoder"]
    for step in range(steps):
        for update in model.train_step({"image": image}, Clock(step, step * len(image))):
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
    return model.eval()


def error(model, image):
    with torch.no_grad():
        return (model.reconstruct(image) - image).square().mean().item()


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_overfits_one_batch(digits, network):
    torch.manual_seed(0)
    batch = digits[:16]
    model = AE(Config(size=8, network=network, latent=16, width=16, lr=3e-3))
    before = error(model, batch)
    after = error(train(model, batch, 300), batch)
    assert before > 0.3
    assert after < 1e-3  # 39 dB; the pixels' variance is 0.56


def test_linear_autoencoder_reaches_but_never_beats_pca(digits):
    torch.manual_seed(0)
    model = AE(Config(size=8, network="mlp", hidden=(), latent=5, lr=1e-2))
    train(model, digits, 2000)
    flat = digits.flatten(1).double().numpy()
    pca = PCA(5).fit(flat)
    best = np.square(pca.inverse_transform(pca.transform(flat)) - flat).mean()
    with torch.no_grad():
        mine = (model.decoder(model.encoder(digits)) - digits).square().mean().item()
    assert best <= mine * (1 + 1e-6)
    assert mine < 1.01 * best


def test_deep_autoencoder_beats_pca_of_the_same_width(digits):
    torch.manual_seed(0)
    model = train(AE(Config(size=8, network="mlp", latent=3, lr=4e-3)), digits, 400)
    flat = digits.flatten(1).numpy()
    pca = PCA(3).fit(flat)
    assert error(model, digits) < 0.75 * np.square(pca.inverse_transform(pca.transform(flat)) - flat).mean()


def test_prior_has_the_moments_of_the_latents(digits):
    """With a frozen encoder the running moments are those of all the latents, whatever the batches."""
    torch.manual_seed(0)
    model = AE(Config(size=8, network="mlp", latent=6))
    for batch in digits.split([100, 7, 1, 152, 100]):
        next(model.train_step({"image": batch}, Clock()))
    z = model.encode(digits).detach().double().numpy()
    np.testing.assert_allclose(model.latent_mean.numpy(), z.mean(0), atol=1e-6)
    np.testing.assert_allclose(model.latent_covariance.numpy(), np.cov(z.T, ddof=0), atol=1e-6)


def test_prior_forgets_an_encoder_that_is_no_more(monkeypatch):
    monkeypatch.setattr(ae, "PRIOR_WINDOW", 1000)
    model = AE(Config(size=8, network="mlp", latent=2))
    old, new = torch.randn(3000, 2) * 5 + 100, torch.randn(20_000, 2)
    for batch in [*old.split(100), *new.split(100)]:
        model.fit_prior(batch)
    assert model.latent_mean.abs().max() < 0.2
    assert (model.latent_covariance - torch.eye(2)).abs().max() < 0.2


def test_latents_are_drawn_from_the_fitted_gaussian():
    model = AE(Config(size=8, network="mlp", latent=3))
    root = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0], [-1.0, 0.3, 0.0]])  # of rank 2
    model.latent_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    model.latent_covariance.copy_(root @ root.T)
    z = model.latents(20_000, generator=0).double().numpy()
    np.testing.assert_allclose(z.mean(0), [1, -2, 3], atol=0.06)
    np.testing.assert_allclose(np.cov(z.T), (root @ root.T).numpy(), atol=0.15)


def test_sizes_that_cannot_be_halved_are_refused_by_name():
    assert pyramid(28) == [28, 14, 7]
    assert pyramid(64) == [64, 32, 16, 8, 4]
    assert [pyramid(size)[-1] for size in (8, 16, 20, 32, 48)] == [2, 4, 5, 4, 6]
    with pytest.raises(UserError, match=r"30 x 30.*use size 28 or 32"):
        AE(Config(size=30))
    assert AE(Config(size=30, network="mlp")).reconstruct(torch.zeros(1, 1, 30, 30)).shape == (1, 1, 30, 30)
