"""PixelCNN against exact truths: causality and context by autograd, joints by enumeration, cached sampling by naive."""

import itertools
import math

import pytest
import torch
from raster import (
    completing_a_sample_with_its_own_noise_gives_it_back,
    given,
    joints_sum_to_one,
    nats_by_predicting,
    random_images,
    samples_have_the_frequencies_of_the_joint,
)
from sklearn.datasets import load_digits

from limner.capabilities import Predicts
from limner.errors import UserError
from limner.losses.logistic import discretized_logistic_mixture_log_prob, invert_categorical, levels_of, values_of
from limner.model import Clock
from limner.models.autoregressive.pixelcnn import Config, PixelCNN
from limner.noise import SampleNoise, seeds

OUTPUTS = ["categorical", "logistic_mixture"]


def build(seed=0, scale=0.4, **config) -> PixelCNN:
    """A small model with weights large enough for every pixel to matter, in float64."""
    torch.manual_seed(seed)
    values = {"size": 5, "width": 9, "head": 9, "layers": 3, "first_kernel": 5, "components": 3} | config
    model = PixelCNN(Config(**values)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, scale)
    return model


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
    joints_sum_to_one(model, apart=0.05)


@pytest.mark.parametrize("output", OUTPUTS)
def test_samples_have_the_frequencies_of_the_joint(output):
    model = build(channels=1, output=output, classes=2, levels=2, size=2)
    samples_have_the_frequencies_of_the_joint(model.float())


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
    completing_a_sample_with_its_own_noise_gives_it_back(build(channels=3, output=output, levels=16, size=6).float())


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


# ------------------------------------------------------------------------------------------------------------- codes


CODES = {"unordered": True, "embedding": 6}
COARSER = {"condition_levels": 3, "condition_size": 2}


@pytest.mark.parametrize("channels", [1, 3])
def test_every_embedded_code_sees_all_that_is_before_it_and_nothing_else(channels):
    model = build(0, 0.2, channels=channels, levels=4, width=24, head=24, size=4, **CODES, **COARSER)
    embedded = []
    model.network.embed.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    params = model.network(random_images(model, 8), None, given(model, 8)["condition"])
    order = list(itertools.product(range(4), range(4), range(channels)))
    weights = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)[:, None]
    for t, (i, j, colour) in enumerate(order):
        out = (params[:, 4 * colour : 4 * colour + 4, i, j] * weights.T).sum()
        (gradient,) = torch.autograd.grad(out, embedded[0], retain_graph=True)  # (B, H, W, C, E)
        found = {tuple(place) for place in gradient.abs().sum((0, 4)).nonzero().tolist()}
        assert found == set(order[:t]), f"row {i}, column {j}, colour {colour}"


def test_codes_have_no_order_and_grey_levels_have():
    order = torch.tensor([2, 0, 3, 1])
    for unordered in (True, False):
        model = build(levels=4, **({**CODES, "unordered": unordered}))
        image = random_images(model, 3)
        before = model.bits_per_dim(image)
        with torch.no_grad():
            if unordered:
                model.network.embed.weight[order] = model.network.embed.weight.clone()
            for values in (model.network.output.weight, model.network.output.bias):
                values[order] = values.clone()
        relabelled = values_of(order[levels_of(image, 4).long()].double(), 4)
        assert torch.allclose(model.bits_per_dim(relabelled), before, atol=1e-9) == unordered


def test_joint_given_coarser_codes_sums_to_one_and_they_change_it():
    model = build(levels=2, size=2, classes=2, condition_levels=3, condition_size=1, **CODES)
    joints_sum_to_one(model, apart=1e-3)


def test_a_coarser_code_is_heard_at_its_own_place_first():
    # Without the convolutions that look round the map, code (0, 1) of a 2x2 map is a bias of the top right quarter alone.
    model = build(levels=4, size=4, layers=1, **COARSER)
    context = model.network.context
    context.refine = torch.nn.Identity()
    condition = given(model, 1)["condition"]
    other = condition.clone()
    other[0, 0, 1] = (other[0, 0, 1] + 1) % 3
    difference = (context(condition) - context(other)).abs().sum((0, 1)) > 0
    assert difference.nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


@pytest.mark.parametrize("channels", [1, 3])
def test_cached_sampling_of_codes_equals_naive_sampling(channels):
    model = build(channels=channels, levels=64, classes=2, size=6, scale=0.3, **CODES, **COARSER).float()
    extra = given(model, 4)
    cached = model.sample(4, generator=3, **extra)
    assert torch.equal(cached, model.sample(4, generator=3, cached=False, **extra))
    assert len(cached.unique()) > 30
    one = {key: value[2:3] for key, value in extra.items()}
    assert torch.equal(model.sample(1, generator=seeds(3, 4)[2:3], **one)[0], cached[2])
    assert torch.equal(model.complete(cached, 3, generator=3, **extra), cached)


@pytest.mark.parametrize(
    ("output", "codes"), [("categorical", False), ("categorical", True), ("logistic_mixture", False)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_predict_says_is_the_likelihood(channels, output, codes):
    kind = {**CODES, **COARSER, "classes": 2} if codes else {}
    model = build(channels=channels, output=output, levels=6, size=4, scale=0.3, **kind)
    assert isinstance(model, Predicts)
    extra, image = given(model, 3), random_images(model, 3)
    values = levels_of(image, 6).long().permute(0, 2, 3, 1).flatten(1)
    nats, logits = nats_by_predicting(model, values, **extra)
    if output == "logistic_mixture":  # these are normalised already
        assert logits.logsumexp(-1).abs().max() < 1e-12
    with torch.no_grad():
        torch.testing.assert_close(nats, model.log_prob(image, **extra), rtol=0, atol=1e-10)


def test_answering_predict_with_draws_is_sampling():
    model = build(channels=3, levels=16, size=4).float()
    uniforms = SampleNoise(3, 9).uniform(4, 4, 4)[..., :3].flatten(1)
    dialogue, choice, drawn = model.predict(3), None, []
    for u in uniforms.unbind(1):
        choice = invert_categorical(dialogue.send(choice), u)
        drawn.append(choice)
    image = values_of(torch.stack(drawn, 1).view(3, 4, 4, 3).double(), 16).permute(0, 3, 1, 2).float()
    assert torch.equal(image, model.sample(3, generator=9))


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
    with pytest.raises(UserError, match="--output categorical"):
        PixelCNN(Config(unordered=True, output="logistic_mixture"))
    with pytest.raises(UserError, match="--condition-size"):
        PixelCNN(Config(condition_size=4))
    coarser = build(levels=4, **CODES, **COARSER)
    with pytest.raises(UserError, match="needs `condition`"):
        coarser.sample(2)
    with pytest.raises(UserError, match="between 0 and 2"):
        coarser.sample(1, condition=torch.full((1, 2, 2), 3))
