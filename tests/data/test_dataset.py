"""Batches: exact levels, labels, extras, and what does not change with where the images are."""

import numpy as np
import pytest
import torch

from limner.data import Dataset, dataset, open_data
from limner.data.grid import from_uint8, grid, save_grid, to_uint8
from limner.errors import UserError


@pytest.mark.parametrize("levels", [2, 17, 32, 256])
def test_level_k_is_exactly_2k_over_l_minus_1_minus_1(levels):
    k = np.arange(levels)
    stored = np.round(k * 255 / (levels - 1)).astype(np.uint8).reshape(-1, 1, 1, 1)
    image = Dataset("x", stored, levels=levels).batch(k)["image"]
    assert image.dtype == torch.float32
    assert np.array_equal(image.flatten().numpy(), (2 * k / (levels - 1) - 1).astype(np.float32))
    back = (image.double() + 1) / 2 * (levels - 1)
    assert (back - back.round()).abs().max() < 1e-5


def test_a_batch_of_a_set_with_everything():
    n = 10
    rng = np.random.default_rng(0)
    data = Dataset(
        "x",
        rng.integers(0, 256, (n, 4, 4, 3), np.uint8),
        labels=np.arange(n) % 3,
        class_names=["a", "b", "c"],
        captions=[f"c{i}" for i in range(n)],
        extras={"mask": np.full((n, 4, 4, 1), 255, np.uint8), "boxes": np.ones((n, 4), np.float32)},
    )
    batch = data.batch([3, 9, 3])
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.items()} == {
        "image": ((3, 3, 4, 4), torch.float32),
        "label": ((3,), torch.int64),
        "mask": ((3, 1, 4, 4), torch.float32),
        "boxes": ((3, 4), torch.float32),
    }
    assert batch["label"].tolist() == [0, 0, 0]
    assert batch["mask"].max() == 1
    assert torch.equal(batch["image"][0], batch["image"][2])
    assert np.array_equal(to_uint8(batch["image"])[1], data.images[9])
    part = data.subset([9, 3])
    assert torch.equal(part.batch([0, 1])["image"], data.batch([9, 3])["image"])
    assert part.caption([0]) == ["c9"]
    assert part.fingerprint != data.fingerprint


def test_the_fingerprint_is_of_the_content():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    base = Dataset("x", images).fingerprint
    assert Dataset("another name", images.copy(), names=["a", "b"]).fingerprint == base
    changed = images.copy()
    changed[1, 2, 3] = 1
    others = [
        Dataset("x", changed),
        Dataset("x", images, labels=np.array([0, 1])),
        Dataset("x", images, captions=["a", ""]),
    ]
    others.append(Dataset("x", images, levels=17))
    assert len({base, *(d.fingerprint for d in others)}) == 5


def test_memory_mapped_images_give_the_same_batches(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    np.save(tmp_path / "i.npy", images)
    held = Dataset("x", images).batch([5, 1])["image"]
    monkeypatch.setattr(dataset, "RESIDENT_BYTES", 0)
    mapped = Dataset("x", np.load(tmp_path / "i.npy", mmap_mode="r"))
    assert torch.equal(mapped.batch([5, 1])["image"], held)
    assert np.array_equal(mapped.subset([7, 8, 9]).images, images[7:10])


def test_draw_is_the_order_of_the_epoch():
    data = open_data("digits")
    whole = data.draw(5, 1430, 20)
    parts = [data.draw(5, 1430, 20, rank=r, world=2) for r in (0, 1)]
    assert torch.equal(torch.cat([p["image"] for p in parts]), whole["image"])
    assert torch.equal(torch.cat([p["label"] for p in parts]), whole["label"])
    assert not torch.equal(data.draw(6, 1430, 20)["image"], whole["image"])


def test_8_bit_and_back_is_exact():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(to_uint8(from_uint8(values)), values)
    assert to_uint8(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_small_images_are_enlarged_by_whole_pixels(tmp_path):
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
    sheet = np.asarray(grid(images, columns=3))
    assert sheet.shape == (68, 3 * 66 + 2)
    assert np.array_equal(sheet[2:66:8, 2:66:8], images[0, ..., 0])
    assert (sheet[2:10, 68:76] == images[1, 0, 0, 0]).all()
    save_grid(from_uint8(images), tmp_path / "g.anything", columns=3)
    assert (tmp_path / "g.anything").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="could not be written"):
        save_grid(from_uint8(images), tmp_path / "no" / "g.png")
