"""Prints the gallery's tables of anomaly detection on Fashion-MNIST.

    python docs/gallery/anomaly.py                # each class in turn is left out of training and is the anomaly
    python docs/gallery/anomaly.py --one-class    # each class in turn is trained on alone; the nine others are anomalies
    python docs/gallery/anomaly.py --choose       # the first, inside the training images: what the method was chosen by

Each line is a small autoencoder trained anew, as `limner train ae --data fashion-mnist --without CLASS --images 60000 --batch 128
--model.network mlp --model.hidden 512 256` does, and the AUROC of `limner anomaly RUN --method ...` over all test images. No label of
any image, and no image of the anomalous class, is seen by what scores. `--choose` trains on 50,000 of the training images
and scores the other 10,000: test images are not looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from limner.data import open_data
from limner.data.dataset import Dataset
from limner.edit.anomaly import Auroc, Normal, auroc, score
from limner.models.autoencoders.ae import AE, TRAIN, Config
from limner.training.loop import Trainer
from limner.training.settings import TrainConfig

METHODS = ("error", "mahalanobis", "energy", "neighbours", "local", "turns", "combined")
SETTINGS = TrainConfig(**{**TRAIN, "images": 60_000, "batch": 128, "warmup": 6_000})


def trained(data: Dataset) -> AE:
    """A small fully connected autoencoder of the data."""
    torch.manual_seed(SETTINGS.seed)
    model = AE(Config(channels=data.channels, size=data.size, network="mlp", hidden=(512, 256)))
    trainer = Trainer(model, data, SETTINGS)
    trainer.run()
    return model.eval()


def line(train: Dataset, test: Dataset, name: int, one_class: bool) -> dict[str, Auroc]:
    """AUROC by each method, for a model trained without the class (or with it alone)."""
    of_class = train.labels == name
    normal = train.subset(np.flatnonzero(of_class if one_class else ~of_class))
    judge = Normal(trained(normal), normal)
    anomalous = (test.labels == name) != one_class
    return {method: auroc(score(judge, test, method), anomalous) for method in METHODS}


def main() -> None:
    """Print the table; lines that the file FILE holds already are not made again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one-class", action="store_true")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--classes", type=int, nargs="*", help="these alone, by number")
    parser.add_argument("--file", type=Path, help="keep lines here, to go on after a stop")
    given = parser.parse_args()
    torch.set_num_threads(1)

    train, test = open_data(given.data), open_data(given.data, split="test")
    if given.choose:
        order = np.random.default_rng(1).permutation(len(train))
        train, test = train.subset(np.sort(order[10_000:])), train.subset(np.sort(order[:10_000]))
    assert train.labels is not None
    names = train.class_names or []
    lines = json.loads(given.file.read_text()) if given.file and given.file.exists() else {}
    for name in given.classes if given.classes is not None else range(train.classes):
        if names[name] not in lines:
            started = time.perf_counter()
            lines[names[name]] = {m: a[:2] for m, a in line(train, test, name, given.one_class).items()}
            print(f"{names[name]}: {time.perf_counter() - started:.0f} s", flush=True)
            if given.file:
                given.file.write_text(json.dumps(lines))

    print("\n| " + ("trained on" if given.one_class else "left out") + " | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 1) + "|")
    for name, figures in lines.items():
        print(f"| {name} | " + " | ".join(f"{figures[m][0]:.3f} ± {figures[m][1]:.3f}" for m in METHODS) + " |")
    means = [np.mean([figures[m][0] for figures in lines.values()]) for m in METHODS]
    print("| **mean** | " + " | ".join(f"**{mean:.3f}**" for mean in means) + " |")


if __name__ == "__main__":
    main()
