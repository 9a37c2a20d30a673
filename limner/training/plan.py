"""From what a person asked for to a complete plan of a run: the preset that fits the data, the person's changes on top."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from limner import models, staged
from limner.config import from_mapping
from limner.data.dataset import Dataset
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.model import Model, Preset
from limner.training.codes import load_first_stage, with_codes
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
    first_stage: Path | None = None
    """Folder of the trained first stage whose codes are modelled; None: images are."""

    def toml(self) -> str:
        """The plan as it will stand in `run.toml`."""
        return to_toml(self.name, self.preset, self.data, self.train, self.model, self.first_stage)

    def build(self) -> Model:
        """The model with its initial weights: a function of the plan's seed (and of the first stage)."""
        import torch

        first_stage = None if self.first_stage is None else load_first_stage(self.first_stage)
        torch.manual_seed(self.train.seed)
        cls = models.model_class(self.name)
        return cls(self.model) if first_stage is None else staged.build(cls, self.model, first_stage)

    def prepare(self, dataset: Dataset) -> Dataset:
        """The data as the run reads them: with the codes of a first stage, if there is one."""
        return dataset if self.first_stage is None else with_codes(dataset, self.first_stage)


def pick_preset(
    name: str, size: int, preset: str | None = None, *, of: Literal["images", "codes"] = "images"
) -> tuple[str, Preset]:
    """The preset asked for, or of those for images (or codes) the one whose size is nearest to `size`, on a logarithmic scale.

    Raises:
        UserError: no such preset.
    """
    presets = {key: value for key, value in models.model_class(name).PRESETS.items() if value.of == of}
    if not presets:
        return "default", Preset(size, models.model_class(name).Config())
    if preset is None:
        preset = min(presets, key=lambda key: abs(math.log(presets[key].size / size)))
    if preset not in presets:
        raise UserError(f"--preset {preset}: '{name}' has the presets {', '.join(presets)}")
    return preset, presets[preset]


def defaults(
    name: str, data: Dataset, preset: str | None = None, first_stage: Path | None = None
) -> tuple[str, TrainConfig, Any]:
    """The preset's name, its training settings and its model configuration, fitted to `data` (or to the codes of a first stage).

    A preset with classes is of a conditional model: it gets as many as the data have.

    Raises:
        UserError: no such preset, or the data do not fit the model or the first stage.
    """
    if first_stage is None:
        chosen, values = pick_preset(name, data.size, preset)
        known = {f.name for f in dataclasses.fields(values.config)}
        config = replace(
            values.config, {key: getattr(data, key) for key in FROM_DATA if key in known}, where=f"model '{name}'"
        )
    else:
        first = load_first_stage(first_stage)
        if (data.channels, data.size, data.size) != first.image_shape:
            raise UserError(
                f"--first-stage '{first_stage}' is for images of {first.image_shape[1]} px with {first.image_shape[0]} channels, the data "
                f"'{data.name}' have {data.size} px and {data.channels}; give --size and --channels, or leave --data out to use its own"
            )
        chosen, values = pick_preset(name, first.code_shapes[0][0], preset, of="codes")
        config = staged.prior_configs(values.config, first)[0]
    if getattr(config, "classes", 0) and getattr(data, "classes", None) is not None:
        if not data.classes:
            raise UserError(
                f"'{name}' is a model of labelled images, and '{data.name}' has no labels (sub-folders give labels)"
            )
        config = replace(config, {"classes": data.classes}, where=f"model '{name}'")
    return chosen, from_mapping(TrainConfig, values.train, where=f"preset {chosen} of {name}"), config


def replace(settings: Any, changes: Mapping[str, Any], *, where: str) -> Any:
    """`settings` with `changes`; an unknown key or a wrong value is a UserError that names `where`."""
    # No dataclasses.asdict: it would turn nested values into dicts.
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return from_mapping(type(settings), {**values, **changes}, where=where)
