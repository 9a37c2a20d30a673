"""Starting and resuming runs: the functions behind `limner.train`, `limner train` and `limner resume`."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from limner import card, hub
from limner.config import from_mapping
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.grid import save_grid
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.files import sha256
from limner.training import checkpoint
from limner.training.events import Events, Sink, StatsFile, TensorBoard, for_person
from limner.training.folder import STATS, RunFolder
from limner.training.grid import picture
from limner.training.loop import Trainer
from limner.training.plan import Plan, defaults, replace
from limner.training.ranks import Ranks
from limner.training.settings import TrainConfig


def train(
    model: str,
    *,
    data: str | DataConfig,
    images: int | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    preset: str | None = None,
    first_stage: str | Path | None = None,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> RunFolder:
    """Train a model of the catalogue.

    Args:
        model: its name, see `limner.models.CATALOGUE`.
        data: a folder, a zip, an IDX file or the name of a data set; or a whole `DataConfig`.
        images: training images to see, repeats counted; the preset's number by default.
        out: the run folder, `runs/MODEL-DATA` by default. A run that stands there with the same settings is continued.
        seed: of initial weights, order and noise.
        preset: name of one of the model's presets; by default the one nearest to the images' size.
        first_stage: folder of a trained run whose codes are modelled instead of pixels (see `limner.staged`).
        device: "auto", "cpu", "cuda" ...
        config: changes to the model's configuration, such as `{"width": 64}`.
        quiet: print nothing.
        settings: further fields of `TrainConfig` (batch, clip ...) and `DataConfig` (size, crop ...).

    Returns:
        The run folder; `.model()` loads what was trained.

    Raises:
        UserError: anything that the caller can put right.
    """
    given = {"images": images, "seed": seed, "device": device}
    settings |= {key: value for key, value in given.items() if value is not None}
    of_train, of_data = _sort(settings)
    source = data if isinstance(data, DataConfig) else from_mapping(DataConfig, {"data": str(data)}, where="data")
    source = replace(source, of_data, where="data settings")
    dataset = open_data(source, split="train")
    first = None if first_stage is None else Path(first_stage)
    chosen, base, model_config = defaults(model, dataset, preset, first)
    plan = Plan(
        model,
        chosen,
        source,
        replace(base, of_train, where="training settings"),
        replace(model_config, config or {}, where=f"model '{model}'"),
        first,
    )
    return start(plan, out, dataset=dataset, quiet=quiet)


def start(
    plan: Plan, out: str | Path | None = None, *, dataset: Dataset | None = None, quiet: bool = False
) -> RunFolder:
    """Carry out a plan; goes on where an earlier run with the same plan stopped."""
    folder = RunFolder(out or default_folder(plan))
    if folder.exists:
        _same(folder, plan)
    # Everything that can be refused is refused before anything is written.
    dataset = plan.prepare(dataset or open_data(plan.data, split="train"))
    model = plan.build()
    ranks = Ranks()
    if ranks.first:
        folder.create(plan.name, plan.preset, plan.data, plan.train, plan.model, plan.first_stage)
    return _go(folder, model, dataset, plan.train, ranks, quiet)


def default_folder(plan: Plan) -> Path:
    """Where a run goes that was not told where."""
    data = Path(plan.data.data).stem
    return Path("runs") / (
        f"{plan.name}-{data}" if plan.first_stage is None else f"{plan.first_stage.name}-{plan.name}"
    )


def resume(out: str | Path, *, images: int | None = None, device: str | None = None, quiet: bool = False) -> RunFolder:
    """Go on with the run in `out`, exactly; `images` extends (or shortens) it, `device` moves it to another device.

    Raises:
        UserError: no run is there, or none of its checkpoints can be read.
    """
    folder = RunFolder(out)
    changes = {key: value for key, value in (("images", images), ("device", device)) if value is not None}
    settings = replace(folder.train_config, changes, where="resume")
    preset = folder.settings.get("preset", "")
    plan = Plan(folder.name, preset, folder.data_config, settings, folder.model_config, folder.first_stage)
    ranks = Ranks()
    dataset, model = plan.prepare(open_data(plan.data, split="train")), plan.build()
    if changes and ranks.first:
        folder.create(plan.name, plan.preset, plan.data, plan.train, plan.model, plan.first_stage)
    return _go(folder, model, dataset, settings, ranks, quiet)


def _go(folder: RunFolder, model: Any, dataset: Dataset, settings: TrainConfig, ranks: Ranks, quiet: bool) -> RunFolder:
    say: Callable[[str], None] = (
        (lambda text: print(text, flush=True)) if ranks.first and not quiet else (lambda text: None)
    )
    trainer = Trainer(model, dataset, settings, folder=folder, ranks=ranks, on_save=_save_weights, on_grid=_draw_grid)
    state = checkpoint.latest(folder.path / "state", lambda text: say(f"warning: {text}; going back to the one before"))
    if state is not None:
        trainer.load_state_dict(state)
        # What health remembers of a run is what the run's file says up to the checkpoint.
        seen = [line for line in folder.stats() if line.get("images", math.inf) <= trainer.clock.images]
        trainer.health.replay(seen)
    for line in _introduction(folder, trainer, dataset):
        say(line)
    if ranks.first:
        trainer.events = Events(_sinks(folder, trainer, quiet))
    try:
        if trainer.clock.images < settings.images:
            trainer.run()
        else:
            say(
                f"nothing left to do: all {settings.images:,} images were seen; `--images` with `limner resume` extends the run"
            )
    finally:
        trainer.events.close()
        del trainer, model
        ranks.leave()
    return folder


def _sinks(folder: RunFolder, trainer: Trainer, quiet: bool) -> list[Sink]:
    sinks: list[Sink] = [StatsFile(folder.path / STATS, trainer.clock.images)]
    if trainer.settings.tensorboard:
        sinks.append(TensorBoard(folder.path / "tensorboard"))
    return sinks if quiet else [*sinks, for_person(folder.name, trainer.settings.images)]


def _save_weights(trainer: Trainer) -> None:
    assert trainer.folder is not None
    hub.save(trainer.model, trainer.folder.path, name=trainer.folder.name)


def _draw_grid(trainer: Trainer) -> Any:
    """A picture of what the model can do (`limner.training.grid`). Returns the samples, if it draws some."""
    assert trainer.folder is not None
    drawn = picture(trainer.model, trainer.data, trainer.device)
    if drawn is None:
        return None
    path = trainer.folder.path / "samples" / f"{trainer.clock.images:09d}.png"
    save_grid(drawn.images, path, drawn.columns)
    card.write(trainer.folder.path, trainer.model, trainer.folder.name)
    trainer.events.grid(path, trainer.clock.images)
    return drawn.images if drawn.samples else None


def _introduction(folder: RunFolder, trainer: Trainer, data: Dataset) -> list[str]:
    size = sum(p.numel() for p in trainer.model.parameters())
    lines = [
        f"{folder.name}: {size:,} parameters on {trainer.device}"
        + (", bfloat16 autocast" if trainer.autocast is not contextlib.nullcontext else "")
        + (f", {trainer.ranks.world} processes" if trainer.ranks.world > 1 else ""),
        f"{data.name}: {len(data):,} training images of {data.size}x{data.size}, {data.channels} channel{'s' * (data.channels > 1)}",
    ]
    if data.refused:
        lines.append(f"left out {len(data.refused)} files; `limner data check` names them all:")
        lines += [f"  {refused.name}: {refused.reason}" for refused in data.refused[:5]]
    if trainer.clock.images:
        lines.append(f"going on after {trainer.clock.images:,} images")
    return [*lines, f"run folder: {folder.path}"]


def _same(folder: RunFolder, plan: Plan) -> None:
    """Refuse to go on with a run under other settings than it was begun with."""
    before = {"data": folder.data_config, "train": folder.train_config, "model": folder.model_config}
    if folder.name != plan.name:
        raise UserError(f"'{folder.path}' holds a run of '{folder.name}', not '{plan.name}'; choose another --out")
    stages = [None if path is None else sha256(path / hub.WEIGHTS) for path in (folder.first_stage, plan.first_stage)]
    if stages[0] != stages[1]:
        raise UserError(f"'{folder.path}' holds a run with another first stage (or none); choose another --out")
    for table, old in before.items():
        new = getattr(plan, table)
        for f in dataclasses.fields(old):
            was, now = getattr(old, f.name), getattr(new, f.name)
            if was != now and f.name not in ("device", "keep", "tensorboard"):
                raise UserError(
                    f"'{folder.path}' holds a run with {table}.{f.name} = {was}, not {now}: `limner resume {folder.path}` goes on with it; "
                    "choose another --out for a new run"
                )


def _sort(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into those of TrainConfig and those of DataConfig."""
    of_train = {f.name for f in dataclasses.fields(TrainConfig)}
    of_data = {f.name for f in dataclasses.fields(DataConfig)}
    for key in settings:
        if key not in of_train | of_data:
            near = difflib.get_close_matches(key, of_train | of_data, n=1)
            raise UserError(f"unknown setting '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return {k: v for k, v in settings.items() if k in of_train}, {k: v for k, v in settings.items() if k in of_data}
