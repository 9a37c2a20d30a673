"""Walks through a latent space and the search for a latent, against closed forms."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import limner as library
import toy_runs
from limner.data.grid import save_grid
from limner.edit.interpolate import has_gaussian_prior, interpolate, interpolations, linear, spherical
from limner.edit.projection import project
from limner.errors import UserError


def test_walks_start_and_end_where_they_should_and_meet_the_closed_form_between():
    g = torch.Generator().manual_seed(0)
    a, b, t = torch.randn(3, 5, 2, generator=g), torch.randn(3, 5, 2, generator=g), torch.tensor([0.0, 0.25, 1.0])
    for walk in (linear, spherical):
        path = walk(a, b, t)
        torch.testing.assert_close(path[:, 0], a)
        torch.testing.assert_close(path[:, -1], b)
    torch.testing.assert_close(linear(a, b, t)[:, 1], 0.75 * a + 0.25 * b)
    # On a circle: the point a quarter of the way along a quarter turn is at 22.5 degrees.
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    angle = math.pi / 8
    torch.testing.assert_close(spherical(x, y, t)[0, 1], torch.tensor([math.cos(angle), math.sin(angle)]))


def test_spherical_walk_keeps_the_length_of_gaussian_latents_and_the_linear_one_does_not():
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(200, 256, generator=g), torch.randn(200, 256, generator=g)
    half = torch.tensor([0.5])
    assert spherical(a, b, half).square().mean().item() == pytest.approx(1, rel=0.03)
    assert linear(a, b, half).square().mean().item() == pytest.approx(0.5, rel=0.03)


def test_spherical_walk_between_parallel_latents_is_straight():
    a = torch.ones(2, 4)
    path = spherical(a, torch.stack([3 * torch.ones(4), torch.ones(4)]), torch.tensor([0.5]))
    torch.testing.assert_close(path[:, 0], torch.stack([2 * torch.ones(4), torch.ones(4)]))


def test_a_model_that_encodes_walks_between_images_and_one_that_does_not_between_draws():
    _, test = toy_runs.digits()
    x = test.batch(range(6))["image"]
    pca = toy_runs.fitted("projector", rank=20)
    walk = interpolate(pca, images=x, steps=5)
    assert walk.images.shape == (3, 5, 1, 8, 8)
    torch.testing.assert_close(walk.images[:, 0], pca.reconstruct(x[:3]).clamp(-1, 1))
    torch.testing.assert_close(walk.images[:, -1], pca.reconstruct(x[3:]).clamp(-1, 1))
    assert walk.how == "linear walk between codes of two images"

    gaussian = toy_runs.fitted("gaussian")
    walk = interpolate(gaussian, images=x, pairs=2, steps=3, generator=4)
    z = gaussian.latents(4, generator=4)
    torch.testing.assert_close(walk.images[:, 0], gaussian.decode(z[:2]).clamp(-1, 1))
    assert walk.how == "spherical walk between two latents drawn from the prior"


def test_the_walk_can_be_chosen_and_the_ends_of_a_model_without_encoder_are_searched_for():
    x = toy_runs.digits()[1].batch(range(2))["image"]
    pca = toy_runs.fitted("projector", rank=20)
    z = pca.encode(x)
    for name, walk in (("linear", linear), ("spherical", spherical)):
        made = interpolate(pca, images=x, steps=3, walk=name)
        middle = walk(z[:1], z[1:], torch.tensor([0.5]))[:, 0]
        torch.testing.assert_close(made.images[:, 1], pca.decode(middle).clamp(-1, 1))
        assert made.how.startswith(name)
    gaussian = toy_runs.fitted("gaussian", rank=20)
    made = interpolate(gaussian, images=x, search=True, steps=2)
    # The same subspace: what is found is as near to the images as their projections on it.
    torch.testing.assert_close(made.images[0], pca.reconstruct(x).clamp(-1, 1), atol=0.1, rtol=0)
    assert made.how == "spherical walk between two latents found by latent search"
    with pytest.raises(UserError, match="two ends"):
        interpolate(pca, images=x, steps=1)


def test_interpolate_verb_between_files(limner, vae_run, tmp_path):
    test = library.open_data("digits", split="test")
    for i in range(4):
        Image.fromarray(test.images[i, ..., 0]).save(tmp_path / f"{i}.png")
    done = limner("interpolate", vae_run, "--walk", "linear", "--from", "0.png", "1.png", "--to", "2.png", "3.png",
                  "--steps", 3, "--out", "walk.png")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "linear walk between codes of two images" in done.stdout
    model = library.load(vae_run)
    x = test.batch(range(4))["image"]
    with torch.no_grad():
        expected = linear(model.encode(x[:2]), model.encode(x[2:]), torch.tensor([0.0, 0.5, 1.0]))
        save_grid(model.decode(expected.flatten(0, 1)), tmp_path / "expected.png", columns=3)
    a, b = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("walk.png", "expected.png"))
    assert abs(a - b).max() <= 3  # a file has 256 levels, the digits 17 that these are rounded to
    with pytest.raises(UserError, match="--from has 1 images and --to 0"):
        interpolations(str(vae_run), start=["0.png"])
    with pytest.raises(UserError, match=r"there is no image 'nothing\.png'"):
        interpolations(str(vae_run), start=["nothing.png"], end=["nothing.png"])


def test_gaussian_priors_are_told_from_others():
    class Uniform:
        def latents(self, n, *, generator=0):
            return (torch.rand(n, 30, generator=torch.Generator().manual_seed(0)) - 0.5) * math.sqrt(12)

    assert has_gaussian_prior(toy_runs.fitted("gaussian"))
    assert not has_gaussian_prior(Uniform())


def test_what_cannot_be_walked_is_said():
    with pytest.raises(UserError, match="no latents to walk between"):
        interpolate(toy_runs.fitted("histogram"))
    with pytest.raises(UserError, match="no prior"):
        interpolate(toy_runs.fitted("projector"))
    with pytest.raises(UserError, match="choose linear, spherical or auto"):
        interpolate(toy_runs.fitted("gaussian"), walk="zigzag")


def test_latent_search_finds_the_least_squares_latent_of_a_linear_decoder():
    model = toy_runs.fitted("gaussian", rank=8)
    x = toy_runs.digits()[1].batch(range(5))["image"]
    found = project(model, x, pull=0.0, steps=400)
    best = (x.flatten(1) - model.mean) @ torch.linalg.pinv(model.axes)
    error = (model.decode(best) - x).square().flatten(1).mean(1)
    # Compared without clipping: the least-squares image may leave [-1, 1], where `project` clips.
    torch.testing.assert_close(model.decode(found.latent), model.decode(best), atol=0.02, rtol=0)
    assert (found.error <= error + 1e-3).all()


def test_latent_search_does_not_depend_on_the_batch_and_says_when_it_is_impossible():
    model = toy_runs.fitted("gaussian", rank=8)
    x = toy_runs.digits()[1].batch(range(4))["image"]
    torch.testing.assert_close(
        project(model, x, steps=30).image[:1], project(model, x[:1], steps=30).image, atol=1e-4, rtol=0
    )
    model.decode = torch.no_grad()(model.decode)
    with pytest.raises(UserError, match="passes no gradients"):
        project(model, x, steps=2)
