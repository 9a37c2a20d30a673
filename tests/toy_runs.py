"""Small models that can do this and that, and run folders that hold them: for tests of metrics, editing and reports.

Each is fitted in closed form to the 8x8 digits that come with scikit-learn, so nothing here is trained.
"""

from __future__ import annotations

import json
import math
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from limner import hub, models
from limner.config import ImageConfig, NonNegative, Positive, config
from limner.data.dataset import Dataset
from limner.model import Model
from limner.models import Entry
from limner.noise import SampleNoise, Seed


def digits() -> tuple[Dataset, Dataset]:
    """1437 training and 360 held-out digits of 17 grey levels."""
    source = load_digits()
    images = np.round(source.images * 255 / 16).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[360:], "test": order[:360]}
    names = [str(i) for i in range(10)]
    train, test = (
        Dataset("digits", images[rows], source.target[rows].astype(np.int64), names, levels=17, split=split)
        for split, rows in parts.items()
    )
    return train, test


@config
class Config(ImageConfig):
    """Of every toy."""

    levels: Positive = 17
    classes: NonNegative = 0
    rank: Positive = 16
    nap: float = 0.0
    """Seconds that drawing an image takes."""


class Toy(Model):
    """Base: holds one buffer, filled by `fit`."""

    Config = Config

    def __init__(self, config: Config | None = None):
        super().__init__(config or Config(size=8))
        self.scale = torch.nn.Parameter(torch.ones(1))


class Histogram(Toy):
    """One histogram for each pixel: draws and scores, exactly. No latents."""

    likelihood = "exact"

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        pixels = math.prod(self.image_shape)
        self.register_buffer("p", torch.full((pixels, self.config.levels), 1 / self.config.levels))

    def fit(self, image: Tensor) -> Histogram:
        k = self.levels_of(image)
        counts = torch.nn.functional.one_hot(k, self.config.levels).sum(0).double() + 0.5
        self.p.copy_(counts / counts.sum(1, keepdim=True))
        return self

    def levels_of(self, image: Tensor) -> Tensor:
        return ((image.flatten(1) + 1) / 2 * (self.config.levels - 1)).round().long()

    def bits_per_dim(self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0) -> Tensor:
        p = self.p.expand(len(image), -1, -1).gather(2, self.levels_of(image)[..., None])
        return -p.log2().mean((1, 2))

    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        time.sleep(self.config.nap * n)
        u = SampleNoise(n, generator).uniform(len(self.p))
        k = (u[..., None] > self.p.cumsum(1)[:, :-1]).sum(-1)
        return (2 * k / (self.config.levels - 1) - 1).view(n, *self.image_shape).float()


class Gaussian(Toy):
    """Draws from a Gaussian with the data's mean and leading covariance: a decoder with a prior, no encoder, no likelihood."""

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        pixels = math.prod(self.image_shape)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("axes", torch.zeros(self.config.rank, pixels))

    def fit(self, image: Tensor) -> Gaussian:
        x = image.flatten(1)
        self.mean.copy_(x.mean(0))
        _, s, v = torch.linalg.svd(x - self.mean, full_matrices=False)
        r = self.config.rank
        self.axes.copy_(v[:r] * s[:r, None] / math.sqrt(len(x) - 1))
        return self

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        return SampleNoise(n, generator).normal(self.config.rank)

    def decode(self, latent: Tensor) -> Tensor:
        return (self.mean + latent @ (self.axes * self.scale)).view(len(latent), *self.image_shape)

    @torch.no_grad()
    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        time.sleep(self.config.nap * n)
        return self.decode(self.latents(n, generator=generator)).clamp(-1, 1)


class Projector(Gaussian):
    """PCA: encodes, decodes, reconstructs and, with `k` draws, gives a made-up bound. Draws nothing."""

    likelihood = "bound"
    sample = latents = None  # type: ignore[assignment]

    def encode(self, image: Tensor) -> Tensor:
        return (image.flatten(1) - self.mean) @ torch.linalg.pinv(self.axes)

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def bits_per_dim(
        self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, samples: int = 1
    ) -> Tensor:
        return torch.full((len(image),), 4.0) + image.flatten(1).mean(1) / samples


class Memoriser(Toy):
    """Gives back training images, of the class asked for: conditional, and no model at all."""

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        self.register_buffer("images", torch.zeros(400, *self.image_shape))
        self.register_buffer("labels", torch.zeros(400, dtype=torch.int64))

    @property
    def inputs(self):  # type: ignore[override]
        return ("image", "label")

    def fit(self, image: Tensor, label: Tensor) -> Memoriser:
        self.images.copy_(image[:400])
        self.labels.copy_(label[:400])
        return self

    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        u = SampleNoise(n, generator).uniform()
        wanted = torch.as_tensor(0 if label is None else label).expand(n)
        rows = [(self.labels == w).nonzero().flatten() for w in wanted]
        return torch.stack([self.images[r[int(v * len(r))]] for r, v in zip(rows, u, strict=False)])


class Collapsed(Gaussian):
    """A Gaussian without variance: one image for ever."""

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(latent * 0.01)


TOYS = {cls.__name__.lower(): cls for cls in (Histogram, Gaussian, Projector, Memoriser, Collapsed)}
for _name, _cls in TOYS.items():
    models.register(f"toy-{_name}", Entry(f"toy_runs:{_cls.__name__}", "autoencoder", f"Toy {_name}"))


def fitted(name: str, **settings) -> Toy:
    """The toy of this name, fitted to the digits."""
    train, _ = digits()
    batch = train.batch(range(len(train)))
    toy = TOYS[name](Config(size=8, **settings))
    return (toy.fit(batch["image"], batch["label"]) if name == "memoriser" else toy.fit(batch["image"])).eval()


class FakeRun:
    """What `limner.training.folder.RunFolder` offers, for a folder written here."""

    def __init__(self, path, name):
        self.path, self.name, self.data_config = path, name, None
        self.settings = {"model_name": name, "preset": "toy"}

    def model(self, device="cpu"):
        return hub.load(self.path, device=device)

    def stats(self):
        return [json.loads(line) for line in (self.path / "stats.jsonl").read_text().splitlines()]


def make_run(folder, name: str, *, seconds: float = 30.0, **settings) -> FakeRun:
    """A run folder with a fitted toy and a made-up training log."""
    folder.mkdir(parents=True, exist_ok=True)
    hub.save(fitted(name, **settings), folder, name=f"toy-{name}")
    rng = np.random.default_rng(len(name))
    with open(folder / "stats.jsonl", "w") as file:
        for i in range(1, 41):
            loss = {"loss/main": 3 * math.exp(-i / 9) + 0.5 + 0.05 * rng.standard_normal()}
            line = {
                "images": 1000 * i,
                "step": 16 * i,
                "seconds": seconds * i / 40,
                "images_per_second": 1000.0,
                **loss,
            }
            file.write(json.dumps(line) + "\n")
    return FakeRun(folder, f"toy-{name}")
