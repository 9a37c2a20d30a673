"""PixelCNN sampling: keeping the features of the pixels drawn so far, against running the whole network for every pixel.

    python benchmarks/pixelcnn_sampling.py [--run RUN] [--batches 1 16 64] [--repeat 3]

Prints a Markdown table: seconds for a batch, medians of `--repeat` runs, both samplers in float64, and the naive one in float32
as well. The naive sampler runs one pass of the network for each of the 784 pixels, all alike: a pass is timed, and the table
has 784 times its median. The smallest batch is also sampled naively from end to end, timed and compared. Every batch is
checked to be what the naive sampler gives: one pass over the finished images yields each pixel's distribution given the pixels
before it, and drawing from it with the pixel's own noise must give that very pixel.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch

import limner
from limner.models.autoregressive.pixelcnn import PixelCNN
from limner.noise import SampleNoise


def seconds(function, repeat: int) -> float:
    """Median duration of a call, after one that does not count."""
    function()
    durations = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def is_what_naive_sampling_gives(model: PixelCNN, image: torch.Tensor, seed: int) -> bool:
    """Whether every pixel of `image`, drawn with `generator=seed`, is what the naive sampler draws after the pixels before it."""
    c = model.config
    network, exact = copy.deepcopy(model.network).double(), image.double()
    # The same grid in float64: the images are handed out in float32.
    exact = ((exact + 1) / 2 * (c.levels - 1)).round() * 2 / (c.levels - 1) - 1
    params = network(exact)
    noise = SampleNoise(len(image), seed).uniform(c.size, c.size, c.channels + 1)
    again = torch.empty_like(exact)
    for i in range(c.size):
        for j in range(c.size):
            for colour in range(network.groups):
                model.draw_pixel(again[:, :, i, j], params[:, :, i, j], noise[:, i, j], colour)
    return torch.equal(again, exact)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="run folder of a trained model; without it, the preset 32px with random weights")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if options.run:
        model = limner.load(options.run)
    else:
        torch.manual_seed(0)
        model = PixelCNN(PixelCNN.PRESETS["32px"].config).eval()
    c = model.config
    pixels = c.size**2
    single, double = model.network, copy.deepcopy(model.network).double()

    print(
        f"{c.size}x{c.size}x{c.channels}, {c.output}, {sum(p.numel() for p in single.parameters()) / 1e3:.0f}k parameters,"
    )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(
        "| batch | cached, s | naive float64, s | naive float32, s | cached is faster by (float64 / float32) | equal |"
    )
    print("|---|---|---|---|---|---|")
    for n in options.batches:
        cached = seconds(lambda n=n: model.sample(n, generator=0), options.repeat)
        image = model.sample(n, generator=0)
        image64 = image.double()
        naive64 = pixels * seconds(lambda x=image64: double(x), options.repeat)
        naive32 = pixels * seconds(lambda x=image: single(x), options.repeat)
        equal = is_what_naive_sampling_gives(model, image, 0)
        print(
            f"| {n} | {cached:.2f} | {naive64:.1f} | {naive32:.1f} | {naive64 / cached:.0f}x / {naive32 / cached:.0f}x "
            f"| {'yes' if equal else 'NO'} |",
            flush=True,
        )
    n = min(options.batches)
    started = time.perf_counter()
    naive = model.sample(n, generator=0, cached=False)
    duration = time.perf_counter() - started
    same = torch.equal(naive, model.sample(n, generator=0))
    print(
        f"\nNaive sampling of {n} from end to end: {duration:.1f} s, {'the same images' if same else 'OTHER IMAGES'}."
    )


if __name__ == "__main__":
    main()
