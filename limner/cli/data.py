"""`limner data check X`: flags made from the data settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from limner.errors import UserError


def data(action: Positional[Literal["check"]], source: Positional[str], /) -> None:
    """Look at data: `limner data check X` reads everything once and names each file that training would leave out, and why.

    Args:
        action: what to do.
        source: a folder, a zip, an IDX file or the name of a data set.
    """


def run(arguments: list[str]) -> None:
    """Parse the flags of `limner data` and carry them out."""
    from limner.data import open_data
    from limner.data.check import check, contact_sheet, lines
    from limner.data.settings import DataConfig
    from limner.files import replacing

    if arguments[:1] not in (["check"], ["-h"], ["--help"]):
        raise UserError("limner data: the action is `check`: limner data check X")
    # X is the flag --data of every other verb.
    rest = arguments[1:] if arguments[0] == "check" else arguments
    if rest and not rest[0].startswith("-"):
        rest = ["--data", *rest]
    fields: list[Any] = [
        ("source", OmitArgPrefixes[DataConfig]),
        ("contact_sheet", str | None, dataclasses.field(default=None)),
    ]
    command = dataclasses.make_dataclass("Check", fields)
    command.__doc__ = """`limner data check X`: read everything once, and name each file that training would leave out, and why.

    Args:
        contact_sheet: where to write a picture of the first images; X-contact-sheet.png here by default.
    """
    given: Any = tyro.cli(command, prog="limner data check", args=rest)
    config = given.source
    report = check(config)
    for line in lines(report):
        print(line)
    if not any(report.usable.values()):
        raise UserError(f"'{config.data}' holds no image that can be used")
    path = Path(given.contact_sheet or f"{Path(config.data).stem}-contact-sheet.png")
    with replacing(path) as temporary:
        contact_sheet(open_data(config)).save(temporary, format="PNG")
    print(f"contact sheet: {path}")
