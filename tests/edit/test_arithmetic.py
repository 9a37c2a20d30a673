"""Attribute vectors against closed forms, and their effect on images whose factors are known."""

import numpy as np
import pytest
import torch
from PIL import Image

import limner as library
import toy_runs
from limner.data.grid import to_uint8
from limner.data.settings import DataConfig
from limner.data.shapes import FACTORS
from limner.edit.arithmetic import arithmetic, arithmetic_of_run, attribute_vector, direction, have, nuisance
from limner.edit.examples import some
from limner.errors import UserError


@pytest.fixture(scope="module")
def shapes():
    config = DataConfig(data="shapes", size=16, count=900)
    return library.open_data(config, split="train"), library.open_data(config, split="test")


@pytest.fixture(scope="module")
def pca(shapes):
    """PCA of the shapes: a linear encoder and decoder."""
    images = shapes[0].batch(range(len(shapes[0])))["image"]
    return toy_runs.Projector(toy_runs.Config(size=16, channels=3, levels=256, rank=48)).fit(images).eval()


def corners(images):
    """Brightness of the background, which alone is in the corners: (...,) of (..., C, H, W)."""
    return images[..., [0, 0, -1, -1], [0, -1, 0, -1]].mean((-1, -2))


def test_attributes_are_found_in_classes_factors_and_captions(shapes):
    train = shapes[0]
    factors = dict(zip(FACTORS, train.extras["factors"].T, strict=True))
    assert np.array_equal(have(train, "Star"), train.labels == 3)
    assert np.array_equal(have(train, "background=white"), factors["background"] == 0)
    assert np.array_equal(have(train, "radius>0.3"), factors["radius"] > 0.3)
    assert np.array_equal(have(train, "x < 0.5"), factors["x"] < 0.5)
    assert np.array_equal(have(train, "red"), factors["colour"] == 0)  # a word of the captions
    assert np.array_equal(have(train, "white background"), factors["background"] == 0)
    bordered = train.subset(range(2))
    bordered.captions = ["a bordered field", "a Red field"]
    assert have(bordered, "red").tolist() == [False, True]  # whole words
    for what, words in (
        ("glasses", "no image of 'shapes' has it.*circle.*captions such as"),
        ("background=green", "background is one of white, grey, brown, black"),
        ("radius=0.2", "radius is a number; give a bound"),
    ):
        with pytest.raises(UserError, match=words):
            have(train, what)


def test_the_background_grows_lighter_with_the_strength_and_reaches_white_at_one(shapes, pca):
    train, test = shapes
    vector = attribute_vector(
        pca, *(train.subset(np.flatnonzero(have(train, f"background={b}"))) for b in ("white", "black"))
    )
    dark = test.subset(np.flatnonzero(have(test, "background=black")))
    strengths = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
    made = arithmetic(pca, dark, vector, strengths=strengths)
    light = corners(made.edited)  # (N, S)
    # Strength 0 is the reconstruction; the decoder is cut to [-1, 1], below which nothing is.
    torch.testing.assert_close(made.edited[:, 1], pca.reconstruct(made.original).clamp(-1, 1), atol=1e-5, rtol=0)
    assert (light[:, 2:].diff(dim=1) > 0.2).all()
    assert light[:, 1].mean() < -0.9
    assert light[:, -1].mean() > 0.85
    assert (light[:, 0] <= light[:, 1] + 1e-5).all()
    # The rest is kept: the shape's colour, told from backgrounds of any grey by its saturation, is where it was.
    for before, after in zip(made.original, made.edited[:, 3], strict=True):
        saturation = [(x.amax(0) - x.amin(0)).flatten() for x in (before, after)]
        assert torch.corrcoef(torch.stack(saturation))[0, 1] > 0.6


def test_the_mean_difference_and_the_discriminant_do_what_they_say():
    g = torch.Generator().manual_seed(0)
    plus, minus = torch.randn(500, 3, generator=g), torch.randn(400, 3, generator=g)
    plus[:, 0] += 2  # the attribute
    # A nuisance that goes along with it: large within both groups, a little larger on average with the attribute.
    plus[:, 1] = 5 * plus[:, 1] + 3
    minus[:, 1] = 5 * minus[:, 1]
    v = direction(plus, minus)
    torch.testing.assert_close(v, plus.mean(0) - minus.mean(0), atol=1e-5, rtol=0)
    assert v[1] / v[0] == pytest.approx(1.5, abs=0.4)
    w = direction(plus, minus, method="lda", shrinkage=0.0)
    assert abs(w[1] / w[0]) < 0.1  # W^-1 v = (2, 3/25, 0)
    # At strength 1 the discriminant of the one mean is that of the other.
    torch.testing.assert_close((minus.mean(0) + w) @ w, plus.mean(0) @ w, atol=1e-4, rtol=0)


def test_balancing_keeps_out_what_the_examples_have_in_common_with_the_attribute(shapes, pca):
    n = 60
    attribute, nuisance_axis = torch.eye(4)[0], torch.eye(4)[1]
    # Nine of ten with the attribute are of kind 1, one of ten without it: the mean difference is 0.8 of the kind's.
    kinds = torch.tensor([1] * (9 * n // 10) + [0] * (n // 10)), torch.tensor([0] * (9 * n // 10) + [1] * (n // 10))
    plus, minus = attribute + kinds[0][:, None] * nuisance_axis, kinds[1][:, None] * nuisance_axis
    torch.testing.assert_close(direction(plus, minus), torch.tensor([1.0, 0.8, 0, 0]))
    torch.testing.assert_close(direction(plus, minus, balance=kinds), torch.tensor([1.0, 0, 0, 0]))
    with pytest.raises(UserError, match="both with and without"):
        direction(plus, minus, balance=(kinds[0] * 0 + 7, kinds[1]))
    assert nuisance(shapes[0], "colour").tolist() == shapes[0].extras["factors"][:, 1].tolist()
    assert torch.equal(nuisance(shapes[0], "class"), torch.from_numpy(shapes[0].labels))
    with pytest.raises(UserError, match="'shapes' has class, shape, colour, background"):
        nuisance(shapes[0], "weather")


def test_models_without_an_encoder_are_refused():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(UserError, match="needs a model that encodes; this one can: sample, score"):
        attribute_vector(toy_runs.fitted("histogram"), x, x)


def test_a_run_and_the_names_of_classes(vae_run, tmp_path):
    path, how = arithmetic_of_run(
        str(vae_run), plus="7", minus="1", n=3, strengths=(-1.0, 1.0), out=str(tmp_path / "a.png")
    )
    assert how.startswith("“7” - “1”: difference of mean codes of")
    picture = np.asarray(Image.open(path).convert("L"))
    left, top, cell = 2, 26, 74  # a gap; a heading; 8 pixels, 9 times each, and a gap
    model, test = library.load(vae_run), library.open_data("digits", split="test")
    ones = some(test.subset(np.flatnonzero(test.labels == 1)), 3)
    with torch.no_grad():
        second = to_uint8(model.reconstruct(ones.batch(range(3))["image"]))[1, ..., 0]
    shown = picture[top + cell : top + cell + 72, left + cell : left + cell + 72][4::9, 4::9]
    assert abs(shown.astype(int) - second).max() <= 1

    for wrong, words in (
        ({}, "--with DIR --without DIR"),
        ({"plus": "glasses"}, "'glasses': no image of 'digits' has it; there are the classes 0, 1, 2"),
        ({"plus": "7", "minus": "7"}, "without '7'"),
        ({"plus_images": ["sevens"]}, "--with needs --without"),
        ({"plus": "7", "balance": "colour"}, "'digits' has class"),
    ):
        with pytest.raises(UserError, match=words):
            arithmetic_of_run(str(vae_run), **wrong)


def test_arithmetic_verb_by_folders(limner, vae_run, tmp_path):
    train = library.open_data("digits", split="train")
    for folder, digit in (("sevens", 7), ("ones", 1)):
        (tmp_path / folder).mkdir()
        for i in np.flatnonzero(train.labels == digit)[:20]:
            Image.fromarray(train.images[i, ..., 0]).save(tmp_path / folder / f"{i}.png")
    done = limner(
        *(
            "arithmetic",
            vae_run,
            "--with",
            "sevens",
            "--without",
            "ones",
            "--to",
            "ones",
            "--strengths",
            -1,
            0.5,
            "--method",
            "lda",
        )
    )
    assert done.returncode == 0, done.stderr
    assert "linear discriminant of the codes of 20 and 20 images" in done.stdout
    assert Image.open(vae_run / "arithmetic.png").height > 20 * 72
