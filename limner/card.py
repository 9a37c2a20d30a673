"""The model card: the README.md that a saved model carries, as the Hugging Face hub shows it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from limner import capabilities, models

if TYPE_CHECKING:
    from limner.model import Model


def model_card(model: Model, name: str) -> str:
    """The Markdown text of the card: what the model is, what it can do, how to use it, and its configuration."""
    entry = models.entry_of(name)
    size = sum(p.numel() for p in model.parameters())
    lines = [
        "---",
        "library_name: limner",
        f"tags: [limner, {entry.family}, image-generation]",
        "---",
        "",
        f"# {entry.title} (`{name}`)",
        "",
    ]
    lines += [f"Paper: {entry.paper}.", ""] if entry.paper else []
    lines += [f"{size:,} parameters. It can: {', '.join(capabilities.of(model)) or 'be trained further'}.", ""]
    lines += ["```python", "import limner", "", 'model = limner.load("THIS_FOLDER_OR_HUB_ID")']
    lines += (
        ["images = model.sample(16, generator=0)  # (16, C, H, W) in [-1, 1]"]
        if "sample" in capabilities.of(model)
        else []
    )
    lines += ["```", "", "## Configuration", "", "| field | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in dataclasses.asdict(model.config).items()]
    return "\n".join(lines) + "\n"
