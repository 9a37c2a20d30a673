"""The run folder: where a training run keeps everything, and the only thing that later verbs need.

run.toml           the settings, whole: model, preset, [data], [train], [model]
first_stage/       of a two-stage run: the frozen first stage, as it was when the run began
config.json        the model's name and configuration      } what `limner.load` reads,
model.safetensors  the weights to sample with (averaged)   } and what is pushed to a hub
state/N.pt         everything needed to go on after N images
stats.jsonl        losses and speed, a JSON object a line
samples/N.png      samples from fixed noise after N images
README.md          the model card
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from limner import hub, models
from limner.config import from_mapping
from limner.errors import UserError
from limner.files import make_folder, write_atomically
from limner.training.settings import TrainConfig
from limner.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import torch

    from limner.data.settings import DataConfig
    from limner.model import Model

SETTINGS, STATS, FIRST_STAGE = "run.toml", "stats.jsonl", "first_stage"


class RunFolder:
    """A run on disk.

    Raises:
        UserError: reading what is not there, or not limner's, or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether a run has been begun here."""
        return (self.path / SETTINGS).is_file()

    def create(
        self,
        name: str,
        preset: str,
        data: DataConfig,
        train: TrainConfig,
        model: Any,
        first_stage: Path | None = None,
    ) -> None:
        """Begin a run: make the folders, write the settings, and keep a copy of the first stage if there is one."""
        for part in ("state", "samples"):
            make_folder(self.path / part, what="run folder")
        if first_stage is not None and first_stage != self.first_stage:
            (self.path / FIRST_STAGE).mkdir(exist_ok=True)
            for file in (hub.WEIGHTS, hub.CONFIG):
                write_atomically(self.path / FIRST_STAGE / file, (first_stage / file).read_bytes())
        write_atomically(self.path / SETTINGS, to_toml(name, preset, data, train, model, first_stage))

    @property
    def first_stage(self) -> Path | None:
        """Where the run keeps its first stage; None if it has none."""
        return self.path / FIRST_STAGE if (self.path / FIRST_STAGE / hub.CONFIG).is_file() else None

    @property
    def settings(self) -> dict[str, Any]:
        """What `run.toml` says."""
        file = self.path / SETTINGS
        if not file.is_file():
            raise UserError(f"'{self.path}' is no run folder: it has no {SETTINGS}")
        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise UserError(f"'{file}' cannot be read: {error}") from None

    def _table(self, name: str) -> dict[str, Any]:
        table = self.settings.get(name)
        if not isinstance(table, dict):
            raise UserError(f"'{self.path / SETTINGS}' has no [{name}] table")
        return table

    @property
    def name(self) -> str:
        """The model's name in the catalogue."""
        name = self.settings.get("model_name")
        if not isinstance(name, str):
            raise UserError(f"'{self.path / SETTINGS}' does not say model_name")
        return name

    @property
    def data_config(self) -> DataConfig:
        """The data settings of the run."""
        from limner.data.settings import DataConfig

        return from_mapping(DataConfig, self._table("data"), where=f"{self.path / SETTINGS} [data]")

    @property
    def train_config(self) -> TrainConfig:
        """The training settings of the run."""
        return from_mapping(TrainConfig, self._table("train"), where=f"{self.path / SETTINGS} [train]")

    @property
    def model_config(self) -> Any:
        """The configuration of the run's model."""
        cls = models.model_class(self.name)
        return from_mapping(cls.Config, self._table("model"), where=f"{self.path / SETTINGS} [model]")

    def model(self, device: str | torch.device = "cpu") -> Model:
        """The trained model, in evaluation mode."""
        return hub.load(self.path, device=device)

    def stats(self) -> list[dict[str, Any]]:
        """The lines of `stats.jsonl`; an unfinished last line is left out."""
        file = self.path / STATS
        lines = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines


def to_toml(name: str, preset: str, data: Any, train: Any, model: Any, first_stage: Path | None = None) -> str:
    """All settings of a run as TOML. Settings that are None (TOML has no null) are left out: None is their default."""
    document: dict[str, Any] = {"limner": __version__, "model_name": name, "preset": preset}
    if first_stage is not None:
        document["first_stage"] = str(first_stage)
    for table, values in (("data", data), ("train", train), ("model", model)):
        document[table] = _plain(dataclasses.asdict(values))
    return tomli_w.dumps(document)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
