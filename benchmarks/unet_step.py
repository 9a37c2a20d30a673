"""A U-Net training step beside those of denoising-diffusion-pytorch and diffusers.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/unet_step.py [--repetitions 9] [--threads 2] [--size 28] [--batch 64]

Every network gets the same batch, mean squared error and fused AdamW; depth, widths, ResNet blocks and attention placement are
matched, and the parameters printed. The steps are interleaved, so that what else the machine does hits all alike; medians are
reported, each with its quartiles, and the median of the ratios within a repetition.

Matched how: `UNet2DModel` has the same layers, one for one (scale-and-shift time conditioning, attention at the coarsest level
and in the middle, heads of 32 channels). denoising-diffusion-pytorch's `Unet` has two blocks a level on both ways and one at the
end where ours has two and three, and linear attention at every level: "bare" has that taken out, for the same attention
placement (which makes it faster), and its width is the one whose parameters come nearest; "as shipped" is the same with its
linear attention.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    return parser.parse_args()


def peers(width: int, size: int) -> dict:
    """Each network by name, as (module, function (module, x, t) -> output)."""
    import torch

    # torchvision may not import beside a CPU build of PyTorch unless these operators exist; nothing here uses them.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from denoising_diffusion_pytorch import Unet
    from diffusers import UNet2DModel

    from limner.nn.unet import UNet

    class Nothing(torch.nn.Module):
        def forward(self, x):
            return 0.0

    def count(net: torch.nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    ours = UNet(1, 1, width=width, multipliers=(1, 2, 2), blocks=2, attention=(4,), head_channels=32)

    def lucidrains(dim: int, bare: bool) -> torch.nn.Module:
        net = Unet(
            dim=dim,
            dim_mults=(1, 2, 2),
            channels=1,
            full_attn=(False, False, True),
            attn_heads=2 * width // 32,
            attn_dim_head=32,
        )
        if bare:
            for layers in (*net.downs[:2], *net.ups[1:]):
                layers[2] = Nothing()
        return net

    dim = min(range(16, 4 * width, 2), key=lambda d: abs(count(lucidrains(d, True)) - count(ours)))
    diffusers = UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        block_out_channels=(width, 2 * width, 2 * width),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=8,
        attn_norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    )

    def call(net, x, t):
        return net(x, t)

    return {
        "limner": (ours, call),
        "diffusers UNet2DModel": (diffusers, lambda net, x, t: net(x, t).sample),
        "denoising-diffusion-pytorch Unet, bare": (lucidrains(dim, True), call),
        "denoising-diffusion-pytorch Unet, as shipped": (lucidrains(dim, False), call),
    }


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    import torch
    import torch.nn.functional as F
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    nets = peers(options.width, options.size)
    x = torch.randn(options.batch, 1, options.size, options.size)
    target, t = torch.randn_like(x), torch.randint(1, 1000, (options.batch,))
    optimizers = {name: torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True) for name, (net, _) in nets.items()}

    def step(name: str, bfloat16: bool) -> float:
        net, call = nets[name]
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = call(net, x, t)
        F.mse_loss(output.float(), target).backward()
        optimizers[name].step()
        optimizers[name].zero_grad()
        return 1e3 * (time.perf_counter() - start)

    parameters, flops = {}, {}
    for name, (net, call) in nets.items():
        parameters[name] = sum(p.numel() for p in net.parameters())
        with FlopCounterMode(display=False) as counter:
            call(net, x[:1], t[:1]).sum().backward()
        flops[name] = counter.get_total_flops()
        net.zero_grad()

    times = {(name, b): [] for name in nets for b in (False, True)}
    for repetition in range(-1, options.repetitions):  # the first is a warm-up
        for key in times:
            elapsed = step(*key)
            if repetition >= 0:
                times[key].append(elapsed)

    print(
        f"U-Net training step, batch {options.batch} of {options.size}x{options.size}, {options.threads} threads, "
        f"torch {torch.__version__}, median of {options.repetitions} (quartiles)\n"
    )
    print("| network | parameters | GFLOP an image | float32 ms | ratio to limner | bfloat16 ms | ratio to limner |")
    print("|---|---|---|---|---|---|---|")
    for name in nets:
        cells = [name, f"{parameters[name]:,}", f"{flops[name] / 1e9:.2f}"]
        for b in (False, True):
            low, middle, high = statistics.quantiles(times[name, b], n=4)
            ratio = statistics.median(a / ours for a, ours in zip(times[name, b], times["limner", b], strict=True))
            cells += [f"{middle:.0f} ({low:.0f}-{high:.0f})", f"{ratio:.2f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
