"""The cache: used, rebuilt when damaged, shared by processes, done without where it cannot be written."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from limner.data import DataConfig, cache, files, open_data
from limner.data.check import check
from pictures import encode, photo, photos, write


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decodings(monkeypatch):
    """Counts the images that are decoded."""
    names = []
    true = files.decode

    def counting(content, size, config):
        names.append(size)
        return true(content, size, config)

    monkeypatch.setattr(files, "decode", counting)
    return names


def entry(own: Path) -> Path:
    found = [p for p in (own / "decoded").iterdir() if p.is_dir()]
    assert len(found) == 1
    return found[0]


def test_what_was_decoded_is_not_decoded_again(own, tmp_path, decodings):
    folder = write(tmp_path / "x", photos(12))
    first = open_data(str(folder))
    assert len(decodings) == 12
    again = open_data(str(folder))
    assert len(decodings) == 12
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.images, first.images)
    assert again.names == first.names


def test_the_key_is_the_content_not_the_date(own, tmp_path, decodings):
    folder = write(tmp_path / "x", photos(12))
    open_data(str(folder))
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    open_data(str(folder))
    assert len(decodings) == 12
    (tmp_path / "in").mkdir()
    moved = folder.rename(tmp_path / "in" / "x")
    open_data(str(moved))
    assert len(decodings) == 12
    (moved / "000.png").write_bytes(encode(photo(77)))
    assert np.array_equal(open_data(DataConfig(str(moved), test_fraction=0)).images[0], photo(77))


def test_another_policy_is_another_entry(own, tmp_path, decodings):
    folder = write(tmp_path / "x", photos(4))
    seen = {
        open_data(DataConfig(str(folder), test_fraction=0, size=8, resize=r)).fingerprint for r in ("box", "nearest")
    }
    assert len(seen) == 2
    assert len(decodings) == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "meta.json").write_text("{}"),
        lambda p: (p / "meta.json").unlink(),
        lambda p: (p / "train-images.npy").write_bytes((p / "train-images.npy").read_bytes()[:-5]),
        lambda p: (p / "train-images.npy").unlink(),
        lambda p: (p / "train-images.npy").write_bytes(bytes(len((p / "train-images.npy").read_bytes()))),
    ],
)
def test_a_damaged_entry_is_made_again(own, tmp_path, decodings, damage):
    folder = write(tmp_path / "x", photos(10))
    first = open_data(str(folder)).images.copy()
    damage(entry(own))
    assert np.array_equal(open_data(str(folder)).images, first)
    assert len(decodings) == 20
    open_data(str(folder))
    assert len(decodings) == 20


def test_nothing_half_written_is_left(own, tmp_path):
    open_data(str(write(tmp_path / "x", photos(10))))
    assert sorted(p.name for p in entry(own).iterdir()) == ["meta.json", "test-images.npy", "train-images.npy"]
    assert not list((own / "decoded").glob(".*"))


def test_check_reads_every_byte_even_if_the_dates_are_known(own, tmp_path):
    folder = write(tmp_path / "x", photos(10))
    open_data(str(folder))
    for known in (own / "content").iterdir():
        known.write_text("0" * 64)  # a wrong memory of what the files hold
    assert check(str(folder)).usable["train"] + check(str(folder)).usable["test"] == 10
    assert set((own / "content").iterdir()).pop().read_text() != "0" * 64


def _open(folder, barrier, queue):
    barrier.wait()
    data = open_data(folder)
    queue.put((data.fingerprint, len(data)))


def test_processes_build_it_together(own, tmp_path):
    folder = str(write(tmp_path / "x", photos(60, width=100, height=80)))
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_open, args=(folder, barrier, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len(set(results)) == 1
    assert results[0][1] > 40
    entry(own)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
    folder = write(tmp_path / "x", photos(10))
    assert len(open_data(DataConfig(str(folder), test_fraction=0))) == 10


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.root() == tmp_path / "limner"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path.home() / ".cache/limner"
