"""The verb `restore`."""

from __future__ import annotations

from typing import Literal

from tyro.conf import Positional

from limner.errors import UserError


def restore(
    run: Positional[str],
    images: Positional[str],
    /,
    *,
    out: str,
    degrade: str | None = None,
    how: Literal["auto", "tiles", "resize"] = "auto",
    tile: int = 256,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Undo the damage to images of any size that a model was trained to undo: noise, watermarks, holes, lost colour ...

    Files keep their names; of other formats than PNG, JPEG, WebP, BMP, TIFF and PPM the result is NAME.png. Transparency is kept.

    Args:
        run: a run folder, or a model on the Hugging Face hub.
        images: a folder, a zip, a tar, or one image file.
        out: folder for the restored images.
        degrade: damage the images first, such as noise=0.2 or blur=1.5+jpeg=20; writes NAME.strip.png (clean, damaged, restored) too.
        how: tiles restores large images in overlapping tiles, resize brings them to the model's size and back; auto: tiles if it can.
        tile: height and width of a tile in pixels.
        seed: of the damage.
        device: auto, cpu, cuda ...
    """
    from limner import hub
    from limner.edit.restore import restore_files
    from limner.training.device import pick

    if tile < 64:
        raise UserError(f"--tile {tile}: give at least 64 pixels")
    model = hub.load(run, device=pick(device))
    report = restore_files(model, images, out, degrade=degrade, how=how, tile=tile, seed=seed)
    if report.errors:
        before, after = report.psnr
        print(f"all {len(report.errors)}: PSNR {before:.2f} dB damaged, {after:.2f} dB restored")
    print(f"{len(report.restored)} images in {out}")
    if report.refused:
        names = ", ".join(refused.name for refused in report.refused[:3])
        more = f" and {len(report.refused) - 3} more" if len(report.refused) > 3 else ""
        raise UserError(f"{len(report.refused)} files were left out: {names}{more}; the reasons stand above")
