"""How the data inside `limner/data/embedded/` was made. Run it again to see that it is the same, byte for byte of the pixels:

    python examples/make_embedded_data.py OUT --fashion FOLDER

FOLDER holds Fashion-MNIST's four IDX files (Debian: apt install dataset-fashion-mnist, /usr/share/datasets/fashion-mnist).
The digits come from scikit-learn, which ships the test half of the UCI set "Optical Recognition of Handwritten Digits".

Both are shuffled with a fixed seed before they are split, so that train and test have the same writers and classes. Neither
source holds two equal images. PNG with rows of one image's width is the smallest of what Pillow alone can read back
(Fashion sample: PNG 4.75 MB, deflated npz 5.2 MB, lossless WebP 4.72 MB but minutes to write).
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from limner.data.idx import find_images, labels_beside, read_pair

PER_CLASS = {"train": 1000, "t10k": 200}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1797, shuffled, the last 360 with 36 of each class: the test set."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target
    order = np.random.default_rng(0).permutation(len(images))
    test = np.sort(np.concatenate([np.flatnonzero(labels[order] == c)[-36:] for c in range(10)]))
    rows = np.concatenate([np.delete(order, test), order[test]])
    return images[rows], labels[rows]


def fashion(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """1,000 of each class from the training set, then 200 of each from the test set."""
    images, labels = [], []
    for prefix, count in PER_CLASS.items():
        path = find_images(folder, prefix)
        pixels, classes = read_pair(path, labels_beside(path))
        order = np.random.default_rng(0).permutation(len(pixels))
        chosen = np.concatenate([np.flatnonzero(classes[order] == c)[:count] for c in range(10)])
        rows = order[np.sort(chosen)]
        images.append(pixels[rows, ..., 0])
        labels.append(classes[rows])
    return np.concatenate(images), np.concatenate(labels)


def write(out: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    """`images` (N, H, W) one below the other as a grey PNG, `labels` as bytes."""
    Image.fromarray(images.reshape(-1, images.shape[2])).save(out / f"{name}.png", optimize=True)
    (out / f"{name}-labels.bin").write_bytes(labels.astype(np.uint8).tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--fashion", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out, "digits", *digits())
    write(arguments.out, "fashion-mini", *fashion(arguments.fashion))
