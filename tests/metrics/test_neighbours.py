"""Nearest training images against a written-out search; copies are named, whatever small damage they have, and held-out images are not."""

import numpy as np
import pytest
import torch

from limner.data import embedded
from limner.metrics import degrade, neighbours
from limner.metrics.neighbours import NearestTraining, memorisation, memorisation_ratio, nearest, nearest_of


@pytest.fixture(scope="module")
def clothes():
    """10,000 training images and 2,000 held-out ones."""
    images = torch.from_numpy(embedded.fashion_mini()[0])
    return images[: embedded.FASHION_TRAIN], images[embedded.FASHION_TRAIN :]


def test_nearest_names_the_image_and_its_distance():
    g = torch.Generator().manual_seed(1)
    training = torch.randint(256, (300, 6, 6, 1), generator=g, dtype=torch.uint8)
    queries = training[[7, 250, 31]].clone()
    queries[1, 0, 0, 0] ^= 1  # one grey level off in one of 36 pixels
    found = nearest(queries, training)
    assert found.nearest.tolist() == [7, 250, 31]
    assert found.distance.tolist() == pytest.approx([0, 1 / 6, 0], abs=0)


def test_memorisation_ratio_tells_copies_from_new_images():
    g = torch.Generator().manual_seed(2)
    training, held_out, new = (torch.randint(256, (200, 4, 4, 1), generator=g, dtype=torch.uint8) for _ in range(3))
    assert memorisation_ratio(training[:50], held_out, training) == 0
    assert memorisation_ratio(new, held_out, training) == pytest.approx(1, abs=0.1)


def test_the_search_is_exact_for_any_split_and_order(clothes, monkeypatch):
    training, queries = clothes[0][:700], clothes[1][:40]
    differences = queries.double().flatten(1)[:, None] - training.double().flatten(1)
    distance, index = differences.square().mean(2).sqrt().sort(dim=1, stable=True)
    monkeypatch.setattr(neighbours, "CHUNK", 97)
    parts = [NearestTraining(queries, 9) for _ in range(3)]
    for i, start in enumerate([600, 0, 350, 5, 200]):
        stop = {600: 700, 0: 5, 350: 600, 5: 200, 200: 350}[start]
        parts[i % 3].update(training[start:stop], first=start)
    parts[1].merge(parts[2])
    parts[1].merge(parts[0])
    found = parts[1].compute()
    assert torch.equal(found[0], distance[:, :9])
    assert torch.equal(found[1], index[:, :9])


def test_copies_are_named_and_held_out_images_are_not(clothes):
    training, held_out = clothes[0][:4000], clothes[1]
    source = torch.randperm(len(training), generator=torch.Generator().manual_seed(3))[:100]
    images = training[source]
    brighter = (images.int() + 1).clamp(max=255).byte()
    for copies in (images, brighter, degrade.jpeg(images, 75), degrade.noise(images, 5)):
        samples = torch.cat([held_out[:100], copies])
        found = memorisation(samples, held_out[100:400], training)
        named = {copy.sample: copy.training for copy in found.copies}
        assert named == {100 + i: int(k) for i, k in enumerate(source)}
        assert found.share.value == 0.5
        assert found.floor.value == 0
        assert [c.ratio for c in found.copies] == sorted(c.ratio for c in found.copies)
    assert all(c.distance == 0 == c.ratio for c in memorisation(images, held_out[:200], training).copies)
    new = memorisation(held_out[:1000], held_out[1000:], clothes[0])
    assert new.copies == []
    assert abs(new.ratio.value - 1) < 3 * new.ratio.error < 0.15


def test_blurred_new_images_are_near_to_everything_but_no_copies(clothes):
    training, held_out = clothes[0][:4000], clothes[1]
    found = memorisation(degrade.blur(held_out[:300], 1), held_out[300:800], training)
    assert found.ratio.value < 0.97
    assert found.copies == []


def test_training_images_that_occur_many_times_hide_no_copy(clothes):
    training, held_out = clothes
    often = torch.cat([training[:500], training[:1].expand(80, -1, -1, -1)])
    sample = (training[:1].int() + 1).clamp(max=255).byte()
    found = memorisation(sample, held_out[:50], often)
    assert [(c.sample, c.training) for c in found.copies] == [(0, 0)]
    overlapping = memorisation(held_out[:50], torch.cat([held_out[50:80], training[:10]]), training[:500])
    assert overlapping.floor.value == 0.25


def test_features_find_copies_that_pixels_miss(clothes):
    """Mirrored copies, in features that are the same for an image and its mirror image."""
    training, held_out = clothes[0][:3000], clothes[1][:300]
    copies = training[:60].flip(2)
    features = lambda x: (x.double() + x.flip(2)).flatten(1)  # noqa: E731
    in_pixels = memorisation(copies, held_out, training)
    found = memorisation(features(copies), features(held_out), features(training))
    assert len(in_pixels.copies) < 10
    assert sorted(c.sample for c in found.copies) == list(range(60))
    assert all(c.sample == c.training for c in found.copies)
    assert found.floor.value == 0


def test_the_errors_are_the_spread_over_draws():
    g = torch.Generator().manual_seed(4)
    draw = lambda n: torch.randn(n, 3, generator=g, dtype=torch.float64)  # noqa: E731
    training = draw(1000)
    found = [memorisation(draw(100), draw(100), training, threshold=0.15) for _ in range(150)]
    for field in ("ratio", "share"):
        values = [getattr(m, field).value for m in found]
        stated = np.mean([getattr(m, field).error for m in found])
        assert stated == pytest.approx(np.std(values), rel=0.3), field


def test_what_cannot_be_compared_is_refused(clothes):
    training, held_out = clothes
    with pytest.raises(ValueError, match=r"51 or more different training images, not 1"):
        memorisation(held_out, held_out, training[:1].expand(60, -1, -1, -1))
    with pytest.raises(ValueError, match="cannot be compared"):
        nearest(held_out, training[:, :14])
    with pytest.raises(ValueError, match="cannot be compared"):
        nearest(held_out, training.float())
    with pytest.raises(ValueError, match="no training images"):
        NearestTraining(held_out).compute()
    assert nearest_of(held_out[:3], training[:2], 5)[0].shape == (3, 2)
