"""What a model says it can do, it does: shapes, ranges, seeds that do not depend on the batch."""

import pytest
import torch

from contract.conftest import can, images_of, trainer
from limner import capabilities


@pytest.fixture
def model(name):
    t = trainer(name, batch=16)
    for _ in range(3):
        t.step()
    with t.sampling() as model, torch.no_grad():
        yield model


@pytest.fixture
def images(name):
    return images_of(name, 6)


def test_can_do_something(model):
    assert {"sample", "reconstruct", "score", "translate"} & set(capabilities.of(model))
    assert capabilities.of(model) == capabilities.of(type(model)), (
        "a capability that only instances have is not in the catalogue"
    )


def test_sample_of_a_seed_is_the_same_in_any_batch(model):
    if not can(model, "sample"):
        pytest.skip("does not sample")
    seeds = list(range(100, 164))
    together = model.sample(64, generator=seeds)
    assert together.shape == (64, *model.image_shape)
    assert together.dtype == torch.float32
    assert together.abs().max() <= 1 + 1e-5
    for i in (0, 17, 63):
        assert torch.allclose(model.sample(1, generator=[seeds[i]])[0], together[i], atol=1e-4), i
    assert (together[0] - together[1]).abs().max() > 1e-3, "two seeds give one image"


def test_an_integer_seed_stands_for_a_list_of_seeds(model):
    from limner.noise import seeds

    if not can(model, "sample"):
        pytest.skip("does not sample")
    assert torch.allclose(model.sample(3, generator=9), model.sample(3, generator=seeds(9, 3)), atol=1e-6)
    assert not torch.allclose(model.sample(3, generator=9), model.sample(3, generator=10), atol=1e-3)


def test_scores_are_finite_and_do_not_depend_on_the_batch(model, images):
    if not can(model, "score"):
        pytest.skip("does not score")
    assert model.likelihood in ("exact", "bound")
    bits = model.bits_per_dim(images, generator=list(range(6)))
    assert bits.shape == (6,)
    assert torch.isfinite(bits).all()
    assert (bits > 0).all()
    one = model.bits_per_dim(images[3:4], generator=[3])
    assert torch.allclose(one[0], bits[3], rtol=1e-4, atol=1e-4)


def test_encodes_decodes_and_reconstructs(model, images):
    if can(model, "encode"):
        latent = model.encode(images)
        assert len(latent) == 6
        assert torch.allclose(model.encode(images[2:3])[0], latent[2], atol=1e-4)
        assert model.decode(latent).shape == images.shape
    if can(model, "decode"):
        drawn = model.latents(5, generator=1)
        assert len(drawn) == 5
        assert torch.equal(drawn, model.latents(5, generator=1))
        assert model.decode(drawn).shape == (5, *model.image_shape)
    if can(model, "reconstruct"):
        copy = model.reconstruct(images)
        assert copy.shape == images.shape
        assert copy.abs().max() <= 1 + 1e-4
    if can(model, "denoise"):
        clean = model.denoise(images, torch.full((6,), 0.5))
        assert clean.shape == images.shape


def test_restores_translates_and_tokenizes(model, images):
    if can(model, "restore"):
        assert model.restore(images).shape == images.shape
        assert model.restore(images).abs().max() <= 1 + 1e-4
    if can(model, "translate"):
        for target in ("A", "B"):
            painted = model.translate(images, target=target)
            assert painted.shape == images.shape
            assert torch.allclose(model.translate(images[1:2], target=target)[0], painted[1], atol=1e-4)
    if can(model, "tokenize"):
        codes = model.tokenize(images)
        assert len(codes) == len(model.codebooks) == len(model.code_shapes)
        for part, size, shape in zip(codes, model.codebooks, model.code_shapes, strict=True):
            assert part.dtype == torch.int64
            assert part.shape == (6, *shape)
            assert 0 <= int(part.min()) <= int(part.max()) < size
        assert torch.allclose(model.detokenize(codes), model.reconstruct(images), atol=1e-5)


def test_predicts_what_it_samples_from(model):
    """The dialogue's distributions are the likelihood's: their log-probabilities add up to log p of what was sent."""
    if not can(model, "predict"):
        pytest.skip("gives no distributions")
    levels, shape = model.config.levels, model.image_shape
    torch.manual_seed(0)
    order = [(i, j, c) for i in range(shape[1]) for j in range(shape[2]) for c in range(shape[0])]
    chosen = torch.randint(0, levels, (2, len(order)))
    dialogue = model.predict(2)
    logits = next(dialogue)
    total = torch.zeros(2, dtype=torch.float64)
    for step in range(len(order)):
        assert logits.shape == (2, levels)
        assert logits.dtype == torch.float64
        total += torch.log_softmax(logits, 1).gather(1, chosen[:, step, None])[:, 0].cpu()
        try:
            logits = dialogue.send(chosen[:, step])
        except StopIteration:
            assert step == len(order) - 1
    image = torch.empty(2, *shape)
    for step, (i, j, c) in enumerate(order):
        image[:, c, i, j] = 2 * chosen[:, step] / (levels - 1) - 1
    assert torch.allclose(model.log_prob(image).double().cpu(), total, rtol=1e-4)
