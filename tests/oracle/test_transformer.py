"""The transformer against exact truths: causality by autograd, joints by enumeration, cached sampling by naive."""

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

from limner.capabilities import Predicts, Samples, Scores
from limner.errors import UserError
from limner.losses.logistic import invert_categorical
from limner.model import Clock
from limner.models.autoregressive import transformer
from limner.models.autoregressive.transformer import Config, Transformer
from limner.noise import SampleNoise

KINDS = {
    "grey": {"channels": 1},
    "colour": {"channels": 3, "classes": 3},
    "codes": {"channels": 1, "unordered": True, "classes": 2, "condition_levels": 5, "condition_size": 2},
}


def build(seed=0, scale=0.3, **config) -> Transformer:
    """A small model with weights large enough for every value to matter, in float64."""
    torch.manual_seed(seed)
    model = Transformer(Config(**{"size": 3, "levels": 4, "width": 8, "heads": 2, "layers": 2} | config))
    model = model.double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, scale)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_sees_all_that_is_before_it_and_nothing_else(kind):
    model = build(**KINDS[kind])
    embedded = []
    model.network.value.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    values = model.values(random_images(model, 4))
    logits = model.network(values, *model._given(given(model, 4).get("label"), given(model, 4).get("condition"), 4))
    weights = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
    assert logits.shape == (4, model.length, 4)
    for t in range(model.length):
        (gradient,) = torch.autograd.grad((logits[:, t] * weights).sum(), embedded[0], retain_graph=True)
        seen = set(gradient.abs().sum((0, 2)).nonzero().flatten().tolist())
        assert seen == set(range(t)), f"value {t}"


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("unordered", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
def test_joint_over_all_binary_images_sums_to_one(classes, unordered, conditioned):
    coarse = {"condition_levels": 3, "condition_size": 1} if conditioned else {}
    model = build(levels=2, size=2, classes=classes, unordered=unordered, scale=0.6, **coarse)
    joints_sum_to_one(model, apart=1e-4)


def test_colours_of_a_pixel_are_interleaved_and_their_joint_sums_to_one():
    model = build(levels=2, size=1, channels=3, scale=0.8)
    joints_sum_to_one(model, apart=0)
    wide = build(levels=8, size=2, channels=3)
    image = random_images(wide, 2)
    values = wide.values(image)
    assert values[0, 7] == round((image[0, 1, 1, 0].item() + 1) * 3.5)  # pixel 2, green
    torch.testing.assert_close(wide.image(values), image.float(), rtol=0, atol=0)


def test_samples_have_the_frequencies_of_the_joint():
    samples_have_the_frequencies_of_the_joint(build(size=2, levels=2, classes=2, scale=0.7).float())


@pytest.mark.parametrize("kind", KINDS)
def test_cached_sampling_equals_naive_sampling_in_any_batch(kind, monkeypatch):
    model = build(levels=64, size=4, **KINDS[kind]).float()
    extra = given(model, 5)
    cached = model.sample(5, generator=3, **extra)
    assert torch.equal(cached, model.sample(5, generator=3, cached=False, **extra))
    assert len(cached.unique()) > 25
    level = (cached.double() + 1) * 31.5
    assert (level - level.round()).abs().max() < 1e-5
    cool = model.sample(5, generator=3, temperature=0.5, **extra)
    assert torch.equal(cool, model.sample(5, generator=3, temperature=0.5, cached=False, **extra))
    assert not torch.equal(cool, cached)
    monkeypatch.setattr(transformer, "CACHE_BYTES", 1)  # one image at a time
    assert torch.equal(cached, model.sample(5, generator=3, **extra))


def test_completing_the_top_of_a_sample_with_its_own_noise_gives_it_back():
    completing_a_sample_with_its_own_noise_gives_it_back(build(channels=3, levels=16, size=4).float())


@pytest.mark.parametrize("kind", KINDS)
def test_what_predict_says_is_the_likelihood_and_what_sample_draws(kind):
    model = build(levels=6, **KINDS[kind]).float()
    assert isinstance(model, Predicts)
    assert isinstance(model, Scores)
    assert isinstance(model, Samples)
    extra, image = given(model, 4), random_images(model, 4).float()
    nats, _ = nats_by_predicting(model, model.values(image), **extra)
    with torch.no_grad():
        exact = model.double().log_prob(image.double(), **extra)
    torch.testing.assert_close(nats, exact, rtol=0, atol=1e-10)

    model.float()
    uniforms = SampleNoise(4, 9).uniform(model.length)
    drawn, dialogue, choice = [], model.predict(4, **extra), None
    for u in uniforms.unbind(1):
        choice = invert_categorical(dialogue.send(choice), u)
        drawn.append(choice)
    assert torch.equal(model.image(torch.stack(drawn, 1)), model.sample(4, generator=9, **extra))


def test_codes_have_no_order_and_grey_levels_have():
    # Relabelling codes together with their embeddings changes nothing where there is no order.
    image = random_images(build(), 3)
    order = torch.tensor([2, 0, 3, 1])
    for unordered in (True, False):
        model = build(unordered=unordered)
        before = model.bits_per_dim(image)
        with torch.no_grad():
            model.network.value.weight[order] = model.network.value.weight.clone()
            model.network.head.weight[order] = model.network.head.weight.clone()
            model.network.head.bias[order] = model.network.head.bias.clone()
        relabelled = model.image(order[model.values(image)]).double()
        assert torch.allclose(model.bits_per_dim(relabelled), before, atol=1e-9) == unordered


def test_training_learns_the_classes_and_the_coarser_codes():
    torch.manual_seed(0)
    model = Transformer(
        Config(size=4, levels=2, classes=2, condition_levels=2, condition_size=2, width=16, heads=2, layers=1, lr=1e-2)
    )
    assert model.inputs == ("image", "label", "condition")
    optimizer = model.optimizers()["transformer"]
    noise = torch.Generator().manual_seed(0)

    def batch(n):
        # Where the coarse code is 1 a value is bright with probability 0.9; where it is 0, 0.2 or 0.5 by the class.
        label = torch.arange(n) % 2
        condition = torch.randint(2, (n, 2, 2), generator=noise)
        fine = condition.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
        p = torch.where(fine == 1, 0.9, torch.where(label == 1, 0.5, 0.2)[:, None, None, None])
        bright = torch.rand(n, 1, 4, 4, generator=noise) < p
        entropy = -(p * p.log2() + (1 - p) * (1 - p).log2()).mean().item()
        return {"image": bright * 2.0 - 1, "label": label, "condition": condition}, entropy

    for step in range(180):
        data, _ = batch(64)
        (update,) = model.train_step(data, Clock(step, 64 * step))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    model.eval()
    data, entropy = batch(2000)
    bits = model.bits_per_dim(data.pop("image"), **data).mean().item()
    assert bits == pytest.approx(entropy, abs=0.03)
    drawn = model.sample(2000, generator=1, **data)
    fine = data["condition"].repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    bright = (drawn > 0).float()
    dark = (fine == 0) & (data["label"] == 0)[:, None, None, None]
    assert bright[fine == 1].mean().item() == pytest.approx(0.9, abs=0.05)
    assert bright[dark].mean().item() == pytest.approx(0.2, abs=0.05)


@pytest.mark.slow
def test_digits_are_modelled_far_better_than_by_a_histogram_for_each_pixel():
    torch.manual_seed(0)
    images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = images[order[360:]], images[order[:360]]
    model = Transformer(Transformer.PRESETS["8px"].config)
    optimizer = model.optimizers()["transformer"]
    steps = 500
    for step in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = model.config.lr * min(1, (step + 1) / 60) * decay
        (update,) = model.train_step({"image": train[torch.randint(len(train), (32,))]}, Clock(step, 32 * step))
        optimizer.zero_grad()
        update.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    bits = model.eval().bits_per_dim(test).mean().item()
    assert bits < 2.15  # a histogram for each pixel: 2.433


def test_what_cannot_work_is_refused_with_the_reason(monkeypatch):
    with pytest.raises(UserError, match="--heads 3"):
        Transformer(Config(width=64, heads=3))
    with pytest.raises(UserError, match="--first-stage"):
        Transformer(Config(size=128, channels=3))
    with pytest.raises(UserError, match="--condition-size"):
        Transformer(Config(condition_levels=4))
    plain, conditional = build(), build(**KINDS["codes"])
    image = torch.ones(1, 1, 3, 3)
    with pytest.raises(UserError, match="without classes"):
        plain.sample(1, label=0)
    with pytest.raises(UserError, match="not conditioned"):
        plain.sample(1, condition=torch.zeros(1, 2, 2, dtype=torch.long))
    with pytest.raises(UserError, match="with its label"):
        conditional.bits_per_dim(image)
    with pytest.raises(UserError, match="needs `condition`"):
        conditional.bits_per_dim(image, label=torch.zeros(1, dtype=torch.long))
    with pytest.raises(UserError, match="shape"):
        conditional.sample(2, label=0, condition=torch.zeros(1, 2, 2, dtype=torch.long))
    with pytest.raises(UserError, match="between 0 and 4"):
        conditional.sample(1, label=0, condition=torch.full((1, 2, 2), 5))
    with pytest.raises(UserError, match="temperature"):
        plain.sample(1, temperature=0.0)
    monkeypatch.setattr("os.sysconf", lambda name: 1000)
    with pytest.raises(UserError, match="--micro-batches"):
        next(plain.train_step({"image": torch.ones(400, 1, 3, 3)}, Clock()))
