"""Measures of codes: hand-made codes whose entropies are known, and a model on its bench."""

import math

import pytest
import torch

from limner.metrics import codes
from limner.metrics.model_bench import ModelBench
from toy_runs import Histogram, digits, fitted


def test_bits_by_position_are_the_entropy_of_each():
    generator = torch.Generator().manual_seed(0)
    n = 4000
    coarse = torch.randint(8, (n, 2, 2), generator=generator)  # 3 bits at each of 4 positions
    fine = torch.zeros(n, 4, 4, dtype=torch.int64)  # one code alone: nothing to say
    fine[:, 0, 0] = (torch.rand(n, generator=generator) < 0.25).long()
    found = codes.position_bits((coarse, fine))
    truth = 4 * 3 + 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert found.value == pytest.approx(truth, abs=4 * found.error + 0.005)
    assert 0 < found.error < 0.02
    # The correction for few images: without it a twentieth of them would lack 4 x 7 / (2 x 200 ln 2) = 0.1 bits.
    few = [codes.position_bits((part,)).value for part in coarse.split(200)]
    assert sum(few) / len(few) == pytest.approx(12, abs=0.03)


def test_uniform_bits_and_pooled_perplexity():
    assert codes.uniform_bits(((7, 7), (14, 14)), (512, 256)) == 49 * 9 + 196 * 8
    even = torch.arange(16).view(4, 2, 2)
    assert codes.pooled_perplexity((even,), (32,)) == (pytest.approx(16), pytest.approx(0, abs=1e-12))
    one = torch.zeros(4, 2, 6, dtype=torch.int64)
    # Entropies log 16 and 0, weighted 4 to 12.
    assert codes.pooled_perplexity((even, one), (32, 8)).value == pytest.approx(2)


class Tokens(Histogram):
    """Cuts an 8x8 digit into grey levels: a map of the means of 4x4 pixels, and the pixels themselves."""

    codebooks = (17, 17)
    code_shapes = ((2, 2), (8, 8))

    def tokenize(self, image):
        k = self.levels_of(image).view(-1, 8, 8)
        return k.view(-1, 2, 4, 2, 4).sum((2, 4)) // 16, k

    def detokenize(self, codes):
        return codes[1][:, None] / 8 - 1


def test_a_model_on_its_bench():
    train, test = digits()
    bench = ModelBench(Tokens(), train, test, n=300)
    assert codes.lacks(bench) == ""
    assert "300 held-out images" in codes.protocol(bench)
    kept = codes.held_out_codes(bench)
    assert [tuple(c.shape) for c in kept] == [(300, 2, 2), (300, 8, 8)]
    uniform, position = codes.uniform(bench), codes.position(bench)
    assert uniform == {"value": pytest.approx(68 * math.log2(17)), "note": "2x2 of 17, 8x8 of 17"}
    assert 0.4 * uniform["value"] < position["value"] < 0.8 * uniform["value"]
    used = codes.used(bench)
    seen = sum(len(c.unique()) for c in kept)
    assert used["value"] == pytest.approx(seen / 34)
    assert used["note"].startswith("2x2: ")
    assert used["note"].endswith(", 8x8: 17 of 17")
    perplexity = codes.perplexity(bench)
    assert 2 < perplexity["value"] < 17
    assert perplexity["error"] > 0
    assert codes.lacks(ModelBench(fitted("histogram"), train, test, n=8)) == "does not turn images into discrete codes"
