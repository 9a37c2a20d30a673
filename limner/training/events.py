"""What training tells: the display or plain lines, `stats.jsonl`, TensorBoard. A sink that fails is dropped, with one warning."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from limner.errors import UserError
from limner.training.health import KEY, Told, Verdict

Scalars = Mapping[str, Any]
"""Numbers by name; and under "health", while there are any, the verdicts as a list."""


class Sink(Protocol):
    """Receives what happens in training."""

    def scalars(self, record: Scalars) -> None:
        """A line of statistics: "images", "step", "seconds", "images_per_second", the losses by name; "health" if need be."""

    def message(self, text: str) -> None:
        """A line for a person."""

    def grid(self, path: Path, images: int) -> None:
        """A picture of samples was written."""

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """What holds now of the health of training, once a line of statistics; empty when all is well."""

    def close(self) -> None:
        """Training has ended."""


class Events:
    """Passes everything on to all sinks; none of them can stop training."""

    def __init__(self, sinks: list[Sink]):
        self.sinks = list(sinks)

    def scalars(self, record: Scalars) -> None:
        self._each("scalars", record)

    def message(self, text: str) -> None:
        self._each("message", text)

    def grid(self, path: Path, images: int) -> None:
        self._each("grid", path, images)

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        self._each("verdicts", verdicts)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        for sink in list(self.sinks):
            try:
                getattr(sink, method)(*arguments)
            except Exception as error:
                # Whatever a logger does (disk full, closed pipe, a bug in a tracker), the training itself is worth more.
                self.sinks.remove(sink)
                self.message(f"warning: {type(sink).__name__} failed ({error}) and is switched off; training goes on")


class Quiet:
    """A sink that does nothing: the base of those that care for one kind of event."""

    def scalars(self, record: Scalars) -> None: ...

    def message(self, text: str) -> None: ...

    def grid(self, path: Path, images: int) -> None: ...

    def verdicts(self, verdicts: Sequence[Verdict]) -> None: ...

    def close(self) -> None: ...


class StatsFile(Quiet):
    """`stats.jsonl`. On resume the lines after the checkpoint are cut, so that the file tells one story."""

    def __init__(self, path: Path, images: int):
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                if json.loads(line)["images"] <= images:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def scalars(self, record: Scalars) -> None:
        self.file.write(json.dumps(dict(record)) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoard(Quiet):
    """Event files for TensorBoard, in the run folder."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs the tensorboard package: pip install 'limner[tensorboard]'") from None
        self.writer = SummaryWriter(str(folder))

    def scalars(self, record: Scalars) -> None:
        for name, value in record.items():
            if name not in ("images", "step", KEY):
                self.writer.add_scalar(name, value, global_step=int(record["images"]))

    def close(self) -> None:
        self.writer.close()


class Lines(Quiet):
    """Plain lines, at most one every `every` seconds: for logs and pipes."""

    def __init__(self, total: int, every: float = 10.0, write: Callable[[str], object] | None = None):
        self.total, self.every, self.write = total, every, write or _print_line
        self.last = float("-inf")
        self.told = Told()

    def scalars(self, record: Scalars) -> None:
        done, now = int(record["images"]), time.monotonic()
        if now - self.last < self.every and done < self.total:
            return
        self.last = now
        rate = record["images_per_second"]
        left = _clock((self.total - done) / rate) if rate > 0 else "?"
        self.write(
            f"{done:>{len(f'{self.total:,}')},}/{self.total:,} images  {rate:,.0f}/s  left {left}  {_losses(record)}"
        )

    def message(self, text: str) -> None:
        self.write(text)

    def grid(self, path: Path, images: int) -> None:
        self.write(f"samples: {path}")

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        for line in self.told.news(verdicts):
            self.write(line)


class Display(Quiet):
    """A live display in a terminal: progress, speed, losses, the last messages."""

    def __init__(self, title: str, total: int, console: Console | None = None):
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.task = self.progress.add_task(title, total=total, rate="")
        self.losses, self.notes = "", list[str]()
        self.told = Told()
        self.live = Live(self._view(), console=console, refresh_per_second=4)
        self.live.start()

    def scalars(self, record: Scalars) -> None:
        self.progress.update(self.task, completed=int(record["images"]), rate=f"{record['images_per_second']:,.0f}/s")
        self.losses = _losses(record)
        self.live.update(self._view())

    def message(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def verdicts(self, verdicts: Sequence[Verdict]) -> None:
        for line in self.told.news(verdicts):
            self.message(line)
        self.notes = [f"{v.headline}: {v.evidence}" for v in verdicts]  # with the figures of now
        self.live.update(self._view())

    def grid(self, path: Path, images: int) -> None:
        self.message(f"samples: {path}")

    def close(self) -> None:
        self.live.stop()

    def _view(self) -> Table:
        table = Table.grid()
        table.add_row(self.progress)
        for line in (self.losses, *self.notes):
            if line:
                table.add_row(f"  [dim]{escape(line)}[/dim]")
        return table


def for_person(title: str, total: int) -> Sink:
    """A live display where standard output is a terminal, plain lines elsewhere."""
    return Display(title, total) if sys.stdout.isatty() else Lines(total)


def _print_line(text: str) -> None:
    print(text, flush=True)


def _losses(record: Scalars) -> str:
    skip = ("images", "step", "seconds", "images_per_second", "wait", KEY)
    return "  ".join(
        f"{name.removeprefix('loss/')} {value:.4g}"
        for name, value in record.items()
        if name not in skip and not name.startswith(("norm/", "gradient/", "probe/"))
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
