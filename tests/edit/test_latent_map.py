"""Latent maps against closed forms, for linear models whose codes and images are known."""

import numpy as np
import pytest
import torch
from PIL import Image

import toy_runs
from limner.edit.latent_map import colours, draw, latent_map, maps_of_runs, principal_axes
from limner.errors import UserError


class Whitened(toy_runs.Projector):
    """PCA whose codes have unit variance, and that says so: a prior N(0, I)."""

    latents = toy_runs.Gaussian.latents


class Conditional(toy_runs.Projector):
    """A code of two inferred numbers and a one-hot class, which moves the image's mean."""

    def posterior(self, image, *, label):
        mean = super().encode(image)
        return mean, torch.zeros_like(mean)

    def encode(self, image, *, label):
        return torch.cat([self.posterior(image, label=label)[0], torch.nn.functional.one_hot(label, 10).float()], dim=1)

    def decode(self, latent):
        return super().decode(latent[:, :2]) + (latent[:, 2:].argmax(1) / 100)[:, None, None, None]


def fitted(cls, rank):
    train, _ = toy_runs.digits()
    return (
        cls(toy_runs.Config(size=8, rank=rank, classes=10 if cls is Conditional else 0))
        .fit(train.batch(range(len(train)))["image"])
        .eval()
    )


def test_two_numbers_are_drawn_as_they_are_and_each_cell_is_decoded_from_its_place():
    model, test = fitted(toy_runs.Projector, 2), toy_runs.digits()[1]
    x = test.batch(range(len(test)))["image"]
    m = latent_map(model, test, side=5)
    torch.testing.assert_close(m.points, model.encode(x))
    assert m.labels.tolist() == test.labels.tolist()
    across, up = m.ticks
    torch.testing.assert_close(m.decoded[1, 3], model.decode(torch.stack([across[3], up[1]])[None])[0].clamp(-1, 1))
    # A square, equally spaced, with 98 % of the codes between its sides in the direction that is wider.
    torch.testing.assert_close(across[-1] - across[0], up[-1] - up[0])
    torch.testing.assert_close(across.diff(), across.diff()[:1].expand(4))
    inside = (
        ((m.points >= torch.stack([across[0], up[0]])) & (m.points <= torch.stack([across[-1], up[-1]])))
        .float()
        .mean(0)
    )
    assert 0.975 < inside.min() < 0.99
    assert sum(m.shares) == pytest.approx(1)

    m = latent_map(model, test, side=4, range=(-1.5, 1.5))
    assert m.ticks[0].tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert m.spacing == "equally spaced over [−1.5, 1.5]²"


def test_a_gaussian_prior_is_decoded_at_its_quantiles():
    m = latent_map(fitted(Whitened, 2), toy_runs.digits()[1], side=3)
    # Phi^-1 of 1/6, 1/2 and 5/6
    torch.testing.assert_close(m.ticks[0], torch.tensor([-0.96742, 0.0, 0.96742]), atol=1e-4, rtol=0)
    assert m.spacing == "at quantiles of the prior N(0, 1)"


def test_longer_codes_are_drawn_in_the_plane_of_two_principal_components():
    test = toy_runs.digits()[1]
    model = fitted(toy_runs.Projector, 12)
    codes = model.encode(test.batch(range(len(test)))["image"])
    codes[:, 4] *= 3  # not whitened any more, and no axis of the code is a principal one
    codes = codes @ torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    values = torch.linalg.svdvals((codes - codes.mean(0)).double()).square() / (len(codes) - 1)

    x, parts = test.batch(range(len(test)))["image"], [codes[:256], codes[256:], codes[:4]]
    model.encode = lambda image: parts.pop(0)
    m = latent_map(model, x, labels=torch.from_numpy(test.labels), side=3)
    torch.testing.assert_close(m.points.double().var(0), values[:2], rtol=1e-4, atol=0)
    assert m.shares[0] == pytest.approx(float(values[0] / values.sum()), rel=1e-4)
    torch.testing.assert_close(m.axes @ m.axes.T, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(m.origin, codes.mean(0))
    at = m.origin + m.ticks[0][2] * m.axes[0] + m.ticks[1][0] * m.axes[1]
    torch.testing.assert_close(m.decoded[0, 2], model.decode(at[None])[0].clamp(-1, 1))
    assert (m.dimensions, m.decoded.shape) == (12, (3, 3, 1, 8, 8))


def test_principal_axes_of_more_dimensions_than_images_are_those_of_the_covariance():
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(1)) * torch.linspace(1, 3, 50)
    axes, deviations = principal_axes(x, 3)
    covariance = torch.cov(x.double().T)
    for axis, deviation in zip(axes.double(), deviations, strict=True):
        torch.testing.assert_close(covariance @ axis, float(deviation) ** 2 * axis, atol=1e-3, rtol=1e-3)
        assert axis[axis.abs().argmax()] > 0


def test_what_only_says_a_condition_is_not_drawn_and_one_class_is_decoded():
    model, test = fitted(Conditional, 2), toy_runs.digits()[1]
    m = latent_map(model, test, side=3)
    assert (m.dimensions, m.points.shape) == (2, (360, 2))
    usual = int(np.bincount(test.labels).argmax())
    assert m.spacing == f"at quantiles of the prior N(0, 1), as “{usual}”"
    # The middle of the grid is the mean image, moved as that class moves it.
    torch.testing.assert_close(m.decoded[1, 1].flatten(), (model.mean + usual / 100).clamp(-1, 1), atol=1e-5, rtol=0)


def test_the_figure_has_all_classes_in_different_colours_and_no_words_over_one_another():
    maps = [latent_map(fitted(toy_runs.Projector, rank), toy_runs.digits()[1], side=4) for rank in (2, 30)]
    figure = draw(maps, ["a short name", "another run"])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [str(k) for k in range(10)]
    assert len({tuple(c) for c in colours(10)}) == 10
    assert len({tuple(c) for c in colours(20)}) == 20
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        inside = [t for t in axes.get_xticklabels() if axes.get_xlim()[0] <= t.get_position()[0] <= axes.get_xlim()[1]]
        boxes += [t.get_window_extent() for t in (axes.title, axes.xaxis.label, axes.yaxis.label, *inside)]
    boxes.append(figure.legends[0].get_window_extent())
    width, height = figure.bbox.width, figure.bbox.height
    for i, a in enumerate(boxes):
        assert a.x0 >= 0
        assert a.x1 <= width
        assert a.y0 >= 0
        assert a.y1 <= height
        for b in boxes[:i]:
            wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= 1 or high <= 1, (a, b)


def test_what_cannot_be_mapped_is_said():
    test = toy_runs.digits()[1]
    with pytest.raises(UserError, match="needs a model that encodes; this one can: sample, decode"):
        latent_map(toy_runs.fitted("gaussian"), test)
    with pytest.raises(UserError, match="the first number must be below the second"):
        latent_map(fitted(toy_runs.Projector, 2), test, range=(1.0, -1.0))
    with pytest.raises(UserError, match="two or more numbers"):
        latent_map(fitted(toy_runs.Projector, 1), test)


def test_latent_map_verb(limner, vae_run, tmp_path):
    done = limner("latent-map", vae_run, vae_run, "-n", 100, "--side", 3, "--range", -1.5, 1.5, "--out", "two.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "two.png"
    assert Image.open(tmp_path / "two.png").size == (1716, 2 * 793)
    with pytest.raises(UserError, match="give a run folder"):
        maps_of_runs([])
