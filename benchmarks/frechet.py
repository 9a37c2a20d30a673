"""The arithmetic of a Frechet distance beside that of pytorch-fid, clean-fid and torch-fidelity.

    pip install -c constraints.txt -e '.[bench]'
    OMP_NUM_THREADS=1 python benchmarks/frechet.py [--repetitions 3] [--width 2048]

Two sets of features of the width of FID's network, non-negative and of falling variance as activations are, at N = 10000 (more images
than features) and N = 1000 (fewer). "From moments" starts at means and covariances, as the peers' functions do; "from features"
counts the covariances in, which limner does not need at N < width. The methods take turns within a repetition, so that what else
the machine does hits all alike; medians are reported, and each distance relative to limner's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from limner.metrics.frechet import frechet, frechet_gaussians


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 1_000])
    return parser.parse_args()


def features(n: int, d: int, seed: int) -> torch.Tensor:
    """(n, d) float64."""
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / d**0.5
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z * torch.arange(1, d + 1).pow(-0.7) @ mix).relu() + 0.01 * seed


def peers() -> dict[str, Callable]:
    """Each peer's distance from (mean, covariance, mean, covariance) in numpy."""
    # torchvision, which they import, may not import beside a CPU build of PyTorch unless these operators exist; nothing here uses them.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    def fidelity(module):
        def distance(m1, s1, m2, s2):
            found = module.fid_statistics_to_metric({"mu": m1, "sigma": s1}, {"mu": m2, "sigma": s2}, verbose=False)
            return found["frechet_inception_distance"]

        return distance

    wanted = {
        "pytorch-fid": ("pytorch_fid.fid_score", lambda module: module.calculate_frechet_distance),
        "clean-fid": ("cleanfid.fid", lambda module: module.frechet_distance),
        "torch-fidelity": ("torch_fidelity.metric_fid", fidelity),
    }
    found = {}
    for name, (path, function) in wanted.items():
        try:
            found[name] = function(importlib.import_module(path))
        except ImportError as error:
            print(f"{name} is left out: {error}")
    globals()["_library"] = library  # the operators live as long as it does
    return found


def numpy_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def nuclear(x: torch.Tensor, y: torch.Tensor) -> float:
    """The distance of fewer images than features by the definition: the trace of the root is the nuclear norm of X Y'."""
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    root = torch.linalg.svdvals(a @ b.T).sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * root)


def timed(function: Callable[[], float]) -> tuple[float, float]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        value = float(function())
        return time.perf_counter() - start, value


def main() -> None:
    options = parse()
    others = peers()
    print(
        f"d = {options.width}, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {options.repetitions}\n"
    )
    print("| N | from | method | seconds | times limner | relative difference |\n|---|---|---|---|---|---|")
    for n in options.counts:
        x, y = features(n, options.width, 1), features(n, options.width, 2)
        arrays, statistics_ = (x.numpy(), y.numpy()), (*numpy_moments(x.numpy()), *numpy_moments(y.numpy()))
        tensors = tuple(map(torch.from_numpy, statistics_))
        settings: dict[str, dict[str, Callable]] = {"features": {"limner": lambda x=x, y=y: frechet(x, y)}}
        if n < options.width:
            settings["features"]["singular values, for the digits"] = lambda x=x, y=y: nuclear(x, y)
        for name, distance in others.items():
            settings["features"][name] = lambda f=distance, a=arrays: f(*numpy_moments(a[0]), *numpy_moments(a[1]))
        if n >= options.width:
            settings["moments"] = {"limner": lambda t=tensors: frechet_gaussians(*t)}
            settings["moments"] |= {name: (lambda f=f, s=statistics_: f(*s)) for name, f in others.items()}
        for start, methods in settings.items():
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
            for _ in range(options.repetitions):
                for name, function in methods.items():
                    runs[name].append(timed(function))
            seconds = {name: statistics.median(s for s, _ in found) for name, found in runs.items()}
            value = runs["limner"][0][1]
            for name, found in runs.items():
                ratio, difference = seconds[name] / seconds["limner"], abs(found[0][1] - value) / value
                print(f"| {n} | {start} | {name} | {seconds[name]:.2f} | {ratio:.1f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
