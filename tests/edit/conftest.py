"""One short run that the verbs of `limner.edit` are tried on, and the command line to try them with."""

import pytest
import torch

from cli.conftest import limner  # noqa: F401


@pytest.fixture(scope="session")
def vae_run(tmp_path_factory):
    """A VAE with five latents, trained for a second or two on the embedded digits."""
    from limner.training.run import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "vae"
    config = {
        "latent": 5,
        "likelihood": "gaussian",
        "sigma": 0.2,
        "lr": 3e-3,
    }  # learns to use its code in a hundred steps
    train("vae", data="digits", images=6400, config=config, warmup=0, out=folder, device="cpu", quiet=True)
    return folder
