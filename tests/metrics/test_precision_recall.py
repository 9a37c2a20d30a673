"""Precision and recall: written-out neighbours, torch-fidelity's figures, the truths of equal, disjoint and collapsed sets."""

import numpy as np
import pytest
import torch

from limner.metrics import precision_recall as module
from limner.metrics.precision_recall import precision_recall
from metrics.peers import peer


def draw(n, d, seed, scale=1.0, shift=0.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def share_inside(points, centres, k):
    """Share of `points` within the distance of a centre's k-th other neighbour, by loops."""
    distance = lambda a, b: sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5  # noqa: E731
    radii = [sorted(distance(a, b) for j, b in enumerate(centres) if j != i)[k - 1] for i, a in enumerate(centres)]
    return np.mean([any(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points])


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_written_out_neighbours(k):
    fake, real = draw(53, 3, 0, 1.3, 1.0), draw(61, 3, 1)
    found = precision_recall(fake, real, k=k)
    assert found.precision.value == pytest.approx(share_inside(fake.tolist(), real.tolist(), k), abs=1e-12)
    assert found.recall.value == pytest.approx(share_inside(real.tolist(), fake.tolist(), k), abs=1e-12)
    assert 0 < found.precision.value < 1
    assert 0 < found.recall.value < 1


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (1.5, 0.0), (1.0, 0.4)])
def test_equals_torch_fidelity_which_no_longer_swaps_the_two(scale, shift):
    # Release 0.4.0: its first set is the samples, and "precision" is the share of these inside the real manifold, as in the paper.
    theirs_of = peer("torch_fidelity.metric_prc").prc_features_to_metric
    fake, real = draw(700, 16, 2, scale, shift), draw(900, 16, 3)
    found = precision_recall(fake, real)
    for in_parts in (False, True):
        theirs = theirs_of(fake, real, prc_neighborhood=3, prc_batch_size=256, save_cpu_ram=in_parts, verbose=False)
        assert found.precision.value == pytest.approx(theirs["precision"], rel=1e-5)
        assert found.recall.value == pytest.approx(theirs["recall"], rel=1e-5)
    if scale == 0.5:  # a shrunken set: precise, of poor recall
        assert found.precision.value > 0.95
        assert found.recall.value < 0.6


def test_identical_sets_have_one_and_disjoint_sets_zero():
    x = draw(100, 8, 4)
    same, apart = precision_recall(x, x[torch.randperm(100)]), precision_recall(x, x + 100)
    assert (same.precision.value, same.recall.value) == (1, 1)
    assert (apart.precision.value, apart.recall.value) == (0, 0)


def test_neighbours_do_not_include_the_image_itself():
    # Five points in a row, 1 apart. With k = 1 each ball has radius 1; were a point its own neighbour, radius 0.
    real = torch.arange(5.0)[:, None]
    fake = real + 0.9
    found = precision_recall(fake, real, k=1)
    assert found.precision.value == 1  # 4.9 lies within 1 of 4
    assert precision_recall(fake + 0.2, real, k=1).precision.value == pytest.approx(0.8)  # 5.1 does not


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_one_image_repeated_covers_itself_alone(far):
    real = draw(200, 20, 5) + far
    collapsed = precision_recall(real[:1].repeat(200, 1), real)
    assert collapsed.precision.value == 1
    assert collapsed.recall.value == pytest.approx(1 / 200)


def test_blocks_change_nothing(monkeypatch):
    fake, real = draw(120, 6, 6, 1.2), draw(90, 6, 7)
    whole = precision_recall(fake, real)
    monkeypatch.setattr(module, "BLOCK", 500)
    assert precision_recall(fake, real) == whole


@pytest.mark.parametrize("scale", [0.7, 1.2])
def test_errors_are_the_spread_of_redrawn_sets(scale):
    found = [precision_recall(draw(200, 5, 2 * s, scale), draw(200, 5, 2 * s + 1)) for s in range(60)]
    for name in ("precision", "recall"):
        stated = np.mean([getattr(f, name).error for f in found])
        seen = np.std([getattr(f, name).value for f in found])
        assert 0.8 < stated / seen < 1.6, (name, stated, seen)


def test_error_is_unknown_on_a_handful_of_images():
    found = precision_recall(draw(12, 2, 0), draw(12, 2, 1))
    assert 0 <= found.recall.value <= 1
    assert np.isnan(found.recall.error)


def test_refuses_what_has_no_neighbours():
    with pytest.raises(ValueError, match="at least four"):
        precision_recall(draw(3, 2, 0), draw(9, 2, 1))
    with pytest.raises(ValueError, match="cannot be compared"):
        precision_recall(draw(9, 2, 0), draw(9, 3, 1))
