"""From what a person asked for to a complete plan of a run: the preset that fits the data, the person's changes on top."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from limner import models
from limner.config import from_mapping
from limner.data.dataset import Dataset
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.model import Model, Preset
from limner.training.folder import to_toml
from limner.training.settings import TrainConfig

FROM_DATA = ("channels", "size", "levels")
"""Fields of a model's configuration that the data decide."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides a run."""

    name: str
    preset: str
    data: DataConfig
    train: TrainConfig
    model: Any

    def toml(self) -> str:
        """The plan as it will stand in `run.toml`."""
        return to_toml(self.name, self.preset, self.data, self.train, self.model)

    def build(self) -> Model:
        """The model with its initial weights: a function of the plan's seed."""
        import torch

        torch.manual_seed(self.train.seed)
        return models.model_class(self.name)(self.model)


def pick_preset(name: str, size: int, preset: str | None = None) -> tuple[str, Preset]:
    """The preset asked for, or the one whose size is nearest to `size` pixels on a logarithmic scale.

    Raises:
        UserError: no such preset.
    """
    presets = models.model_class(name).PRESETS
    if not presets:
        return "default", Preset(size, models.model_class(name).Config())
    if preset is None:
        preset = min(presets, key=lambda key: abs(math.log(presets[key].size / size)))
    if preset not in presets:
        raise UserError(f"--preset {preset}: '{name}' has the presets {', '.join(presets)}")
    return preset, presets[preset]


def defaults(name: str, data: Dataset, preset: str | None = None) -> tuple[str, TrainConfig, Any]:
    """The preset's name, its training settings and its model configuration, fitted to `data`."""
    chosen, values = pick_preset(name, data.size, preset)
    train = from_mapping(TrainConfig, values.train, where=f"preset {chosen} of {name}")
    known = {f.name for f in dataclasses.fields(values.config)}
    fitted = {key: getattr(data, key) for key in FROM_DATA if key in known}
    return chosen, train, replace(values.config, fitted, where=f"model '{name}'")


def replace(settings: Any, changes: Mapping[str, Any], *, where: str) -> Any:
    """`settings` with `changes`; an unknown key or a wrong value is a UserError that names `where`."""
    # No dataclasses.asdict: it would turn nested values into dicts.
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return from_mapping(type(settings), {**values, **changes}, where=where)
