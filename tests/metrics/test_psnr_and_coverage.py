"""PSNR against its formula, label spread against hand-made sets."""

import math

import numpy as np
import pytest
import torch

from limner.metrics import coverage, psnr


def test_psnr_of_a_known_error():
    a = torch.full((4, 8, 8, 1), 100, dtype=torch.uint8)
    assert psnr.psnr(a, a + 5) == pytest.approx(10 * math.log10(255**2 / 25))
    assert psnr.psnr(a, a) == math.inf
    # One image with four times the squared error among three perfect ones: the errors are averaged before the logarithm.
    b = a.clone()
    b[0] += 10
    assert psnr.psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 25))


def test_psnr_error_is_that_of_other_images():
    rng = np.random.default_rng(0)
    original = torch.zeros(4000, 4, 4, 1, dtype=torch.uint8)
    copy = torch.from_numpy((rng.gamma(2, 10, (4000, 1, 1, 1)) * np.ones((1, 4, 4, 1))).clip(0, 255).astype(np.uint8))
    parts = [psnr.psnr(original[i : i + 100], copy[i : i + 100]) for i in range(0, 4000, 100)]
    stated = np.mean([psnr.psnr_error(original[i : i + 100], copy[i : i + 100]) for i in range(0, 4000, 100)])
    assert stated == pytest.approx(np.std(parts), rel=0.3)


def test_psnr_refuses_other_ranges():
    with pytest.raises(ValueError, match="uint8"):
        psnr.psnr(torch.zeros(1, 2, 2, 1), torch.zeros(1, 2, 2, 1))


def test_effective_classes():
    assert coverage.effective_classes(torch.arange(10).repeat(7), 10) == pytest.approx(10)
    assert coverage.effective_classes(torch.full((50,), 3), 10) == pytest.approx(1)
    assert coverage.effective_classes(torch.tensor([0, 1] * 20), 10) == pytest.approx(2)
    g = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.25, 0.15, 0.1])
    draws = [torch.multinomial(p, 200, replacement=True, generator=g) for _ in range(200)]
    found = np.array([coverage.effective_classes(d, 4) for d in draws])
    stated = np.mean([coverage.effective_classes_error(d, 4) for d in draws])
    assert stated == pytest.approx(found.std(), rel=0.15)
