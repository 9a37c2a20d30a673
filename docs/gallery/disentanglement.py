"""Does a beta-VAE tell the factors of `shapes` apart better than a VAE? Trains both on each seed and prints the table.

    python docs/gallery/disentanglement.py --out runs/disentanglement --seeds 3

Both have the `beta-vae` preset's networks, likelihood and training, and see the same images in the same order; they differ in beta
alone. The mutual information gap (`limner.metrics.mig`) is of held-out images. A run that stands in `--out` is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch

import limner
from limner.data.grid import save_grid
from limner.data.shapes import FACTORS
from limner.metrics.mig import AMBIGUOUS, mutual_information_gap
from limner.models.autoencoders import vae
from limner.models.autoencoders.beta_vae import BetaVAE

SEEN = [name for name in FACTORS if name not in AMBIGUOUS]


def settings(preset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both models share, and what the VAE's training takes over from the beta-VAE's."""
    chosen = BetaVAE.PRESETS[preset]
    shared = {f.name: getattr(chosen.config, f.name) for f in dataclasses.fields(vae.Config)}
    for key in ("channels", "size", "levels", "beta"):
        del shared[key]
    return shared, dict(chosen.train)


@torch.no_grad()
def measure(model: Any, data: Any) -> dict[str, Any]:
    """The gap of each factor, the divergence in nats and the reconstruction error of held-out images."""
    batch = data.batch(range(len(data)))
    image = batch["image"]
    mu, log_sigma = (torch.cat(part) for part in zip(*map(model.posterior, image.split(500)), strict=True))
    copies = torch.cat([model.decode(z) for z in mu.split(500)])
    factors = batch["factors"][:, [FACTORS.index(name) for name in SEEN]]
    found = mutual_information_gap(mu, factors)
    return {
        "mig": found.mig.value,
        **dict(zip(SEEN, found.gaps.tolist(), strict=True)),
        "nats": float(vae.kl_to_standard_normal(mu, log_sigma).mean()),
        "mse": float((copies - image).square().mean()),
        "best": found.information.max(0).indices.tolist(),
    }


def traversal(model: Any, image: torch.Tensor, spread: float = 2.0, steps: int = 9) -> torch.Tensor:
    """Rows of an image (1, C, H, W) whose code is changed number by number, from -spread to spread: (latent * steps, C, H, W)."""
    z = model.encode(image).repeat_interleave(steps, 0)
    rows = []
    for j in range(z.shape[1]):
        changed = z.clone()
        changed[:, j] = torch.linspace(-spread, spread, steps)
        rows.append(model.decode(changed))
    return torch.cat(rows)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/disentanglement"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--beta", type=float, default=BetaVAE.PRESETS["32px"].config.beta)
    parser.add_argument("--images", type=int, default=BetaVAE.PRESETS["32px"].train["images"])
    given = parser.parse_args()
    shared, train = settings("32px")
    train["images"] = given.images
    columns = ["mig", *SEEN, "nats", "mse"]
    table: dict[str, list[dict[str, Any]]] = {}
    print("| model | seed | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 2))
    for name, beta in (("vae", 1.0), ("beta-vae", given.beta)):
        for seed in range(given.seeds):
            out = given.out / f"{name}-{seed}"
            run = limner.train(
                name, data="shapes", seed=seed, out=out, quiet=True, config={**shared, "beta": beta}, **train
            )
            model = run.model()
            data = limner.open_data(run.data_config, split="test")
            figures = measure(model, data)
            table.setdefault(name, []).append(figures)
            print(
                f"| {name} | {seed} | " + " | ".join(f"{figures[key]:.3f}" for key in columns) + " |",
                f"  best numbers {figures['best']}",
                flush=True,
            )
            with torch.no_grad():
                strip = traversal(model, data.batch([0])["image"])
            save_grid(strip, out / "traversal.png", columns=9)
    for name, rows in table.items():
        means = [statistics.mean(row[key] for row in rows) for key in columns]
        spread = statistics.stdev(row["mig"] for row in rows) if len(rows) > 1 else 0.0
        print(
            f"| **{name}** | mean | "
            + " | ".join(f"{m:.3f}" for m in means)
            + f" |  mig's spread over seeds {spread:.3f}"
        )


if __name__ == "__main__":
    main()
