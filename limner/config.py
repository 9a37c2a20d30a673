"""Configuration: frozen dataclasses whose values are checked on construction, and one way in from untrusted mappings.

A model's hyper-parameters, a run's training settings and a data source's options are all declared the same way::

    @config
    class Config(ImageConfig):
        '''One line on what is configured.'''
        width: Positive = 64
        '''Channels of the first layer.'''

`tyro` turns the fields into command-line flags (the string under a field is its help), `pydantic` checks types and bounds,
and `from_mapping` reads what a `run.toml` or `config.json` holds, naming the nearest field when a key is unknown.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import dataclass_transform

from limner.errors import UserError

T = TypeVar("T")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass_transform(frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass whose field types and bounds are checked whenever one is made.

    A wrong value is a ValueError of one line that names the field, what was given and what would be right.
    """
    made: Any = pydantic_dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise ValueError(explain(error)) from None

    made.__init__ = __init__
    return made


@config
class ImageConfig:
    """What every image model must know about its images. `limner train` fills these from the data."""

    channels: Positive = 1
    """Channels of an image: 1 grey, 3 RGB."""
    size: Positive = 28
    """Height and width of an image in pixels."""


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build the config `cls` from a mapping, as read from a file.

    Raises:
        UserError: a key is unknown (the nearest is named) or a value is of the wrong type or out of bounds; `where`
            says which file or flag the values came from.
    """
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            raise UserError(f"{where}: unknown key '{key}'; {hint}")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from None


def explain(error: pydantic.ValidationError) -> str:
    """A validation error as one line: each wrong field, the value given and what would be right."""
    parts = []
    for item in error.errors():
        field = ".".join(str(p) for p in item["loc"])
        given = "" if item["type"] == "value_error" else f" (given {item['input']!r})"
        parts.append(
            f"{field}: {item['msg'].removeprefix('Value error, ')}{given}"
            if field
            else item["msg"].removeprefix("Value error, ")
        )
    return "; ".join(parts)
