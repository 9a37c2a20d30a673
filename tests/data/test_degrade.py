"""Degradations: pure functions of (image, seed) that do what their names say, by numbers."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from limner.data import open_data
from limner.data.degrade import KINDS, Degradation
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.metrics import degrade as of_bytes

EVERY = [
    "noise=0.3", "noise=0.1-0.5", "salt", "blur=1.5", "down=4", "down=2-5", "grey", "watermark", "watermark=text",
    "watermark=logo", "mask", "mask=box", "mask=brush", "mask=half", "jpeg=20", "jpeg=5-60", "blur=1-2+noise=0.1+jpeg=30",
]  # fmt: skip


def photos(n=12, height=24, width=31, channels=3, seed=0):
    """Smooth random images (n, C, H, W) in [-1, 1]."""
    x = np.random.default_rng(seed).standard_normal((n, channels, height, width))
    smooth = gaussian_filter(x, (0, 0, 2, 2)) * 5
    return torch.from_numpy(smooth.clip(-1, 1).astype(np.float32))


def damage(spec, images, seeds=None):
    return Degradation.parse(spec)(images, list(range(len(images))) if seeds is None else seeds)


@pytest.mark.parametrize("spec", [*EVERY, ("noise", "mask", "blur")])
def test_a_pure_function_of_image_and_seed(spec):
    x, seeds = photos(), list(range(40, 52))
    before = x.clone()
    together = damage(spec, x, seeds)
    assert torch.equal(x, before), "the clean images were changed"
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    assert together.abs().max() <= 1
    assert not torch.equal(together, x)
    for i in (0, 5, 11):  # alone, in another order, among others
        assert torch.equal(damage(spec, x[i : i + 1], [seeds[i]])[0], together[i])
    assert torch.equal(damage(spec, x.flip(0), seeds[::-1]).flip(0), together)
    global_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(damage(spec, x, seeds), together), "it draws from a global generator"
    torch.set_rng_state(global_state[0])


@pytest.mark.parametrize("spec", [s for s in EVERY if s not in ("blur=1.5", "down=4", "grey", "jpeg=20")])
def test_another_seed_is_another_damage(spec):
    x = photos(1).expand(8, -1, -1, -1)
    assert len({y.numpy().tobytes() for y in damage(spec, x)}) > 1


@settings(max_examples=60, deadline=None)
@given(
    spec=st.lists(st.sampled_from([s for s in EVERY if "grey" not in s]), min_size=1, max_size=3).map("+".join),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_chain_on_any_size(spec, height, width, channels, seed):
    x = photos(1, height, width, channels)
    y = damage(spec, x, [seed])
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    assert y.abs().max() <= 1
    assert torch.equal(y, damage(spec, x, [seed]))


def test_noise_has_its_deviation_and_is_white():
    grey = torch.zeros(40, 3, 32, 32)
    for sigma in (0.05, 0.2):
        y = damage(f"noise={sigma}", grey)
        assert y.std().item() == pytest.approx(sigma, rel=0.01)
        assert abs(y.mean().item()) < 3 * sigma / y.numel() ** 0.5
        neighbours = (y[..., 1:] * y[..., :-1]).mean() / sigma**2
        channels = (y[:, 0] * y[:, 1]).mean() / sigma**2
        assert abs(neighbours.item()) < 0.02
        assert abs(channels.item()) < 0.03


def test_a_range_of_strengths_is_filled_evenly():
    y = damage("noise=0.1-0.3", torch.zeros(400, 1, 24, 24))
    deviations = y.flatten(1).std(1).numpy()
    assert np.quantile(deviations, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3], abs=0.02)


def test_salt_hits_its_share_of_pixels_in_all_channels():
    y = damage("salt=0.2", torch.zeros(40, 3, 32, 32))
    hit = y != 0
    assert hit.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (hit == hit[:, :1]).all()
    assert (y == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert set(y.unique().tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("sigma", [0.4, 1.5, 9.0])
def test_blur_is_scipys(sigma):
    x = photos(3)
    truth = gaussian_filter(x.numpy().astype(float), (0, 0, sigma, sigma))
    np.testing.assert_allclose(damage(f"blur={sigma}", x).numpy(), truth, atol=2e-6)


def test_down_is_the_mean_of_squares():
    x = photos(2, 24, 31)
    y = damage("down=4", x)
    means = x[..., :28].unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))  # (B, C, 6, 7)
    np.testing.assert_allclose(y[..., :28].numpy(), means.repeat_interleave(4, 2).repeat_interleave(4, 3), atol=1e-6)
    torch.testing.assert_close(y[..., 0, 28:], x[:, :, :4, 28:].mean((2, 3))[..., None].expand(-1, -1, 3))
    assert torch.equal(damage("down=1", x), x)


def test_grey_is_pillows_brightness_in_equal_channels():
    x = photos(2)
    y = damage("grey", x)
    assert (y == y[:, :1]).all()
    pixels = ((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    truth = np.asarray(Image.fromarray(pixels).convert("L")) / 127.5 - 1
    np.testing.assert_allclose(y[0, 0].numpy(), truth, atol=2 / 127.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    x = photos(2, channels=channels)
    pixels = ((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "JPEG", quality=15)
    truth = np.asarray(Image.open(file)).reshape(pixels.shape).astype(float) / 127.5 - 1
    np.testing.assert_allclose(damage("jpeg=15", x)[0].permute(1, 2, 0).numpy(), truth, atol=1e-6)


@pytest.mark.parametrize(("kind", "least", "most", "mean"), [
    ("half", 0.5, 0.5, 0.5), ("box", 0.25**2, 0.5**2, 0.375**2), ("brush", 0.01, 0.7, 0.25),
])  # fmt: skip
def test_masks_cover_what_they_say(kind, least, most, mean):
    ones = torch.ones(300, 3, 32, 32)
    y = damage(f"mask={kind}", ones)
    hole = y == 0
    assert (hole | (y == 1)).all(), "what is not lost is untouched"
    assert (hole == hole[:, :1]).all()
    share = hole[:, 0].float().mean((1, 2))
    assert share.min() >= least
    assert share.max() <= most
    assert share.mean().item() == pytest.approx(mean, abs=0.08)
    assert hole[:, 0].any(0).float().mean() > 0.97, "some places are never covered"
    if kind == "half":
        assert len({h.numpy().tobytes() for h in hole[:, 0]}) == 4


@pytest.mark.parametrize("kind", ["text", "logo"])
@pytest.mark.parametrize("size", [28, 64, 300])
def test_watermarks_are_half_transparent_and_everywhere(kind, size):
    n = 20 if size == 300 else 100
    black, white = (torch.full((n, 1, size, size), v) for v in (-1.0, 1.0))
    over_black, over_white = damage(f"watermark={kind}", black), damage(f"watermark={kind}", white)
    # x' = (1 - a) x + a c over two grounds, with the same seeds: the difference is 2 (1 - a).
    alpha = 1 - (over_white - over_black) / 2
    assert alpha.min() > -1e-6
    most = alpha.flatten(1).max(1).values
    assert most.min() > 0.15
    assert most.max() <= 0.7 + 1e-6
    covered = (alpha > 0.15).float().flatten(1).mean(1)
    assert covered.min() > 0.004
    assert covered.max() < 0.4
    tones = {
        round(((o + 1) / a).item() - 1) for o, a in ((o.max(), a.max()) for o, a in zip(over_black, alpha, strict=True))
    }
    assert tones == {-1, 1}
    if size < 300:
        assert ((alpha > 0.1).any(0)).float().mean() > 0.6


def test_a_chain_is_its_parts_in_order():
    x = photos(4)
    assert torch.equal(damage("blur=2+jpeg=20", x), damage("jpeg=20", damage("blur=2", x)))
    assert not torch.equal(damage("blur=2+jpeg=20", x), damage("blur=2", damage("jpeg=20", x)))


def test_of_several_chains_each_image_suffers_one():
    x = photos(1).expand(300, -1, -1, -1)
    y = damage(("blur=2", "jpeg=5", "down=4"), x)
    counts = [int((y == damage(s, x[:1])).flatten(1).all(1).sum()) for s in ("blur=2", "jpeg=5", "down=4")]
    assert sum(counts) == 300
    assert min(counts) > 70


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nois", ["'nois'", "did you mean 'noise'"]),
        ("fog", ["there are noise, salt"]),
        ("noise=0.2+blr", ["did you mean 'blur'"]),
        ("", ["there is no degradation"]),
        ("noise=", ["a number"]),
        ("noise=high", ["a number from 0 to 10"]),
        ("noise=nan", ["a number"]),
        ("noise=-1", ["a number"]),
        ("noise=0.5-0.1", ["a range"]),
        ("jpeg=20.5", ["a whole number from 1 to 95"]),
        ("jpeg=0", ["from 1 to 95"]),
        ("grey=1", ["no strength"]),
        ("mask=hole", ["mask=box or mask=brush or mask=half"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(spec, words):
    with pytest.raises(UserError) as error:
        Degradation.parse(spec)
    for word in words:
        assert word in str(error.value)


def test_strengths_as_people_write_them():
    assert Degradation.parse("noise=1e-1").chains[0][0].strengths == (0.1,)
    assert Degradation.parse(" noise = 0.1-2e-1 ").chains[0][0].strengths == (0.1, 0.2)
    assert all(Degradation.parse(name).chains for name in KINDS)


# A data set with damage


def test_a_data_set_becomes_pairs():
    plain, data = open_data("digits"), open_data(DataConfig("digits", degrade=("noise=0.3", "mask")))
    batch = data.batch(range(20))
    assert torch.equal(batch["image"], plain.batch(range(20))["image"])
    assert batch["degraded"].shape == batch["image"].shape
    assert not torch.equal(batch["degraded"], batch["image"])
    assert "degraded" not in plain.batch(range(3))
    assert torch.equal(batch["degraded"], data.batch(range(20))["degraded"]), (
        "evaluation has the same damage every time"
    )
    assert torch.equal(batch["degraded"][7], data.batch([7])["degraded"][0])
    assert "degraded" in data.held_out.batch([0])
    assert "degraded" in data.subset([3, 4]).batch([0])


def test_training_damage_is_fresh_resumable_and_split_among_processes():
    data = open_data(DataConfig("digits", degrade=("noise=0.3",), limit=40))
    first, second = (data.draw(0, seen, 40) for seen in (0, 40))
    order = [sorted(range(40), key=lambda i: b["image"][i].numpy().tobytes()) for b in (first, second)]
    noise = [(b["degraded"] - b["image"])[o] for b, o in zip((first, second), order, strict=True)]
    assert torch.equal(first["image"][order[0]], second["image"][order[1]]), "two epochs of the same images"
    assert (noise[0] != noise[1]).flatten(1).any(1).all(), "with other damage"
    assert torch.equal(data.draw(0, 40, 40)["degraded"], second["degraded"])
    parts = [data.draw(0, 40, 40, rank=r, world=4)["degraded"] for r in range(4)]
    assert torch.equal(torch.cat(parts), second["degraded"])
    assert not torch.equal(data.draw(1, 40, 40)["degraded"], second["degraded"])
    # The same sequence in other batches: what matters is the place in it.
    assert torch.equal(torch.cat([data.draw(0, s, 10)["degraded"] for s in (40, 50, 60, 70)]), second["degraded"])


def test_what_a_data_set_cannot_suffer_is_refused():
    with pytest.raises(UserError, match="grey already"):
        open_data(DataConfig("digits", degrade=("grey",)))
    with pytest.raises(UserError, match="two domains"):
        open_data(DataConfig("shapes-ab", count=20, degrade=("noise",)))
    with pytest.raises(UserError, match="did you mean 'watermark'"):
        open_data(DataConfig("digits", degrade=("watermrk",)))


def test_damage_to_bytes_is_the_same_damage():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8))
    truth = gaussian_filter(x.numpy().astype(float), (0, 1, 1, 0)).round()
    assert (of_bytes.blur(x, 1).numpy() - truth).__abs__().max() <= 1
    noisy = of_bytes.noise(torch.full((50, 20, 20, 1), 128, dtype=torch.uint8), 10).float()
    assert noisy.std().item() == pytest.approx(10, rel=0.05)
    with pytest.raises(ValueError, match="blur"):
        of_bytes.blur(x, 0)
