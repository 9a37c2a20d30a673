"""Data sets by name, IDX and CIFAR-10 files, and downloads."""

import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limner.data import DataConfig, cifar, download, open_data
from limner.errors import UserError

FASHION = Path(download.FASHION_MNIST.system[0])


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_digits():
    train, test = open_data("digits"), open_data("digits", split="test")
    assert (train.images.shape, test.images.shape) == ((1437, 8, 8, 1), (360, 8, 8, 1))
    assert (train.levels, train.classes, train.refused) == (17, 10, [])
    assert np.bincount(test.labels).tolist() == [36] * 10
    assert np.bincount(train.labels).tolist() == [142, 146, 141, 147, 145, 146, 145, 143, 138, 144]
    levels = train.images.astype(float) * 16 / 255
    assert np.abs(levels - levels.round()).max() < 0.04
    assert set(np.unique(levels.round())) == set(range(17))
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    assert train.fingerprint.startswith("641811a07a0af1aa")


def test_digits_are_scikit_learns():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    theirs = sorted((i.astype(np.uint8).tobytes(), int(t)) for i, t in zip(source.images, source.target, strict=True))
    ours = []
    for split in ("train", "test"):
        data = open_data("digits", split=split)
        levels = np.round(data.images[..., 0] * (16 / 255)).astype(np.uint8)
        ours += [(i.tobytes(), int(t)) for i, t in zip(levels, data.labels, strict=True)]
    assert sorted(ours) == theirs


def test_digits_resized_have_256_levels():
    assert open_data(DataConfig("digits", size=16)).levels == 256


def test_fashion_mini():
    train, test = open_data("fashion-mini"), open_data("fashion-mini", split="test")
    assert (train.images.shape, test.images.shape) == ((10000, 28, 28, 1), (2000, 28, 28, 1))
    assert np.bincount(train.labels).tolist() == [1000] * 10
    assert np.bincount(test.labels).tolist() == [200] * 10
    assert train.class_names[9] == "Ankle boot"
    assert train.images.mean() == pytest.approx(73, abs=1)
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    assert train.fingerprint.startswith("1a8dc3f6")
    assert open_data(DataConfig("fashion-mini", size=16), split="test").images.shape == (2000, 16, 16, 1)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST's package is not installed")
def test_fashion_mnist_from_the_systems_package():
    train, test = open_data("fashion-mnist"), open_data("fashion-mnist", split="test")
    assert (len(train), len(test), train.refused) == (60000, 10000, [])
    assert np.bincount(train.labels).tolist() == [6000] * 10
    known = {i.tobytes() for i in test.images}
    assert all(i.tobytes() in known for i in open_data("fashion-mini", split="test").images)


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 30), ("t10k", 10)):
        images, labels = rng.integers(0, 256, (n, 12, 12), np.uint8), np.arange(n, dtype=np.uint8) % 5
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_a_folder_with_idx_pairs(idx_folder):
    train, test = open_data(str(idx_folder)), open_data(str(idx_folder), split="test")
    assert (train.images.shape, len(test), train.classes) == ((30, 12, 12, 1), 10, 5)
    assert train.labels.tolist() == [i % 5 for i in range(30)]


def test_one_idx_pair(idx_folder):
    path = str(idx_folder / "train-images-idx3-ubyte")
    train, test = (
        open_data(DataConfig(path, test_fraction=0.3)),
        open_data(DataConfig(path, test_fraction=0.3), split="test"),
    )
    assert len(train) + len(test) == 30
    assert 2 <= len(test) <= 17
    assert set(train.labels) <= set(range(5))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda c: c[:-1], "damaged: 4320 bytes were announced, 4319"),
        ("train-images-idx3-ubyte", lambda c: c + b"x", "announced, more are there"),
        ("train-images-idx3-ubyte", lambda c: b"\0\0\x0d" + c[3:], "not an IDX file of unsigned bytes"),
        ("train-images-idx3-ubyte", lambda c: c[:3], "cannot be read"),
        ("train-images-idx3-ubyte", lambda c: c[:4] + b"\xff" * 12, "more than is read"),
        ("train-labels-idx1-ubyte.gz", lambda c: c[:-9], "cannot be read"),
        ("train-labels-idx1-ubyte.gz", lambda c: gzip.compress(idx(np.zeros(7, np.uint8))), "labels for the 30 images"),
        ("t10k-images-idx3-ubyte", lambda c: idx(np.zeros((10, 9, 9), np.uint8)), "differ in image shape"),
    ],
)
def test_a_damaged_idx_file_is_named(idx_folder, name, change, message):
    path = idx_folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        open_data(str(idx_folder))


def cifar_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for name in (*cifar.TRAIN, cifar.TEST):
        records = rng.integers(0, 256, (20, cifar.RECORD), np.uint8)
        records[:, 0] = np.arange(20) % 10
        files[name] = records.tobytes()
    return files


def test_cifar_from_its_binary_archive_and_folder(tmp_path):
    files = cifar_files()
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        evil = tarfile.TarInfo("../data_batch_9.bin")
        archive.addfile(evil)
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    train, test = open_data(str(path)), open_data(str(path), split="test")
    assert (train.images.shape, test.images.shape) == ((100, 32, 32, 3), (20, 32, 32, 3))
    assert train.class_names[3] == "cat"
    record = np.frombuffer(files["data_batch_2.bin"], np.uint8).reshape(-1, cifar.RECORD)[4]
    assert train.labels[24] == 4
    assert train.images[24, 5, 7].tolist() == [record[1 + c * 1024 + 5 * 32 + 7] for c in range(3)]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert open_data(str(tmp_path)).fingerprint == train.fingerprint
    (tmp_path / cifar.TEST).write_bytes(b"short")
    with pytest.raises(UserError, match="damaged"):
        open_data(str(tmp_path))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine that serves a folder; gives the folder and its address."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


def publish(monkeypatch, folder: Path, addresses: tuple[str, ...]):
    rng = np.random.default_rng(0)
    files = []
    for remote in download.MNIST.files:
        n = 20 if remote.file.startswith("train") else 5
        array = (
            rng.integers(0, 256, (n, 28, 28), np.uint8)
            if "images" in remote.file
            else np.arange(n, dtype=np.uint8) % 10
        )
        content = gzip.compress(idx(array))
        (folder / remote.file).write_bytes(content)
        files.append(replace(remote, md5=hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(download, "MNIST", replace(download.MNIST, addresses=addresses, files=tuple(files)))


def test_a_download_is_checked_and_kept(server, monkeypatch, tmp_path):
    folder, address = server
    publish(monkeypatch, folder, (address + "/missing", address))
    steps = []
    assert len(open_data("mnist", progress=lambda done, total: steps.append((done, total)))) == 20
    assert steps
    for file in folder.iterdir():
        file.unlink()
    assert len(open_data("mnist", split="test")) == 5


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, monkeypatch, tmp_path):
    folder, address = server
    publish(monkeypatch, folder, (address,))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="arrived with MD5"):
        open_data("mnist")
    assert not (tmp_path / "cache/downloads/mnist/t10k-labels-idx1-ubyte.gz").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_network_the_alternatives_are_named(name, monkeypatch, tmp_path):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    attribute = name.upper()
    monkeypatch.setattr(download, attribute, replace(getattr(download, attribute), addresses=("http://127.0.0.1:9",)))
    with pytest.raises(UserError, match=r"could not be downloaded.*--data FOLDER.*digits"):
        open_data(name)
