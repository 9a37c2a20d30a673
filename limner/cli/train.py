"""`limner train NAME ...`: flags made from the model's own configuration, with the preset that fits the data as defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from limner.errors import UserError

if TYPE_CHECKING:
    from limner.training.plan import Plan


def train(name: Positional[str], /) -> None:
    """Train a model: `limner train vae --data digits`; `limner train NAME --help` shows every setting.

    Args:
        name: the model, see `limner models`.
    """


def run(arguments: list[str]) -> None:
    """Parse the flags of `limner train` and carry them out."""
    if not arguments or arguments[0].startswith("-"):
        if arguments[:1] not in (["-h"], ["--help"]):
            raise UserError(
                "limner train needs the model's name first: limner train NAME --data X; `limner models` lists the names"
            )
        tyro.cli(train, prog="limner train", args=["--help"])

    from limner.training.budget import fit, with_images
    from limner.training.folder import RunFolder
    from limner.training.run import default_folder, start

    plan, dataset, rest = parse(arguments)
    folder = RunFolder(rest.out or default_folder(plan))
    if rest.minutes is not None:
        if rest.minutes <= 0:
            raise UserError(f"--minutes {rest.minutes}: give a positive number")
        # How many images that is was measured when the run was begun, and stands in its settings.
        images = folder.train_config.images if folder.exists else None
        plan = fit(plan, dataset, 60 * rest.minutes) if images is None else with_images(plan, images)
    if rest.dry_run:
        print(plan.toml())
        size = sum(p.numel() for p in plan.build().parameters())
        print(f"# {size:,} parameters; {len(dataset):,} training images; nothing was trained")
    else:
        start(plan, folder.path, dataset=dataset)


def parse(arguments: list[str]) -> tuple[Plan, Any, Any]:
    """The plan that the flags ask for, the data set, and the flags that are not part of a plan (out, dry_run)."""
    from limner import models
    from limner.data import open_data
    from limner.training.plan import Plan, defaults, pick_preset

    name = arguments[0]
    cls = models.model_class(name)
    if {"-h", "--help"} & set(arguments):
        _, preset = pick_preset(name, cls.Config().size)
        tyro.cli(_command(preset.config, None), prog="limner train", args=arguments)

    # First pass, for what decides the defaults: the data, and the preset if one is named.
    first: Any
    source = _source_of_first_stage(arguments)
    first, _ = tyro.cli(_command(None, None, source), prog="limner train", args=arguments, return_unknown_args=True)
    stage = None if first.first_stage is None else Path(first.first_stage)
    dataset = open_data(first.source, split="train")
    chosen, settings, config = defaults(name, dataset, first.preset, stage)
    # Second pass, with the preset's values as defaults: every flag is known now.
    second: Any = tyro.cli(_command(config, settings, source), prog="limner train", args=arguments)
    plan = Plan(name, chosen, second.source, second.settings, second.model, stage)
    return plan, plan.prepare(dataset), second


def _source_of_first_stage(arguments: list[str]) -> Any:
    """The data settings that the run named by --first-stage was trained with: the defaults of a second stage. None without."""
    from limner.training.folder import RunFolder

    for i, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag in ("--first-stage", "--first_stage"):
            folder = RunFolder(value or "".join(arguments[i + 1 : i + 2]))
            return folder.data_config if folder.exists else None
    return None


def _command(model: Any, settings: Any, source: Any = None) -> type:
    """The command's flags as a dataclass: those of the data and of training without a prefix, the model's as --model.X."""
    from limner.data.settings import DataConfig
    from limner.training.settings import TrainConfig

    fields: list[Any] = [
        ("name", Positional[str]),
        ("source", OmitArgPrefixes[DataConfig], *([] if source is None else [dataclasses.field(default=source)])),
        ("settings", OmitArgPrefixes[TrainConfig], dataclasses.field(default=settings or TrainConfig())),
        ("preset", str | None, dataclasses.field(default=None)),
        ("first_stage", str | None, dataclasses.field(default=None)),
        ("out", str | None, dataclasses.field(default=None)),
        ("minutes", float | None, dataclasses.field(default=None)),
        ("dry_run", bool, dataclasses.field(default=False)),
    ]
    if model is not None:
        fields.append(("model", type(model), dataclasses.field(default=model)))
    made = dataclasses.make_dataclass("Train", fields)
    made.__doc__ = """Train a model.

    Args:
        name: the model, see `limner models`.
        preset: a configuration known to work; by default the one nearest to the size of the images.
        first_stage: a trained run (of vqvae, vqvae2, vqgan) whose codes are modelled instead of pixels; its data are the default.
        out: the run folder; runs/MODEL-DATA by default.
        minutes: train for about so long, instead of --images; this machine's speed is measured first.
        dry_run: print the whole plan and stop.
    """
    return made
