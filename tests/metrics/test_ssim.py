"""SSIM and MS-SSIM against scikit-image, pytorch-msssim and a written-out reference, on photographs and on clothes."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from limner.data import embedded
from limner.metrics import degrade, psnr
from limner.metrics.ssim import MSSSIM, SSIM, WEIGHTS, most_scales, ms_ssim, ms_ssim_each, ssim, ssim_each


def photos(height=192, width=208):
    """Three colour photographs (3, height, width, 3) uint8."""
    data = pytest.importorskip("skimage.data")
    cut = [getattr(data, name)()[60 : 60 + height, 80 : 80 + width] for name in ("astronaut", "coffee", "chelsea")]
    return torch.from_numpy(np.stack(cut))


def clothes(n=40):
    return torch.from_numpy(embedded.fashion_mini()[0][-n:])


def damaged(images):
    return {
        "blur 0.5": degrade.blur(images, 0.5),
        "blur 2": degrade.blur(images, 2),
        "noise": degrade.noise(images, 100),
        "inverse": 255 - images,
        "dark": images // 3,
    }


def written_out(x, y, scales=5):
    """MS-SSIM of float arrays (H, W) as Wang et al. 2003 and their program have it."""
    g = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    g /= g.sum()
    blur = lambda a: correlate1d(correlate1d(a, g, axis=0), g, axis=1)[5:-5, 5:-5]  # noqa: E731
    value = 1.0
    for j in range(scales):
        mx, my = blur(x), blur(y)
        sx, sy, sxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
        c = (2 * sxy + 58.5225) / (sx + sy + 58.5225)
        if j == scales - 1:
            c = c * (2 * mx * my + 6.5025) / (mx * mx + my * my + 6.5025)
        value *= max(c.mean(), 0) ** WEIGHTS[j]
        ends = [np.pad(a, ((0, 1), (0, 1)), mode="symmetric") for a in (x, y)]
        x, y = ((a[:-1, :-1] + a[1:, :-1] + a[:-1, 1:] + a[1:, 1:])[::2, ::2] / 4 for a in ends)
    return value


@pytest.mark.parametrize("make", [photos, clothes])
def test_ssim_and_psnr_are_those_of_scikit_image(make):
    metrics = pytest.importorskip("skimage.metrics")
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    images = make()
    for name, copy in damaged(images).items():
        pairs = list(zip(images.numpy(), copy.numpy(), strict=True))
        theirs = [metrics.structural_similarity(a, b, channel_axis=2, **wang) for a, b in pairs]
        assert ssim_each(images, copy).tolist() == pytest.approx(theirs, abs=1e-6), name
        theirs = metrics.peak_signal_noise_ratio(images.numpy(), copy.numpy(), data_range=255)
        assert psnr.psnr(images, copy) == pytest.approx(theirs, abs=1e-6), name


def test_ms_ssim_is_that_of_pytorch_msssim():
    peer = pytest.importorskip("pytorch_msssim")
    images = photos()  # sides that halve four times without a remainder, where the two treat ends alike
    window = torch.exp(-0.5 * ((torch.arange(11).double() - 5) / 1.5) ** 2)  # its own is rounded to float32
    window = (window / window.sum()).expand(3, 1, 1, 11)
    for name, copy in damaged(images).items():
        a, b = (t.permute(0, 3, 1, 2).double() for t in (images, copy))
        theirs = peer.ms_ssim(a, b, data_range=255, size_average=False, win=window)
        assert ms_ssim_each(images, copy).tolist() == pytest.approx(theirs.tolist(), abs=1e-9), name


def test_ms_ssim_of_odd_sides_is_the_written_out_one():
    images = photos(177, 205)
    for name, copy in damaged(images).items():
        theirs = [
            np.mean([written_out(a[..., c], b[..., c]) for c in range(3)])
            for a, b in zip(images.double().numpy(), copy.double().numpy(), strict=True)
        ]
        assert ms_ssim_each(images, copy).tolist() == pytest.approx(theirs, abs=1e-9), name
    assert ms_ssim_each(images, 255 - images).tolist() == [0, 0, 0]


def test_fewer_scales_are_had_when_asked_for_and_named_when_needed():
    images = clothes()
    copy = degrade.blur(images, 1)
    with pytest.raises(ValueError, match=r"176 pixels, not 28x28; ask for scales=2"):
        ms_ssim(images, copy)
    assert [most_scales(side) for side in (8, 11, 22, 28, 175, 176, 512)] == [0, 1, 2, 2, 4, 5, 5]
    total = WEIGHTS[0] + WEIGHTS[1]
    a, b = images[0, ..., 0].double().numpy(), copy[0, ..., 0].double().numpy()
    assert ms_ssim_each(images, copy, scales=2)[0].item() == pytest.approx(written_out(a, b, 2) ** (1 / total))
    one = ms_ssim_each(images, copy, scales=1)
    assert torch.allclose(one, ssim_each(images, copy).clamp(min=0), atol=1e-12)


def test_every_measure_orders_damage():
    for images, scales in ((photos(), 5), (clothes(200), 2)):
        light, heavy, noise = degrade.blur(images, 0.6), degrade.blur(images, 1.2), degrade.noise(images, 120)
        copies = (images, light, heavy, noise)
        for values in (
            [ssim(images, copy).value for copy in copies],
            [ms_ssim(images, copy, scales=scales).value for copy in copies],
        ):
            assert values[0] == pytest.approx(1, abs=1e-12)
            assert values == sorted(values, reverse=True)
            assert values[1] - values[2] > 0.01
            assert values[3] < 0.5
        decibels = [psnr.psnr(images, copy) for copy in copies]
        assert decibels[0] == math.inf
        assert decibels == sorted(decibels, reverse=True)


@pytest.mark.parametrize("make", [SSIM, lambda: MSSSIM(2), psnr.PSNR])
def test_batches_in_any_order_and_split_give_the_whole(make):
    images = clothes(64)
    copy = degrade.noise(images, 10)
    copy[:32] = degrade.blur(images[:32], 1)
    whole = make()
    whole.update(images, copy)
    parts = [make() for _ in range(3)]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for i, rows in enumerate(order.split(5)):
        parts[i % 3].update(images[rows], copy[rows])
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    parts[2].merge(make())
    assert parts[2].compute().value == pytest.approx(whole.compute().value, rel=1e-12)
    assert parts[2].compute().error == pytest.approx(whole.compute().error, rel=1e-9)


def test_the_error_is_the_spread_over_choices_of_images():
    images = clothes(2000)
    copy = degrade.blur(images, 1)
    values = ssim_each(images, copy)
    means = [float(part.mean()) for part in values.split(50)]
    stated = np.mean([ssim(images[i : i + 50], copy[i : i + 50]).error for i in range(0, 2000, 200)])
    assert stated == pytest.approx(np.std(means, ddof=1), rel=0.35)


def test_other_ranges_and_small_images_are_refused():
    a = torch.zeros(2, 28, 28, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="uint8"):
        ssim(a.float(), a.float())
    with pytest.raises(ValueError, match="cannot be compared"):
        ssim(a, a[:1])
    with pytest.raises(ValueError, match="8x8 are too small"):
        ssim(a[:, :8, :8], a[:, :8, :8])
    with pytest.raises(ValueError, match="1 to 5 scales"):
        ms_ssim(a, a, scales=6)
    with pytest.raises(ValueError, match="2 scales cannot be averaged with that of 5"):
        MSSSIM().merge(MSSSIM(2))
