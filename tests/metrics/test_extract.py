"""Extraction: the same features whatever the pieces, work ahead in a thread, and a cache that mends itself."""

import threading
import time

import numpy as np
import pytest
import torch

from limner.errors import UserError
from limner.metrics import extract as module
from limner.metrics.extract import Staged, Stream, ahead, batches, content_hash, extract, features
from limner.metrics.features import Pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (103, 6, 5, 3), dtype=np.uint8)


class Toy:
    """An extractor in two stages, which counts what it is given and can be slow at either stage."""

    name, hash, resize = "toy", "123456", "as is"

    def __init__(self, prepare: float = 0.0, embed: float = 0.0):
        self.seconds = {"prepare": prepare, "embed": embed}
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        torch.manual_seed(0)
        self.weight = torch.randn(90, 7)

    def prepare(self, images):
        time.sleep(self.seconds["prepare"])
        self.threads.add(threading.current_thread().name)
        return images.flatten(1).float()

    def embed(self, prepared):
        time.sleep(self.seconds["embed"])
        self.sizes.append(len(prepared))
        assert threading.current_thread() is threading.main_thread()
        return (prepared @ self.weight).double()

    def __call__(self, images):
        return self.embed(self.prepare(images))


def in_pieces(images, lengths):
    """The images in pieces of these lengths, then the rest."""
    start = 0
    for length in lengths:
        yield images[start : start + length]
        start += length
    yield images[start:]


@pytest.mark.parametrize("lengths", [[], [1] * 50, [40, 0, 3], [16, 16], [200]])
def test_pieces_do_not_change_a_bit(lengths):
    toy = Toy()
    found = features(toy, in_pieces(IMAGES, lengths), batch=16)
    assert toy.sizes == [16] * 6 + [7]
    assert torch.equal(found, features(Toy(), IMAGES, batch=16))
    assert toy.threads == {"limner-images"}


def test_arrays_tensors_and_memory_maps_of_any_batch(tmp_path):
    expected = Toy()(torch.from_numpy(IMAGES))
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for images, batch in ((IMAGES, 16), (torch.from_numpy(IMAGES), 1), (mapped, 50), (IMAGES[:, ::-1][:, ::-1], 1000)):
        found = features(Toy(), images, batch=batch)
        assert found.dtype == torch.float64
        assert found.shape == (103, 7)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-3)
    pixels = [features(Pixels(), IMAGES, batch=batch) for batch in (1, 64)]  # an extractor of one stage
    assert torch.equal(*pixels)
    assert torch.equal(pixels[0], Pixels()(torch.from_numpy(IMAGES)))


def test_images_of_several_sizes_go_in_batches_of_one_size():
    sizes = [len(b) for b in batches([IMAGES[:10], IMAGES[:3], IMAGES[:5, :4], IMAGES[:2]], 8)]
    assert sizes == [8, 5, 5, 2]


def test_the_next_batch_is_made_while_the_network_computes():
    class Meeting(Toy):
        """Does not finish a batch before the next one is being made ready."""

        def __init__(self):
            super().__init__()
            self.begun = threading.Semaphore(0)

        def prepare(self, images):
            self.begun.release()
            return super().prepare(images)

        def embed(self, prepared):
            done = sum(self.sizes)
            for _ in range(2 if done == 0 else int(done + len(prepared) < 80)):
                assert self.begun.acquire(timeout=60)
            return super().embed(prepared)

    assert features(Meeting(), IMAGES[:80], batch=8).shape == (80, 7)


def test_time_is_told_apart():
    extraction = extract(Toy(prepare=0.03, embed=0.02), IMAGES[:40], batch=8)
    assert extraction.computed >= 5 * 0.02
    assert extraction.waited > 0
    total = extraction.computed + extraction.waited
    assert extraction.wait_share == pytest.approx(extraction.waited / total)
    assert extraction.images_per_second == pytest.approx(40 / total)


def test_work_ahead_is_bounded_and_stops_with_its_reader():
    made = []

    def endless():
        while True:
            made.append(len(made))
            yield made[-1]

    with ahead(endless(), 3) as items:
        assert [next(items), next(items)] == [0, 1]
        time.sleep(0.3)
        assert len(made) <= 5
    count = len(made)
    time.sleep(0.25)
    assert len(made) == count
    assert "limner-images" not in {t.name for t in threading.enumerate()}
    stream = iter(Stream(Toy(), (IMAGES for _ in iter(int, 1)), batch=8))
    next(stream)
    stream.close()
    assert "limner-images" not in {t.name for t in threading.enumerate()}


def test_errors_come_where_they_arise():
    def failing():
        yield IMAGES[:20]
        raise UserError("'b.png' is damaged")

    done = []
    with pytest.raises(UserError, match=r"b\.png"):
        features(Toy(), failing(), batch=8, progress=lambda n, total: done.append((n, total)))
    assert done == [(8, None), (16, None)]
    for wrong in (IMAGES.astype(np.float32), IMAGES[0], [IMAGES[0]], [[1, 2]]):
        with pytest.raises(ValueError, match="features are of uint8 images"):
            features(Toy(), wrong)
    for empty in (IMAGES[:0], [], [IMAGES[:0]]):
        with pytest.raises(ValueError, match="no images"):
            features(Toy(), empty)
    with pytest.raises(ValueError, match="at least one image"):
        features(Toy(), IMAGES, batch=0)


def test_progress_is_told():
    told = []
    features(Toy(), IMAGES, batch=50, progress=lambda n, total: told.append((n, total)))
    assert told == [(50, 103), (100, 103), (103, 103)]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


def files(own_cache):
    return sorted((own_cache / "features").glob("*/*.safetensors"))


def test_cache_is_by_content_extractor_and_protocol(own_cache, monkeypatch):
    key = content_hash(IMAGES)
    first = extract(Toy(), IMAGES, batch=16, cache_key=key)
    assert not first.cached
    toy = Toy()
    again = extract(toy, IMAGES, batch=16, cache_key=key)
    assert again.cached
    assert again.wait_share == again.images_per_second == 0
    assert torch.equal(again.rows, first.rows)
    assert not toy.sizes
    assert len(files(own_cache)) == 1
    for change in ({"name": "toy2"}, {"hash": "x"}, {"resize": "otherwise"}):
        other = Toy()
        for attribute, value in change.items():
            setattr(other, attribute, value)
        assert not extract(other, IMAGES, cache_key=key).cached
    changed = IMAGES.copy()
    changed[50, 0, 0, 0] ^= 1
    assert not extract(Toy(), changed, cache_key=content_hash(changed)).cached
    assert content_hash(IMAGES.reshape(103, 5, 6, 3)) != key
    assert content_hash(torch.from_numpy(IMAGES)) == key
    monkeypatch.setattr(module, "PROTOCOL", module.PROTOCOL + 1)
    assert not extract(Toy(), IMAGES, cache_key=key).cached
    assert len(files(own_cache)) == 6


def test_damaged_cache_is_made_again(own_cache):
    expected = features(Toy(), IMAGES, cache_key="k")
    (file,) = files(own_cache)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 4  # in a value: the file's format does not notice
    for damaged in (whole[: len(whole) // 2], b"", bytes(flipped)):
        file.write_bytes(damaged)
        again = extract(Toy(), IMAGES, cache_key="k")
        assert not again.cached
        assert torch.equal(again.rows, expected)
        assert file.read_bytes() == whole
    assert not extract(Toy(), IMAGES[:50], cache_key="k").cached  # as many rows as images, whatever the key


def test_features_in_the_cache_keep_every_bit(own_cache):
    class Fine(Toy):
        def embed(self, prepared):
            return super().embed(prepared) / 3  # not to be held by float32

    for toy, width in ((Toy, 4), (Fine, 8)):
        expected = features(toy(), IMAGES, cache_key=toy.__name__)
        found = extract(toy(), IMAGES, cache_key=toy.__name__)
        assert found.cached
        assert torch.equal(found.rows, expected)
        assert any(103 * 7 * width < f.stat().st_size < 103 * 7 * width + 500 for f in files(own_cache))


def test_streams_are_run_through_once_and_no_cache_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "file" / "below"))  # cannot be made
    found = extract(Toy(), iter([IMAGES[:60], IMAGES[60:]]), batch=16, cache_key="k")
    assert torch.equal(found.rows, features(Toy(), IMAGES, batch=16))

    def full(folder, rows):
        raise UserError("the disk is full")

    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr(module, "_write", full)
    found = extract(Toy(), iter([IMAGES]), batch=16, cache_key="k")
    assert torch.equal(found.rows, features(Toy(), IMAGES, batch=16))


def test_which_extractors_have_two_stages():
    assert isinstance(Toy(), Staged)
    assert not isinstance(Pixels(), Staged)
