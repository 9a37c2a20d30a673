"""Restoring files: tiles without seams, every kind of file, nothing overwritten, nothing silently left out."""

import io
import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from limner.data.degrade import Degradation
from limner.data.grid import from_uint8
from limner.edit.restore import read_picture, resized, restore_files, restorer, spans, tiled
from limner.errors import UserError
from limner.models.autoencoders.dae import DAE, Config
from limner.noise import mix
from limner.training.run import train
from pictures import encode, photo, write, write_zip


def local(channels=3, size=16):
    """A model that does something to every pixel, from its surroundings alone."""
    torch.manual_seed(0)
    model = DAE(Config(channels=channels, size=size, width=8, multipliers=(1, 2))).eval()
    torch.nn.init.normal_(model.network.last.weight, std=0.2)
    return model


class Fixed:
    """A model of one size alone: lightens images."""

    device = torch.device("cpu")

    def __init__(self, channels=3, size=16):
        self.config = SimpleNamespace(channels=channels, size=size)

    any_size = False

    def damage(self, image):
        return image

    def restore(self, image):
        assert image.shape[1:] == (self.config.channels, self.config.size, self.config.size)
        return image + 0.25


@pytest.mark.parametrize(
    ("side", "tile", "overlap"), [(100, 64, 32), (65, 64, 32), (64, 64, 32), (1000, 256, 64), (7, 64, 8)]
)
def test_tiles_cover_a_side_and_overlap(side, tile, overlap):
    found = list(spans(side, tile, overlap))
    assert found[0][0] == 0
    assert found[-1][1] == side
    assert all(start % 16 == 0 and 0 < stop - start <= tile for start, stop in found)
    assert all(a[1] - b[0] >= overlap for a, b in itertools.pairwise(found))
    assert len(found) <= 2 + side // (tile - overlap - 16)


def test_tiles_are_as_the_whole():
    """Where the overlap's margin is as wide as the model's reach, blended tiles equal the image restored in one piece."""
    model = local()
    overlap = 4 * (model.reach + 2) + 4

    x = torch.rand(1, 3, 150, 210) * 2 - 1
    with torch.no_grad():
        whole = model.restore(x)
        parts = tiled(model.restore, x, tile=2 * overlap, overlap=overlap)
    assert len(list(spans(210, 2 * overlap, overlap))) > 1
    assert (whole - x).abs().mean() > 0.05
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_narrow_overlaps_leave_no_seam():
    """A model whose tiles differ in brightness: from one tile to the next it changes bit by bit."""
    level = iter(range(100))
    y = tiled(lambda x: torch.full_like(x, next(level) % 2), torch.zeros(1, 1, 20, 400), tile=128, overlap=64)
    steps = y[0, 0, 0].diff().abs()
    assert y.min() == 0
    assert y.max() > 0.9
    assert steps.max() < 1 / 25


def test_resizing_there_and_back():
    smooth = from_uint8(photo(3, 40, 40)[None])
    back = resized(lambda x: x, smooth, 20)
    assert back.shape == smooth.shape
    assert (back - smooth).abs().mean() < 0.03
    assert torch.equal(resized(lambda x: x, smooth, 40), smooth)


@pytest.mark.parametrize(("how", "size"), [("tiles", (50, 33)), ("resize", (50, 33)), ("auto", (130, 90))])
def test_images_of_any_size_and_channels(how, size):
    said = []
    for model, channels in ((local(1), 1), (local(1), 3), (local(3), 1), (local(3), 3)):
        x = torch.rand(1, channels, *size) * 2 - 1
        y = restorer(model, how=how, tile=64, say=said.append)(x)
        assert y.shape == (1, max(channels, model.config.channels), *size)
    assert ("tiles" in said[0]) == (how != "resize")
    # A grey model restores each colour as if it were an image.
    colour, model = torch.rand(1, 3, 20, 20) * 2 - 1, local(1)
    with torch.no_grad():
        y = restorer(model, say=said.append)(colour)
        torch.testing.assert_close(y[:, 1:2], model.restore(colour[:, 1:2]))


def test_a_model_of_one_size_has_images_resized():
    said = []
    assert restorer(Fixed(), say=said.append)(torch.zeros(1, 3, 40, 30)).mean() == pytest.approx(0.25)
    assert "resized to the model's 16x16" in said[0]
    with pytest.raises(UserError, match="--how resize"):
        restorer(Fixed(), how="tiles", say=said.append)
    with pytest.raises(UserError, match="cannot restore"):
        restorer(object(), say=said.append)


def files():
    """One of each kind, and some that are none."""
    tagged = Image.Exif()
    tagged[0x0112] = 6  # lies on its side
    turned = Image.fromarray(photo(1, 40, 20))
    see_through = Image.fromarray(np.dstack([photo(2, 30, 20), photo(7, 30, 20, channels=1)]))
    sixteen = Image.fromarray(photo(5, 20, 20, channels=1)[..., 0].astype(np.uint16) * 257)
    return {
        "a.png": encode(photo(0, 60, 40)),
        "turned.jpg": encode(turned, "JPEG", exif=tagged.tobytes(), quality=95),
        "sub/see-through.png": encode(see_through),
        "sub/grey.webp": encode(photo(4, 25, 25, channels=1)),
        "sixteen.png": encode(sixteen),
        "moving.gif": encode(photo(6, 20, 20), "GIF"),
        "broken.png": encode(photo(0, 60, 40))[:200],
        "empty.jpg": b"",
        "notes.txt": "no image",
    }


@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_file(tmp_path, packed):
    contents, said = files(), []
    source = write_zip(tmp_path / "in.zip", contents) if packed else write(tmp_path / "in", contents)
    report = restore_files(Fixed(), source, tmp_path / "out", say=said.append)
    out = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*.*")}
    good = {"a.png", "turned.jpg", "sub/see-through.png", "sub/grey.webp", "sixteen.png", "moving.gif.png"}
    assert set(out) == good
    assert {r.name for r in report.refused} == {"broken.png", "empty.jpg", "notes.txt"}
    for name in ("broken.png", "empty.jpg", "notes.txt"):
        assert any("left out" in line and name in line for line in said)
    sizes = {name: Image.open(path).size for name, path in out.items()}
    assert sizes["a.png"] == (60, 40)
    assert sizes["turned.jpg"] == (20, 40), "the orientation is applied"
    assert 0x0112 not in Image.open(out["turned.jpg"]).getexif(), "and not applied again by a viewer"
    assert Image.open(out["turned.jpg"]).format == "JPEG"
    clear = Image.open(out["sub/see-through.png"])
    assert clear.mode == "RGBA"
    assert np.array_equal(np.asarray(clear)[..., 3], photo(7, 30, 20, channels=1)[..., 0])
    before, after = photo(0, 60, 40).astype(int), np.asarray(Image.open(out["a.png"])).astype(int)
    assert (after - before).mean() == pytest.approx(0.25 * 127.5, abs=4)
    dark = np.asarray(Image.open(out["sixteen.png"])).astype(int)[..., 0] - photo(5, 20, 20, channels=1)[..., 0]
    assert dark.mean() == pytest.approx(0.25 * 127.5, abs=8), "16 bit are scaled, not cut"


def test_one_image_at_a_time(tmp_path):
    """Each file is read when its turn has come, after the one before was written."""
    source = write(tmp_path / "in", {f"{i}.png": encode(photo(i)) for i in range(4)})
    written = []

    class Watching(Fixed):
        def restore(self, image):
            written.append(len(list((tmp_path / "out").glob("*.png"))))
            return image

    restore_files(Watching(), source, tmp_path / "out", say=lambda _: None)
    assert written == [0, 1, 2, 3]


def test_nothing_is_overwritten(tmp_path):
    source = write(
        tmp_path / "in", {"x.png": encode(photo(0)), "y.gif": encode(photo(1), "GIF"), "y.gif.png": encode(photo(2))}
    )
    for place in (source, source / "restored", tmp_path / "in" / ".." / "in"):
        with pytest.raises(UserError, match="where the images are"):
            restore_files(Fixed(), source, place, say=lambda _: None)
    with pytest.raises(UserError, match="where the images are"):
        restore_files(Fixed(), source / "x.png", source, say=lambda _: None)
    assert sorted(p.name for p in source.iterdir()) == ["x.png", "y.gif", "y.gif.png"]
    report = restore_files(Fixed(), source, tmp_path / "out", say=lambda _: None)
    assert [r.name for r in report.refused] == ["y.gif.png"]
    assert "overwrite" in report.refused[0].reason
    one = restore_files(Fixed(), source / "x.png", tmp_path / "one", say=lambda _: None)
    assert [p.name for p in one.restored] == ["x.png"]


def test_nothing_there(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="has no images"):
        restore_files(Fixed(), tmp_path / "in", tmp_path / "out", say=lambda _: None)
    with pytest.raises(UserError, match="neither a folder nor a file"):
        restore_files(Fixed(), tmp_path / "gone", tmp_path / "out", say=lambda _: None)
    with pytest.raises(UserError, match="did you mean 'blur'"):
        restore_files(Fixed(), tmp_path / "in", tmp_path / "out", degrade="blurr", say=lambda _: None)


def test_damage_first(tmp_path):
    source = write(tmp_path / "in", {"a.png": encode(photo(0, 24, 16)), "b.png": encode(photo(1, 30, 30, channels=1))})

    class Nothing(Fixed):
        any_size = True

        def restore(self, image):
            return image

    report = restore_files(Nothing(), source, tmp_path / "out", degrade="noise=0.2", seed=5, say=lambda _: None)
    before, after = report.psnr
    assert before == after == pytest.approx(20 * np.log10(2 / 0.2), abs=1)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["a.png", "a.png.strip.png", "b.png", "b.png.strip.png"]
    clean = from_uint8(photo(0, 24, 16)[None])
    damaged = Degradation.parse("noise=0.2")(clean, [mix(5, 0)])
    restored = from_uint8(np.asarray(Image.open(tmp_path / "out" / "a.png"))[None])
    assert (restored - damaged).abs().max() < 1 / 127.5
    strip = Image.open(tmp_path / "out" / "a.png.strip.png")
    assert strip.width > 3 * strip.height * 24 / 16 * 0.8
    again = restore_files(Nothing(), source, tmp_path / "again", degrade="noise=0.2", seed=5, say=lambda _: None)
    assert again.errors == report.errors
    other = restore_files(Nothing(), source, tmp_path / "other", degrade="noise=0.2", seed=6, say=lambda _: None)
    assert other.errors != report.errors


def test_reading_files_of_other_modes():
    palette = Image.fromarray(photo(0)).quantize(16)
    assert read_picture(encode(palette)).pixels.shape == (24, 24, 3)
    assert read_picture(encode(Image.fromarray(photo(0)).convert("CMYK"), "JPEG")).pixels.shape == (24, 24, 3)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    assert read_picture(file.getvalue()).alpha is not None


def test_the_verb(tmp_path):
    train("dae", data="digits", images=640, out=tmp_path / "run", device="cpu", quiet=True)
    write(
        tmp_path / "in", {"a.png": encode(photo(0, 50, 30)), "b.jpg": encode(photo(1, 20, 20), "JPEG"), "c.png": b"no"}
    )
    command = [sys.executable, "-m", "limner", "restore", "run", "in", "--out", "out", "--degrade", "noise=0.3"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 2
    assert "1 files were left out: c.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert "all 2: PSNR" in done.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.png",
        "a.png.strip.png",
        "b.jpg",
        "b.jpg.strip.png",
    ]
