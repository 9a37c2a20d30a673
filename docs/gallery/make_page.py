"""Make a page of the gallery from a finished run: the commands, the pictures they make, the figures they print, the hardware.

    python docs/gallery/make_page.py runs/vae --train "limner train vae --data fashion-mnist" --evaluate "-n 10000 --score samples=100"

Every figure on the page comes from the `limner evaluate` command that stands above it, and every picture from the command beside it, all
run here and now. `RUN` in a command stands for the run folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from limner import models
from limner.metrics.metric import Metric
from limner.metrics.registry import METRICS
from limner.report.table import together
from limner.training.folder import RunFolder

HERE = Path(__file__).parent


def limner(*arguments: str) -> str:
    """Run a verb; its output."""
    print("$ limner", shlex.join(arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "limner", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--train", required=True, help="the command that made the run")
    parser.add_argument(
        "--evaluate", action="append", required=True, help="flags for limner evaluate; once for each table"
    )
    parser.add_argument("--sample", default="", help="flags for limner sample")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores that the training had")
    parser.add_argument("--name", help="of the page, where the model's own name is taken")
    parser.add_argument("--title", help="of the page")
    parser.add_argument(
        "--picture",
        nargs=3,
        action="append",
        default=[],
        metavar=("TITLE", "COMMAND", "FILE"),
        help="a further picture: what it shows, the limner command that makes it, and the file that it leaves",
    )
    parser.add_argument("--remark", default="", help="one sentence on what the pictures show")
    given = parser.parse_args()
    run, folder = str(given.run), RunFolder(given.run)
    name, can = given.name or folder.name, set()

    tables = [(flags, json.loads(limner("evaluate", run, "--json", *shlex.split(flags)))) for flags in given.evaluate]
    for verb, made, flags in (
        ("sample", given.run / "generated.png", ["-n", "64", *shlex.split(given.sample)]),
        ("reconstruct", given.run / "reconstructions.png", []),
        ("interpolate", given.run / "interpolation.png", []),
    ):
        line = [sys.executable, "-m", "limner", verb, run, *flags]
        if subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            shutil.copy(made, HERE / f"{name}-{verb}.png")
            can.add(verb)

    entry, last = models.entry_of(folder.name), folder.stats()[-1]
    lines = [f"# {given.title or entry.title} (`{name}`)", "", f"{entry.paper}. Lectures {entry.lecture}.", ""]
    lines += [given.remark, ""] if given.remark else []
    cores = "one core" if given.cores == 1 else f"{given.cores} cores"
    lines += ["```bash", given.train, "```", ""]
    lines += [
        f"{last['images']:,} training images in {last['seconds'] / 60:.1f} minutes on {cores} of an {processor()} "
        f"({sum(p.numel() for p in folder.model().parameters()):,} parameters). Everything else stands in the run's settings: "
        f"[`{name}.toml`]({name}.toml).",
        "",
    ]
    settings = (given.run / "run.toml").read_text(encoding="utf-8")
    (HERE / f"{name}.toml").write_text(settings.replace(f"{given.run.resolve().parent}/", "runs/"), encoding="utf-8")
    titles = {
        "sample": ("Samples", shlex.join(["limner", "sample", "RUN", "-n", "64", *shlex.split(given.sample)])),
        "reconstruct": ("Held-out images above what the model makes of them", "limner reconstruct RUN"),
        "interpolate": ("From one end to the other through the latent space", "limner interpolate RUN"),
    }
    for verb, (title, command) in titles.items():
        if verb in can:
            lines += [f"**{title}** (`{command}`)", "", f"![{title} of {name}]({name}-{verb}.png)", ""]
    for number_, (title, command, file) in enumerate(given.picture, start=1):
        limner(*(run + word[3:] if word.split("/")[0] == "RUN" else word for word in shlex.split(command)[1:]))
        kept = f"{name}-{shlex.split(command)[1]}-{number_}.png"
        shutil.copy(file.replace("RUN", run), HERE / kept)
        lines += [f"**{title}** (`{command}`)", "", f"![{title}]({kept})", ""]
    lines += ["## Figures", ""]
    for flags, found in tables:
        lines += ["```bash", shlex.join(["limner", "evaluate", "RUN", *shlex.split(flags)]), "```", ""]
        lines += ["| figure | value | real images | protocol |", "|---|---|---|---|"]
        lines += [row(METRICS[key], figure) for key, figure in found["figures"].items()]
        lines += ["", "Not measured. " + "; ".join(together(found["skipped"])) + "."] if found["skipped"] else []
        lines.append("")
    (HERE / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(HERE / f"{name}.md")


def row(metric: Metric, figure: dict[str, Any]) -> str:
    """A line of the table."""
    value = number(figure["value"]) + (f" ± {number(figure['error'])}" if figure["error"] else "")
    note = f" ({figure['note']})" if figure["note"] else ""
    floor = "" if figure["floor"] is None else number(figure["floor"])
    title = metric.title + (f", {metric.unit}" if metric.unit else "")
    return f"| {title} | {value}{note} | {floor} | {figure['protocol']} |"


def number(value: float | str) -> str:
    """Four significant digits; infinities as they are."""
    return value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    main()
