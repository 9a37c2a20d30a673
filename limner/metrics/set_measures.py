"""How the figures that compare a set of images with real ones are measured on a bench: quality, variety and novelty.

By metric up to three functions, as in `limner.metrics.measures`. Each gives the figure with its spread, and the same figure of real
images that no model made (the floor), since a distance means little without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limner.metrics import (
    classification_accuracy,
    cmmd,
    coverage,
    density_coverage,
    frechet,
    inception_score,
    kid,
    neighbours,
    precision_recall,
    two_sample,
)
from limner.metrics.accumulate import Estimate
from limner.metrics.bench import Bench, Kind
from limner.metrics.features import describe
from limner.metrics.inception import Inception

Compared = Callable[[Tensor, Tensor], Estimate]
"""Features of two sets (n, d), (m, d), the second of real images, to a figure."""
FEW = 4
"""Images for each feature below which the bias of a Frechet distance is said beside it."""


def lacks(bench: Bench) -> str:
    """Why there are no images to judge."""
    return "" if bench.has_samples else "draws no new images"


def protocol(bench: Bench) -> str:
    """What two figures of distance must share."""
    return (
        f"{bench.n} {bench.samples_name} against {bench.real_n} {bench.real_name} images of {bench.data_id}, "
        f"features {bench.extractor_id}, seed {bench.seed}, {bench.version}"
    )


def distance(function: Compared) -> Callable[[Bench], dict[str, Any]]:
    """The measurement of a function of two sets of features, and of its floor."""

    def measure(bench: Bench) -> dict[str, Any]:
        found = function(bench.features("samples"), bench.features("real"))
        floor = function(bench.features("floor"), bench.features("floor_real"))
        return {"value": found.value, "error": found.error, "floor": floor.value, "floor_error": floor.error}

    return measure


kid_to_real = distance(kid.kid)


# ---- Frechet


def frechet_lacks(bench: Bench) -> str:
    """A Frechet distance is only read beside its floor, and the floor must be of as many images, or of enough."""
    width, spare = bench.width, len(bench.floor_pair[0])
    if spare >= min(bench.n, FEW * width):
        return ""
    return f"the data have only {spare} other real images for the floor, without which a Fréchet distance is not read: see KID"


def is_fid(bench: Bench) -> bool:
    """Whether a Frechet distance is a Frechet *Inception* distance."""
    return isinstance(bench.extractor, Inception) and bench.extractor.standard


def fid_lacks(bench: Bench) -> str:
    """An FID is of Inception features, and needs its floor."""
    if not bench.has_samples:
        return lacks(bench)
    return (
        frechet_lacks(bench)
        if is_fid(bench)
        else "not of the standard Inception features (--features inception): see the Fréchet distance"
    )


def other_frechet_lacks(bench: Bench) -> str:
    """Of other features."""
    if not bench.has_samples:
        return lacks(bench)
    return "of Inception features it is called FID" if is_fid(bench) else frechet_lacks(bench)


def frechet_to_real(bench: Bench) -> dict[str, Any]:
    """The distance, its floor, and how far the number of images alone may lift both."""
    fake, real = bench.features("samples"), bench.features("real")
    floor = bench.features("floor"), bench.features("floor_real")
    width = fake.shape[1]
    few = bench.n < FEW * width
    return {
        "value": frechet.frechet(fake, real),
        "error": frechet.frechet_spread(fake, real),
        "floor": frechet.frechet(*floor),
        "floor_error": frechet.frechet_spread(*floor),
        "note": f"biased upwards: {bench.n} images, {width} features; read beside KID and the floor" if few else "",
    }


def at_least(count: int) -> Callable[[Bench], str]:
    """Why a figure needs more images, where there are fewer than `count`."""

    def why(bench: Bench) -> str:
        fewest = min(bench.n, bench.real_n, *(len(part) for part in bench.floor_pair)) if bench.has_samples else 0
        return lacks(bench) or (
            "" if fewest >= count else f"needs {count} images of each side, and of other real images for its floor"
        )

    return why


# ---- precision, recall, density, coverage: which part of one set lies where the other is


def part_of(function: Callable[[Tensor, Tensor], Any], field: str) -> Callable[[Bench], dict[str, Any]]:
    """The measurement of one of two figures that a function of two sets gives together."""

    def both(bench: Bench, judged: Kind, real: Kind) -> Any:
        return bench.once((function, judged), lambda: function(bench.features(judged), bench.features(real)))

    def measure(bench: Bench) -> dict[str, Any]:
        found = getattr(both(bench, "samples", "real"), field)
        floor = getattr(both(bench, "floor", "floor_real"), field)
        return {"value": found.value, "error": found.error, "floor": floor.value, "floor_error": floor.error}

    return measure


precision = part_of(precision_recall.precision_recall, "precision")
recall = part_of(precision_recall.precision_recall, "recall")
density = part_of(density_coverage.density_coverage, "density")
covered = part_of(density_coverage.density_coverage, "coverage")
told_apart = distance(two_sample.two_sample)


# ---- CMMD


def cmmd_lacks(bench: Bench) -> str:
    """CMMD is of CLIP features."""
    if not bench.has_samples:
        return lacks(bench)
    return "" if bench.extractor.name.startswith("clip") else "defined on CLIP features (--features clip): see KID"


cmmd_to_real = distance(cmmd.cmmd)


# ---- Inception Score


def score_lacks(bench: Bench) -> str:
    """The Inception Score is of the Inception network's classes."""
    if not bench.has_samples:
        return lacks(bench)
    return "" if is_fid(bench) else "of the Inception network's classes (--features inception): see Classes drawn"


def score_protocol(bench: Bench) -> str:
    """What two scores must share."""
    return f"{bench.n} {bench.samples_name}, all at once, {bench.extractor_id}, {bench.data_id}, seed {bench.seed}, {bench.version}"


def score(bench: Bench) -> dict[str, Any]:
    """The score of the samples, and of real images."""
    assert isinstance(bench.extractor, Inception)
    found, real = (
        inception_score.inception_score(bench.extractor.logits(bench.features(kind))) for kind in ("samples", "real")
    )
    return {"value": found.value, "error": found.error, "floor": real.value, "floor_error": real.error}


# ---- variety, as a classifier sees it


def labels_protocol(bench: Bench) -> str:
    """What two figures of classes must share."""
    return f"{bench.n} {bench.samples_name}, labels by {describe(bench.classifier)}, {bench.data_id}, seed {bench.seed}, {bench.version}"


def labels_lacks(bench: Bench) -> str:
    """Classes need labelled data."""
    return lacks(bench) or ("" if bench.labelled else "the data have no labels")


def classes(bench: Bench) -> dict[str, Any]:
    """How many equally frequent classes the samples are as varied as."""
    count = bench.classifier.classes
    found, real = (bench.classifier.labels(x) for x in (bench.samples_bytes, bench.real_bytes))
    return {
        "value": coverage.effective_classes(found, count),
        "error": coverage.effective_classes_error(found, count),
        "note": f"of {count}",
        "floor": coverage.effective_classes(real, count),
        "floor_error": coverage.effective_classes_error(real, count),
    }


# ---- novelty


def novelty_protocol(bench: Bench) -> str:
    """What two figures of nearest neighbours must share."""
    return (
        f"{bench.n} {bench.samples_name}, nearest of {len(bench.train.images)} training images in pixels, "
        f"{bench.data_id}, seed {bench.seed}, {bench.version}"
    )


def novelty_lacks(bench: Bench) -> str:
    """Nearest neighbours need training images that fit into memory, and images that are none of them to compare with."""
    if why := lacks(bench):
        return why
    count = len(bench.train.images)
    if count <= neighbours.AROUND or not len(bench.unseen(1)):
        return f"needs more than {neighbours.AROUND} training images and some held-out ones"
    return (
        ""
        if count * math.prod(bench.train.images.shape[1:]) < 2**31
        else "too many training images to search in pixels"
    )


def memorised(bench: Bench) -> neighbours.Memorisation:
    """The nearest training images of all samples."""

    def search() -> neighbours.Memorisation:
        bench.say("nearest training images")
        return neighbours.memorisation(
            bench.samples_bytes, bench.unseen(bench.n), bench.training_bytes, seed=bench.seed
        )

    return bench.once("memorisation", search)


def novelty(bench: Bench) -> dict[str, Any]:
    """How far from the training images the samples are, beside held-out images."""
    ratio = memorised(bench).ratio
    return {"value": ratio.value, "error": ratio.error, "floor": 1.0}


def copies(bench: Bench) -> dict[str, Any]:
    """Share of samples that are copies of training images, the clearest named."""
    found = memorised(bench)
    pairs = ", ".join(f"{copy.sample} of {copy.training}" for copy in found.copies[:3])
    return {
        "value": found.share.value,
        "error": found.share.error,
        "floor": found.floor.value,
        "floor_error": found.floor.error,
        "note": f"sample {pairs}" + (", ..." if len(found.copies) > 3 else "") if pairs else "",
    }


# ---- class-conditional models


def asked_lacks(bench: Bench) -> str:
    """Only a model that can be asked for a class has samples that are, or are not, of it."""
    return labels_lacks(bench) or ("" if bench.conditional else "it cannot be asked for a class")


def asked(bench: Bench) -> dict[str, Any]:
    """Share of samples that the classifier takes for the class asked for."""
    assert bench.asked is not None
    right = bench.classifier.labels(bench.samples_bytes).eq(bench.asked).double()
    floor = bench.classifier.labels(bench.real_bytes).eq(bench.asked).double()
    error, floor_error = (float(x.std()) / math.sqrt(len(x)) for x in (right, floor))
    return {"value": float(right.mean()), "error": error, "floor": float(floor.mean()), "floor_error": floor_error}


def accuracy_protocol(bench: Bench) -> str:
    """What two classification accuracy scores must share."""
    return (
        f"limner's classifier trained on {bench.n} labelled samples, tested on {len(bench.test.images)} held-out images of "
        f"{bench.data_id}, seed {bench.seed}, {bench.version}"
    )


def accuracy_lacks(bench: Bench) -> str:
    """It needs labelled samples to train a classifier on."""
    least = classification_accuracy.LEAST
    return asked_lacks(bench) or ("" if bench.n >= least else f"needs {least} samples to train a classifier on")


def accuracy(bench: Bench) -> dict[str, Any]:
    """Of a classifier trained on the samples alone; its floor is that of as many real training images."""
    bench.say("a classifier trained on the samples")
    asked, labels, train_labels = bench.asked, bench.test.labels, bench.train.labels
    assert asked is not None
    assert labels is not None
    assert train_labels is not None
    test = torch.from_numpy(np.ascontiguousarray(bench.test.images)), torch.from_numpy(labels)
    rows = np.random.default_rng(bench.seed).permutation(len(bench.train.images))[: bench.n]
    real = torch.from_numpy(bench.train.images[rows]), torch.from_numpy(train_labels[rows])
    found, floor = (
        classification_accuracy.classification_accuracy(*pair, *test, classes=bench.test.classes, seed=bench.seed)
        for pair in ((bench.samples_bytes, asked), real)
    )
    return {"value": found.value, "error": found.error, "floor": floor.value, "floor_error": floor.error}
