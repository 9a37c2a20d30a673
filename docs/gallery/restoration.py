"""The table of restorations: each damage undone by nothing, by the best classical filter, and by trained models.

    limner train dae --data shapes --degrade noise=0.2 watermark --images 250000 --out runs/dae-noise
    limner train dae --data shapes --degrade mask --images 400000 --out runs/dae-mask
    limner train dae --data shapes --degrade mask=brush --images 300000 --out runs/dae-brush
    limner train dae --data shapes --degrade grey --images 150000 --out runs/dae-grey
    python docs/gallery/restoration.py runs/dae-noise runs/dae-mask runs/dae-brush runs/dae-grey

Held-out images of the first run's data, the same damage for all (one seed an image); each model is asked for what it was trained to undo.
The classical method is whichever of many has the highest PSNR *on these very images*, so it is tuned on the test; holes are shown to it,
not to the models. Writes restoration.md and restoration.png (rows of: clean; then for each damage, damaged, classical and each model).
Needs scikit-image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage import restoration
from torch import Tensor

from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.degrade import Degradation, blur
from limner.data.grid import from_uint8, save_grid, to_uint8
from limner.data.order import held_out_order
from limner.errors import UserError
from limner.files import write_atomically
from limner.metrics.lpips import lpips
from limner.metrics.psnr import psnr
from limner.metrics.ssim import WINDOW, ssim
from limner.noise import mix
from limner.training.folder import RunFolder

DAMAGE = {1: ("noise=0.2", "watermark", "mask", "mask=box", "mask=brush", "mask=half"), 3: ("grey",)}
SHOWN = 10
"""Images of the picture."""

Filter = Callable[[np.ndarray], np.ndarray]
"""One image, float (H, W, 3) in [0, 1], to another."""


@dataclass
class Restored:
    """What a method made of the damaged images."""

    method: str
    images: Tensor
    """uint8 (N, H, W, C)"""


def filters() -> Iterator[tuple[str, Filter]]:
    """Denoisers, each at several strengths."""
    for side in (3, 5):
        yield f"median {side}x{side}", lambda x, s=side: ndimage.median_filter(x, (s, s, 1))
    for sigma in (0.4, 0.6, 0.8, 1.2):
        yield f"Gaussian {sigma}", lambda x, s=sigma: ndimage.gaussian_filter(x, (s, s, 0))
    for weight in (0.02, 0.05, 0.1, 0.2, 0.3):
        yield (
            f"total variation {weight}",
            lambda x, w=weight: restoration.denoise_tv_chambolle(x, weight=w, channel_axis=-1),
        )
    for tone in (0.1, 0.2, 0.4):
        yield (
            f"bilateral {tone}",
            lambda x, t=tone: restoration.denoise_bilateral(x, sigma_color=t, sigma_spatial=1.5, channel_axis=-1),
        )
    for h in (0.05, 0.1, 0.15, 0.2):
        yield (
            f"non-local means {h}",
            lambda x, h=h: restoration.denoise_nl_means(
                x, patch_size=5, patch_distance=6, h=h, channel_axis=-1, fast_mode=True
            ),
        )
    try:
        import pywt  # noqa: F401
    except ImportError:
        return
    yield "wavelet (BayesShrink)", lambda x: restoration.denoise_wavelet(x, channel_axis=-1)


def sharpeners(sigma: float, size: int) -> Iterator[tuple[str, Filter]]:
    """Deconvolutions that are told the blur."""
    radius = min(int(4 * sigma + 0.5), (size - 1) // 2)
    point = np.zeros((1, 2 * radius + 1, 2 * radius + 1), np.float32)
    point[0, radius, radius] = 1
    window = blur(point, sigma)[0]
    for rounds in (3, 10, 30):
        yield (
            f"Richardson-Lucy, {rounds} rounds",
            lambda x, n=rounds: _each_channel(lambda c: restoration.richardson_lucy(c, window, num_iter=n), x),
        )
    for balance in (0.003, 0.01, 0.05):
        yield (
            f"Wiener {balance}",
            lambda x, b=balance: _each_channel(lambda c: restoration.wiener(c, window, balance=b), x),
        )


def enlargers(factor: int) -> Iterator[tuple[str, Filter]]:
    """The smaller image, made large by a smooth filter."""
    for name, resampling in (("bicubic", Image.Resampling.BICUBIC), ("Lanczos", Image.Resampling.LANCZOS)):

        def enlarge(channel: np.ndarray, resampling=resampling) -> np.ndarray:
            small = Image.fromarray(np.ascontiguousarray(channel[factor // 2 :: factor, factor // 2 :: factor]))
            return np.asarray(small.resize(channel.shape[::-1], resampling))

        yield name, lambda x, f=enlarge: _each_channel(f, x.astype(np.float32))


def colourer(train: Dataset) -> Filter:
    """The mean colour that each brightness has in the training images: the best that can be done pixel by pixel."""
    clean = train.batch(range(min(len(train), 2000)))["image"]
    grey = to_uint8(Degradation.parse("grey")(clean, [0] * len(clean)))[..., 0].ravel()
    colour = to_uint8(clean).reshape(-1, 3) / 255
    count = np.bincount(grey, minlength=256)
    table = np.stack([np.bincount(grey, colour[:, c], 256) for c in range(3)], 1) / np.maximum(count, 1)[:, None]
    seen = np.flatnonzero(count)
    table = np.stack([np.interp(np.arange(256), seen, table[seen, c]) for c in range(3)], 1)
    return lambda x: table[(x[..., 0] * 255).round().astype(int)]


def _each_channel(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.stack([function(x[..., c]) for c in range(x.shape[-1])], axis=-1)


def classical(spec: str, damaged: Tensor, clean: Tensor, train: Dataset) -> Restored:
    """The best of the classical methods for this damage (uint8 images), by PSNR."""
    degradation = Degradation.parse(spec)
    ((step, *further),) = degradation.chains
    channels = damaged.shape[-1]
    floats = damaged.expand(-1, -1, -1, 3).numpy() / 255  # (N, H, W, 3): grey as three equal channels
    methods: list[tuple[str, Filter]] = list(filters())
    if step.name == "mask" and not further:
        found = [_biharmonic(x, hole) for x, hole in zip(floats, holes(degradation, damaged), strict=True)]
        return Restored("biharmonic inpainting, told the hole", _bytes(np.stack(found))[..., :channels])
    if step.name == "grey":
        methods = [("mean colour of each brightness", colourer(train))]
    elif step.name == "down":
        methods += enlargers(step.strengths[0])
    elif step.name == "blur":
        methods += sharpeners(step.strengths[0], damaged.shape[1])
    results = [
        Restored(name, _bytes(np.stack([function(x) for x in floats]))[..., :channels]) for name, function in methods
    ]
    return max(results, key=lambda r: psnr(clean, r.images))


def holes(degradation: Degradation, like: Tensor) -> np.ndarray:
    """bool (N, H, W): where the images lost their pixels."""
    white = torch.ones(len(like), 1, *like.shape[1:3])
    return (degradation(white, [mix(i) for i in range(len(like))]) == 0)[:, 0].numpy()


def _biharmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return restoration.inpaint_biharmonic(image, hole, channel_axis=-1) if hole.any() else image


def _bytes(images: np.ndarray) -> Tensor:
    return torch.from_numpy((images.clip(0, 1) * 255).round().astype(np.uint8))


def told(folder: RunFolder) -> str:
    """The command that made a run, and what it took."""
    last, config = folder.stats()[-1], folder.data_config
    settings = f"--data {config.data} --degrade {' '.join(config.degrade)} --images {round(last['images'], -3)}"
    return f"`limner train {folder.name} {settings} --out runs/{folder.path.name}`: {last['seconds'] / 60:.1f} minutes"


def kinds(degradation: Degradation) -> set[tuple[str, object]]:
    """Of damage that it does, each with one strength or choice."""
    steps = (step for chain in degradation.chains for step in chain)
    return {(step.name, strength) for step in steps for strength in step.strengths or [None]}


def perceptual(a: Tensor, b: Tensor) -> float | None:
    """Mean LPIPS (AlexNet); None where its weights are not installed, or the images too small for it."""
    try:
        return float(lpips(a, b, "alex").mean())
    except (UserError, ValueError):
        return None


def row(spec: str, result: Restored, clean: Tensor, best: bool) -> str:
    """A line of the table."""
    decibels = f"{psnr(clean, result.images):.2f}"
    similarity = f"{ssim(clean, result.images).value:.3f}" if min(clean.shape[1:3]) >= WINDOW else ""
    distance = perceptual(clean, result.images)
    figures = [f"**{decibels}**" if best else decibels, similarity, "" if distance is None else f"{distance:.3f}"]
    return f"| {' | '.join([spec, result.method, *figures])} |"


@torch.no_grad()
def main() -> None:
    """Make the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders of models that restore")
    parser.add_argument("--degrade", nargs="+", help="kinds of damage, one row each")
    parser.add_argument("-n", type=int, default=300, help="held-out images")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    given = parser.parse_args()
    folders = [RunFolder(run) for run in given.runs]
    models = {folder.path.name: folder.model() for folder in folders}
    undoes = {folder.path.name: kinds(Degradation.parse(folder.data_config.degrade)) for folder in folders}
    config = replace(folders[0].data_config, degrade=())
    train, test = (open_data(config, split=split) for split in ("train", "test"))
    clean = test.batch(held_out_order(len(test))[: given.n])["image"]
    original = torch.from_numpy(to_uint8(clean))
    specs = given.degrade or [s for channels in (1, 3) if channels <= clean.shape[1] for s in DAMAGE[channels]]
    lines = [
        "# Restoration (`dae`)",
        "",
        "Denoising autoencoders after Vincent et al. 2008, as U-Nets, each trained on one core of an AMD EPYC; what",
        "`limner restore RUN IMAGES` does with a folder of any sizes is done here to held-out images.",
        "",
        *(f"- {told(folder)}" for folder in folders),
        "",
        f"`python docs/gallery/restoration.py {' '.join(f'runs/{name}' for name in models)} -n {given.n}`:",
        f"{len(clean)} held-out images of {test.name}, {test.size}x{test.size}, {test.channels} channel{'s' * (test.channels > 1)}.",
        "The classical method is the best of many on these very images. Where there is a hole it is told which pixels are lost;",
        "the model is not.",
        "",
        "| damage | method | PSNR, dB | SSIM | LPIPS |",
        "|---|---|---|---|---|",
    ]
    rows = [original[:SHOWN]]
    for spec in specs:
        degradation = Degradation.parse(spec)
        degradation.check(test.channels)
        damaged = torch.from_numpy(to_uint8(degradation(clean, [mix(i) for i in range(len(clean))])))
        results = [Restored("none", damaged), classical(spec, damaged, original, train)]
        for name, model in models.items():
            if not kinds(degradation) <= undoes[name]:
                continue
            shown = from_uint8(damaged.numpy())
            restored = torch.cat([model.restore(part) for part in shown.split(64)])  # type: ignore[operator]
            results.append(Restored(name, torch.from_numpy(to_uint8(restored))))
        best = max(range(len(results)), key=lambda i: psnr(original, results[i].images))
        for i, result in enumerate(results):
            lines.append(row(spec, result, original, i == best))
            print(lines[-1], flush=True)
            rows.append(result.images[:SHOWN])
    picture = given.out.with_suffix(".png")
    lines += [
        "",
        f"![Clean images, and each damage with what was made of it, in the order of the table]({picture.name})",
    ]
    write_atomically(given.out, "\n".join(lines) + "\n")
    save_grid(from_uint8(torch.cat(rows).numpy()), picture, columns=len(rows[0]))
    print(given.out, picture)


if __name__ == "__main__":
    main()
