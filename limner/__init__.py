"""limner: every family of generative image model in one library.

    import limner

    run = limner.train("vae", data="digits", images=200_000, out="runs/vae", seed=0)
    model = limner.load("runs/vae")
    images = model.sample(16, generator=0)  # (16, C, H, W) in [-1, 1]
    limner.compare(["runs/vae", "runs/gan"])

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from limner.errors import UserError
from limner.version import __version__

if TYPE_CHECKING:
    from limner.data import open_data
    from limner.hub import load
    from limner.metrics.evaluate import evaluate
    from limner.model import Batch, Clock, Model, Preset, Update
    from limner.report.compare import compare
    from limner.training.run import resume, train

_FACE = {
    "train": "limner.training.run",
    "resume": "limner.training.run",
    "load": "limner.hub",
    "open_data": "limner.data",
    "evaluate": "limner.metrics.evaluate",
    "compare": "limner.report.compare",
    "Model": "limner.model",
    "Update": "limner.model",
    "Clock": "limner.model",
    "Batch": "limner.model",
    "Preset": "limner.model",
}

__all__ = [
    "Batch",
    "Clock",
    "Model",
    "Preset",
    "Update",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "open_data",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        return getattr(importlib.import_module(_FACE[name]), name)
    raise AttributeError(f"module 'limner' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
