"""The CVAE against exact truths: an affine map for each label, enumeration of all images, and a classifier of digits."""

import itertools
import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from limner.errors import UserError
from limner.losses.logistic import values_of
from limner.model import Clock
from limner.models.autoencoders.cvae import CVAE, Config, ForLabel
from limner.noise import SampleNoise

TRAIN = 1400


def digits(part):
    """Images (n, 1, 8, 8) in [-1, 1] of 17 levels, and labels."""
    data = load_digits()
    return torch.from_numpy(data.images[part]).float()[:, None] / 8 - 1, torch.from_numpy(data.target[part]).long()


@pytest.fixture(scope="module")
def trained():
    """A small CVAE, trained for about four seconds."""
    torch.manual_seed(0)
    x, y = digits(slice(0, TRAIN))
    model = CVAE(Config(size=8, levels=17, network="mlp", latent=6, hidden=(128,), likelihood="gaussian", lr=2e-3))
    optimizer, steps = model.optimizers()["vae"], 2000
    for step in range(steps):
        rows = torch.randint(len(x), (64,))
        (update,) = model.train_step({"image": x[rows], "label": y[rows]}, Clock(step, step * 64))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
    return model.eval()


@pytest.fixture(scope="module")
def classifier():
    x, y = digits(slice(0, TRAIN))
    return LogisticRegression(C=0.1, max_iter=2000).fit(x.flatten(1).numpy(), y.numpy())


def test_the_decoder_begins_with_an_affine_map_for_each_label():
    """So z = m_y + L_y u, and with it a learned Gaussian prior p(z|y), is among what it can do."""
    torch.manual_seed(0)
    first = nn.Linear(3 * 5, 7).double()
    matrix, bias = first.weight.view(7, 3, 5)[..., :4], first.weight.view(7, 3, 5)[..., 4]
    z, label = torch.randn(6, 4).double(), torch.tensor([0, 2, 1, 2, 0, 1])
    y = F.one_hot(label, 3).double()
    truth = torch.stack([matrix[:, k] @ v + bias[:, k] + first.bias for v, k in zip(z, label, strict=True)])
    torch.testing.assert_close(first(ForLabel(4, 3)(torch.cat([z, y], 1))), truth)


def test_probabilities_of_all_images_sum_to_one_with_and_without_labels():
    torch.manual_seed(0)
    model = CVAE(
        Config(size=2, levels=2, network="mlp", latent=2, hidden=(8,), likelihood="bernoulli", classes=3)
    ).eval()
    for p in model.decoder.parameters():
        torch.nn.init.normal_(p)  # pixels that depend on z and y
    images = values_of(torch.tensor(list(itertools.product(range(2), repeat=4))).float(), 2).view(-1, 1, 2, 2)
    each = [-model.bits_per_dim(images, label=y, samples=4000) * 4 * math.log(2) for y in model.every_label(images)]
    for nats in each:
        assert nats.exp().sum().item() == pytest.approx(1, abs=0.03)
    assert (each[0] - each[1]).abs().max() > 0.3
    alone = -model.bits_per_dim(images, samples=4000) * 4 * math.log(2)
    torch.testing.assert_close(alone.exp(), torch.stack(each).exp().mean(0), rtol=1e-4, atol=1e-6)


def test_samples_are_of_the_class_asked_for(trained, classifier):
    asked = torch.arange(500) % 10
    found = torch.from_numpy(classifier.predict(trained.sample(500, label=asked).flatten(1).numpy()))
    assert (found == asked).double().mean() > 0.9
    free = classifier.predict(trained.sample(300).flatten(1).numpy())
    assert set(free) == set(range(10))


def test_a_seed_has_one_style_for_all_labels(trained):
    seeds = list(range(20))
    a, b = (trained.prior(SampleNoise(20, seeds), y) for y in (3, 5))
    assert torch.equal(a[:, :6], b[:, :6])
    assert a[:, 6:].argmax(1).eq(3).all()
    assert b[:, 6:].argmax(1).eq(5).all()
    assert torch.equal(trained.latents(20, generator=seeds)[:, :6], a[:, :6])


def test_held_out_digits_get_their_labels(trained):
    x, y = digits(slice(TRAIN, None))
    assert (trained.classify(x) == y).double().mean() > 0.9
    given, guessed = trained.bits_per_dim(x, label=y), trained.bits_per_dim(x)
    # p(x) = sum_y p(y) p(x|y): at most log2 10 bits dearer than with the label told.
    assert (guessed - given).max().item() < math.log2(10) / 64 + 1e-4
    wrong = trained.bits_per_dim(x, label=(y + 1) % 10)
    assert wrong.mean() > given.mean() + 0.05


@torch.no_grad()
def test_a_digit_given_another_label_becomes_that_digit(trained, classifier):
    x, y = digits(slice(TRAIN, None))
    code = trained.encode(x, label=y)
    assert torch.equal(code[:, 6:].argmax(1), y)
    copy = classifier.predict(trained.decode(code).flatten(1).numpy())
    assert (copy == y.numpy()).mean() > 0.9
    other = (y + 3) % 10
    code[:, 6:] = F.one_hot(other, 10)
    assert (classifier.predict(trained.decode(code).flatten(1).numpy()) == other.numpy()).mean() > 0.8


def test_what_it_refuses(trained):
    x, _ = digits(slice(0, 2))
    for label in (10, -1, torch.tensor([0, 10])):
        with pytest.raises(UserError, match="between 0 and 9"):
            trained.sample(2, label=label)
    with pytest.raises(UserError, match="label"):
        trained.elbo(x)
    with pytest.raises(ValueError, match="classes"):
        Config(classes=0)
