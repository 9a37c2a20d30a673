"""What autoregressive models must show, whichever network they have: for the oracle tests of each."""

import itertools

import pytest
import torch

from limner.losses.logistic import values_of


def random_images(model, n, seed=0):
    """(n, C, H, W) float64, of the model's grey levels."""
    c = model.config
    levels = torch.randint(c.levels, (n, *model.image_shape), generator=torch.Generator().manual_seed(seed))
    return values_of(levels.double(), c.levels)


def given(model, n, seed=0):
    """Labels and coarser codes for a model that needs them."""
    c, g = model.config, torch.Generator().manual_seed(seed)
    made = {}
    if c.classes:
        made["label"] = torch.randint(c.classes, (n,), generator=g)
    if c.condition_levels:
        shape = (n, c.condition_size, c.condition_size)
        made["condition"] = torch.randint(c.condition_levels, shape, generator=g)
    return made


def every_binary_image(channels, size):
    """(2^(C size^2), C, size, size), in the order of binary numbers."""
    values = itertools.product([-1.0, 1.0], repeat=channels * size**2)
    return torch.tensor(list(values)).reshape(-1, channels, size, size)


def joints_sum_to_one(model, apart):
    """For each label and coarser code (of a 1x1 map) the probabilities of images sum to 1, and differ from the others' by `apart`."""
    c = model.config
    images = every_binary_image(c.channels, c.size).double()
    n, joints = len(images), []
    for label, code in itertools.product(range(c.classes or 1), range(c.condition_levels or 1)):
        labels = torch.full((n,), label) if c.classes else None
        condition = torch.full((n, 1, 1), code) if c.condition_levels else None
        with torch.no_grad():
            joints.append(model.log_prob(images, label=labels, condition=condition).exp())
        assert joints[-1].sum().item() == pytest.approx(1, abs=1e-10)
    for a, b in itertools.combinations(joints, 2):
        assert (a - b).abs().sum() > apart, "the class or the coarser code does not change the distribution"


def samples_have_the_frequencies_of_the_joint(model):
    """Of a float32 model of binary 2x2 images of two classes."""
    images, n = every_binary_image(1, 2), 8000
    for label in (0, 1):
        with torch.no_grad():
            truth = model.log_prob(images, label=torch.full((16,), label)).exp()
        drawn = model.sample(n, label=label, generator=5)
        index = (drawn.flatten(1) > 0).long() @ torch.tensor([8, 4, 2, 1])
        frequencies = torch.bincount(index, minlength=16) / n
        assert 0.5 * (frequencies - truth).abs().sum() < 0.03  # expected about 0.015 for 16 equal cells


def completing_a_sample_with_its_own_noise_gives_it_back(model):
    """Whatever of it is kept; with other noise, the rest is another."""
    image = model.sample(3, generator=1)
    for rows in (0, 2, model.config.size):
        assert torch.equal(model.complete(image, rows, generator=1), image)
    other = model.complete(image, 2, generator=2)
    assert torch.equal(other[:, :, :2], image[:, :, :2])
    assert (other[:, :, 2:] != image[:, :, 2:]).float().mean() > 0.2


def nats_by_predicting(model, values, **extra):
    """(B,) log-probability of the values (B, N) int64 by the distributions that `predict` says, and these (N, B, levels)."""
    dialogue, choice, told = model.predict(len(values), **extra), None, []
    nats = torch.zeros(len(values), dtype=torch.float64)
    for value in values.unbind(1):
        logits = dialogue.send(choice)
        assert logits.dtype == torch.float64
        assert logits.shape == (len(values), model.config.levels)
        nats += logits.log_softmax(1).gather(1, value[:, None])[:, 0]
        told.append(logits)
        choice = value
    with pytest.raises(StopIteration):
        dialogue.send(choice)
    return nats, torch.stack(told)
