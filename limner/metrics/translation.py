"""Measures of a translation between two domains: has the style changed, has everything else stayed?

- Style: the share of translated images that a classifier of real images (`limner.metrics.classifier`) takes for ones of the target
  domain. What it misses: whether the image still shows what its source showed; a model that always draws the same image of the target
  domain is perfect.
- Factors kept: where it is known what images show (`limner.data.shapes`), predictors of each factor are trained on *real* images of
  both domains, applied to the translated image, and compared with the true factors of its *source*. A shape, colour or background
  is kept if it is the one predicted; radius and centre if the prediction is within 0.03 of the image's side (a pixel at 32 pixels) of
  the truth. Rotation is left out: it means something else for each shape, and nothing for a circle. The figure is the mean over factors
  and images; guessing the most frequent value of each gives about 0.2. What it misses: all that is no factor, such as clean edges, and
  the style: an image that was not translated has kept everything.
- Truth: where the right translation is known (shapes, whose scenes can be drawn in the other style, and paired domains), PSNR to it.

Errors of the predictors themselves count against the model: their accuracy on real held-out images is the floor.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from limner.data import cache
from limner.data.shapes import BACKGROUNDS, COLOURS, FACTORS, SHAPES
from limner.files import write_atomically
from limner.metrics import psnr
from limner.metrics.classifier import SIZE
from limner.metrics.features import describe, in_batches, to_floats
from limner.nn.weights import weights_hash
from limner.training.device import has_bfloat16

if TYPE_CHECKING:
    from limner.data import Dataset
    from limner.metrics.pair_bench import PairBench

EXACT = {"shape": len(SHAPES), "colour": len(COLOURS), "background": len(BACKGROUNDS)}
"""Factors that are one of so many values."""
WITHIN = {"radius": 0.03, "x": 0.03, "y": 0.03}
"""Factors that are numbers, in shares of the image's side, and how near counts as kept."""
COLUMNS = [FACTORS.index(name) for name in (*EXACT, *WITHIN)]
NO_DOMAINS = "it does not translate between two domains"
WEIGHTS = "predictors.safetensors"
IMAGES_SEEN = 100_000
RECIPE = 1
"""Raised whenever architecture or training below change, so that old weights are not taken from the cache."""


# ---- predictors of factors


class Network(nn.Module):
    """Predicts the factors of images (B, C, s, s) in [-1, 1], s <= 32, of either domain.

    Six convolutions, three pixels wide, to a map of a quarter of the side. Its maxima and means over places tell all factors but the
    centre, which is the mean place under a learnt distribution over the map: neither has to be learnt anew for each place.
    """

    def __init__(self, channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in [
            (channels, 16, 1),
            (16, 32, 2),
            (32, 32, 1),
            (32, 64, 2),
            (64, 64, 1),
            (64, 64, 1),
        ]:
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.heat = nn.Conv2d(64, 1, 1)
        self.head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, sum(EXACT.values()) + 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (B, values) of each factor of `EXACT`, then radius, x and y (B, 3)."""
        h = self.body(x).float()  # (B, 64, side, side)
        side = h.shape[-1]
        place = self.heat(h).float().flatten(1).softmax(1).view(-1, side, side)
        at = (torch.arange(side, device=x.device) + 0.5) / side
        centre = torch.stack([place.sum(1) @ at, place.sum(2) @ at], dim=1)
        told = self.head(torch.cat([h.amax((2, 3)), h.mean((2, 3))], dim=1)).float()
        *logits, radius = told.split([*EXACT.values(), 1], dim=1)
        return [*logits, torch.cat([radius, centre], dim=1)]


@dataclass
class Predictors:
    """Predictors of the factors of images, whatever their domain."""

    network: Network
    hash: str
    accuracy: list[float]
    """On real held-out images, share of right predictions of each factor of `EXACT` and `WITHIN`."""

    @torch.no_grad()
    def right(self, images: Tensor, factors: Tensor) -> Tensor:
        """(N, 6) whether what is predicted from images (N, H, W, C) uint8 is what `factors` (N, 7) say, by `EXACT` and `WITHIN`."""
        return in_batches(self._predict, images).sub(factors[:, COLUMNS]).abs() <= _tolerances()

    def _predict(self, images: Tensor) -> Tensor:
        *logits, numbers = self.network(to_floats(images, SIZE))
        return torch.cat([*(part.argmax(1, keepdim=True).float() for part in logits), numbers], dim=1)


def _tolerances() -> Tensor:
    return torch.tensor([0.5] * len(EXACT) + list(WITHIN.values()))


def predictors_of(train: Dataset, test: Dataset) -> Predictors:
    """The predictors for a set of images with factors: from limner's cache, or trained now and kept there."""
    network = Network(train.channels)

    def build(folder: Path) -> None:
        fit(network, torch.from_numpy(train.images), torch.from_numpy(train.extras["factors"]), seen=IMAGES_SEEN)
        found = Predictors(network, "", [])
        right = found.right(torch.from_numpy(test.images), torch.from_numpy(test.extras["factors"]))
        accuracy = {"accuracy": json.dumps(right.double().mean(0).tolist())}
        write_atomically(folder / WEIGHTS, safetensors.torch.save(network.state_dict(), metadata=accuracy))

    def load(folder: Path) -> list[float]:
        try:
            with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
                accuracy = json.loads(file.metadata()["accuracy"])
                network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
            return accuracy
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise cache.Damaged(str(error)) from None

    key = json.dumps([train.fingerprint, test.fingerprint, RECIPE])
    accuracy = cache.stored("predictors", hashlib.sha256(key.encode()).hexdigest()[:20], build, load)
    return Predictors(network.eval(), weights_hash(network), accuracy)


def fit(network: Network, images: Tensor, factors: Tensor, *, seen: int, seed: int = 0) -> None:
    """Train `network` from the start on `seen` draws of images (N, H, W, C) uint8 and their factors (N, 7), reproducibly.

    Images are mirrored and transposed at random, with their centres: every shape is its own mirror image, turned.
    """
    batch, columns = 100, factors[:, COLUMNS]
    steps = max(1, seen // batch)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
                module.reset_parameters()
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (batch,), generator=generator)
        flips = torch.rand(3, generator=generator) < 0.5
        x, known = _flipped(to_floats(images[rows], SIZE), columns[rows], *flips.tolist())
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(x.device)):
            *logits, numbers = network(x)
        classes = known[:, : len(EXACT)].long()
        loss = sum(F.cross_entropy(part, classes[:, i]) for i, part in enumerate(logits))
        loss = loss + 10 * F.l1_loss(numbers, known[:, len(EXACT) :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def _flipped(x: Tensor, known: Tensor, across: bool, down: bool, transpose: bool) -> tuple[Tensor, Tensor]:
    exact, (radius, u, v) = known[:, : len(EXACT)], known[:, len(EXACT) :].unbind(1)
    if across:
        x, u = x.flip(3), 1 - u
    if down:
        x, v = x.flip(2), 1 - v
    if transpose:
        x, u, v = x.transpose(2, 3), v, u
    return x.contiguous(), torch.cat([exact, torch.stack([radius, u, v], 1)], 1)


# ---- figures, as in `limner.metrics.measures`


def style_lacks(bench: Any) -> str:
    """Of any bench: why it is no translation."""
    return "" if getattr(bench, "domains", None) and bench.can("translate") else NO_DOMAINS


def style_protocol(bench: PairBench) -> str:
    return f"{_translations(bench)}, {describe(bench.classifier)}"


def style(bench: PairBench) -> dict[str, Any]:
    bench.say(f"style of {bench.m} translated images")
    source = bench.domain_of(bench.m)
    right = (bench.classifier.labels(bench.translated(bench.m)) == 1 - source).double()
    return {**_share(right), "floor": bench.classifier.accuracy, "note": _directions(bench, right)}


def kept_lacks(bench: Any) -> str:
    """Needs images whose factors are known."""
    if why := style_lacks(bench):
        return why
    known = bench.test.name == "shapes-ab" and "factors" in bench.test.extras
    return "" if known else f"the factors of {bench.test.name} are not known, as those of shapes-ab are"


def kept_protocol(bench: PairBench) -> str:
    factors = ", ".join([*EXACT, *(f"{name} within {share}" for name, share in WITHIN.items())])
    return f"{_translations(bench)}, {factors}, predictors {bench.predictors.hash}"


def kept(bench: PairBench) -> dict[str, Any]:
    bench.say(f"factors kept in {bench.m} translated images")
    right = bench.predictors.right(bench.translated(bench.m), bench.held_out(bench.m)["factors"]).double()
    each = ", ".join(f"{name} {share:.3f}" for name, share in zip((*EXACT, *WITHIN), right.mean(0), strict=True))
    note = f"{_directions(bench, right.mean(1))}; {each}"
    return {**_share(right.mean(1)), "floor": sum(bench.predictors.accuracy) / len(COLUMNS), "note": note}


def truth_lacks(bench: Any) -> str:
    """Needs the right translation of each image."""
    if why := style_lacks(bench):
        return why
    return "" if bench.has_truth else "the right translations are not known: the domains are not paired"


def truth_protocol(bench: PairBench) -> str:
    return f"{_translations(bench)} against the same scene in the other style, 8 bit"


def truth(bench: PairBench) -> dict[str, Any]:
    bench.say(f"{bench.m} translated images against the true ones")
    right, found = bench.truth(bench.m), bench.translated(bench.m)
    untouched = psnr.psnr(right, bench.held_out_bytes(bench.m))
    note = f"the source itself has {untouched:.2f} dB"
    return {"value": psnr.psnr(right, found), "error": psnr.psnr_error(right, found), "note": note}


def _translations(bench: PairBench) -> str:
    return f"{bench.m} held-out images of {bench.data_id} translated, 8 bit, seed {bench.seed}, {bench.version}"


def _share(values: Tensor) -> dict[str, float]:
    n = len(values)
    return {"value": float(values.mean()), "error": float(values.std()) / math.sqrt(n) if n > 1 else math.nan}


def _directions(bench: PairBench, values: Tensor) -> str:
    source, names = bench.domain_of(len(values)), bench.domains
    return ", ".join(f"{names[d]} to {names[1 - d]} {float(values[source == d].mean()):.3f}" for d in (0, 1))
