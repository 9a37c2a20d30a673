"""`evaluate` on folders of images that limner did not make."""

import numpy as np
import pytest
from PIL import Image

import toy_runs
from limner.errors import UserError
from limner.metrics.evaluate import evaluate, open_folder

TRAIN, TEST = toy_runs.digits()
RANDOM = np.random.default_rng(0)


def write(folder, images):
    """PNG files of uint8 images (N, H, W, 1)."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(np.asarray(image)[..., 0]).save(folder / f"{i:04d}.png")
    return folder


def test_real_images_noise_and_one_image_repeated(tmp_path):
    rows = RANDOM.permutation(len(TRAIN.images))
    sets = {
        "real": TRAIN.images[rows[:300]],
        "noise": RANDOM.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8),
        "repeated": np.repeat(TEST.images[:1], 300, axis=0),
    }
    names = ["kid", "precision", "recall", "coverage", "told_apart", "copies", "classes"]
    of = {
        name: evaluate(write(tmp_path / name, images), data=(TRAIN, TEST), metrics=names).figures
        for name, images in sets.items()
    }
    assert of["real"]["kid"].value < of["noise"]["kid"].value
    assert "300 images against 360 held-out images" in of["real"]["kid"].protocol
    assert of["real"]["recall"].value > 0.85
    assert of["repeated"]["recall"].value < 0.01  # duplicates are kept: a collapsed set is judged as it is
    assert of["repeated"]["classes"].value == pytest.approx(1)
    assert of["noise"]["precision"].value < 0.5 * of["real"]["precision"].value
    assert of["noise"]["told_apart"].value > 0.95
    assert of["repeated"]["told_apart"].value > 0.95
    assert of["real"]["copies"].value == 1  # they are training images
    assert "of" in of["real"]["copies"].note
    assert of["noise"]["copies"].value == 0


def test_bad_files_are_named_and_the_rest_is_measured(tmp_path):
    folder = write(tmp_path / "x", TRAIN.images[:40])
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes((folder / "0000.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("not an image")
    said = []
    found = evaluate(folder, data=(TRAIN, TEST), metrics=["kid"], say=said.append)
    assert "40 images against" in found.figures["kid"].protocol
    for name in ("empty.png", "half.png", "notes.txt"):
        assert any(line.startswith(f"left out {name}: ") for line in said), name


def test_too_few_images_and_values_of_another_range_are_refused(tmp_path):
    few = write(tmp_path / "few", TRAIN.images[:9])
    with pytest.raises(UserError, match=r"'.*few' has 9 usable images, too few"):
        evaluate(few, data=(TRAIN, TEST))
    dim = write(tmp_path / "dim", (TRAIN.images[:20] > 128).astype(np.uint8))
    with pytest.raises(UserError, match=r"brighter than 1 of 255.*multiply by 255"):
        evaluate(dim, data=(TRAIN, TEST))
    with pytest.raises(UserError, match="has 0 usable images"):
        evaluate(write(tmp_path / "none", []), data=(TRAIN, TEST))


def test_other_sizes_are_resized_and_the_protocol_says_so(tmp_path):
    folder = write(tmp_path / "x", TRAIN.images[:30])
    for i in range(5):
        Image.fromarray(TRAIN.images[i, ..., 0]).resize((20, 16)).save(folder / f"big{i}.png")
    said = []
    found = evaluate(folder, data=(TRAIN, TEST), metrics=["kid"], say=said.append)
    assert "35 images (5 of them resized to 8x8 by lanczos) against" in found.figures["kid"].protocol
    assert any("5 of 35 images are not 8x8 (5 of 20x16)" in line for line in said)


def test_what_a_folder_is_compared_with(tmp_path):
    folder = write(tmp_path / "x", TRAIN.images[:50])
    data = (TRAIN, TEST)
    held_out, training, everything = (open_folder(folder, data=data, split=s) for s in ("test", "train", "all"))
    assert (held_out.real_n, training.real_n, everything.real_n) == (360, 1437, 1797)
    assert len({bench.data_id for bench in (held_out, training, everything)}) == 3
    a, b = everything.floor_pair
    assert len(a) == len(b) == 50
    plain = open_folder(folder, data=str(write(tmp_path / "plain", TEST.images)))
    assert plain.real_n == len(np.unique(TEST.images.reshape(360, -1), axis=0))
    assert "all the images" in f"{plain.real_name} images"


def test_options_that_do_not_go_together_are_refused(tmp_path):
    folder = write(tmp_path / "x", TRAIN.images[:20])
    data = (TRAIN, TEST)
    for settings, what in (
        ({"features": "resnet"}, "there is no such extractor; choose from classifier, pixels"),
        ({"features": "pixels", "protocol": "tf"}, "for the Inception network, not for --features pixels"),
        ({"weights": "x.pth"}, "--weights needs --features"),
        ({"options": {"sample": {"steps": 3}}}, "are options of a model"),
        ({"metrics": ["fud"]}, "there is no such metric"),
    ):
        with pytest.raises(UserError, match=what):
            evaluate(folder, data=data, **settings)
    with pytest.raises(UserError, match="--against DATA"):
        evaluate(folder)
    with pytest.raises(UserError, match="there is nothing there"):
        evaluate(tmp_path / "nowhere", data=data)


def test_a_frechet_distance_comes_with_kid_and_its_floor(tmp_path):
    folder = write(tmp_path / "x", TRAIN.images[:300])
    found = evaluate(folder, data=(TRAIN, TEST), metrics=["frechet"], features="pixels").figures
    assert set(found) == {"frechet", "kid"}
    assert found["frechet"].floor > 0
    few = evaluate(
        write(tmp_path / "few", TRAIN.images[:60]), data=(TRAIN, TEST), metrics=["frechet"], features="pixels"
    )
    assert "biased upwards: 60 images, 64 features" in few.figures["frechet"].note
