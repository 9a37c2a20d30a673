"""The pictures that the verbs `sample` and `reconstruct` make, for any model with the capability."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from limner import capabilities
from limner.data.grid import save_grid, save_image, to_uint8
from limner.edit.examples import examples, load, picture_beside, some
from limner.edit.projection import project
from limner.errors import UserError
from limner.files import make_folder


def sample_to_files(
    model: object,
    seeds: list[int],
    folder: Path,
    *,
    label: int | None = None,
    options: dict[str, Any] | None = None,
    batch: int = 64,
) -> Path:
    """Draw one image a seed, write each as `seed00000.png`, and all together in one beside the folder, whose path is returned.

    Raises:
        UserError: the model cannot sample, has no such option or label, or the folder cannot be written.
    """
    if not isinstance(model, capabilities.Samples):
        raise UserError(
            "this model cannot sample; it can: " + (", ".join(capabilities.of(model)) or "nothing but train")
        )
    options = check_options(model.sample, options or {})
    classes = getattr(getattr(model, "config", None), "classes", 0)
    if label is not None and not 0 <= label < max(classes, 1):
        raise UserError(
            f"--label {label}: the model has {classes} classes" + (f", 0 to {classes - 1}" if classes else "")
        )
    if label is not None and not classes:
        raise UserError("--label: this model was trained without classes; see --model.classes of `limner train`")
    labels: list[int | None] = [i % classes if classes and label is None else label for i in range(len(seeds))]
    make_folder(folder)
    images = []
    for i in range(0, len(seeds), batch):
        chosen = labels[i : i + batch]
        given = {"label": torch.tensor(chosen, device=model.device)} if chosen[0] is not None else {}  # type: ignore[attr-defined]
        images.append(model.sample(len(chosen), generator=seeds[i : i + batch], **given, **options).cpu())
    drawn = torch.cat(images)
    for seed, image in zip(seeds, drawn, strict=True):
        save_image(to_uint8(image[None])[0], folder / f"seed{seed:05d}.png")
    # Beside the folder, which then holds samples alone and can be measured as it is.
    grid = folder.with_name(f"{folder.name}.png")
    save_grid(drawn, grid)
    return grid


def reconstructions(
    run: str, *, data: str | None = None, n: int = 16, out: str | None = None, device: str = "auto"
) -> Path:
    """Rows of originals above rows of what the model makes of them; returns the picture's path.

    A model that decodes but does not encode is searched for the nearest image it can draw, see `limner.edit.projection`.
    """
    model = load(run, "reconstruct", "decode", device=device)
    shown = some(examples(run, model, data)[0], n)
    originals = shown.batch(range(len(shown)), model.device)["image"]
    if isinstance(model, capabilities.Reconstructs):
        with torch.no_grad():
            copies = model.reconstruct(originals)
    else:
        copies = project(model, originals).image  # type: ignore[arg-type]
    path = Path(out) if out else picture_beside(run, "reconstructions.png")
    columns = min(len(originals), 16)
    rows = [part for pair in zip(originals.split(columns), copies.split(columns), strict=True) for part in pair]
    save_grid(torch.cat(rows).cpu(), path, columns=columns)
    return path


def check_options(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`options`, if `function` has keyword arguments of these names.

    Raises:
        UserError: it has not; those it has are named.
    """
    own = [
        name
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in ("label", "generator")
    ]
    for name in options:
        if name not in own:
            raise UserError(
                f"--set {name}: this model's sampler has " + (f"the options {', '.join(own)}" if own else "no options")
            )
    return options
