"""What the codes of a model that turns images into maps of discrete codes (`Tokenizes`) are worth, measured on held-out images.

**Codebook perplexity**: exp of the entropy of how often each code is used, from 1 to the size of the codebook (van den Oord et al. 2017).
Of several maps, the mean of their entropies, each weighted by its codes in an image, is what is exponentiated; the note has each map's own.

**Codes used**: the share of all codes, of all codebooks, that occur at all. From 0 to 1; few images leave rare codes out.

**Bits of the codes**, per image, for somebody who has the decoder:

    uniform    sum over maps of h w log2 K               any code may stand anywhere: the size of a file without a model of the codes
    position   sum over maps and positions of H(c_hw)    each position has its own frequencies, and knows nothing of the others
    prior      -log2 p(c)                                of a two-stage model (`limner.staged`): what its priors make of them

H is the entropy of a position's codes over the images, with the bias of few images corrected by (codes seen - 1) / 2N nats (Miller 1955).
A prior of the codes is worth what it needs less than the second. The error is that of the images' mean. The decoder is not counted.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limner.metrics import measures
from limner.metrics.accumulate import Estimate
from limner.metrics.latent_statistics import codebook_use
from limner.metrics.model_bench import CHUNK, ModelBench

lacks = measures.lacks("tokenize", "does not turn images into discrete codes")


def protocol(bench: ModelBench) -> str:
    return f"{bench.m} held-out images of {bench.data_id}, seed {bench.seed}, {bench.version}"


def perplexity(bench: ModelBench) -> dict[str, Any]:
    found = pooled_perplexity(held_out_codes(bench), bench.model.codebooks)
    each = [codebook_use(c, size).perplexity.value for c, size in zip(*_both(bench), strict=True)]
    return {"value": found.value, "error": found.error, "note": _by_map(bench, [f"{value:.0f}" for value in each])}


def used(bench: ModelBench) -> dict[str, Any]:
    uses = [codebook_use(c, size) for c, size in zip(*_both(bench), strict=True)]
    sizes = bench.model.codebooks
    dead, error = sum(u.dead.value for u in uses), math.hypot(*(u.dead.error for u in uses))
    each = [f"{size - u.dead.value:.0f}" for size, u in zip(sizes, uses, strict=True)]
    return {"value": 1 - dead / sum(sizes), "error": error / sum(sizes), "note": _by_map(bench, each)}


def uniform(bench: ModelBench) -> dict[str, Any]:
    return {"value": uniform_bits(bench.model.code_shapes, bench.model.codebooks), "note": _maps(bench)}


def position(bench: ModelBench) -> dict[str, Any]:
    found = position_bits(held_out_codes(bench))
    return {"value": found.value, "error": found.error, "note": _maps(bench)}


def prior_lacks(bench: ModelBench) -> str:
    return lacks(bench) or ("" if hasattr(bench.model, "code_bits") else "has no prior of its codes")


def prior(bench: ModelBench) -> dict[str, Any]:
    bench.say(f"bits of the codes of {bench.m} held-out images")
    batch, parts = bench.held_out(bench.m), []
    for start in range(0, bench.m, CHUNK):
        part = slice(start, start + CHUNK)
        label = {"label": batch["label"][part].to(bench.device)} if bench.conditional else {}
        parts.append(bench.model.code_bits(batch["image"][part].to(bench.device), **label).double().cpu())
    bits = torch.cat(parts)
    note = f"{float(bits.mean()) / math.prod(bench.model.image_shape[1:]):.3f} bits a pixel"
    return {"value": float(bits.mean()), "error": _standard_error(bits), "note": note}


def held_out_codes(bench: ModelBench) -> tuple[Tensor, ...]:
    """The maps of codes (m, h, w) of the bench's held-out images, on the CPU; made once."""

    def make() -> tuple[Tensor, ...]:
        bench.say(f"codes of {bench.m} held-out images")
        with torch.no_grad():
            parts = [bench.model.tokenize(x.to(bench.device)) for x in bench.held_out(bench.m)["image"].split(CHUNK)]
        return tuple(torch.cat([codes.cpu() for codes in maps]) for maps in zip(*parts, strict=True))

    return bench.once("codes", make)


def pooled_perplexity(codes: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Estimate:
    """Perplexity of maps of codes (N, h, w), each of a codebook of its own, pooled as above; its error is over images."""
    entropy, surprise, total = 0.0, torch.zeros(len(codes[0]), dtype=torch.float64), sum(c[0].numel() for c in codes)
    for c, size in zip(codes, sizes, strict=True):
        use = codebook_use(c, size)
        entropy += c[0].numel() / total * math.log(use.perplexity.value)
        surprise += -(use.counts.double() / use.counts.sum()).log()[c.flatten(1)].sum(1) / total
    value = math.exp(entropy)
    return Estimate(value, value * _standard_error(surprise))


def uniform_bits(shapes: tuple[tuple[int, int], ...], sizes: tuple[int, ...]) -> float:
    """Bits of an image's maps of codes of these shapes (h, w), each code as likely as any other of its codebook."""
    return sum(h * w * math.log2(size) for (h, w), size in zip(shapes, sizes, strict=True))


def position_bits(codes: tuple[Tensor, ...]) -> Estimate:
    """Bits of an image's maps of codes (N, h, w), each position coded by its own frequencies; its error is over images."""
    surprise, correction = torch.zeros(len(codes[0]), dtype=torch.float64), 0.0
    for c in torch.cat([c.flatten(1) for c in codes], dim=1).T:  # (N,) of one position
        counts = torch.bincount(c).double()
        surprise -= (counts / len(c)).log2()[c]
        correction += (int((counts > 0).sum()) - 1) / (2 * len(c) * math.log(2))
    return Estimate(float(surprise.mean()) + correction, _standard_error(surprise))


def _both(bench: ModelBench) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return held_out_codes(bench), bench.model.codebooks


def _maps(bench: ModelBench) -> str:
    return ", ".join(
        f"{h}x{w} of {size}" for (h, w), size in zip(bench.model.code_shapes, bench.model.codebooks, strict=True)
    )


def _by_map(bench: ModelBench, values: list[str]) -> str:
    """Such as "310 of 512", or with several maps "7x7: 310 of 512, 14x14: 77 of 512"."""
    shapes, sizes = bench.model.code_shapes, bench.model.codebooks
    each = [f"{value} of {size}" for value, size in zip(values, sizes, strict=True)]
    if len(each) == 1:
        return each[0]
    return ", ".join(f"{h}x{w}: {text}" for (h, w), text in zip(shapes, each, strict=True))


def _standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
