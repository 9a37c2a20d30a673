"""What watching over a training costs: the six models' 8px presets on digits and 32px presets on Fashion-MNIST, or noise in its stead.

    python benchmarks/health.py [--seconds 60] [--models ae,vae,...] [--presets 8px,32px] [--data fashion-mnist]

Each model is trained for about `--seconds` by the loop as it is, with health left on, and the time is counted that goes into it: probes
(with everything around them), the weighing of gradients, and the rules. Given as shares of the wall-clock time of the run without
them. Nothing else is written or drawn. The probes that are made depend on the length of a run, since a run pays for them
by a share of its time: short runs are the harder test.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default="ae,vae,gan,realnvp,pixelcnn,ddpm")
    parser.add_argument("--presets", default="8px,32px")
    parser.add_argument("--data", help="what the 32px presets train on; noise of 28 x 28 if not given")
    return parser.parse_args()


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    import numpy as np
    import torch

    from limner.data import open_data
    from limner.data.dataset import Dataset
    from limner.data.settings import DataConfig
    from limner.training.loop import Trainer
    from limner.training.plan import Plan, defaults, replace

    torch.set_num_threads(options.threads)

    def noise() -> Dataset:
        rng = np.random.default_rng(0)
        train, test = (rng.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8) for n in (60_000, 10_000))
        data = Dataset("noise", train)
        data.held_out = Dataset("noise", test, split="test")
        return data

    print(
        "| model | preset | steps | seconds | probes, % | gradients, % | rules, % | together, % | looks: draw / fit / encode |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for preset in options.presets.split(","):
        source = DataConfig(data="digits" if preset == "8px" else options.data or "noise")
        data = open_data(source) if source.data != "noise" else noise()
        for name in options.models.split(","):
            _, train, config = defaults(name, data, preset)
            made = Plan(name, preset, source, replace(train, {"device": "cpu"}, where="benchmark"), config)
            # The run's length from the speed of its first steps.
            trainer = Trainer(made.build(), data, made.train)
            trainer.step()
            start, steps = time.perf_counter(), 0
            while time.perf_counter() - start < min(5.0, options.seconds / 10):
                trainer.step()
                steps += 1
            images = int(options.seconds / ((time.perf_counter() - start) / steps)) * train.batch
            made = Plan(name, preset, source, replace(made.train, {"images": images}, where="benchmark"), config)
            trainer = Trainer(made.build(), data, made.train)

            spent: dict[str, float] = defaultdict(float)
            looks: dict[str, int] = defaultdict(int)

            def timed(kind: str, function, spent=spent):
                def call(*arguments):
                    began = time.perf_counter()
                    try:
                        return function(*arguments)
                    finally:
                        spent[kind] += time.perf_counter() - began

                return call

            trainer.look = timed("probes", trainer.look)
            trainer.weigh = timed("gradients", trainer.weigh)
            trainer.health.look = timed("rules", trainer.health.look)
            start = time.perf_counter()
            trainer.run()
            without = time.perf_counter() - start - sum(spent.values())
            for row in ("draw", "fit", "encode"):
                looks[row] = len(trainer.health.history.rows(f"probe/{row}"))
            shares = [100 * spent[kind] / without for kind in ("probes", "gradients", "rules")]
            cells = [name, preset, f"{trainer.clock.step:,}", f"{without:.1f}", *(f"{s:.2f}" for s in shares)]
            print(
                "| " + " | ".join([*cells, f"**{sum(shares):.2f}**", " / ".join(str(looks[k]) for k in looks)]) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
