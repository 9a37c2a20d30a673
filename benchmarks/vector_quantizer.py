"""A training step of the vector quantiser beside that of vector-quantize-pytorch, once they are seen to do the same.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/vector_quantizer.py [--repetitions 15] [--threads 1]

Both get the same codebook and the same map of vectors (B, D, h, w), and are asked for the codes, the commitment loss, the gradient of both
at the map, and the moving averages of the codebook (decay 0.99, no restart of unused codes). Theirs is `VectorQuantize` with
`rotation_trick=False`, which is the plain straight-through estimator. Steps alternate, so that what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

SIZES = [(64, 64, 7, 512), (64, 64, 14, 512), (32, 64, 16, 1024), (16, 256, 16, 1024)]
"""(images, numbers in a code, side of the map, codes)."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    import torch
    from vector_quantize_pytorch import VectorQuantize

    from limner.nn.quantize import VectorQuantizer

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"Vector quantiser training step, {options.threads} thread(s), torch {torch.__version__}, "
        f"median of {options.repetitions} (quartiles)\n"
    )
    print("| vectors | numbers each | codes | limner ms | vector-quantize-pytorch ms | ratio | same codes |")
    print("|---|---|---|---|---|---|---|")
    for images, width, side, size in SIZES:
        ours = VectorQuantizer(size, width, restart=0).train()
        theirs = VectorQuantize(
            dim=width,
            codebook_size=size,
            decay=0.99,
            commitment_weight=0.25,
            rotation_trick=False,
            accept_image_fmap=True,
        ).train()
        ours(torch.randn(images, width, side, side))  # its first batch
        theirs._codebook.embed.copy_(ours.codebook[None])
        theirs._codebook.embed_avg.copy_(ours.total[None])
        theirs._codebook.cluster_size.copy_(ours.count[None])
        z, gradient = (torch.randn(images, width, side, side) for _ in range(2))

        def step(quantizer: torch.nn.Module, z=z, gradient=gradient) -> tuple[float, torch.Tensor, torch.Tensor]:
            leaf = z.clone().requires_grad_()
            start = time.perf_counter()
            code, index, loss, *_ = quantizer(leaf)
            torch.autograd.backward([code, loss.sum()], [gradient, None])
            return 1e3 * (time.perf_counter() - start), index, leaf.grad

        times, ratios, same = ([], []), [], True
        for repetition in range(-2, options.repetitions):  # the first two warm up
            (a, index_a, grad_a), (b, index_b, grad_b) = step(ours), step(theirs)
            same &= bool((index_a == index_b).float().mean() > 0.9999) and torch.allclose(grad_a, grad_b, atol=1e-5)
            if repetition >= 0:
                times[0].append(a)
                times[1].append(b)
                ratios.append(b / a)
        cells = [f"{images} x {side} x {side}", f"{width}", f"{size}"]
        for values in times:
            low, middle, high = statistics.quantiles(values, n=4)
            cells.append(f"{middle:.1f} ({low:.1f}-{high:.1f})")
        print("| " + " | ".join([*cells, f"{statistics.median(ratios):.1f}x", "yes" if same else "no"]) + " |")


if __name__ == "__main__":
    main()
