"""The data sets that go by a name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from limner.data import cifar, download, embedded, idx
from limner.data.download import Progress, Publication
from limner.data.pool import Pool, digests
from limner.data.settings import DataConfig
from limner.errors import UserError

CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
NUMERALS = [str(i) for i in range(10)]


def digits(config: DataConfig, progress: Progress | None) -> Pool:
    """The UCI handwritten digits, 8x8 with 17 levels."""
    images, labels = embedded.digits()
    return _pool("digits", images, labels, embedded.DIGITS_TRAIN, NUMERALS, levels=embedded.DIGITS_LEVELS)


def fashion_mini(config: DataConfig, progress: Progress | None) -> Pool:
    """A sixth of Fashion-MNIST."""
    return _pool("fashion-mini", *embedded.fashion_mini(), embedded.FASHION_TRAIN, CLOTHES)


def fashion_mnist(config: DataConfig, progress: Progress | None) -> Pool:
    """All of Fashion-MNIST."""
    return _published(download.FASHION_MNIST, CLOTHES, progress)


def mnist(config: DataConfig, progress: Progress | None) -> Pool:
    """MNIST."""
    return _published(download.MNIST, NUMERALS, progress)


def cifar10(config: DataConfig, progress: Progress | None) -> Pool:
    """CIFAR-10, from its binary version."""
    folder = download.folder_of(download.CIFAR10, progress)
    return cifar.read_archive(folder / download.CIFAR10.files[0].file)


NAMES: dict[str, Callable[[DataConfig, Progress | None], Pool]] = {
    "digits": digits,
    "fashion-mini": fashion_mini,
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "cifar10": cifar10,
}
PROCEDURAL = ("shapes", "shapes-ab")


def unknown(name: str) -> UserError:
    """What to say about a name that is neither here nor a path."""
    known = [*NAMES, *PROCEDURAL]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"names: {', '.join(known)}"
    return UserError(f"--data: there is no file or folder '{name}', and no data set of that name; {hint}")


def idx_folder(folder: Path, name: str, class_names: list[str] | None = None) -> Pool | None:
    """The IDX files of a folder as one pool; None if it has none."""
    parts = [
        (s, f) for s, p in (("train", "train"), ("test", "t10k"), ("test", "test")) if (f := idx.find_images(folder, p))
    ]
    if not parts:
        return None
    if len({s for s, _ in parts}) == 1:
        return idx_file(parts[0][1], name)
    read = [idx.read_pair(path, idx.labels_beside(path)) for _, path in parts[:2]]
    (train, train_labels), (test, test_labels) = read
    if train.shape[1:] != test.shape[1:] or (train_labels is None) != (test_labels is None):
        raise UserError(f"'{folder}': the training and the test files differ in image shape or in having labels")
    labels = None if train_labels is None else np.concatenate([train_labels, test_labels])
    return _pool(name, np.concatenate([train, test]), labels, len(train), class_names)


def idx_file(path: Path, name: str) -> Pool:
    """One IDX pair, whose split is by a hash of the content."""
    images, labels = idx.read_pair(path, idx.labels_beside(path))
    return _pool(name, images, labels, None)


def _published(publication: Publication, class_names: list[str], progress: Progress | None) -> Pool:
    folder = download.folder_of(publication, progress)
    pool = idx_folder(folder, publication.name, class_names)
    assert pool is not None
    return pool


def _pool(
    name: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    train: int | None,
    class_names: list[str] | None = None,
    levels: int = 256,
) -> Pool:
    """The first `train` images are for training; None leaves the split open."""
    if labels is not None and class_names is None:
        class_names = [str(i) for i in range(int(labels.max(initial=-1)) + 1)]
    n = len(images)
    pool = Pool(
        name=name,
        images=images,
        names=[f"image {i}" if train is None else f"train {i}" if i < train else f"test {i - train}" for i in range(n)],
        splits=[None if train is None else "train" if i < train else "test" for i in range(n)],
        keys=digests(images),
        labels=labels,
        class_names=class_names,
        levels=levels,
    )
    pool.census.sizes[f"{images.shape[2]}x{images.shape[1]}"] = n
    pool.census.modes["L" if images.shape[3] == 1 else "RGB"] = n
    pool.census.formats["array"] = n
    return pool
