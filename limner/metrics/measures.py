"""How each figure of `limner.metrics.registry` is measured on a bench: when it applies, under which protocol, and its value.

By metric up to three functions: `..._lacks` (why the model or the data do not admit it, or ""), `..._protocol` (all that another
figure must share to be compared with this one; known before measuring) and the measurement, which gives the fields of a `Figure`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from limner.metrics import coverage, frechet, kid, psnr
from limner.metrics.bench import Bench

SEARCHED = 64
"""Images a latent search is made for: it takes hundreds of passes through the decoder."""


# ---- likelihood


def bits_protocol(bench: Bench) -> str:
    return f"{bench.m} held-out images of {bench.data_id}, {bench.test.levels} grey levels, seed {bench.seed}, {bench.version}"


def bits(bench: Bench) -> dict[str, Any]:
    bench.say(f"likelihood of {bench.m} held-out images")
    values = bench.bits(bench.m)
    note = ", ".join(filter(None, [bench.model.likelihood, bench.settings("score", "bits_per_dim")]))
    return {"value": float(values.mean()), "error": _standard_error(values), "note": note}


# ---- reconstruction


def reconstruction_protocol(bench: Bench) -> str:
    return (
        f"{bench.m} held-out images of {bench.data_id} against their copies, 8 bit, seed {bench.seed}, {bench.version}"
    )


def reconstruction(bench: Bench) -> dict[str, Any]:
    bench.say(f"reconstruction of {bench.m} held-out images")
    return _psnr(bench, bench.copies(bench.m))


def search_protocol(bench: Bench) -> str:
    count = min(SEARCHED, bench.n)
    return f"{count} held-out images of {bench.data_id} against the nearest image found, 8 bit, seed {bench.seed}, {bench.version}"


def search(bench: Bench) -> dict[str, Any]:
    bench.say("latent search for the nearest image the model can draw")
    return {**_psnr(bench, bench.found(min(SEARCHED, bench.n))), "note": "found by latent search"}


def _psnr(bench: Bench, copy: torch.Tensor) -> dict[str, Any]:
    original = bench.held_out_bytes(len(copy))
    return {"value": psnr.psnr(original, copy), "error": psnr.psnr_error(original, copy)}


# ---- distance of the samples from held-out images


def distance_protocol(bench: Bench) -> str:
    return (
        f"{bench.n} samples against {bench.n} held-out images of {bench.data_id}, "
        f"features {bench.extractor_id}, seed {bench.seed}, {bench.version}"
    )


def kid_to_held_out(bench: Bench) -> dict[str, Any]:
    real = bench.extractor(bench.held_out_bytes(bench.n))
    value, error = kid.kid(bench.extractor(bench.samples_bytes), real)
    floor, floor_error = kid.kid(bench.extractor(bench.reserved_bytes), real)
    return {"value": value, "error": error, "floor": floor, "floor_error": floor_error}


def frechet_lacks(bench: Bench) -> str:
    if not bench.can("sample"):
        return "draws no new images"
    width = bench.extractor(bench.held_out_bytes(2)).shape[1]
    if bench.n < 4 * width:
        return f"{bench.n} images are too few for a Fréchet distance of {width} features (its bias would swamp it): see KID"
    if len(bench.reserved_bytes) < bench.n:
        return f"the data cannot give {bench.n} training images for the floor without which a Fréchet distance is not read: see KID"
    return ""


def frechet_to_held_out(bench: Bench) -> dict[str, Any]:
    fake, real, floor = (
        bench.extractor(x) for x in (bench.samples_bytes, bench.held_out_bytes(bench.n), bench.reserved_bytes)
    )
    return {
        "value": frechet.frechet(fake, real),
        "error": frechet.frechet_spread(fake, real),
        "floor": frechet.frechet(floor, real),
        "floor_error": frechet.frechet_spread(floor, real),
    }


# ---- variety and novelty


def labels_protocol(bench: Bench) -> str:
    return f"{bench.n} samples, labels by {bench.extractor_id}, {bench.data_id}, seed {bench.seed}, {bench.version}"


def labels_lacks(bench: Bench) -> str:
    return lacks("sample", "draws no new images")(bench) or ("" if bench.labelled else "the data have no labels")


def classes(bench: Bench) -> dict[str, Any]:
    count = bench.classifier.classes
    found, real = (bench.classifier.labels(x) for x in (bench.samples_bytes, bench.held_out_bytes(bench.n)))
    return {
        "value": coverage.effective_classes(found, count),
        "error": coverage.effective_classes_error(found, count),
        "note": f"of {count}",
        "floor": coverage.effective_classes(real, count),
        "floor_error": coverage.effective_classes_error(real, count),
    }


def asked(bench: Bench) -> dict[str, Any]:
    right = bench.classifier.labels(bench.samples_bytes).eq(bench.held_out(bench.n)["label"]).double()
    floor = bench.classifier.labels(bench.held_out_bytes(bench.n)).eq(bench.held_out(bench.n)["label"]).double()
    return {
        "value": float(right.mean()),
        "error": _standard_error(right),
        "floor": float(floor.mean()),
        "floor_error": _standard_error(floor),
    }


def novelty_protocol(bench: Bench) -> str:
    return (
        f"{bench.n} samples, nearest of {len(bench.train.images)} training images in pixels, "
        f"{bench.data_id}, seed {bench.seed}, {bench.version}"
    )


def novelty(bench: Bench) -> dict[str, Any]:
    bench.say("nearest training images")
    return {
        "value": coverage.memorisation_ratio(bench.samples_bytes, bench.held_out_bytes(bench.n), bench.training_bytes),
        "floor": 1.0,
    }


# ---- cost


def speed_protocol(batch: Callable[[Bench], int]) -> Callable[[Bench], str]:
    def protocol(bench: Bench) -> str:
        cpu = bench.device.type == "cpu"
        where = f"cpu, {torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name(bench.device)
        return f"{batch(bench)} at once, {where}, torch {torch.__version__}, {bench.data_id}, {bench.version}"

    return protocol


def speed(batch: Callable[[Bench], int]) -> Callable[[Bench], dict[str, Any]]:
    def measure(bench: Bench) -> dict[str, Any]:
        bench.say(f"seconds per image, {batch(bench)} at once")
        value, spread = bench.seconds_per_image(batch(bench))
        return {"value": value, "error": spread, "note": bench.settings("sample", "sample")}

    return measure


def parameters(bench: Bench) -> dict[str, Any]:
    return {"value": sum(p.numel() for p in bench.model.parameters()), "note": "all its networks"}


def last(key: str) -> Callable[[Bench], dict[str, Any]]:
    return lambda bench: {"value": float(next(line[key] for line in reversed(bench.stats) if key in line))}


def log_lacks(key: str) -> Callable[[Bench], str]:
    return lambda bench: "" if any(key in line for line in bench.stats) else "there is no training log"


def lacks(capability: str, why: str) -> Callable[[Bench], str]:
    return lambda bench: "" if bench.can(capability) else why


def search_lacks(bench: Bench) -> str:
    if bench.can("reconstruct"):
        return "it reconstructs by itself"
    return "" if bench.can("decode") else "it has no latents to search"


def asked_lacks(bench: Bench) -> str:
    return labels_lacks(bench) or ("" if bench.conditional else "it cannot be asked for a class")


def novelty_lacks(bench: Bench) -> str:
    size = len(bench.train.images) * math.prod(bench.train.images.shape[1:])
    return lacks("sample", "draws no new images")(bench) or (
        "" if size < 2**31 else "the training set is too large to search in pixels"
    )


def _standard_error(x: torch.Tensor) -> float:
    return float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else math.nan


def singly(bench: Bench) -> int:
    return 1


def batched(bench: Bench) -> int:
    return bench.batch


def nothing(bench: Bench) -> str:
    return ""
