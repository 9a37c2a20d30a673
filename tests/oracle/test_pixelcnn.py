"""PixelCNN against exact truths: causality and context by autograd, joints by enumeration, cached sampling by naive."""

import itertools
import math

import pytest
import torch
from sklearn.datasets import load_digits

from limner.errors import UserError
from limner.losses.logistic import discretized_logistic_mixture_log_prob, levels_of, values_of
from limner.model import Clock
from limner.models.autoregressive.pixelcnn import Config, PixelCNN

OUTPUTS = ["categorical", "logistic_mixture"]


def build(seed=0, scale=0.4, **config) -> PixelCNN:
    """A small model with weights large enough for every pixel to matter, in float64."""
    torch.manual_seed(seed)
    values = {"size": 5, "width": 9, "head": 9, "layers": 3, "first_kernel": 5, "components": 3} | config
    model = PixelCNN(Config(**values)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, scale)
    return model


def random_images(model, n, seed=0):
    c = model.config
    levels = torch.randint(c.levels, (n, *model.image_shape), generator=torch.Generator().manual_seed(seed))
    return values_of(levels.double(), c.levels)


def seen(model, i, j, outputs) -> set[tuple[int, int, int]]:
    """The (row, column, colour) on which some of the outputs of pixel (i, j) depend, by autograd."""
    image = random_images(model, 8).requires_grad_()  # several, lest a rectifier be off in all
    params = model.network(image)[:, outputs, i, j]
    weights = torch.linspace(0.5, 1.5, params.shape[1], dtype=params.dtype)
    (gradient,) = torch.autograd.grad((params * weights).sum(), image)
    return {(y, x, c) for c, y, x in gradient.abs().sum(0).nonzero().tolist()}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_and_channel_sees_all_that_is_before_it_and_nothing_else(channels, output):
    model = build(channels=channels, output=output, levels=4, width=24, head=24)  # enough that no group is off
    order = list(itertools.product(range(5), range(5), range(channels)))
    for i, j, colour in order:
        if output == "categorical":
            found = seen(model, i, j, slice(4 * colour, 4 * colour + 4))
            before = set(order[: order.index((i, j, colour))])
        else:  # one distribution for all colours of a pixel, which couples them itself
            found = seen(model, i, j, slice(None))
            before = set(order[: order.index((i, j, 0))])
        assert found == before, f"row {i}, column {j}, colour {colour}: {found ^ before}"


def test_has_no_blind_spot():
    # One stack masked in the plane, 7x7 A and seven 3x3 B, sees 192 pixels from here; the whole causal context is 220.
    model = build(size=28, first_kernel=7, kernel=3, layers=7, width=12, head=12, levels=2)
    found = seen(model, 20, 14, slice(None))
    above = set(itertools.product(range(10, 20), range(4, 25), [0]))
    left = {(20, x, 0) for x in range(4, 14)}
    assert found == above | left
    assert len(found) == 220


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_joint_over_all_binary_images_sums_to_one(channels, output, classes):
    model = build(channels=channels, output=output, classes=classes, levels=2, size=2)
    images = (
        torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4 * channels))).reshape(-1, channels, 2, 2).double()
    )
    joints = []
    for label in range(classes) if classes else [None]:
        labels = None if label is None else torch.full((len(images),), label)
        with torch.no_grad():
            joints.append(model.log_prob(images, label=labels).exp())
        assert joints[-1].sum().item() == pytest.approx(1, abs=1e-10)
    for a, b in itertools.combinations(joints, 2):
        assert (a - b).abs().sum() > 0.05, "the class does not change the distribution"


@pytest.mark.parametrize("output", OUTPUTS)
def test_samples_have_the_frequencies_of_the_joint(output):
    model = build(channels=1, output=output, classes=2, levels=2, size=2).float()
    images = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).reshape(-1, 1, 2, 2)
    n = 8000
    for label in (0, 1):
        with torch.no_grad():
            truth = model.log_prob(images, label=torch.full((16,), label)).exp()
        drawn = model.sample(n, label=label, generator=5)
        index = (drawn.flatten(1) > 0).long() @ torch.tensor([8, 4, 2, 1])
        frequencies = torch.bincount(index, minlength=16) / n
        assert 0.5 * (frequencies - truth).abs().sum() < 0.03  # expected about 0.015 for 16 equal cells


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_bits_per_dim_is_the_chain_rule_written_out(channels, output):
    model = build(channels=channels, output=output, levels=6, size=4)
    image, junk = random_images(model, 2, seed=1), random_images(model, 2, seed=2)
    nats = torch.zeros(2, dtype=torch.float64)
    for i, j in itertools.product(range(4), range(4)):
        prefix = junk.clone()
        prefix[:, :, :i], prefix[:, :, i, :j] = image[:, :, :i], image[:, :, i, :j]
        with torch.no_grad():
            if output == "logistic_mixture":
                params = model.network(prefix)[:, :, i, j]
                nats += discretized_logistic_mixture_log_prob(image[:, :, i, j], params, 6)
                continue
            for colour in range(channels):
                prefix[:, :colour, i, j] = image[:, :colour, i, j]
                logits = model.network(prefix)[:, 6 * colour : 6 * colour + 6, i, j]
                level = levels_of(image[:, colour, i, j], 6).long()
                nats += torch.log(torch.softmax(logits, 1)[range(2), level])
    truth = -nats / (16 * channels * math.log(2))
    torch.testing.assert_close(model.bits_per_dim(image), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_cached_sampling_equals_naive_sampling(channels, output, classes):
    model = build(channels=channels, output=output, classes=classes, levels=256, size=7, scale=0.3).float()
    label = torch.tensor([0, 2, 1, 1]) if classes else None
    cached = model.sample(4, label=label, generator=3)
    naive = model.sample(4, label=label, generator=3, cached=False)
    assert torch.equal(cached, naive)
    assert len(cached.unique()) > 40  # and they are no constant
    level = (cached + 1) * 127.5
    assert (level - level.round()).abs().max() < 1e-4
    cool = model.sample(4, label=label, generator=3, temperature=0.5)
    assert torch.equal(cool, model.sample(4, label=label, generator=3, temperature=0.5, cached=False))
    assert not torch.equal(cool, cached)


@pytest.mark.parametrize("output", OUTPUTS)
def test_completing_the_top_of_a_sample_with_its_own_noise_gives_it_back(output):
    model = build(channels=3, output=output, levels=16, size=6).float()
    image = model.sample(3, generator=1)
    for rows in (0, 2, 6):
        assert torch.equal(model.complete(image, rows, generator=1), image)
    other = model.complete(image, 2, generator=2)
    assert torch.equal(other[:, :, :2], image[:, :, :2])
    assert (other[:, :, 2:] != image[:, :, 2:]).float().mean() > 0.2


def test_training_learns_the_classes():
    torch.manual_seed(0)
    model = PixelCNN(Config(size=4, levels=2, classes=2, width=8, layers=1, first_kernel=3, head=8, lr=1e-2))
    optimizer = model.optimizers()["pixelcnn"]
    noise = torch.Generator().manual_seed(0)
    for step in range(150):
        label = torch.arange(32) % 2
        bright = torch.rand(32, 1, 4, 4, generator=noise) < torch.where(label == 1, 0.9, 0.2)[:, None, None, None]
        (update,) = model.train_step({"image": bright * 2.0 - 1, "label": label}, Clock(step, 32 * step))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    model.eval()
    assert model.inputs == ("image", "label")
    shares = [(model.sample(300, label=c, generator=7) > 0).float().mean().item() for c in (0, 1)]
    assert shares == pytest.approx([0.2, 0.9], abs=0.05)
    mixed = (model.sample(400, generator=7) > 0).float().mean().item()  # no label: a class for each image
    assert mixed == pytest.approx(0.55, abs=0.06)
    # The entropy of independent pixels of this brightness is what an exact model reaches.
    image = (torch.rand(500, 1, 4, 4, generator=noise) < 0.9) * 2.0 - 1
    bits = model.bits_per_dim(image, label=torch.ones(500, dtype=torch.long)).mean().item()
    assert bits == pytest.approx(-0.9 * math.log2(0.9) - 0.1 * math.log2(0.1), abs=0.05)


@pytest.mark.slow
def test_digits_are_modelled_far_better_than_by_a_histogram_for_each_pixel():
    torch.manual_seed(0)
    images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = images[order[360:]], images[order[:360]]
    preset = PixelCNN.PRESETS["8px"]
    model = PixelCNN(preset.config)
    optimizer = model.optimizers()["pixelcnn"]
    steps = 300
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = model.config.lr * min(1, (step + 1) / 60) * decay
        batch = {"image": train[torch.randint(len(train), (32,))]}
        (update,) = model.train_step(batch, Clock(step, 32 * step))
        optimizer.zero_grad()
        update.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    bits = model.eval().bits_per_dim(test).mean().item()
    assert bits < 2.05  # a histogram for each pixel: 2.433


def test_what_cannot_work_is_refused_with_the_reason():
    with pytest.raises(UserError, match="--kernel 4"):
        PixelCNN(Config(kernel=4))
    with pytest.raises(UserError, match="--first-kernel 1"):
        PixelCNN(Config(first_kernel=1))
    with pytest.raises(UserError, match="--levels"):
        PixelCNN(Config(levels=1))
    with pytest.raises(UserError, match="--width"):
        PixelCNN(Config(channels=3, width=2))
    plain, conditional = build(levels=2), build(levels=2, classes=3)
    with pytest.raises(UserError, match="without classes"):
        plain.sample(1, label=0)
    with pytest.raises(UserError, match="between 0 and 2"):
        conditional.sample(2, label=3)
    with pytest.raises(UserError, match="with its label"):
        conditional.bits_per_dim(torch.ones(1, 1, 5, 5))
    with pytest.raises(UserError, match="temperature"):
        plain.sample(1, temperature=0.0)
