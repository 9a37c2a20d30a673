"""Translating files and strips, with a model whose translation is known: towards B it inverts, towards A it gives the image back."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from limner.data import DataConfig, open_data
from limner.data.grid import from_uint8
from limner.edit.translate import swap_strip, translate_files
from limner.errors import UserError

SOURCE = DataConfig("shapes-ab", size=16, count=20, test_fraction=0.2)


class Inverter(torch.nn.Module):
    image_shape = (3, 16, 16)
    device = torch.device("cpu")

    def translate(self, image, *, target):
        return -image if target == "B" else image


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Images of three sizes and kinds, in two folders, and two files that are none."""
    rng = np.random.default_rng(0)
    home = tmp_path / "images"
    write(home / "a.png", rng.integers(0, 256, (16, 16, 3), np.uint8))
    write(home / "a.bmp", rng.integers(0, 256, (16, 16, 3), np.uint8))
    write(home / "deep" / "wide.png", np.full((20, 50), 40, np.uint8))  # grey, not square
    (home / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (home / "notes.txt").write_text("no image")
    return home


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_each_file_is_translated_under_its_name(folder, tmp_path, batch):
    done, left_out = translate_files(Inverter(), folder, tmp_path / "out", target="B", batch=batch)
    assert done == 3
    assert [r.name for r in left_out] == ["broken.png"]
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {"a.png", "a.png.png", "deep/wide.png"}  # a.bmp comes first
    for source, result in (("a.bmp", "a.png"), ("a.png", "a.png.png")):
        pixels = np.asarray(Image.open(folder / source))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / result)), 255 - pixels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "deep/wide.png")), np.full((16, 16, 3), 215))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="no image that can be used"):
        translate_files(Inverter(), tmp_path, tmp_path / "out", target="B")


def test_a_strip_shows_source_own_and_other_for_each_domain():
    data = open_data(SOURCE, split="test")
    strip = swap_strip(Inverter(), data, 3)
    assert strip.shape == (18, 3, 16, 16)
    for d, rows in zip("AB", strip.split(9), strict=True):
        source, own, other = rows.split(3)
        assert all(
            (data.domains[d].images == p).all((1, 2, 3)).any()
            for p in ((source + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        )
        as_a, as_b = source, -source
        assert torch.equal(own, as_a if d == "A" else as_b)
        assert torch.equal(other, as_b if d == "A" else as_a)
    assert len(swap_strip(Inverter(), data, 1000)) == 6 * 4, "no more than there are"


def test_a_strip_of_one_domain_is_refused():
    with pytest.raises(UserError, match="not a pair of domains"):
        swap_strip(Inverter(), open_data(SOURCE, split="test").domains["A"], 3)


def test_the_verb(folder, tmp_path, capsys):
    from limner import hub
    from limner.cli import main
    from limner.training.run import train

    run = tmp_path / "run"
    train("face-swap", data=SOURCE, images=64, batch=16, out=run, device="cpu", quiet=True, config={"width": 8})
    command = [sys.executable, "-m", "limner", "translate", "run", "images", "--target", "B", "--out", "swapped"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 images in swapped\n"
    assert "left out broken.png: " in done.stderr
    x = from_uint8(np.array(Image.open(folder / "a.png"))[None])
    wanted = hub.load(run).translate(x, target="B")
    found = from_uint8(np.array(Image.open(tmp_path / "swapped" / "a.png.png"))[None])
    assert (found - wanted).abs().max() < 0.02

    assert main(["translate", str(run), "-n", "4"]) == 0
    with Image.open(run / "translations.png") as picture:
        assert picture.size == (2 + 4 * 66, 2 + 6 * 66)  # four columns, six rows, of 16 pixels fourfold
    assert main(["translate", str(run), str(folder)]) == 2
    assert "--target A or --target B" in capsys.readouterr().err
    assert main(["translate", str(run), str(folder), "--target", "C"]) == 2
    assert "no domain 'C' to translate to; there are A, B" in capsys.readouterr().err
