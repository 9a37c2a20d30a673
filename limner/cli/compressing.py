"""The verbs `compress` and `decompress`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from limner.errors import UserError


def compress(
    run: Positional[str],
    images: Positional[str],
    /,
    *,
    out: str,
    n: Annotated[int | None, arg(aliases=["-n"])] = None,
    batch: int = 64,
    compare: bool = True,
    device: str = "cpu",
) -> None:
    """Compress images to one file: a first stage's codes, entropy-coded under its priors.

    Args:
        run: a two-stage run (limner train pixelcnn --first-stage RUN); a vqvae alone works too, with longer files.
        images: a folder, a zip, or a name (of which the test set, if it has one); each is made square and of the model's size.
        out: the file, such as holiday.limner.
        n: so many of the images, chosen at random; all by default.
        batch: images coded at once; the decoder must take as much memory.
        compare: also write the same images as PNG and WebP (to memory), for the table.
        device: cpu, or cuda ...; decompressing must be done on the same kind.
    """
    import sys

    import numpy as np

    from limner import hub
    from limner.data import open_data
    from limner.data.settings import DataConfig
    from limner.edit import compress as coding
    from limner.files import write_atomically
    from limner.training.device import pick

    model = hub.load(run, device=pick(device))
    coding.priors_of(model)  # what cannot be done is said before anything is read
    channels, size, _ = model.image_shape
    colours: Literal[1, 3] = 1 if channels == 1 else 3
    config = DataConfig(images, size=size, channels=colours, test_fraction=0.0, duplicates="keep")
    data = open_data(config, split="train")
    data = data.held_out or data  # of a set that comes with a test set, the images that no model was trained on
    if n is not None and n < len(data):
        data = data.subset(np.sort(np.random.default_rng(0).permutation(len(data))[:n]))
    names = data.names or coding.numbered(len(data))

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text}", end="" if not text.startswith(f"{len(data)} of") else "\n", file=sys.stderr, flush=True)

    report = coding.compress(model, data.images[:], names, batch=batch, say=say)
    content = report.file.to_bytes()
    write_atomically(out, content)
    for refused in data.refused[:5]:
        print(f"left out: {refused.name}: {refused.reason}")
    for line in data.policy:
        print(line)
    parameters = sum(p.numel() for p in model.parameters())
    _print(out, report, len(content), data.images[:], parameters, compare)


def decompress(run: Positional[str], file: Positional[str], /, *, out: str, device: str = "cpu") -> None:
    """The images of a compressed file, as PNG: exactly the model's reconstructions.

    Args:
        run: the run that the file was compressed with.
        file: what `limner compress` wrote.
        out: folder for the pictures.
        device: cpu, or cuda ...: the kind that the file was written on.
    """
    from limner import hub
    from limner.data.grid import save_image
    from limner.edit import compress as coding
    from limner.training.device import pick

    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error.strerror or error}") from None
    compressed = coding.Compressed.from_bytes(content, where=file)
    model = hub.load(run, device=pick(device))
    folder, count = Path(out), 0
    for names, pixels in coding.decompress(model, compressed):
        for name, image in zip(names, pixels, strict=True):
            save_image(image, folder / name)
            count += 1
    print(f"{count} images in {folder}")


def _print(out, report, total: int, originals, parameters: int, compare: bool) -> None:
    import torch
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from limner.edit import codecs
    from limner.metrics.psnr import psnr

    n, height, width, channels = originals.shape
    pixels, payload, ideal = n * height * width, len(report.file.payload), report.ideal_bits / 8
    quality = psnr(torch.from_numpy(originals.copy()), torch.from_numpy(report.reconstructions))
    under = "the priors" if report.prior else "uniform codes (this run has no prior)"
    print(f"{out}: {n} images of {height}x{width}, {channels} channel{'s' * (channels > 1)}, {report.codes} codes")
    print(f"  header and names {total - payload} bytes, payload {payload} bytes")
    print(
        f"  ideal length under {under} {ideal:.1f} bytes: overhead {payload - ideal:.1f} bytes ({payload / ideal - 1:.2%})"
    )
    if report.prior:
        print(f"  uniform codes would take {report.uniform_bits / 8:.1f} bytes")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "bytes", "bits/pixel", "PSNR, dB"):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, coded: codecs.Coded) -> None:
        decibels = "lossless" if coded.psnr == float("inf") else f"{coded.psnr:.2f}"
        table.add_row(name, str(coded.bytes), f"{8 * coded.bytes / pixels:.3f}", decibels)

    row("limner, the whole file", codecs.Coded(total, quality))
    lowest = False
    for together, how in ((False, "a file each"), (True, "one sheet")) if compare else ():
        for name, function in codecs.FORMATS.items():
            row(f"{name}, {how}", function(originals, together=together))
        lossy = codecs.webp_at(originals, quality, together=together)
        lowest |= lossy.quality == 0
        row(f"WebP quality {lossy.quality}, {how}", lossy)
    Console().print(table)
    if lowest:
        print("Quality 0 is WebP's lowest: it does not go down to the file's PSNR.")
    print(
        f"Not counted: the model ({parameters / 1e6:.2f} million weights), without which the file cannot be read. Originals are the "
        "images at the model's size."
    )
