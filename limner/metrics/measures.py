"""How each figure that only a model has is measured on its bench: when it applies, under which protocol, and its value.

By metric up to three functions: `..._lacks` (why the model or the data do not admit it, or ""), `..._protocol` (all that another
figure must share to be compared with this one; known before measuring) and the measurement, which gives the fields of a `Figure`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from limner.errors import UserError
from limner.metrics import latent_statistics, lpips, path_length, psnr, ssim
from limner.metrics.model_bench import ModelBench
from limner.noise import SampleNoise, seeds

NO_LATENT = "has no way from an image to a latent"
PERCEPTUAL = 32
"""Smallest side of images that LPIPS is taken of here: below, the last layers of its network see nothing but padding."""
WALKS = 100
"""Walks of the path length."""
SEARCHED = 64
"""Images a latent search is made for: it takes hundreds of passes through the decoder."""


# ---- likelihood


def bits_protocol(bench: ModelBench) -> str:
    return f"{bench.m} held-out images of {bench.data_id}, {bench.test.levels} grey levels, seed {bench.seed}, {bench.version}"


def bits(bench: ModelBench) -> dict[str, Any]:
    bench.say(f"likelihood of {bench.m} held-out images")
    values = bench.bits(bench.m)
    dequantised = getattr(bench.model, "dequantisation", "")  # of models of densities: what grey levels were spread by
    how = f"{dequantised} dequantisation" if dequantised else ""
    note = ", ".join(filter(None, [bench.model.likelihood, how, bench.settings("score", "bits_per_dim")]))
    return {"value": float(values.mean()), "error": _standard_error(values), "note": note}


# ---- reconstruction


def reconstruction_protocol(bench: ModelBench) -> str:
    return (
        f"{bench.m} held-out images of {bench.data_id} against their copies, 8 bit, seed {bench.seed}, {bench.version}"
    )


def reconstruction(bench: ModelBench) -> dict[str, Any]:
    bench.say(f"reconstruction of {bench.m} held-out images")
    return _psnr(bench, bench.copies(bench.m))


def similarity_lacks(bench: ModelBench) -> str:
    """SSIM has a window of 11 pixels."""
    short = min(bench.test.images.shape[1:3])
    return lacks("reconstruct", NO_LATENT)(bench) or (
        "" if ssim.most_scales(short) else f"images of {short} pixels are smaller than its window of {ssim.WINDOW}"
    )


def similarity(bench: ModelBench) -> dict[str, Any]:
    copies = bench.copies(bench.m)
    found = ssim.ssim(bench.held_out_bytes(bench.m), copies)
    return {"value": found.value, "error": found.error}


def scales_lacks(bench: ModelBench) -> str:
    """MS-SSIM halves the images four times."""
    short = min(bench.test.images.shape[1:3])
    return similarity_lacks(bench) or (
        ""
        if ssim.most_scales(short) == 5
        else f"images of {short} pixels are too small for its five scales (176): see SSIM"
    )


def scales(bench: ModelBench) -> dict[str, Any]:
    found = ssim.ms_ssim(bench.held_out_bytes(bench.m), bench.copies(bench.m))
    return {"value": found.value, "error": found.error}


def perceptual_lacks(bench: ModelBench) -> str:
    """LPIPS needs its weights, and images that its network can take."""
    return lacks("reconstruct", NO_LATENT)(bench) or _no_lpips(bench)


def perceptual_protocol(bench: ModelBench) -> str:
    return f"{reconstruction_protocol(bench)}, {_lpips(bench).protocol}"


def perceptual(bench: ModelBench) -> dict[str, Any]:
    bench.say("perceptual distance of the copies")
    distances = lpips.LPIPS("vgg", _lpips(bench), bench.device)
    for a, b in zip(bench.held_out_bytes(bench.m).split(64), bench.copies(bench.m).split(64), strict=True):
        distances.update(a, b)
    found = distances.compute()
    return {"value": found.value, "error": found.error}


def _lpips(bench: ModelBench) -> lpips.Perceptual:
    return bench.once("lpips", lambda: lpips.loaded("vgg"))


def _no_lpips(bench: ModelBench) -> str:
    short = min(bench.test.images.shape[1:3])
    if short < PERCEPTUAL:
        return f"images of {short} pixels are too small for its network ({PERCEPTUAL})"
    try:
        _lpips(bench)
    except UserError as error:
        return str(error)
    return ""


def search_protocol(bench: ModelBench) -> str:
    count = min(SEARCHED, bench.n)
    return f"{count} held-out images of {bench.data_id} against the nearest image found, 8 bit, seed {bench.seed}, {bench.version}"


def search(bench: ModelBench) -> dict[str, Any]:
    bench.say("latent search for the nearest image the model can draw")
    return {**_psnr(bench, bench.found(min(SEARCHED, bench.n))), "note": "found by latent search"}


def _psnr(bench: ModelBench, copy: torch.Tensor) -> dict[str, Any]:
    original = bench.held_out_bytes(len(copy))
    return {"value": psnr.psnr(original, copy), "error": psnr.psnr_error(original, copy)}


# ---- the latent space


def path_lacks(bench: ModelBench) -> str:
    return lacks("decode", "it has no latents with a prior to walk through")(bench)


def path_protocol(bench: ModelBench) -> str:
    how = "squared difference of pixels" if _no_lpips(bench) else _lpips(bench).protocol
    return f"{WALKS} walks, e 1e-4, {how}, 1st to 99th percentile, {bench.data_id}, seed {bench.seed}, {bench.version}"


def path(bench: ModelBench) -> dict[str, Any]:
    """In pixels, unless LPIPS can be computed: the length is then the perceptual one of Karras et al."""
    bench.say(f"{WALKS} walks through the latent space")
    distance, batch = path_length.squared_euclidean, min(bench.batch, 32)
    if not _no_lpips(bench):
        distance = _lpips(bench).to(bench.device)
    found = path_length.path_length(
        bench.model.decode, bench.model.latents, distance, n=WALKS, batch=batch, seed=bench.seed
    )
    return {"value": found.value, "error": found.error, "note": "in pixels" if _no_lpips(bench) else "perceptual"}


def units_lacks(bench: ModelBench) -> str:
    return lacks("infer", "it has no posterior of a code")(bench)


def units_protocol(bench: ModelBench) -> str:
    return f"{bench.m} held-out images of {bench.data_id}, variance above {latent_statistics.ACTIVE}, seed {bench.seed}, {bench.version}"


def units(bench: ModelBench) -> dict[str, Any]:
    means, _ = bench.posterior(bench.m)
    found = latent_statistics.unit_activity(means).active()
    return {"value": found.value, "error": found.error, "note": f"of {means[0].numel()}"}


def aggregated_lacks(bench: ModelBench) -> str:
    if why := units_lacks(bench):
        return why
    width = bench.posterior(1)[0][0].numel()
    return "" if bench.m > max(2, width) else f"a code of {width} numbers needs more than {width} held-out images"


def aggregated(bench: ModelBench) -> dict[str, Any]:
    mean, log_sigma = bench.posterior(bench.m)
    noise = SampleNoise(len(mean), seeds(bench.seed, len(mean)), mean.device).normal(*mean.shape[1:])
    found = latent_statistics.aggregated_posterior(mean + log_sigma.exp() * noise)
    return {"value": found.kl.value, "error": found.kl.error, "floor": found.kl_floor, "note": "of the moments"}


# ---- cost


def speed_protocol(batch: Callable[[ModelBench], int]) -> Callable[[ModelBench], str]:
    def protocol(bench: ModelBench) -> str:
        cpu = bench.device.type == "cpu"
        where = f"cpu, {torch.get_num_threads()} threads" if cpu else torch.cuda.get_device_name(bench.device)
        return f"{batch(bench)} at once, {where}, torch {torch.__version__}, {bench.data_id}, {bench.version}"

    return protocol


def speed(batch: Callable[[ModelBench], int]) -> Callable[[ModelBench], dict[str, Any]]:
    def measure(bench: ModelBench) -> dict[str, Any]:
        bench.say(f"seconds per image, {batch(bench)} at once")
        value, spread = bench.seconds_per_image(batch(bench))
        return {"value": value, "error": spread, "note": bench.settings("sample", "sample")}

    return measure


def parameters(bench: ModelBench) -> dict[str, Any]:
    return {"value": sum(p.numel() for p in bench.model.parameters()), "note": "all its networks"}


def last(key: str) -> Callable[[ModelBench], dict[str, Any]]:
    return lambda bench: {"value": float(next(line[key] for line in reversed(bench.stats) if key in line))}


def log_lacks(key: str) -> Callable[[ModelBench], str]:
    return lambda bench: "" if any(key in line for line in bench.stats) else "there is no training log"


def lacks(capability: str, why: str) -> Callable[[ModelBench], str]:
    return lambda bench: "" if bench.can(capability) else why


def search_lacks(bench: ModelBench) -> str:
    if bench.can("reconstruct"):
        return "it reconstructs by itself"
    return "" if bench.can("decode") else "it has no latents to search"


def _standard_error(x: torch.Tensor) -> float:
    return float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else math.nan


def singly(bench: ModelBench) -> int:
    return 1


def batched(bench: ModelBench) -> int:
    return bench.batch


def nothing(bench: ModelBench) -> str:
    return ""
