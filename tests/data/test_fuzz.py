"""Damaged images and archives by the hundred: each ends as a usable image, a named skip or one UserError. Nothing is executed."""

import io
import struct
import subprocess
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from limner.data import DataConfig, open_data
from limner.data.check import check, lines
from limner.errors import UserError
from pictures import encode, photo, photos, write

FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"]


@pytest.fixture(autouse=True)
def _nothing_is_executed(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"a program was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("os.system", refuse)
    monkeypatch.setattr("os.posix_spawn", refuse)


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG with this header, whatever its data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def corrupted(rng: np.random.Generator) -> dict[str, bytes]:
    """200 files that no person would want in a training set, or that were hit by something."""
    files: dict[str, bytes] = {}
    whole = {f: encode(photo(i, 61, 47), f) for i, f in enumerate(FORMATS)}
    for i in range(72):
        format = FORMATS[i % len(FORMATS)]
        files[f"cut{i:03d}.png"] = whole[format][: int(rng.integers(1, int(0.6 * len(whole[format]))))]
    for i in range(72):
        content = bytearray(whole[FORMATS[i % len(FORMATS)]])
        for _ in range(int(rng.integers(1, 12))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        files[f"flip{i:03d}.jpg"] = bytes(content)
    for i, format in enumerate(FORMATS):
        files[f"magic{i:03d}.png"] = b"XXXX" + whole[format][4:]
        files[f"random{i:03d}.png"] = whole[format][:4] + rng.bytes(400)
    for i in range(8):
        files[f"empty{i:03d}.png"] = b""
    for i, size in enumerate(
        ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (60_000, 2_000), (0, 0), (0, 5))
    ):
        files[f"bomb{i:03d}.png"] = png(*size)
    for i in range(6):
        files[f"header{i:03d}.png"] = png(8, 8, int(rng.integers(256)), int(rng.integers(256)), b"\0" * 300)
    for i, dtype in enumerate((np.float32, np.int32)):
        files[f"odd{i:03d}.tif"] = encode(Image.fromarray(np.full((8, 8), 1e6, dtype)), "TIFF")
    files["odd002.tif"] = encode(Image.new("LAB", (8, 8)), "TIFF")
    texts = [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"<svg/>",
        b"%PDF-1.7",
    ]
    texts += [
        b"RIFF\0\0\0\0WEBP",
        b"P6\n9 9\n255\n",
        b"P6\n99999999 99999999\n255\n",
        b"P5\n-4 7\n255\n",
        b"\xff\xd8\xff",
    ]
    texts += [b"\x80\x04\x95cos\nsystem\n"]
    for i, text in enumerate(texts):
        files[f"text{i:03d}.png"] = text
    files["textbomb.png"] = png_with_text_bomb()
    i = 0
    while len(files) < 200:
        files[f"noise{i:03d}.jpg"] = rng.bytes(int(rng.integers(1, 500)))
        i += 1
    return files


def png_with_text_bomb() -> bytes:
    """A PNG with a compressed comment of 100 MB."""
    comment = b"k\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(comment)) + b"zTXt" + comment + struct.pack(">I", zlib.crc32(b"zTXt" + comment))
    content = encode(photo(9))
    return content[:33] + chunk + content[33:]


def test_200_corrupted_images_are_each_skipped_by_name(tmp_path):
    files = corrupted(np.random.default_rng(0))
    assert len(files) == 200
    good = photos(5, "good", 500)
    write(tmp_path, files | good)
    report = check(DataConfig(str(tmp_path), size=16, test_fraction=0))
    reasons = dict(report.refused)
    data = open_data(DataConfig(str(tmp_path), size=16, test_fraction=0))
    assert set(data.names) | set(reasons) == set(files) | set(good)
    assert not set(data.names) & set(reasons)
    assert set(good) <= set(data.names)
    survivors = set(data.names) - set(good)
    # A changed byte may leave an image that can be read; a cut, a bomb or noise may not.
    assert {n[:4] for n in survivors} <= {"flip", "head", "magi"}, survivors
    assert all(r and "\n" not in r and "Traceback" not in r for r in reasons.values())
    for name in ("bomb000.png", "bomb001.png", "bomb002.png", "bomb003.png"):
        assert "bomb" in reasons[name], reasons[name]
    assert len(lines(report)) > len(reasons)


def test_corrupted_images_alone_are_one_clear_error(tmp_path):
    files = {
        n: c for n, c in corrupted(np.random.default_rng(1)).items() if not n.startswith(("flip", "head", "magic"))
    }
    write(tmp_path, files)
    with pytest.raises(UserError, match="no usable image; refused were") as caught:
        open_data(DataConfig(str(tmp_path), size=16))
    assert "\n" not in str(caught.value)


def _archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    files = photos(4, "a/") | photos(4, "b/", 50)
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            archive.writestr("dataset.json", '{"labels": [["a/000.png", 1]]}')
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind.partition('.')[2]}") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def outcome(path) -> str:
    """ "data", or what the one error says."""
    try:
        open_data(DataConfig(str(path), size=8, test_fraction=0))
    except UserError as error:
        return str(error)
    return "data"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_malformed_archives_end_in_data_or_one_user_error(tmp_path, kind):
    whole, rng = _archive(kind), np.random.default_rng(2)
    outcomes = []
    for i in range(60):
        content = bytearray(whole)
        if i % 3 == 0:
            content = content[: int(rng.integers(len(content)))]
        elif i % 3 == 1:
            # The directory of a zip is at its end; hit it often.
            start = int(0.85 * len(content)) if kind == "zip" and i % 2 else 0
            for _ in range(int(rng.integers(1, 30))):
                content[int(rng.integers(start, len(content)))] = int(rng.integers(256))
        else:
            at, n = int(rng.integers(len(content))), int(rng.integers(1, 200))
            content[at : at + n] = b""
        path = tmp_path / f"{i}.{kind}"
        path.write_bytes(bytes(content))
        outcomes.append(outcome(path))
    assert all("\n" not in o for o in outcomes)
    if kind != "tar.gz":  # whose checksum is over everything
        assert outcomes.count("data") > 0
    assert len(outcomes) - outcomes.count("data") > 10


def test_a_zip_member_that_lies_about_its_size_is_skipped(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(1 << 20))
        archive.writestr("good.png", encode(photo(1)))
    content = bytearray(path.read_bytes())
    content[22:26] = struct.pack("<I", 100)  # in the local header
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    content[at + 24 : at + 28] = struct.pack("<I", 100)  # in the directory
    path.write_bytes(bytes(content))
    data = open_data(DataConfig(str(path), test_fraction=0))
    assert data.names == ["good.png"]
    assert [r.name for r in data.refused] == ["zeros.png"]
