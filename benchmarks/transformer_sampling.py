"""Transformer sampling: keeping keys and values, against running the whole network for every value.

    python benchmarks/transformer_sampling.py [--run RUN] [--size 16] [--batches 1 16] [--repeat 3]

Prints a Markdown table: seconds for a batch, medians of `--repeat` runs, both samplers in float64, and whether the images are equal.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import limner
from limner.models.autoregressive.transformer import Config, Transformer


def seconds(function, repeat: int) -> float:
    """Median duration of a call."""
    durations = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", help="run folder of a trained model; without it, 64 features, 4 layers, random weights"
    )
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.run:
        model = limner.load(options.run)
    else:
        model = Transformer(Config(size=options.size, width=64, layers=4, heads=2)).eval()
    print(f"{model.length} values, {sum(p.numel() for p in model.parameters()) / 1e3:.0f}k parameters,")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| batch | cached, s | naive, s | cached is faster by | equal |\n|---|---|---|---|---|")
    for n in options.batches:
        cached = seconds(lambda n=n: model.sample(n, generator=0), options.repeat)
        naive = seconds(lambda n=n: model.sample(n, generator=0, cached=False), 1)
        equal = torch.equal(model.sample(n, generator=0), model.sample(n, generator=0, cached=False))
        print(f"| {n} | {cached:.2f} | {naive:.2f} | {naive / cached:.1f} | {'yes' if equal else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
