"""Traversals and variations of linear models, where a code can be read back from the picture."""

import pytest
import torch
from PIL import Image

import toy_runs
from limner.edit.vary import deviations, factors, traverse, variations, variations_of_run
from limner.errors import UserError


class Posterior(toy_runs.Projector):
    """PCA whose unit-variance codes are a posterior's means, of which two say nothing."""

    gains = torch.tensor([0.5, 1.0, 0.05, 1.0, 0.0, 0.9])

    def encode(self, image):
        return super().encode(image) * self.gains

    def posterior(self, image):
        mean = self.encode(image)
        return mean, torch.tensor([-0.1, -2.0, 0.0, -1.0, 0.0, -0.5]).expand_as(mean)


@pytest.fixture(scope="module")
def images():
    test = toy_runs.digits()[1]
    return test.batch(range(len(test)))["image"]


@pytest.fixture(scope="module")
def model():
    train, _ = toy_runs.digits()
    x = train.batch(range(len(train)))["image"]
    return Posterior(toy_runs.Config(size=8, rank=6)).fit(x).eval()


def unclipped(model, monkeypatch):
    """Pictures far from the data leave [-1, 1], where they are cut and cannot be read back: make them fainter."""
    original = toy_runs.Projector.decode
    monkeypatch.setattr(type(model), "decode", lambda self, z: 0.02 * original(self, z))
    return lambda pictures: toy_runs.Projector.encode(model, pictures / 0.02)


def test_factors_are_sorted_by_their_information_and_the_inactive_ones_left_out(model, images):
    found = factors(model, images)
    mean, log_sigma = model.posterior(images)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_sigma.exp()), torch.distributions.Normal(0.0, 1.0)
    ).mean(0)
    assert found.numbers == [1, 3, 5, 0]
    assert found.weight == pytest.approx([float(kl[k]) for k in found.numbers], rel=1e-4)
    assert (found.inactive, found.unit) == (2, "nats")
    torch.testing.assert_close(found.directions, torch.eye(6)[found.numbers])
    assert found.words[0] == f"z2   {kl[1]:.2g} nats"
    assert found.pick([4]).numbers == [3]
    with pytest.raises(UserError, match="choose from 1, 2, 4, 6"):
        found.pick([3])


def test_without_a_posterior_deviations_of_the_codes_decide(images):
    model = toy_runs.fitted("projector", rank=6)
    scale = torch.tensor([1.0, 4.0, 0.001, 2.0, 3.0, 0.5])
    encode = model.encode
    model.encode = lambda image: encode(image) * scale
    codes = model.encode(images)
    found = factors(model, images)
    assert found.numbers == [1, 4, 3, 0, 5]
    assert (found.inactive, found.unit) == (1, "deviation")
    torch.testing.assert_close(found.directions, torch.diag(codes.std(0))[found.numbers], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.centre, codes.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(deviations(model, images), codes.std(0), rtol=1e-4, atol=1e-6)


def test_a_traversal_sets_one_number_and_holds_the_others(model, images, monkeypatch):
    found = factors(model, images)
    z = model.encode(images[:3])
    read = unclipped(model, monkeypatch)
    made = traverse(model, images[:3], found, values=[-3.0, 0.0, 1.5])
    assert made.varied.shape == (3, 4, 3, 1, 8, 8)
    for f, number in enumerate(found.numbers):
        for s, value in enumerate((-3.0, 0.0, 1.5)):
            expected = z.clone()
            expected[:, number] = value
            torch.testing.assert_close(read(made.varied[:, f, s]), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(read(made.reconstruction), z, atol=1e-3, rtol=0)
    torch.testing.assert_close(made.original, images[:3])


def test_a_traversal_along_components_moves_along_them_alone(model, images, monkeypatch):
    found = factors(model, images, along="components")
    codes = model.encode(images)
    values, vectors = torch.linalg.eigh(torch.cov(codes.T))
    assert found.weight[0] == pytest.approx(float(values[-1].sqrt()), rel=1e-4)
    assert abs(float(found.directions[0] @ vectors[:, -1])) == pytest.approx(float(values[-1].sqrt()), rel=1e-3)
    read = unclipped(model, monkeypatch)
    made = traverse(model, images[:2], found.first(2), values=[2.0])
    unit = found.directions / torch.tensor(found.weight)[:, None]
    moved = (read(made.varied[:, 1, 0]) - codes.mean(0)) @ unit.T  # (2, F) along each component
    before = (codes[:2] - codes.mean(0)) @ unit.T
    torch.testing.assert_close(moved[:, 1], torch.full((2,), 2 * found.weight[1]), atol=1e-3, rtol=0)
    others = [k for k in range(len(found.numbers)) if k != 1]
    torch.testing.assert_close(moved[:, others], before[:, others], atol=1e-3, rtol=0)


def test_variations_have_the_noise_asked_for_and_do_not_depend_on_the_batch(model, images, monkeypatch):
    spread = deviations(model, images)
    z = model.encode(images[:4])
    read = unclipped(model, monkeypatch)
    made = variations(model, images[:4], spread, n=500, noise=0.3, generator=5)
    moved = read(made.varied.flatten(0, 1)).unflatten(0, (4, 500)) - z[:, None]
    torch.testing.assert_close(moved.std((0, 1)), 0.3 * spread, rtol=0.06, atol=1e-4)
    torch.testing.assert_close(moved.mean((0, 1)), torch.zeros(6), atol=0.03, rtol=0)
    again = variations(model, images[:1], spread, n=500, noise=0.3, generator=5)
    torch.testing.assert_close(again.varied[0], made.varied[0], atol=1e-5, rtol=0)


def test_codes_that_do_not_vary_and_models_without_codes_are_refused(images):
    model = toy_runs.fitted("projector", rank=2)
    model.encode = lambda image: torch.zeros(len(image), 2)
    with pytest.raises(UserError, match="nothing in this model's codes varies"):
        factors(model, images)
    with pytest.raises(UserError, match="needs a model that encodes"):
        factors(toy_runs.fitted("gaussian"), images)


def test_vary_verb_and_variations_of_a_run(limner, vae_run, tmp_path):
    done = limner("vary", vae_run, "-n", 2, "--factors", 1, "--steps", 5, "--reach", 2)
    assert done.returncode == 0, done.stderr
    assert "set to -2 ... 2 deviations of the prior N(0, 1)" in done.stdout
    assert Image.open(vae_run / "vary.png").height > 2 * 72  # two images, one factor each
    path, how = variations_of_run(str(vae_run), noise=0.3, n=1, out=str(tmp_path / "noise.png"))
    assert "plus 0.3 of the codes' standard deviation" in how
    assert Image.open(path).width > 10 * 72
    with pytest.raises(UserError, match="--only 9"):
        variations_of_run(str(vae_run), only=(9,))
    with pytest.raises(UserError, match="there is no image 'nowhere'"):
        variations_of_run(str(vae_run), images=("nowhere",))
