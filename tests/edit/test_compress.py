"""Compression to a real file and back: exactness, lengths against the sum of -log2 p, and files that are not what they seem."""

import dataclasses
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import toy_runs
from limner.config import ImageConfig
from limner.data.grid import from_uint8, to_uint8
from limner.edit import codecs, compress
from limner.edit.compress import Compressed
from limner.errors import UserError
from limner.model import Clock, Model
from limner.models.autoregressive import pixelcnn, transformer
from limner.staged import Staged

SHAPES, BOOKS = ((2, 2), (4, 4)), (6, 12)


class Blocks(Model):
    """A first stage without training: mean brightness of quarters, and what is left of each 2x2 block, in steps."""

    codebooks, code_shapes = BOOKS, SHAPES

    def __init__(self):
        super().__init__(ImageConfig(size=8))
        self.scale = torch.nn.Parameter(torch.ones(1))

    def tokenize(self, image):
        coarse = ((torch.nn.functional.avg_pool2d(image, 4) + 1) / 2 * 5).round().clamp(0, 5)
        up = (coarse / 5 * 2 - 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        fine = (((torch.nn.functional.avg_pool2d(image, 2) - up) / 2 + 1) / 2 * 11).round().clamp(0, 11)
        return coarse[:, 0].long(), fine[:, 0].long()

    def detokenize(self, codes):
        up = (codes[0][:, None].float() / 5 * 2 - 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        fine = (codes[1][:, None].float() / 11 * 2 - 1) * 2 + up
        return (fine * self.scale).clamp(-1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)


def priors(kind, classes=0):
    settings = [
        {"size": 2, "levels": 6, "unordered": True, "classes": classes},
        {"size": 4, "levels": 12, "unordered": True, "classes": classes, "condition_levels": 6, "condition_size": 2},
    ]
    if kind == "pixelcnn":
        own = {"width": 16, "layers": 2, "first_kernel": 3, "head": 16, "embedding": 8, "lr": 1e-2}
        return [pixelcnn.PixelCNN(pixelcnn.Config(**own, **s)) for s in settings]
    own = {"width": 32, "layers": 2, "heads": 2, "lr": 5e-3}
    return [transformer.Transformer(transformer.Config(**own, **s)) for s in settings]


def trained(kind, classes=0, steps=60):
    torch.manual_seed(0)
    model = Staged(Blocks(), priors(kind, classes))
    optimizers = model.optimizers()
    train, _ = toy_runs.digits()
    for step in range(steps):
        batch = train.draw(0, 64 * step, 64)
        for update in model.train_step(batch, Clock(step, 64 * step)):
            optimizers[update.optimizer].zero_grad()
            update.loss.backward()
            optimizers[update.optimizer].step()
    return model.eval()


@pytest.fixture(scope="module")
def models():
    torch.set_num_threads(1)
    return {"pixelcnn": trained("pixelcnn", classes=10), "transformer": trained("transformer"), "": Blocks()}


@pytest.fixture(scope="module")
def images():
    return toy_runs.digits()[1].images[:100]


def names(n):
    return [f"{i // 10}/{i}.jpg" for i in range(n)]


def unpacked(model, file):
    parts = list(compress.decompress(model, file))
    return [name for chunk, _ in parts for name in chunk], np.concatenate([pixels for _, pixels in parts])


@pytest.mark.parametrize("kind", ["pixelcnn", "transformer", ""])
def test_what_comes_back_is_exactly_the_reconstruction_and_as_short_as_the_prior_says(models, images, kind):
    model = models[kind]
    report = compress.compress(model, images, names(100), batch=48)
    file = Compressed.from_bytes(report.file.to_bytes(), where="x")
    assert file == report.file
    made, pixels = unpacked(model, file)
    x = from_uint8(images)
    with torch.no_grad():
        expected = to_uint8(model.detokenize(model.tokenize(x)))
    assert np.array_equal(pixels, expected)
    assert np.array_equal(report.reconstructions, expected)
    assert len(np.unique(pixels)) > 5
    assert made[:2] == ["0/0.png", "0/1.png"]

    assert report.codes == 100 * 20
    uniform = 100 * (4 * np.log2(6) + 16 * np.log2(12))
    assert report.uniform_bits == pytest.approx(uniform)
    if not kind:
        assert report.ideal_bits == pytest.approx(uniform)
    else:
        label = None
        if kind == "pixelcnn":  # the best of ten classes, written in log2 10 bits
            each = torch.stack([model.code_bits(x, label=torch.full((100,), k)) for k in range(10)])
            least, label = each.min(0)
            assert (label == torch.from_numpy(toy_runs.digits()[1].labels[:100])).float().mean() > 0.25
            truth = least.sum().item() + 100 * np.log2(10)
        else:
            truth = model.code_bits(x).sum().item()
        assert report.ideal_bits == pytest.approx(truth, rel=1e-5)
        assert report.ideal_bits < 0.75 * uniform
    ideal = report.ideal_bits / 8
    assert ideal - 1 <= len(file.payload) <= 1.01 * ideal + 8


def test_the_same_file_is_made_whatever_was_coded_before_and_noise_in_the_last_digits_does_not_matter(models, images):
    model, before = models["transformer"], compress.frequencies
    first = compress.compress(model, images, names(100)).file
    try:
        compress.frequencies = lambda logits: before(logits + 1e-9 * torch.randn_like(logits))
        again = compress.compress(model, images, names(100)).file
    finally:
        compress.frequencies = before
    assert first.to_bytes() == again.to_bytes()


def test_frequencies_are_whole_numbers_proportional_to_the_probabilities():
    logits = torch.randn(50, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    weights = compress.frequencies(logits)
    assert np.array_equal(weights, weights.round())
    assert weights.min() >= 1
    p = torch.from_numpy(weights / weights.sum(1, keepdims=True))
    excess = (logits.softmax(1) * (logits.log_softmax(1) - p.log())).sum(1)
    assert excess.max() < 5e-6  # nats of redundancy
    assert compress.frequencies(torch.tensor([[0.0, -1e6]])).tolist() == [[1 << 24, 1]]
    with pytest.raises(UserError, match="not finite"):
        compress.frequencies(torch.tensor([[0.0, float("nan")]]))


def test_another_model_is_refused(models, images):
    file = compress.compress(models["transformer"], images[:5], names(5)).file
    with pytest.raises(UserError, match="another model"):
        unpacked(models["pixelcnn"], file)
    other = trained("transformer", steps=1)
    with pytest.raises(UserError, match="another model"):
        unpacked(other, file)
    fingerprint = compress.fingerprint(models["transformer"])
    assert compress.fingerprint(models["transformer"]) == fingerprint
    parameter = models["transformer"].first_stage.scale
    with torch.no_grad():
        parameter.mul_(1 + 1e-6)
        assert compress.fingerprint(models["transformer"]) != fingerprint
        parameter.fill_(1)


@pytest.mark.parametrize("kind", ["transformer", ""])
def test_a_decoder_that_computes_other_probabilities_or_reads_other_words_gives_an_error_and_no_picture(
    models, images, kind, monkeypatch
):
    model = models[kind]
    file = compress.compress(model, images, names(100)).file
    words = np.frombuffer(file.payload, "<u4").copy()
    words[len(words) // 2] ^= 1 << 17
    with pytest.raises(UserError, match="not those that went in"):
        next(compress.decompress(model, dataclasses.replace(file, payload=words.tobytes())))
    with pytest.raises(UserError, match="not those that went in"):
        next(compress.decompress(model, dataclasses.replace(file, payload=b"\xff" * len(file.payload))))
    with pytest.raises(UserError, match="not those that went in"):
        next(compress.decompress(model, dataclasses.replace(file, payload=b"")))
    if kind:
        before = compress.frequencies
        monkeypatch.setattr(compress, "frequencies", lambda logits: before(logits * 1.001))
        with pytest.raises(UserError, match="not those that went in"):
            next(compress.decompress(model, file))


def test_damaged_truncated_and_hostile_files_are_refused(models, images):
    file = compress.compress(models[""], images[:10], names(10)).file
    data = file.to_bytes()

    def refused(content, match):
        with pytest.raises(UserError, match=match):
            Compressed.from_bytes(content, where="x.limner")

    for length in (0, 3, 8, 20, 50, len(data) // 2, len(data) - 1):
        refused(data[:length], "not written by|truncated")
    refused(data + b"\0", "appended")
    for i in range(len(data)):
        refused(data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :], "damaged|truncated|version|not written")
    refused(b"\x89PNG" + data[4:], "not written by")

    def forged(**changes):  # with the right checksums, as an enemy would
        return dataclasses.replace(file, **changes).to_bytes()

    for name in ("../up.png", "/etc/x.png", "a/../../x.png", "c:\\x.png", "x\n.png", "notes.txt", ""):
        refused(forged(names=(name, *file.names[1:])), "no name of a picture")
    refused(forged(names=(file.names[0],) * 10), "one name")
    refused(forged(batch=0), "makes no sense")
    refused(forged(payload=b"123"), "makes no sense")
    count = compress.HEADER.size - 4 * 4 - 2
    assert struct.unpack_from("<I", data, count) == (10,)
    many = data[:count] + struct.pack("<I", 2**32 - 1) + data[count + 4 : -4]
    refused(many + struct.pack("<I", zlib.crc32(many)), "names for")
    plain = dataclasses.replace(file, names=compress.numbered(10)).to_bytes()
    assert len(plain) < len(data)
    assert Compressed.from_bytes(plain, where="x").names[:2] == ("00000.png", "00001.png")
    many = plain[:count] + struct.pack("<I", 2**32 - 1) + plain[count + 4 : -4]
    refused(many + struct.pack("<I", zlib.crc32(many)), "names for")
    other = data[:7] + b"\x02" + data[8:]
    refused(other, "version 2")


def test_names_become_names_of_png_files_each_once():
    made = compress.output_names(["a/x.jpg", "a/x.png", "b.webp", "c\\d.bmp", "e", "photo.1.jpg"])
    assert made == ["a/x.jpg.png", "a/x.png.png", "b.png", "c/d.png", "e.png", "photo.1.png"]
    assert len(set(compress.output_names(["x.png.png", "x.jpg", "x.png"]))) == 3


def test_what_cannot_be_compressed_is_refused(models, images, monkeypatch):
    with pytest.raises(UserError, match="discrete codes"):
        compress.compress(toy_runs.fitted("gaussian"), images, names(100))
    with pytest.raises(UserError, match="1x4x4"):
        compress.compress(models[""], images[:, :4, :4], names(100))
    with pytest.raises(UserError, match="--batch 0"):
        compress.compress(models[""], images, names(100), batch=0)
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UserError, match=r"pip install 'limner\[compress\]'"):
        compress.compress(models[""], images, names(100))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_webp_are_measured_on_the_same_pixels(channels):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (7, 4, 4, 1), dtype=np.uint8) // np.arange(1, channels + 1, dtype=np.uint8)
    images = coarse.repeat(5, 1).repeat(5, 2)
    parts = codecs.sheets(images)
    assert np.array_equal(codecs.unsheet(parts[0], 7, 20, 20), images)
    for function in codecs.FORMATS.values():
        single, together = function(images), function(images, together=True)
        assert single.psnr == together.psnr == float("inf")
        assert together.bytes < single.bytes
    files = [codecs.encode(image, "WEBP", lossless=True, quality=100, method=6) for image in images]
    assert all(np.array_equal(codecs.decode(f, channels), i) for f, i in zip(files, images, strict=True))
    assert sum(map(len, files)) == codecs.webp_lossless(images).bytes
    for together in (False, True):
        coded = codecs.webp_at(images, 24.0, together=together)
        assert 24 <= coded.psnr < 40
        assert coded.bytes < codecs.webp_at(images, coded.psnr + 1, together=together).bytes


def test_sheets_are_no_larger_than_they_may_be(monkeypatch):
    monkeypatch.setattr(codecs, "SHEET", 40)
    images = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    parts = codecs.sheets(images)
    assert [part.shape for part in parts] == [(1, 32, 32, 3), (1, 32, 32, 3), (1, 32, 32, 3)]
    assert np.array_equal(np.concatenate([codecs.unsheet(p, 4, 16, 16) for p in parts])[:11], images)
    assert codecs.webp_at(images, 30.0, together=True).psnr >= 30


def test_the_verbs_write_a_file_and_give_its_pictures_back(tmp_path, capsys):
    from limner import hub
    from limner.cli import main
    from limner.training.run import train

    torch.set_num_threads(1)
    quick = {"data": "digits", "images": 512, "device": "cpu", "quiet": True}
    train("vqvae", out=tmp_path / "vq", **quick)
    train("transformer", out=tmp_path / "prior", first_stage=tmp_path / "vq", **quick)
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    images = toy_runs.digits()[1].images[:12]
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / ("sub" if i % 2 else "") / f"{i}.png")

    def limner(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "limner", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        )

    done = limner("compress", "prior", folder, "--out", "x.limner")
    assert done.returncode == 0, done.stderr
    size = (tmp_path / "x.limner").stat().st_size
    for words in (
        f"limner, the whole file *{size} ",
        r"WebP quality \d+, one sheet",
        "overhead",
        "Not counted: the model",
    ):
        assert re.search(words, done.stdout), done.stdout
    done = limner("decompress", "prior", "x.limner", "--out", "back")
    assert done.returncode == 0, done.stderr
    model = hub.load(tmp_path / "prior")
    for i, image in enumerate(images):
        back = np.asarray(Image.open(tmp_path / "back" / ("sub" if i % 2 else "") / f"{i}.png"))
        assert np.array_equal(back, to_uint8(model.reconstruct(from_uint8(image[None])))[0, ..., 0])
    assert main(["decompress", str(tmp_path / "vq"), str(tmp_path / "x.limner"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("limner: the file was compressed with another model")
