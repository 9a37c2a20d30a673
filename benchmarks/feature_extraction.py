"""How busy the network is kept while features are extracted from a folder of PNG files.

    pip install -c constraints.txt -e '.[bench,features]'
    python benchmarks/feature_extraction.py [--images 1000] [--sizes 32 64 256] [--threads 1] [--repetitions 3]

The files are crops of scikit-learn's two photographs, decoded one after another as limner decodes a folder, in the thread that also
resizes them, while the network computes in another one. "Overlapped" is `limner.metrics.extract`; "one after the other" is decoding,
resizing and computing in turn, in one thread; "network alone" has everything ready in memory beforehand. "Waiting" is
the share of the overlapped time in which the network had no batch to work on, the making of the first batch included; "from a memory
map" is the same with images that limner has decoded before, as it does for a folder that it knows. With `--threads 1`, one core
computes and one decodes. The classifier's weights are random: its speed does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--threads", type=int, default=1, help="of the network; one more decodes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--extractors", nargs="+", default=["classifier", "mobilenet-v2"])
    return parser.parse_args()


def write_crops(folder: Path, count: int, size: int) -> None:
    """Write `count` PNG files of size x size pixels."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        top, left = (random.integers(0, n - size + 1) for n in photograph.shape[:2])
        Image.fromarray(photograph[top : top + size, left : left + size]).save(folder / f"{i:06}.png")


def medians(extractions: list) -> list[str]:
    """Images a second, and the share of waiting."""
    speed = statistics.median(e.images_per_second for e in extractions)
    return [f"{speed:.0f}", f"{statistics.median(e.wait_share for e in extractions):.1%}"]


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    import numpy as np
    import torch

    from limner.data.decode import decode
    from limner.data.settings import DataConfig
    from limner.metrics.backbones import backbone
    from limner.metrics.classifier import Classifier, Network
    from limner.metrics.extract import Staged, batches, extract

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = DataConfig(data="folder")

    def decoded(folder: Path, size: int):
        for path in sorted(folder.iterdir()):
            yield decode(path.read_bytes(), size, config).pixels[None]

    def make(name: str, size: int):
        if name == "classifier":
            return Classifier(Network(3, min(size, 32), 10).eval(), "", 10, 0.1)
        return backbone(name)

    def alone(extractor, folder: Path, size: int) -> float:
        parts = list(batches(decoded(folder, size), options.batch))
        if isinstance(extractor, Staged):
            parts, run = [extractor.prepare(part) for part in parts], extractor.embed
        else:
            run = extractor
        start = time.perf_counter()
        for part in parts:
            run(part)
        return time.perf_counter() - start

    def in_turn(extractor, folder: Path, size: int) -> float:
        start = time.perf_counter()
        for part in batches(decoded(folder, size), options.batch):
            extractor(part)
        return time.perf_counter() - start

    print(
        f"{options.images} PNG files, batches of {options.batch}, network on {options.threads} of {os.cpu_count()} cores, "
        f"torch {torch.__version__}, medians of {options.repetitions}\n"
    )
    print(
        "| extractor | pixels | overlapped, images/s | waiting | one after the other, images/s | network alone, images/s "
        "| from a memory map, images/s | waiting |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.extractors:
        for size in options.sizes:
            extractor = make(name, size)
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                write_crops(folder, options.images, size)
                extractor(torch.from_numpy(np.zeros((options.batch, size, size, 3), np.uint8)))  # warm-up
                together = [
                    extract(extractor, decoded(folder, size), batch=options.batch) for _ in range(options.repetitions)
                ]
                turn = [in_turn(extractor, folder, size) for _ in range(options.repetitions)]
                network = [alone(extractor, folder, size) for _ in range(options.repetitions)]
                whole = np.concatenate(list(decoded(folder, size)))
                np.save(folder / "images.npy", whole)
                array = np.load(folder / "images.npy", mmap_mode="r")
                mapped = [extract(extractor, array, batch=options.batch) for _ in range(options.repetitions)]
            cells = [name, str(size), *medians(together)]
            cells += [f"{options.images / statistics.median(times):.0f}" for times in (turn, network)]
            print("| " + " | ".join([*cells, *medians(mapped)]) + " |", flush=True)


if __name__ == "__main__":
    main()
