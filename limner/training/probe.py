"""Looks at the model while it trains: a few samples, scores and latents, measured for `limner.training.health`.

What is measured depends on what the model can do (`limner.capabilities`), never on what it is:

draw    (Samples)  samples beside real images: how far apart they lie, whether they reach the real ones, whether they are copies
fit     (Scores, or else Reconstructs)  bits per dimension, or squared error, on training and on held-out images
encode  (Encodes and Decodes)  units of the latent that tell images apart

A probe changes nothing in training: weights, buffers, mode and random numbers are as before, and its own noise is that of
`limner.noise`, the same at every probe, so that two probes differ by the model alone. Its figures are numbers in the record of the run.

Each kind has an allowance of a share of the training time. Its first probe has a few images, to see what they cost; from then on as
many as the allowance bears: a model that draws slowly is asked seldom. Grids of samples that are drawn anyway are looked at too.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from limner import capabilities
from limner.data.dataset import Dataset, Split
from limner.data.order import held_out_order
from limner.model import Model

SHARE = 0.015
"""Of the training time, for all kinds of probes together."""
SIZES = 64, 32, 16
"""Images of a probe: the most that the allowance bears."""
TRIAL = 4
"""Images of the first probe of a kind, which only shows what it costs."""
EVERY = 5
"""Lines of statistics from one probe of a kind to the next, where the allowance bears it."""
SEED = 20_211
"""Of the noise of every probe, and of the choice of real images."""
SIDE = 16
"""Pixels a side to which larger images are reduced before distances are taken."""
SEARCHED = 1 << 21
"""Numbers (float32) of reduced training images among which the nearest is sought."""
NEIGHBOURS = 3
"""k of the recall."""
COPY = 1 / 3
"""A sample is called a copy if its nearest training image is nearer than this share of what is usual for new images."""
CHANCE = 2
"""So many copies may be found by chance, and count as none."""
ACTIVE = 0.01
"""A unit of the latent is active if its variance over images is above this share of the prior's (Burda et al. 2016, section 5.2)."""

Figures = dict[str, float]


# What is measured


def reduce(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, D): means of blocks of pixels, so that an image has about `SIDE` of them a side, as one row an image."""
    block = round(max(images.shape[2:]) / SIDE)
    return (F.avg_pool2d(images, block) if block > 1 else images).flatten(1).float()


def variety(samples: Tensor, real: Tensor) -> Figures:
    """How varied samples (n, D) are beside as many real images (n, D).

    Returns:
        "spread": mean distance between two samples over that between two real images. 1 is as varied, 0 one image for ever.
        "nearest": median distance of a sample to its nearest fellow, over the same of real images. 0: every image comes twice.
        "recall": share of real images within the reach of a sample, which is its distance to its k-th nearest fellow
        (Kynkäänniemi et al. 2019, eq. 2; on pixels).
    """
    n = min(len(samples), len(real))
    samples, real = samples[:n], real[:n]
    own, theirs = torch.cdist(samples, samples), torch.cdist(real, real)
    figures = {}
    if theirs.sum() > 0:
        figures["spread"] = float(own.sum() / theirs.sum())
    # An image is not its own fellow.
    own_nearest, real_nearest = (d.fill_diagonal_(math.inf).sort(1).values for d in (own, theirs))
    if real_nearest[:, 0].median() > 0:
        figures["nearest"] = float(own_nearest[:, 0].median() / real_nearest[:, 0].median())
    reach = own_nearest[:, min(NEIGHBOURS, n - 1) - 1]
    figures["recall"] = float((torch.cdist(real, samples) <= reach).any(1).float().mean())
    return figures


def copies(samples: Tensor, training: Tensor, usual: float, searched: float = 1.0) -> Figures:
    """Whether samples (n, D) are images of the training set.

    Args:
        training: (M, D), the share `searched` of the training set.
        usual: distance of an image that is not in the training set to its nearest one that is.

    Returns:
        "copies": estimated share of samples that are copies, see `COPY`; "novelty": median distance to the nearest training image,
        over `usual`. Empty if that is 0, so that even new images are copies.
    """
    if not usual > 0:
        return {}
    distance = _to_nearest(samples, training) / usual
    found = int((distance < COPY).sum())
    share = min(1.0, found / len(samples) / searched) if found > CHANCE else 0.0
    return {"copies": share, "novelty": float(distance.median())}


def _to_nearest(images: Tensor, others: Tensor) -> Tensor:
    """(n,) distance of each of `images` (n, D) to the nearest of `others` (M, D), to about 1e-3 of their norm."""
    squares = images.square().sum(1) + (others.square().sum(1) - 2 * images @ others.T).min(1).values
    return squares.clamp(min=0).sqrt()


def active_units(latents: Tensor, prior: Tensor) -> Figures:
    """Units of the latent that carry something: `latents` (n, ...) of n real images, `prior` (m, ...) drawn from the prior."""
    variance, usual = latents.flatten(1).float().var(0), prior.flatten(1).float().var(0)
    live = usual > 0
    return {
        "active_units": float((variance[live] > ACTIVE * usual[live]).sum()),
        "latent_units": float(len(usual)),
    }


def gradient_balance(gradients: Mapping[str, Tensor]) -> tuple[float, str]:
    """The weight matrix that learns least: its gradient's root mean square over the largest one's, and its name.

    Biases and scales (one dimension) are left out. (nan, "") if there are fewer than two matrices.
    """
    names = [name for name, g in gradients.items() if g.ndim > 1]
    if len(names) < 2:
        return math.nan, ""
    norms = torch.stack(torch._foreach_norm([gradients[name] for name in names])).float().tolist()
    sizes = [n / math.sqrt(gradients[name].numel()) for n, name in zip(norms, names, strict=True)]
    largest = max(sizes)
    least = min(range(len(sizes)), key=sizes.__getitem__)
    return (sizes[least] / largest if largest > 0 else 0.0), names[least]


# When it is measured


@dataclass
class Allowance:
    """Time for one kind of probe: a share of the training time, saved up and spent. An infinite share allows everything."""

    share: float
    spent: float = 0.0
    images: int = 0
    """Of the latest probe, 0 before the first."""
    cost: float = 0.0
    """Seconds of the latest probe."""
    probes: int = 0
    """How many there were."""

    def bears(self, seconds: float, total: float, step: float) -> int:
        """How many images a probe may have after `seconds` of training of `total`, whose steps take `step` each; 0: none yet."""
        if not math.isfinite(self.share):
            return SIZES[0]
        left = self.share * seconds - self.spent
        if self.images == 0:
            return TRIAL if left >= 2 * step else 0  # nothing is known yet: as a guess, a few images cost two steps
        for n in SIZES:
            cost = self.cost * max(1.0, n / self.images)
            # Two probes at least are to fit into the run. Never fewer images than before, or figures would not compare.
            if n >= self.images and 2 * cost <= self.share * total:
                return n if cost <= left else 0
        # What is done for the first time is slow, and may be too dear for that alone: try again, unless it is hopeless.
        return TRIAL if self.probes == 1 and self.cost <= min(left, self.share * total / 4) else 0


class Probe:
    """Probes of one model in training. `due` and `measure` once a line of statistics, `take` for samples that were drawn anyway."""

    def __init__(
        self,
        model: Model,
        data: Dataset,
        *,
        share: float = SHARE,
        say: Callable[[str], None] | None = None,
    ):
        self.model, self.data, self.say = model, data, say or (lambda text: None)
        able = capabilities.of(model) if data.domains is None and len(data) >= SIZES[-1] else []
        self.kinds: dict[str, Callable[[int], Figures]] = {}
        if "sample" in able:
            self.kinds["draw"] = self.draw
        if "score" in able or "reconstruct" in able:
            self.kinds["fit"] = self.fit
        if "encode" in able and hasattr(model, "latents"):
            self.kinds["encode"] = self.encode
        self.allowances = {kind: Allowance(share / len(self.kinds)) for kind in self.kinds}
        self._lines = 0
        self._latest: dict[str, int] = {}
        self._taken: Figures = {}
        self._once = 0.0
        """Seconds of the current probe that no other one will take: reducing the data."""
        self._references: tuple[Tensor, float] | None = None

    @property
    def spent(self) -> float:
        """Seconds that probes have taken."""
        return sum(allowance.spent for allowance in self.allowances.values())

    def due(self, seconds: float, total: float, step: float) -> dict[str, int]:
        """The kinds of probes that this line of statistics is to have, with the images of each.

        Args:
            seconds: of training since the probe was made.
            total: expected of them until the run is complete.
            step: of one training step.
        """
        self._lines += 1
        found = {}
        for kind, allowance in self.allowances.items():
            recent = self._lines - self._latest.get(kind, -EVERY) < EVERY
            if not recent and (images := allowance.bears(seconds, total, step)):
                found[kind] = images
        return found

    def measure(self, due: Mapping[str, int]) -> Figures:
        """The figures of the probes `due`, and of samples taken since the last time. The model is to be in evaluation mode."""
        figures, self._taken = self._taken, {}
        for kind, images in due.items():
            figures |= self._account(kind, images, functools.partial(self.kinds[kind], images))
        return figures

    def take(self, samples: Tensor, cost: float) -> None:
        """Look at `samples` (n, C, H, W) that `sample(n, generator=range(n))` gave in `cost` seconds, with labels in turn.

        The next `measure` gives their figures.
        """
        if "draw" not in self.kinds or len(samples) < SIZES[-1]:
            return
        self._taken = self._account("draw", len(samples), lambda: self.judge(samples))
        if "draw" in self.allowances:
            self.allowances["draw"].cost += cost  # what a probe that draws its own will cost

    def _account(self, kind: str, images: int, look: Callable[[], Figures]) -> Figures:
        """The figures of one probe, paid for from its allowance."""
        started, allowance, self._once = time.perf_counter(), self.allowances[kind], 0.0
        try:
            with torch.no_grad():
                found = look()
        except Exception as error:
            # A model of one's own may fail at what it says it can do; its training is worth more than the probe.
            self.say(f"warning: health cannot {kind} with this model ({error}); what that would show is not watched")
            del self.kinds[kind], self.allowances[kind]
            return {}
        took = time.perf_counter() - started
        allowance.spent += took
        allowance.probes += 1
        allowance.images, allowance.cost = images, took - self._once
        if images == TRIAL or not found:
            return {}
        self._latest[kind] = self._lines
        return {f"probe/{name}": round(v, 6) for name, v in found.items() if math.isfinite(v)} | {
            f"probe/{kind}": images
        }

    def draw(self, n: int) -> Figures:
        """Samples beside real images."""
        classes = getattr(self.model.config, "classes", 0)
        label = {"label": torch.arange(n, device=self.model.device) % classes} if classes else {}
        return self.judge(self.model.sample(n, generator=list(range(n)), **label))  # type: ignore[operator]

    def judge(self, images: Tensor) -> Figures:
        """Figures of samples (n, C, H, W)."""
        samples, n = reduce(images), len(images)
        training, usual = self._reference()
        if samples.shape[1:] != training.shape[1:]:
            return {}
        figures = variety(samples, training[:n])
        if len(training) < 4 * n:
            figures.pop("nearest", None)  # of few images some come twice in any draw
        return figures | copies(samples, training, usual, len(training) / len(self.data))

    def fit(self, n: int) -> Figures:
        """Training images beside held-out ones."""
        train, test = self._fit("train", n), self._fit("test", n)
        if train is None or test is None:
            return {}
        error = math.sqrt(float(train.var() / len(train) + test.var() / len(test)))
        return {"fit_train": float(train.mean()), "fit_held_out": float(test.mean()), "fit_error": error}

    def encode(self, n: int) -> Figures:
        """The latent."""
        latents = self.model.encode(self._batch("train", n)["image"])  # type: ignore[index, operator]
        return active_units(latents, self.model.latents(256, generator=SEED))  # type: ignore[operator]

    def _fit(self, split: Split, n: int) -> Tensor | None:
        batch = self._batch(split, n)
        if batch is None:
            return None
        image = batch["image"]
        if isinstance(self.model, capabilities.Scores):
            label = {"label": batch["label"]} if "label" in self.model.inputs else {}
            return self.model.bits_per_dim(image, generator=SEED, **label).double()
        copy = self.model.reconstruct(image)  # type: ignore[operator]
        return (copy - image).double().square().flatten(1).mean(1)

    def _batch(self, split: Split, n: int) -> dict[str, Tensor] | None:
        data = self.data if split == "train" else self.data.held_out
        if data is None or len(data) < SIZES[-1]:
            return None
        return data.batch(_rows(data, n), self.model.device)

    def _reference(self) -> tuple[Tensor, float]:
        """Training images (M, D), reduced, in a random order; and how far from its nearest one of them a new image usually is."""
        if self._references is None:
            started = time.perf_counter()
            width = reduce(self.data.batch([0])["image"]).shape[1]
            rows, device = _rows(self.data, max(SIZES[0], SEARCHED // width)), self.model.device
            parts = np.array_split(rows, -(-len(rows) // 1024))
            training = torch.cat([reduce(self.data.batch(part, device)["image"]) for part in parts])
            batch = self._batch("test", SIZES[0])
            if batch is not None:
                new = reduce(batch["image"])
            else:  # no held-out images: some of the training images take their place
                kept = max(len(training) // 5, 1)
                new, training = training[:kept][: SIZES[0]], training[kept:]
            self._references = training, float(_to_nearest(new, training).median())
            self._once += time.perf_counter() - started
        return self._references


def _rows(data: Dataset, n: int) -> np.ndarray:
    return held_out_order(len(data), SEED)[:n]
