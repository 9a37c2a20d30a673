"""`limner demo`: one model of each kind on one small data set within a few minutes, then the comparison of them all."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from limner.data import open_data
from limner.data.settings import DataConfig
from limner.training.budget import fit
from limner.training.folder import RunFolder
from limner.training.plan import Plan, defaults, replace
from limner.training.run import resume, start

SHARES = {"ae": 1, "vae": 2, "realnvp": 4, "pixelcnn": 4, "gan": 4, "ddpm": 5}
"""The models of the demo, and the parts of the time that each is given to become recognisable."""


def demo(
    *,
    minutes: float = 8.0,
    data: DataConfig | str = "digits",
    size: int | None = None,
    out: str | Path = "runs/demo",
    seed: int = 0,
    show: bool = True,
) -> Path:
    """Train the models of `SHARES` for `minutes` in all at most, compare them, and open the report.

    A model's training is not longer than its preset's. A second call with the same `out` goes on where the first was stopped;
    finished runs are kept.

    Returns:
        The report.
    """
    from limner.report.compare import compare

    source = data if isinstance(data, DataConfig) else DataConfig(data=data, size=size)
    dataset = open_data(source, split="train")
    whole = sum(SHARES.values())
    runs = []
    for name, share in SHARES.items():
        folder = Path(out) / name
        seconds = 60 * minutes * share / whole
        print(f"\n== {name}: {seconds:.0f} seconds of training at most", flush=True)
        if RunFolder(folder).exists:
            resume(folder)
        else:
            chosen, settings, config = defaults(name, dataset)
            plan = Plan(name, chosen, source, replace(settings, {"seed": seed}, where="demo"), config)
            start(min(plan, fit(plan, dataset, seconds), key=lambda p: p.train.images), folder, dataset=dataset)
        runs.append(folder)
    print("\n== the comparison", flush=True)
    report = Path(compare(runs, out=Path(out) / "report.html", n=512, budget=20, device="auto", say=print))
    print(f"the comparison: {report}", flush=True)
    if show:
        webbrowser.open(report.resolve().as_uri())
    return report
