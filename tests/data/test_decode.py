"""Each kind of file gives the pixels it should."""

import io

import numpy as np
import pytest
from PIL import Image

from limner.data.decode import Unusable, decode
from limner.data.resizing import natural_size, resize_arrays, to_channels
from limner.data.settings import DataConfig
from limner.errors import UserError
from pictures import encode, photo

CONFIG = DataConfig("x")


def pixels(content: bytes, size: int = 24, **options) -> np.ndarray:
    return decode(content, size, DataConfig("x", **options)).pixels


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_formats_give_the_same_pixels(format):
    picture = np.repeat(photo(0, channels=1), 3, axis=2) if format == "GIF" else photo(0)
    assert np.array_equal(pixels(encode(picture, format)), picture)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(format):
    assert np.abs(pixels(encode(photo(0), format, quality=95)).astype(int) - photo(0)).mean() < 5  # chroma is halved


def test_exif_orientation_is_applied():
    picture = photo(1)
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        6: np.rot90(picture, 1),
        8: np.rot90(picture, -1),
    }
    turned |= {5: picture.transpose(1, 0, 2), 7: picture[::-1, ::-1].transpose(1, 0, 2)}
    for value, stored in turned.items():
        exif = Image.Exif()
        exif[0x0112] = value
        assert np.array_equal(pixels(encode(np.ascontiguousarray(stored), "PNG", exif=exif)), picture), value


def test_a_damaged_exif_block_costs_nothing_but_the_orientation():
    content = encode(photo(1), "PNG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert np.array_equal(pixels(content), photo(1))


def test_alpha_is_composited_on_the_stated_colour():
    rgba = np.dstack([photo(2), np.full((24, 24), 0, np.uint8)])
    rgba[:, 12:, 3] = 255
    white, green = pixels(encode(rgba)), pixels(encode(rgba), background="#00ff00")
    assert (white[:, :12] == 255).all()
    assert (green[:, :12] == (0, 255, 0)).all()
    assert np.array_equal(white[:, 12:], rgba[:, 12:, :3])
    half = np.full((24, 24, 4), (200, 0, 100, 128), np.uint8)
    expected = np.array([200, 0, 100]) * 128 / 255 + np.array([0, 0, 255]) * 127 / 255
    assert np.abs(pixels(encode(half), background="blue")[0, 0] - expected).max() <= 1


def test_grey_with_alpha_and_a_transparent_colour():
    la = np.dstack([np.full((24, 24), 50, np.uint8), np.zeros((24, 24), np.uint8)])
    assert (pixels(encode(Image.fromarray(la, "LA")), background="black") == 0).all()
    keyed = encode(Image.fromarray(np.full((24, 24), 9, np.uint8)), "PNG", transparency=9)
    assert (pixels(keyed) == 255).all()


def test_palette_with_and_without_transparency():
    picture = Image.new("P", (24, 24), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    assert (pixels(encode(picture)) == (10, 200, 30)).all()
    assert (pixels(encode(picture, "PNG", transparency=1), background="red") == (255, 0, 0)).all()


def test_16_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 24 * 24).round().astype(np.uint16).reshape(24, 24)
    expected = np.round(ramp / 257).astype(np.uint8)
    for format in ("PNG", "TIFF"):
        result = pixels(encode(Image.fromarray(ramp), format))
        assert np.array_equal(result[..., 0], expected), format
        assert result.min() == 0
        assert result.max() == 255


def test_one_bit_and_cmyk():
    checker = Image.fromarray((np.indices((24, 24)).sum(0) % 2 * 255).astype(np.uint8)).convert("1")
    assert np.array_equal(pixels(encode(checker))[..., 0], np.indices((24, 24)).sum(0) % 2 * 255)
    red = Image.new("CMYK", (24, 24), (0, 255, 255, 0))
    assert np.abs(pixels(encode(red, "TIFF")).astype(int) - (255, 0, 0)).max() == 0
    assert np.abs(pixels(encode(red, "JPEG", quality=100)).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_refused_by_name(mode):
    wide = Image.fromarray(np.full((24, 24), 1e6, np.float32 if mode == "F" else np.int32))
    with pytest.raises(Unusable, match="range is not known"):
        pixels(encode(wide, "TIFF"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not found</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encode(photo(0, 200, 200))[:-3000], "truncated"),
        (encode(photo(0, 200, 200), "JPEG")[:2000], "truncated"),
    ],
)
def test_what_is_no_whole_image_is_refused(content, reason):
    with pytest.raises(Unusable, match=reason):
        decode(content, 8, CONFIG)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    content = encode(Image.new("1", (5000, 5000)))
    with pytest.raises(Unusable, match="decompression bomb: 5000x5000"):
        decode(content, 8, DataConfig("x", max_pixels=24_999_999))
    limit = Image.MAX_IMAGE_PIXELS
    assert decode(content, 8, DataConfig("x", max_pixels=25_000_000)).pixels.max() == 0
    assert limit == Image.MAX_IMAGE_PIXELS


def test_center_cuts_pad_adds_stretch_distorts_none_refuses():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    content = encode(wide)
    assert (pixels(content, 10) == 255).all()
    padded = pixels(content, 30, crop="pad", background="red")
    assert (padded[:10] == (255, 0, 0)).all()
    assert (padded[20:] == (255, 0, 0)).all()
    assert np.array_equal(padded[10:20], wide)
    stretched = pixels(content, 30, crop="stretch", resize="nearest")
    assert np.array_equal(stretched, np.repeat(wide, 3, axis=0))
    with pytest.raises(Unusable, match="wrong size: 30x10, not 10x10"):
        pixels(content, 10, crop="none")


def test_making_smaller_is_antialiased():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    for name in ("lanczos", "bicubic", "bilinear", "box"):
        small = resize_arrays(stripes[None], 16, DataConfig("x", resize=name))
        assert np.abs(small[0, :, 4:12].astype(int) - 127).max() <= 2, name
    sampled = resize_arrays(stripes[None], 16, DataConfig("x", resize="nearest"))
    assert set(np.unique(sampled)) <= {0, 255}


def test_grey_from_colour_is_pillows():
    picture = photo(5)
    expected = np.asarray(Image.fromarray(picture).convert("L"))
    assert np.array_equal(to_channels(picture[None], 1)[0, ..., 0], expected)


def test_equal_pictures_have_equal_keys_whatever_the_file():
    picture = photo(3, channels=1)
    same = [encode(picture), encode(picture, "BMP"), encode(np.repeat(picture, 3, axis=2), "TIFF")]
    assert len({decode(c, 8, CONFIG).key for c in same}) == 1
    assert decode(same[0], 8, CONFIG).key == decode(same[0], 16, CONFIG).key


def test_natural_size():
    assert natural_size([(28, 28)] * 3)[0] == 28
    assert natural_size([(500, 400), (40, 60), (70, 70)])[0] == 64
    assert natural_size([(512, 512)])[0] == 64
    assert natural_size([(33, 40), (40, 40)])[0] == 32


def test_an_unknown_colour_is_refused_at_once():
    with pytest.raises(UserError, match="'whit' is not a colour"):
        DataConfig("x", background="whit")


def test_first_frame_of_an_animation():
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (24, 24), c) for c in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    assert (pixels(buffer.getvalue()) == (250, 0, 0)).all()
