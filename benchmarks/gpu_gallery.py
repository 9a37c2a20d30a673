"""Train all six models on Fashion-MNIST on one GPU, score them, and print the table: the gallery's GPU column in one go.

    python benchmarks/gpu_gallery.py --minutes 10 --out runs/gpu

`--minutes` is the time for all six together. Larger networks and batches than the CPU presets; the aims at ten minutes are 2.90
bits/dim for pixelcnn and 3.15 for realnvp. `--device cpu --minutes 1 --data digits` rehearses it anywhere. A run that is there
already is resumed,
so the script can be called again after an interruption.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

# Share of the time, flags for `limner train`, flags for `limner evaluate`. "--model.x" flags hold for 28 px; digits take presets.
RUNS: dict[str, tuple[float, list[str], list[str]]] = {
    "ae": (1, ["--batch", "256"], []),
    "vae": (2, ["--batch", "256", "--model.width", "64"], ["--score", "samples=100"]),
    "pixelcnn": (6, ["--batch", "64", "--model.width", "96", "--model.layers", "12"], []),
    "realnvp": (5, ["--batch", "128", "--model.width", "64"], []),
    "gan": (2, ["--batch", "128"], []),
    "ddpm": (4, ["--batch", "128", "--model.width", "64"], []),
}


def main() -> int:
    """Train, evaluate, print; the exit status is that of the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of all models together")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--models", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("-n", type=int, default=10_000, help="held-out images to score")
    given = parser.parse_args()
    whole = sum(RUNS[name][0] for name in given.models)
    for name in given.models:
        share, flags, score = RUNS[name]
        flags = flags if given.data == "fashion-mnist" else []
        minutes = given.minutes * share / whole
        run = given.out / name
        train = [
            "train",
            name,
            "--data",
            given.data,
            "--out",
            run,
            "--device",
            given.device,
            "--minutes",
            f"{minutes:.3f}",
            *flags,
        ]
        evaluate = ["evaluate", run, "-n", given.n, "--device", given.device, *score]
        for command in (train, evaluate):
            line = [sys.executable, "-m", "limner", *map(str, command)]
            print("$", "limner", *map(str, command), flush=True)
            status = subprocess.run(line).returncode
            if status:
                return status
    print("\n| model | bits/dim | KID | floor | seconds of training |\n|---|---|---|---|---|")
    for name in given.models:
        figures = json.loads((given.out / name / "evaluation.json").read_text())["figures"]
        bits, kid = figures.get("bits_per_dim"), figures.get("kid")
        seconds = figures["train_seconds"]["value"]
        print(
            f"| {name} | {bits['value']:.3f} ({bits['note']})" if bits else f"| {name} | ",
            f"| {kid['value']:.4f} | {kid['floor']:.4f} | {seconds:.0f} |" if kid else f"| | | {seconds:.0f} |",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
