"""The model card: the README.md that a saved model carries, as the Hugging Face hub shows it, with samples and figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner import capabilities, models
from limner.files import write_atomically

if TYPE_CHECKING:
    from limner.model import Model

FILE, PICTURE, FIGURES = "README.md", "samples.png", "evaluation.json"
MARK = "<!-- Made by limner, which makes it anew while this line stands here. -->"


def write(folder: Path, model: Model, name: str) -> None:
    """Write the card into `folder`, with the samples and figures that are there. A card that somebody has made their own is kept."""
    path = folder / FILE
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    write_atomically(path, text(model, name, picture=_picture(folder), figures=_figures(folder)))


def text(model: Model, name: str, *, picture: str | None = None, figures: dict[str, Any] | None = None) -> str:
    """The Markdown text: what the model is, samples, what it can do, how to use it, figures with their protocol, configuration."""
    entry = models.entry_of(name)
    size = sum(p.numel() for p in model.parameters())
    can = capabilities.of(model)
    lines = ["---", "library_name: limner", f"tags: [limner, {entry.family}, image-generation]", "---", "", MARK, ""]
    lines += [f"# {entry.title} (`{name}`)", ""]
    lines += [f"Paper: {entry.paper}.", ""] if entry.paper else []
    first_stage = getattr(model, "first_stage", None)
    if first_stage is not None:
        lines += [
            f"A model of the codes of a frozen `{models.name_of(type(first_stage))}`, which is in the file too.",
            "",
        ]
    lines += [f"{size:,} parameters, images of {'x'.join(map(str, model.image_shape))} (channels x height x width)."]
    lines += [f"It can: {', '.join(can) or 'be trained further'}.", ""]
    lines += [f"![samples]({picture})", ""] if picture else []
    lines += ["```python", "import limner", "", 'model = limner.load("THIS_FOLDER_OR_HUB_ID")']
    lines += ["images = model.sample(16, generator=0)  # in [-1, 1]"] if "sample" in can else []
    lines += ["```", ""]
    if figures:
        lines += ["## Figures", "", "| figure | value | protocol |", "|---|---|---|"]
        lines += [_row(key, figure) for key, figure in figures.items()]
        lines += [""]
    lines += ["## Configuration", "", "| field | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in dataclasses.asdict(model.config).items()]
    return "\n".join(lines) + "\n"


def _row(key: str, figure: dict[str, Any]) -> str:
    value = figure["value"] if isinstance(figure["value"], str) else f"{figure['value']:.4g}"
    error = f" ± {figure['error']:.2g}" if isinstance(figure.get("error"), float) else ""
    note = f" ({figure['note']})" if figure.get("note") else ""
    return f"| {key} | {value}{error}{note} | {figure.get('protocol', '')} |"


def _picture(folder: Path) -> str | None:
    """The picture of samples in the folder: one drawn for the card, else the newest of training."""
    if (folder / PICTURE).is_file():
        return PICTURE
    grids = sorted((folder / "samples").glob("[0-9]*.png"))
    return f"samples/{grids[-1].name}" if grids else None


def _figures(folder: Path) -> dict[str, Any] | None:
    """What `limner evaluate` measured here, if it did."""
    try:
        return json.loads((folder / FIGURES).read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
