"""PCA against scikit-learn's, the linear autoencoder against PCA."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as Reference
from sklearn.decomposition import IncrementalPCA

from limner.data import open_data
from limner.errors import UserError
from limner.model import Clock
from limner.models.autoencoders.pca import PCA, Config, Moments, RunningSVD
from limner.training.folder import RunFolder


def digits():
    """(1797, 1, 8, 8) in [-1, 1]."""
    return torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1


def conditioned(n=600):
    """n images of 2 x 2 pixels in three channels, with the variances 9, 4, 2 and then 0.1 along random axes."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    deviations = torch.tensor([3.0, 2.0, 2**0.5, *[0.1**0.5] * 9])
    x = torch.randn(n, 12, generator=generator) * deviations @ axes.T + torch.randn(12, generator=generator)
    return x.view(n, 3, 2, 2)


def read(model, images, batch=100):
    """One pass of training over the images, by a bare loop."""
    model.train()
    for i, part in enumerate(images.split(batch)):
        assert list(model.train_step({"image": part}, Clock(i, i * batch))) == []
    model.refresh()
    return model.eval()


def test_exact_equals_scikit_learn():
    x = digits()
    model = read(PCA(Config(size=8, latent=10)), x, batch=64)
    truth = Reference(10, svd_solver="full").fit(x.flatten(1).double().numpy())
    np.testing.assert_allclose(model.mean.numpy(), truth.mean_, atol=1e-6)
    np.testing.assert_allclose(model.variances.numpy(), truth.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(model.explained.numpy(), truth.explained_variance_ratio_, rtol=1e-6)
    components = model.components.numpy()
    np.testing.assert_allclose(components.T @ components, truth.components_.T @ truth.components_, atol=1e-6)
    signs = np.sign((components * truth.components_).sum(1))  # a component's sign is a convention
    np.testing.assert_allclose(components * signs[:, None], truth.components_, atol=1e-5)
    codes = model.encode(x).numpy() * signs
    np.testing.assert_allclose(codes, truth.transform(x.flatten(1).double().numpy()), atol=1e-4)
    copy = truth.inverse_transform(truth.transform(x.flatten(1).double().numpy()))
    np.testing.assert_allclose(model.linear(model.encode(x)).flatten(1).numpy(), copy, atol=1e-5)


def test_exact_does_not_depend_on_order_or_batches():
    x = digits()[:500]
    one, other = (PCA(Config(size=8, latent=5)) for _ in range(2))
    read(one, x, batch=500)
    read(other, x[torch.randperm(500, generator=torch.Generator().manual_seed(0))], batch=37)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_second_pass_changes_no_component():
    x = digits()[:500]
    model = read(PCA(Config(size=8, latent=5)), x)
    before = model.state_dict()["components"].clone()
    torch.testing.assert_close(read(model, x).state_dict()["components"], before, rtol=0, atol=1e-5)


def test_what_is_saved_is_up_to_date():
    x = digits()[:200]
    model = read(PCA(Config(size=8, latent=5)), x)
    copy = PCA(Config(size=8, latent=5))
    copy.load_state_dict(model.state_dict())
    assert copy.components.abs().sum() > 1
    assert torch.equal(copy.reconstruct(x), model.reconstruct(x))
    further = digits()[200:400]  # and it goes on from there
    torch.testing.assert_close(read(copy, further).encode(x), read(model, further).encode(x), rtol=0, atol=0)


@pytest.mark.parametrize("spare", [1, 20])
def test_incremental_equals_scikit_learns(spare):
    x = digits()
    model = read(PCA(Config(size=8, latent=10, spare=spare, fit="incremental")), x)
    rank = 10 + spare
    truth = IncrementalPCA(rank).fit(x[:100].flatten(1).double().numpy())
    for part in x[100:].split(100):
        if len(part) >= rank:  # the reference refuses smaller batches; the last has 97
            truth.partial_fit(part.flatten(1).double().numpy())
    k = truth.components_[:10]
    np.testing.assert_allclose(model.variances.numpy(), truth.explained_variance_[:10], rtol=1e-5)
    np.testing.assert_allclose(model.components.T @ model.components, k.T @ k, atol=1e-5)
    assert float(model.total) == pytest.approx(float(x.flatten(1).var(0).sum()), rel=1e-5)


def test_incremental_with_a_few_spare_components_is_near_the_exact():
    x = digits()
    exact = read(PCA(Config(size=8, latent=10)), x)
    near = read(PCA(Config(size=8, latent=10, spare=20, fit="incremental")), x)
    errors = [float((m.linear(m.encode(x)) - x).square().mean()) for m in (exact, near)]
    assert errors[0] <= errors[1] * (1 + 1e-6)
    assert errors[1] / errors[0] == pytest.approx(1, abs=0.002)


def train_linear(x, latent, *, steps, batch, lr):
    """The linear autoencoder by its own optimizer, the rate falling to zero."""
    torch.manual_seed(0)
    model = PCA(Config(channels=x.shape[1], size=x.shape[2], latent=latent, fit="gradient", lr=lr))
    optimizer = model.optimizers()["autoencoder"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        part = x if batch is None else x[torch.randint(len(x), (batch,))]
        (update,) = model.train_step({"image": part}, Clock(step, step))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def subspace(model):
    """(D, D) orthogonal projector on what the decoder spans."""
    basis = torch.linalg.qr(model.decoder.weight.detach().double())[0]
    return basis @ basis.T


@pytest.mark.parametrize(("images", "latent", "lr"), [(conditioned(), 3, 0.02), (digits(), 4, 0.05)])
def test_trained_linear_autoencoder_projects_on_pcas_subspace(images, latent, lr):
    model = train_linear(images, latent, steps=1500, batch=None, lr=lr)
    truth = Reference(latent, svd_solver="full").fit(images.flatten(1).double().numpy())
    projector = torch.from_numpy(truth.components_.T @ truth.components_)
    assert (subspace(model) - projector).abs().max() < 1e-3
    # Not only is the span PCA's: what comes back is the orthogonal projection (Baldi & Hornik 1989, fact 4).
    x = images.flatten(1).double().numpy()
    back = model.linear(model.encode(images)).detach().flatten(1).double().numpy()
    exact = truth.inverse_transform(truth.transform(x))
    assert ((back - exact) ** 2).mean() < 1e-3 * ((exact - x) ** 2).mean()
    # The basis is another: the codes are correlated, as PCA's are not.
    codes = torch.corrcoef(model.encode(images).detach().T).fill_diagonal_(0)
    assert codes.abs().max() > 0.1


def test_samples_have_the_codes_mean_and_covariance():
    x = digits()
    for model in (
        read(PCA(Config(size=8, latent=6)), x),
        train_linear(x, 6, steps=300, batch=256, lr=0.01),
    ):
        codes = model.encode(x).detach().double()
        drawn = model.latents(20_000, generator=1).detach().double()
        scale = codes.std(0)
        torch.testing.assert_close(drawn.mean(0) / scale, codes.mean(0) / scale, rtol=0, atol=0.15)
        torch.testing.assert_close(drawn.T.cov() / scale.outer(scale), codes.T.cov() / scale.outer(scale), rtol=0, atol=0.2)  # fmt: skip


def test_moments_with_a_window_forget():
    old, new = torch.randn(5000, 3) + 5, torch.randn(5000, 3) * 2
    moments = Moments(3, window=500)
    for part in (*old.split(50), *new.split(50)):
        moments.add(part)
    assert moments.count == 500
    torch.testing.assert_close(moments.mean, torch.zeros(3).double(), rtol=0, atol=0.5)
    torch.testing.assert_close(moments.covariance, 4 * torch.eye(3).double(), rtol=0, atol=1.2)


def test_running_decomposition_of_few_vectors_is_theirs():
    x = torch.randn(5, 40, dtype=torch.float64)
    running, moments = RunningSVD(40, rank=8), Moments(40)
    for part in x.split(2):
        running.add(part)
        moments.add(part)
    a, b = running.principal(4), moments.principal(4)
    torch.testing.assert_close(a.variances, b.variances)
    torch.testing.assert_close(a.components.T @ a.components, b.components.T @ b.components)
    torch.testing.assert_close(a.total, b.total)


def test_what_cannot_be_is_refused_with_what_can():
    with pytest.raises(UserError, match=r"lower --model\.latent"):
        PCA(Config(size=2, latent=5))
    with pytest.raises(UserError, match=r"--model\.fit incremental"):
        PCA(Config(size=64, channels=3))
    assert PCA(Config(size=64, channels=3, fit="incremental")).image_shape == (3, 64, 64)


@pytest.mark.slow
def test_psnr_on_fashion_mnist_is_the_known_one():
    try:
        train, test = (open_data("fashion-mnist", split=s) for s in ("train", "test"))
    except UserError as error:
        pytest.skip(str(error))
    model = PCA(Config(size=28, latent=64))
    for i in range(0, len(train), 500):
        list(model.train_step(train.batch(range(i, min(i + 500, len(train)))), Clock()))
    x = test.batch(range(len(test)))["image"]
    for k, decibels in ((10, 16.13), (32, 18.20), (64, 19.84)):
        code = model.encode(x)
        code[:, k:] = 0  # the first k components are those of PCA with k
        error = float((model.linear(code) - x).double().square().mean())
        assert 10 * np.log10(4 / error) == pytest.approx(decibels, abs=0.006), k


@pytest.mark.slow
def test_two_processes_see_what_one_sees(tmp_path):
    command = [
        "-m",
        "limner",
        "train",
        "pca",
        "--data",
        "digits",
        "--images",
        "1440",
        "--batch",
        "96",
        "--device",
        "cpu",
    ]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command]
    for out, arguments in (("one", command), ("two", launch)):
        done = subprocess.run(
            [sys.executable, *arguments, "--out", out], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0
    one, two = (RunFolder(tmp_path / out).model().state_dict() for out in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)
