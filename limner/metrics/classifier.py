"""A small classifier of the data's own labels: an extractor for data that no public network was trained on.

limner trains it once for a labelled data set (the same content, size and channels), seeded, in seconds on a CPU, and keeps it in its
cache. Its features are the 64 activations before the last layer. It does not see a reserved part of the training images, which
serves for the real-against-real floor. Figures made with it compare only with figures made with the same weights: their hash is in
the protocol. A distance of these features is not an FID.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from limner.data import cache
from limner.files import write_atomically
from limner.metrics.features import in_batches, to_floats
from limner.nn.weights import weights_hash

if TYPE_CHECKING:
    from limner.data import Dataset

WEIGHTS = "classifier.safetensors"
SIZE = 32
FEATURES = 64
IMAGES_SEEN, PASSES = 50_000, 20
"""Training length, and most passes over a small set."""
RECIPE = 1
"""Raised whenever architecture or training below change, so that old weights are not taken from the cache."""


class Network(nn.Module):
    """Three convolutions and two linear layers on images (B, C, s, s) in [-1, 1], s <= 32."""

    def __init__(self, channels: int, size: int, classes: int):
        super().__init__()
        side = (size + 3) // 4  # halved twice, rounding up
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        )
        self.embed = nn.Linear(64 * side * side, FEATURES)
        self.classify = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, 64) activations before the last layer."""
        return F.relu(self.embed(self.convolutions(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes) logits."""
        return self.classify(F.dropout(self.features(x), 0.2, self.training))


@dataclass
class Classifier:
    """A trained classifier as an extractor."""

    network: Network
    hash: str
    classes: int
    accuracy: float
    """On the held-out images, in [0, 1]."""
    name: str = "classifier"
    resize: str = f"as is up to {SIZE} px, larger by area averaging to {SIZE}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, 64) float64 of images (N, H, W, C) uint8."""
        return in_batches(lambda part: self.network.features(to_floats(part, SIZE)), images).double()

    @torch.no_grad()
    def labels(self, images: Tensor) -> Tensor:
        """(N,) int64, the class of each image (N, H, W, C) uint8."""
        return in_batches(lambda part: self.network(to_floats(part, SIZE)).argmax(1), images)


def reserved(count: int) -> Tensor:
    """Indices of the training images that the classifier does not see: a quarter of `count`, at most 2000, sorted."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(20))
    return order[: min(count // 4, 2000)].sort().values


def classifier_of(train: Dataset, test: Dataset) -> Classifier:
    """The classifier of a labelled data set: from limner's cache, or trained now and kept there.

    Raises:
        ValueError: the data have no labels.
    """
    labels, test_labels = train.labels, test.labels
    if labels is None or test_labels is None or not train.class_names:
        raise ValueError("a classifier needs labelled data")
    size, channels, classes = min(train.size, SIZE), train.channels, train.classes
    network = Network(channels, size, classes)

    def build(folder: Path) -> None:
        seen = torch.ones(len(labels), dtype=torch.bool)
        seen[reserved(len(seen))] = False
        fit(network, train.images, labels, seen.nonzero().flatten())
        accuracy = {"accuracy": repr(_accuracy(network, test.images, test_labels))}
        write_atomically(folder / WEIGHTS, safetensors.torch.save(network.state_dict(), metadata=accuracy))

    def load(folder: Path) -> float:
        try:
            with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
                accuracy = float(file.metadata()["accuracy"])
                network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
            return accuracy
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise cache.Damaged(str(error)) from None

    parts = [train.fingerprint, train.images.shape, train.levels, RECIPE]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
    accuracy = cache.stored("classifiers", key, build, load)
    return Classifier(network.eval(), weights_hash(network), classes, accuracy)


def fit(network: Network, images: np.ndarray, labels: np.ndarray, indices: Tensor, *, seed: int = 0) -> None:
    """Train `network` from the start by the recipe, on those of images (N, H, W, C) uint8 and labels (N,) that `indices` name.

    The same seed and data give the same weights. Needs five images or more.
    """
    batch = 100
    steps = min(IMAGES_SEEN, PASSES * len(indices)) // batch
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [torch.randperm(len(indices), generator=generator) for _ in range(steps * batch // len(indices) + 1)]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
        for step in range(steps):
            chosen = indices[order[step * batch : (step + 1) * batch]].numpy()
            x = to_floats(torch.from_numpy(images[chosen]), SIZE)
            loss = F.cross_entropy(network(x), torch.from_numpy(labels[chosen]), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


@torch.no_grad()
def _accuracy(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    right = 0
    for start in range(0, len(labels), 500):
        found = network(to_floats(torch.from_numpy(images[start : start + 500]), SIZE)).argmax(1)
        right += int((found == torch.from_numpy(labels[start : start + 500])).sum())
    return right / len(labels)
