"""Structural similarity (SSIM) of pairs of 8-bit images, and its multi-scale form (MS-SSIM).

Of two images x and y, with the means, variances and covariance under an 11 x 11 Gaussian window of deviation 1.5 at each place,

    l = (2 mx my + C1) / (mx^2 + my^2 + C1)        luminance              (eq. 6)
    c = (2 sxy + C2) / (sx^2 + sy^2 + C2)          contrast and structure (eqs. 9 and 10 with C3 = C2 / 2)
    SSIM = mean over places of l c                                        (eqs. 13 and 17)

where C1 = (0.01 * 255)^2 and C2 = (0.03 * 255)^2. Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment: from error
visibility to structural similarity". Weighted moments are not corrected for sample size. Only places where the window lies wholly
in the image count: the map is 5 pixels narrower on every side. Colour channels are compared each by itself and averaged, and so are
images. This is `skimage.metrics.structural_similarity` with gaussian_weights, sigma 1.5, use_sample_covariance False, data_range 255.

    MS-SSIM = mean(l_M c_M)^w_M * prod_{j<M} mean(c_j)^w_j,    M = 5 scales,  w = .0448 .2856 .3001 .2363 .1333

Wang, Simoncelli & Bovik 2003, "Multi-scale structural similarity for image quality assessment", eq. 7. Scale j + 1 is the mean of
2 x 2 blocks of scale j; at the end of an odd side the last block holds what there is, as in the authors' program. A mean below zero
(an inverted image) counts as zero, since it has no real power. Each side must be at least 11 * 2^(M-1) pixels: 176 for five scales.
Fewer scales, whose weights are then divided by their sum, must be asked for and are another measure: state them.

Range: at most 1, for equal images; SSIM down to -1, MS-SSIM down to 0. What it misses: colour shifts of equal luminance structure, small
displacements (which it punishes like damage), and whatever lies outside the pair: it says nothing of sets of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.metrics.accumulate import Estimate, Mean

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
AT_ONCE = 1 << 19
"""Pixel values compared at once: bounds the memory, not the result."""


def ssim(original: Tensor, copy: Tensor) -> Estimate:
    """Mean SSIM of the images `copy` against `original`, (N, H, W, C) uint8, and its standard error over the choice of images.

    Raises:
        ValueError: as `ssim_each`.
    """
    return _estimate(SSIM(), original, copy)


def ms_ssim(original: Tensor, copy: Tensor, *, scales: int = 5) -> Estimate:
    """Mean MS-SSIM of the images `copy` against `original`, (N, H, W, C) uint8, and its standard error.

    Raises:
        ValueError: as `ms_ssim_each`.
    """
    return _estimate(MSSSIM(scales), original, copy)


def ssim_each(original: Tensor, copy: Tensor) -> Tensor:
    """(N,) float64, SSIM of each pair of images (N, H, W, C) uint8.

    Raises:
        ValueError: the shapes differ, the images are not uint8, or a side is shorter than the window of 11 pixels.
    """
    _check(original, copy, 1)
    return _by_parts(_single_scale, original, copy)


def ms_ssim_each(original: Tensor, copy: Tensor, *, scales: int = 5) -> Tensor:
    """(N,) float64, MS-SSIM of each pair of images (N, H, W, C) uint8. Not that of Wang et al. unless `scales` is 5.

    Raises:
        ValueError: the shapes differ, the images are not uint8, or a side is too short for so many scales.
    """
    if not 1 <= scales <= len(WEIGHTS):
        raise ValueError(f"MS-SSIM has weights for 1 to {len(WEIGHTS)} scales, not {scales}")
    _check(original, copy, scales)
    return _by_parts(lambda x, y: _multi_scale(x, y, scales), original, copy)


def most_scales(side: int) -> int:
    """How many scales MS-SSIM can have on images whose shorter side has `side` pixels: 0 to 5."""
    return sum(side >= WINDOW * 2**j for j in range(len(WEIGHTS)))


@dataclass
class SSIM:
    """SSIM of pairs of images that come in batches. Equal to `ssim` of all, to the rounding of float64."""

    _values: Mean = field(default_factory=Mean)

    def update(self, original: Tensor, copy: Tensor) -> None:
        """Take in pairs of images (n, H, W, C) uint8."""
        self._values.update(ssim_each(original, copy))

    def merge(self, other: SSIM) -> None:
        """Take in the pairs that another accumulator has seen."""
        self._values.merge(other._values)

    def compute(self) -> Estimate:
        """Mean and standard error over all pairs."""
        return Estimate(self._values.mean, self._values.error)


@dataclass
class MSSSIM:
    """MS-SSIM of pairs of images that come in batches. Equal to `ms_ssim` of all, to the rounding of float64."""

    scales: int = 5
    _values: Mean = field(default_factory=Mean)

    def update(self, original: Tensor, copy: Tensor) -> None:
        """Take in pairs of images (n, H, W, C) uint8."""
        self._values.update(ms_ssim_each(original, copy, scales=self.scales))

    def merge(self, other: MSSSIM) -> None:
        """Take in the pairs that another accumulator has seen.

        Raises:
            ValueError: it has another number of scales.
        """
        if other.scales != self.scales:
            raise ValueError(f"MS-SSIM of {other.scales} scales cannot be averaged with that of {self.scales}")
        self._values.merge(other._values)

    def compute(self) -> Estimate:
        """Mean and standard error over all pairs."""
        return Estimate(self._values.mean, self._values.error)


def _estimate(accumulator: SSIM | MSSSIM, original: Tensor, copy: Tensor) -> Estimate:
    accumulator.update(original, copy)
    return accumulator.compute()


def _check(original: Tensor, copy: Tensor, scales: int) -> None:
    if original.shape != copy.shape:
        raise ValueError(f"images of shapes {tuple(original.shape)} and {tuple(copy.shape)} cannot be compared")
    if original.dtype != torch.uint8 or copy.dtype != torch.uint8 or original.ndim != 4:
        raise ValueError(
            f"SSIM is of uint8 images (N, H, W, C), not {original.dtype} and {copy.dtype} of shape {tuple(original.shape)}"
        )
    height, width = original.shape[1:3]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM has a window of {WINDOW} pixels: images of {height}x{width} are too small for it")
    if scales > most_scales(min(height, width)):
        raise ValueError(
            f"MS-SSIM of {scales} scales needs sides of at least {WINDOW * 2 ** (scales - 1)} pixels, not {height}x{width}; "
            f"ask for scales={most_scales(min(height, width))}, and state it, or use SSIM"
        )


def _by_parts(function: Callable[[Tensor, Tensor], Tensor], original: Tensor, copy: Tensor) -> Tensor:
    parts = max(1, AT_ONCE // max(1, original[:1].numel()))
    pairs = zip(original.split(parts), copy.split(parts), strict=True)
    return torch.cat([function(_planes(x), _planes(y)) for x, y in pairs])


def _planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).double()  # (B, C, H, W)


def _single_scale(x: Tensor, y: Tensor) -> Tensor:
    luminance, contrast = _similarities(x, y)
    return (luminance * contrast).flatten(1).mean(1)


def _multi_scale(x: Tensor, y: Tensor, scales: int) -> Tensor:
    weights = WEIGHTS if scales == len(WEIGHTS) else [w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales]]
    product = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)  # (B, C)
    for j, weight in enumerate(weights):
        luminance, contrast = _similarities(x, y)
        similarity = luminance * contrast if j == scales - 1 else contrast
        product = product * similarity.mean((-2, -1)).clamp(min=0) ** weight
        x, y = (F.avg_pool2d(t, 2, ceil_mode=True) for t in (x, y))
    return product.mean(1)


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """l and c at each place of x and y (B, C, H, W) in [0, 255]: (B, C, H - 10, W - 10)."""
    # The two variances only ever occur as a sum: four filtered maps do.
    mean_x, mean_y, squares, product = _window(torch.stack([x, y, x * x + y * y, x * y]))
    mean_xy, mean_squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    luminance = (2 * mean_xy + C1) / (mean_squares + C1)
    contrast = (2 * (product - mean_xy) + C2) / (squares - mean_squares + C2)
    return luminance, contrast


def _window(maps: Tensor) -> Tensor:
    """Gaussian-weighted means (..., H - 10, W - 10) of maps (..., H, W)."""
    return _band(maps.shape[-2], maps) @ maps @ _band(maps.shape[-1], maps).T


def _band(side: int, like: Tensor) -> Tensor:
    """(side - 10, side), each row the window one place further on: as a product, the filter is quicker than a convolution."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offset / SIGMA).square())
    matrix = torch.zeros(side - WINDOW + 1, side, dtype=torch.float64)
    for k, weight in enumerate(weights / weights.sum()):
        matrix.diagonal(k)[: len(matrix)].fill_(weight)
    return matrix.to(like)
