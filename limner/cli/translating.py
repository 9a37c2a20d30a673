"""`limner translate`. Imports are inside the function: `--help` must be quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from limner.errors import UserError

Count = Annotated[int, arg(aliases=["-n"])]


def translate(
    run: Positional[str],
    images: Positional[str | None] = None,
    /,
    *,
    target: str | None = None,
    out: str | None = None,
    n: Count = 8,
    device: str = "auto",
) -> None:
    """Turn images of one domain into the other, file by file; or show held-out images of both domains translated.

    Args:
        run: a run folder of a model of two domains; with images also a model on the Hugging Face hub.
        images: a folder (or zip, or tar) of images, each made a square of the model's size. Not given: a picture of held-out images.
        target: the domain that the images are turned into, A or B; needed with images.
        out: folder for the translated images, RUN/translated by default; without images the picture, RUN/translations.png.
        n: without images: how many held-out images of each domain.
        device: auto, cpu, cuda ...
    """
    from limner import capabilities, hub
    from limner.data import open_data
    from limner.data.grid import save_grid
    from limner.edit.translate import swap_strip, translate_files
    from limner.training.device import pick
    from limner.training.folder import RunFolder

    model = hub.load(run, device=pick(device))
    if not isinstance(model, capabilities.Translates):
        raise UserError(
            f"'{run}' does not translate; it can: {', '.join(capabilities.of(model)) or 'nothing but train'}"
        )
    beside = Path(run) if Path(run).is_dir() else Path("runs") / run.replace("/", "--")
    if images is None:
        if target is not None:
            raise UserError("--target is for images of yours: limner translate RUN IMAGES --target A")
        strip = swap_strip(model, open_data(RunFolder(run).data_config, split="test"), n)
        path = Path(out) if out else beside / "translations.png"
        save_grid(strip, path, columns=len(strip) // 6)
        print(path)
        return
    if target is None:
        raise UserError("say what the images are to become: --target A or --target B")
    folder = Path(out) if out else beside / "translated"
    done, refused = translate_files(model, images, folder, target=target)
    for name, reason in refused:
        print(f"left out {name}: {reason}", file=sys.stderr)
    print(f"{done} images in {folder}")
