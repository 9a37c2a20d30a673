"""Procedural shapes: pure functions of (seed, index, size), with masks, boxes and captions that agree with the picture."""

import numpy as np
import pytest

from limner.data import DataConfig, open_data, shapes
from limner.errors import UserError


def test_an_image_does_not_depend_on_the_others():
    few, many = (open_data(DataConfig("shapes", size=16, count=c)) for c in (5, 12))
    assert np.array_equal(few.images, many.images[:5])
    assert few.captions == many.captions[:5]
    other = open_data(DataConfig("shapes", size=16, count=5, data_seed=1))
    assert not np.array_equal(other.images, few.images)
    test = open_data(DataConfig("shapes", size=16, count=30), split="test")
    assert len(test) == 3
    assert not {i.tobytes() for i in many.images} & {i.tobytes() for i in test.images}


def test_the_scene_is_the_same_at_every_size():
    small, large = (open_data(DataConfig("shapes", size=s, count=20)) for s in (32, 64))
    assert small.captions == large.captions
    assert np.array_equal(small.extras["factors"], large.extras["factors"])
    reduced = large.images.reshape(20, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(reduced - small.images).mean() < 1.5


def test_mask_box_and_factors_agree_with_the_picture():
    size = 48
    data = open_data(DataConfig("shapes", size=size, count=120))
    batch = data.batch(range(120))
    assert batch["mask"].shape == (120, 1, size, size)
    column = {name: i for i, name in enumerate(shapes.FACTORS)}
    backgrounds, colours = (np.array(list(t.values())) for t in (shapes.BACKGROUNDS, shapes.COLOURS))
    for i in range(120):
        mask = data.extras["mask"][i, ..., 0] > 0
        factors, box = data.extras["factors"][i], data.extras["boxes"][i]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(found - box).max() <= 2, (i, data.captions[i])
        assert data.labels[i] == factors[column["shape"]]
        # Far inside the mask there is the colour alone, outside the grown box the background alone.
        inner = np.all([np.roll(mask, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=0)
        # ... but for a pixel at a notch (of a star, cross or heart), where a sliver may reach into the middle one.
        exact = (data.images[i][inner] == colours[int(factors[column["colour"]])]).all(1)
        assert (~exact).sum() <= 3, (i, data.captions[i])
        assert exact.sum() >= 1, (i, data.captions[i])
        outside = np.ones_like(mask)
        left, top, right, bottom = np.clip([box[0] - 1, box[1] - 1, box[2] + 2, box[3] + 2], 0, size).astype(int)
        outside[top:bottom, left:right] = False
        assert (data.images[i][outside] == backgrounds[int(factors[column["background"]])]).all()


def test_the_area_of_a_circle():
    scene = shapes.Scene(shapes.SHAPES.index("circle"), 0, 0, 0.3, 0.5, 0.5, 0.0)
    _, mask = shapes.draw(scene, 64)
    assert (mask > 0).sum() / 64**2 == pytest.approx(np.pi * 0.3**2, rel=0.02)
    assert np.abs(mask.astype(int) - mask[::-1]).mean() < 3, "centred: as much above as below"


def test_captions_say_what_is_seen():
    scene = shapes.Scene(shapes.SHAPES.index("star"), 0, 0, 0.15, 0.2, 0.2, 0.0)
    assert scene.caption == "a small red star at the top left on a white background"
    middle = shapes.Scene(0, 5, 3, 0.35, 0.5, 0.5, 0.0)
    assert middle.caption == "a large blue circle in the centre on a black background"
    right = shapes.Scene(1, 1, 1, 0.25, 0.7, 0.5, 0.0)
    assert right.caption == "a medium orange square at the right on a grey background"


def test_every_factor_varies_and_shapes_stay_inside():
    scenes = [shapes.scene(0, i) for i in range(2000)]
    assert np.bincount([s.shape for s in scenes], minlength=6).min() > 250
    assert np.bincount([s.colour for s in scenes], minlength=8).min() > 180
    corners = np.concatenate([s.outline for s in scenes])
    assert corners.min() >= 0.019
    assert corners.max() <= 0.981


def test_two_styles_as_unpaired_domains():
    data = open_data(DataConfig("shapes-ab", count=40))
    assert not data.paired
    a, b = data.domains["A"], data.domains["B"]
    assert a.captions[:10] != b.captions[:10]
    ink = [np.mean([(i != i[0, 0]).any(2).mean() for i in d.images]) for d in (a, b)]
    assert ink[1] < 0.75 * ink[0], "outlines have less ink"
    assert set(data.batch([0, 50])) == {"A", "B"}


def test_the_outline_has_the_silhouette_of_the_filled_shape():
    scene = shapes.scene(3, 4)
    (filled, mask), (outlined, same) = shapes.draw(scene, 64), shapes.draw(scene, 64, "outlined")
    assert np.array_equal(mask, same)
    background = filled[0, 0]
    spill = (outlined != background).any(2) & ~(filled != background).any(2)
    assert spill.sum() == 0


@pytest.mark.parametrize("size", [8, 300])
def test_sizes_that_are_not_drawn(size):
    with pytest.raises(UserError, match="16 to 256"):
        open_data(DataConfig("shapes", size=size))
