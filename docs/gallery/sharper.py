"""Are a VAE/GAN's samples sharper than those of a VAE? Trains both with the same encoder and decoder on the same images, and compares KID.

    python docs/gallery/sharper.py --data fashion-mnist --out runs/sharper

The VAE's likelihood is a Gaussian of learned width around the decoded image. A run that stands in `--out` is not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import limner
from limner import models
from limner.models.autoencoders.vae import VAE, Config
from limner.models.autoencoders.vae_gan import VAEGAN
from limner.training.plan import defaults


class SameVAE(VAE):
    """A VAE with the networks that a `vae-gan` of the same configuration has."""

    def __init__(self, config: Config):
        super().__init__(config)
        shared = {key: getattr(config, key) for key in ("channels", "size", "latent", "width", "blocks")}
        networks = VAEGAN(VAEGAN.Config(**shared))
        self.encoder, self.decoder = networks.encoder, networks.decoder


def main() -> None:
    """Train, measure, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path("runs/sharper"))
    parser.add_argument("--images", type=int, help="training images of both; by default those of the vae-gan's preset")
    parser.add_argument("-n", type=int, default=1000, help="samples")
    parser.add_argument("--vae-gan", type=Path, help="a finished run to take instead of training one")
    given = parser.parse_args()
    models.register("same-vae", models.Entry(f"{__name__}:SameVAE", "autoencoder", "VAE with a VAE/GAN's networks"))
    settings = {"data": given.data, "seed": 0, "quiet": True}
    _, train, config = defaults("vae-gan", limner.open_data(given.data))
    settings["images"] = given.images or train.images
    gan = given.vae_gan or limner.train("vae-gan", out=given.out / "vae-gan", **settings).path
    same = {"likelihood": "gaussian", "latent": config.latent, "width": config.width, "blocks": config.blocks}
    vae = limner.train("same-vae", out=given.out / "vae", config=same, preset=None, **settings).path
    found = {}
    for name, path in (("vae-gan", gan), ("vae", vae)):
        figures = limner.evaluate(path, n=given.n, metrics=["kid", "psnr"]).figures
        found[name] = {key: [figures[key].value, figures[key].error] for key in ("kid", "psnr")}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
