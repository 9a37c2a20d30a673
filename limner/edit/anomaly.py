"""Anomaly detection: which images are unlike those that a model was trained on, and where in them that shows (lectures 001, 003).

A score is a number for each image, larger for stranger ones. Each method asks for capabilities, never for a family; x is the
image, z = f(x) its code, g(z) its reconstruction, d the number of its values:

- `error`: |x - g(z)|^2 / d, the mean squared error of the reconstruction. An image that is simple is rebuilt well even by a model
  that has never seen its like, so simple anomalies are missed.
- `bits`: bits per dimension, -log2 p(x) / d, with the same weakness (Nalisnick et al. 2019).
- `complexity`: bits per dimension less those of the image as a PNG file (Serrà et al. 2020, "Input Complexity and
  Out-of-distribution Detection with Likelihood-based Generative Models", equation 3): what the model needs beyond what any
  compressor needs.
- `mahalanobis`: distance of z from the mean of the training codes, in units of their covariance (Lee et al. 2018, with one class).
- `energy`: -log N(z; m, S) - log N(x; g(z), s^2 I) in bits per dimension, with m, S and s^2 of the training images: code and
  residual weighed by what is usual for each, as probabilistic PCA does (Tipping & Bishop 1999) when f and g are linear.
- `neighbours`: distance of z to the k-th nearest training code (Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest
  Neighbors"); codes are whitened first, so distances are Mahalanobis's.
- `local`: the same distance, relative to what it is for those neighbours themselves: a simplified local outlier factor (Breunig
  et al. 2000; in this form Schubert et al. 2014, section 4.1). What is dense and what is sparse are judged by their own measure.
- `turns`: distance to the k-th nearest training image in the directions of another code, that of a copy of the encoder which was
  tuned, without labels, to tell quarter turns (`limner.edit.turns`). It presumes images that have an up.
- `combined`: -ln p(local) - ln p(turns), where p is the share of training images (each held against the others) that score
  as high: Fisher's way to join tests, on the p-values of conformal prediction (Laxhammar & Falkman 2010).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner import capabilities
from limner.capabilities import Encodes, Reconstructs, Scores
from limner.data.dataset import Dataset
from limner.data.grid import to_uint8
from limner.data.order import held_out_order
from limner.edit.transfer import CodeClassifier
from limner.edit.turns import tuned_to_turns
from limner.errors import UserError

AT_ONCE = 250
REFERENCE = 10_000
"""Training images that others are compared with."""
NEIGHBOUR = 50
"""k: which of the nearest training images says how far away they are."""
FLOOR = 1e-3
"""Directions in which codes vary less than this share of the most variable one are stretched by whitening no further than that."""


class Normal:
    """How a model sees the images that it was trained on: what other images are held against. Worked out when first needed.

    Args:
        model: anything with the capabilities that the method asks for.
        data: its training images; None for the methods that need none.
        count: at most so many of them, chosen once for all.
        k: which of the nearest codes counts.
    """

    def __init__(self, model: Any, data: Dataset | None = None, *, count: int = REFERENCE, k: int = NEIGHBOUR):
        self.model, self.data, self.k = model, data, k
        self.rows = held_out_order(len(data))[:count] if data is not None else np.empty(0, np.int64)

    def code(self, x: Tensor) -> Tensor:
        """f(x) as a vector, (B, D) float64."""
        return self.model.encode(x).flatten(1).double()

    def error(self, x: Tensor) -> Tensor:
        """|x - g(f(x))|^2 / d, (B,) float64."""
        return (x - self.model.reconstruct(x)).double().square().flatten(1).mean(1)

    def of_training(self, what: Callable[[Tensor], Tensor]) -> Tensor:
        """`what` of the training images, (N, ...)."""
        if self.data is None:
            raise UserError("this method compares with training images, and there are none")
        with torch.no_grad():
            return torch.cat([what(x) for x in batches(self.data, self.rows, self.model.device)])

    @cached_property
    def codes(self) -> Tensor:
        """(N, D)."""
        return self.of_training(self.code)

    @cached_property
    def errors(self) -> Tensor:
        """(N,)."""
        return self.of_training(self.error)

    @cached_property
    def mean(self) -> Tensor:
        """m, (D,)."""
        return self.codes.mean(0)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (D,), not below the floor, and eigenvectors (D, D) of S, the covariance of the codes."""
        values, vectors = torch.linalg.eigh(torch.cov(self.codes.T).reshape(len(self.mean), -1))
        return values.clamp(min=FLOOR * float(values[-1]) + 1e-30), vectors

    def whiten(self, code: Tensor) -> Tensor:
        """S^(-1/2) (z - m), (B, D), in the axes of S."""
        values, vectors = self.spectrum
        return (code - self.mean) @ vectors / values.sqrt()

    @cached_property
    def cloud(self) -> Cloud:
        """The whitened training codes."""
        return Cloud(self.whiten(self.codes), self.k)

    @cached_property
    def tuned(self) -> CodeClassifier:
        """A copy of the encoder that tells quarter turns."""
        if self.data is None:
            raise UserError("this method trains on the training images, and there are none")
        return tuned_to_turns(self.model, self.data)

    def direction(self, x: Tensor) -> Tensor:
        """The direction of the tuned code, (B, D) of length 1."""
        return torch.nn.functional.normalize(self.tuned.features(x).double(), dim=1)

    @cached_property
    def directions(self) -> Cloud:
        """Those of the training images."""
        return Cloud(self.of_training(self.direction), self.k)


class Cloud:
    """Points (N, D) among which others are placed."""

    def __init__(self, points: Tensor, k: int):
        self.points, self.k = points, min(k, len(points) - 1)

    @cached_property
    def own(self) -> tuple[Tensor, Tensor]:
        """Distances and indices (N, k) of each point's nearest others."""
        distance, index = nearest(self.points, self.points, self.k + 1)
        return distance[:, 1:], index[:, 1:]  # the nearest is the point itself

    def distance(self, x: Tensor | None = None) -> Tensor:
        """(B,) from x (B, D) to the k-th nearest point; None: of the points themselves, to the others."""
        return (self.own if x is None else nearest(x, self.points, self.k))[0][:, -1]

    def relative(self, x: Tensor | None = None) -> Tensor:
        """(B,) the logarithm of that distance over its mean for the k nearest points themselves."""
        distance, index = self.own if x is None else nearest(x, self.points, self.k)
        return torch.log(distance[:, -1] + 1e-12) - torch.log(self.own[0][:, -1][index].mean(1) + 1e-12)


def nearest(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (A, k) of the k nearest rows of b (B, D) to each row of a (A, D), the nearest first."""
    k = min(k, len(b))
    a32, b32, squares = a.float(), b.float(), b.float().square().sum(1)
    found = []
    for part in a32.split(64):  # small pieces stay in the processor's cache
        found.append(torch.addmm(squares[None], part, b32.T, alpha=-2).topk(k, dim=1, largest=False).indices)
    index = torch.cat(found)
    # The distances of those found are worked out anew: |a|^2 - 2ab + |b|^2 loses small ones to rounding.
    distances = [(p[:, None] - b[i]).norm(dim=2) for p, i in zip(a.split(64), index.split(64), strict=True)]
    return torch.cat(distances), index


# --- The methods: each gives (B,) scores of images (B, C, H, W); `seeds` are for those that draw ---


def _error(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return normal.error(x)


def _bits(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return normal.model.bits_per_dim(x, generator=seeds).double()


def _complexity(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return _bits(normal, x, seeds) - png_bits(x)


def _mahalanobis(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return normal.whiten(normal.code(x)).norm(dim=1)


def _energy(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    values, variance, d = normal.spectrum[0], normal.errors.mean() + 1e-12, x[0].numel()
    of_code = 0.5 * (normal.whiten(normal.code(x)).square() + torch.log(2 * math.pi * values)).sum(1)
    of_residual = 0.5 * d * (normal.error(x) / variance + torch.log(2 * math.pi * variance))
    return (of_code + of_residual) / (d * math.log(2))


def _neighbours(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return normal.cloud.distance(normal.whiten(normal.code(x)))


def _local(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return normal.cloud.relative(normal.whiten(normal.code(x)))


def _turns(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    return normal.directions.distance(normal.direction(x))


def _combined(normal: Normal, x: Tensor, seeds: list[int]) -> Tensor:
    local = improbability(_local(normal, x, seeds), normal.cloud.relative())
    return local + improbability(_turns(normal, x, seeds), normal.directions.distance())


def improbability(scores: Tensor, usual: Tensor) -> Tensor:
    """-ln p, p = (1 + how many of `usual` (N,) are at least the score) / (N + 1), of scores (B,)."""
    below = torch.searchsorted(usual.sort().values, scores.contiguous())
    return math.log(len(usual) + 1) - torch.log((1 + len(usual) - below).double())


class Method(NamedTuple):
    """A way to score."""

    score: Callable[[Normal, Tensor, list[int]], Tensor]
    needs: tuple[type, ...]
    trained_on: bool
    """Whether it looks at training images."""
    unit: str


METHODS = {
    "error": Method(_error, (Reconstructs,), False, "mean squared error"),
    "bits": Method(_bits, (Scores,), False, "bits/dim"),
    "complexity": Method(_complexity, (Scores,), False, "bits/dim above PNG"),
    "mahalanobis": Method(_mahalanobis, (Encodes,), True, "standard deviations"),
    "energy": Method(_energy, (Encodes, Reconstructs), True, "bits/dim"),
    "neighbours": Method(_neighbours, (Encodes,), True, "distance of whitened codes"),
    "local": Method(_local, (Encodes,), True, "log relative distance"),
    "turns": Method(_turns, (Encodes,), True, "distance of directions"),
    "combined": Method(_combined, (Encodes,), True, "-ln p"),
}


def applicable(model: Any) -> list[str]:
    """The methods for which the model has what they need."""
    return [name for name, method in METHODS.items() if all(isinstance(model, need) for need in method.needs)]


def choose(model: Any, method: str = "auto") -> str:
    """The method called so. "auto": `local` where the code is smaller than the image, else `bits`, else `error`.

    Raises:
        UserError: there is no such method, or the model lacks what it needs, or what any needs.
    """
    can = applicable(model)
    if method != "auto" and method not in METHODS:
        raise UserError(f"--method {method}: choose auto, {', '.join(METHODS)}")
    if not can:
        raise UserError(
            "this model neither reconstructs, scores nor encodes images, so it cannot tell strange ones; it can: "
            + (", ".join(capabilities.of(model)) or "nothing but train")
        )
    if method == "auto":
        small = isinstance(model, Encodes) and _code_size(model) < math.prod(model.image_shape)  # type: ignore[attr-defined]
        return "local" if small else "bits" if "bits" in can else can[0]
    if method not in can:
        raise UserError(f"--method {method}: this model cannot do what that needs; choose {' or '.join(can)}")
    return method


@torch.no_grad()
def _code_size(model: Any) -> int:
    return model.encode(torch.zeros(1, *model.image_shape, device=model.device)).numel()


@torch.no_grad()
def score(normal: Normal, data: Dataset, method: str) -> np.ndarray:
    """(N,) float64, how strange each image of the data is. Image i of the data gets noise of seed i where the method draws."""
    rows = np.arange(len(data))
    parts = np.array_split(rows, max(1, -(-len(rows) // AT_ONCE)))
    images = batches(data, rows, normal.model.device)
    found = [METHODS[method].score(normal, x, part.tolist()).cpu() for part, x in zip(parts, images, strict=True)]
    return torch.cat(found).double().numpy()


def batches(data: Dataset, rows: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    """The images (B, C, H, W) of these rows, some at once."""
    for part in np.array_split(rows, max(1, -(-len(rows) // AT_ONCE))):
        yield data.batch(part, device)["image"]


def png_bits(image: Tensor) -> Tensor:
    """(B,) bits per dimension of each image (B, C, H, W) as a PNG file at the highest compression, headers and all."""
    sizes = []
    for pixels in to_uint8(image):
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, format="PNG", optimize=True)
        sizes.append(8 * file.tell() / pixels.size)
    return torch.tensor(sizes, dtype=torch.float64, device=image.device)


# --- How well scores tell anomalies ---


class Auroc(NamedTuple):
    """Area under the receiver operating characteristic: the chance that an anomaly scores higher than a normal image."""

    value: float
    error: float
    """Standard error (DeLong et al. 1988)."""
    anomalous: int
    normal: int


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> Auroc:
    """AUROC of scores (N,), larger for anomalies, where `anomalous` (N,) bool says which those are. Ties count half.

    The error is DeLong's, by midranks (Sun & Xu 2014): with V_i the share of normal images that anomaly i outscores and W_j the
    share of anomalies that outscore normal image j, var = var(V) / m + var(W) / n.

    Raises:
        UserError: all images, or none, are anomalous.
    """
    a, b = scores[anomalous], scores[~anomalous]
    m, n = len(a), len(b)
    if not m or not n:
        raise UserError(f"an AUROC needs anomalous and normal images; of {m + n} images {m} are anomalous")
    ranks = midranks(scores)
    v = (ranks[anomalous] - midranks(a)) / n  # (m,)
    w = 1 - (ranks[~anomalous] - midranks(b)) / m  # (n,)
    variance = (v.var(ddof=1) / m if m > 1 else 0.0) + (w.var(ddof=1) / n if n > 1 else 0.0)
    return Auroc(float(v.mean()), float(variance**0.5), m, n)


def midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[which]
