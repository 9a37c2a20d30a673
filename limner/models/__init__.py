"""The catalogue: every model by name, with its family, paper and lecture. A lazy table: nothing is imported until asked for."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limner.errors import UserError

if TYPE_CHECKING:
    from limner.model import Model


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    target: str
    """Where the class is: "package.module:Class"."""
    family: str
    """autoencoder, autoregressive, flow, gan, translation or diffusion."""
    title: str
    """What it is, in a few words."""
    paper: str = ""
    """First author(s), year, title."""
    lecture: str = ""
    """The lectures that treat it, "000" to "004"."""


CATALOGUE: dict[str, Entry] = {
    "ae": Entry(
        "limner.models.autoencoders.ae:AE",
        "autoencoder",
        "Autoencoder, fully connected or convolutional",
        "Hinton & Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural Networks",
        "000, 001, 003, 004",
    ),
    "pca": Entry(
        "limner.models.autoencoders.pca:PCA",
        "autoencoder",
        "Principal component analysis, and the linear autoencoder beside it",
        "Baldi & Hornik 1989, Neural Networks and Principal Component Analysis",
        "000, 001, 003",
    ),
    "dae": Entry(
        "limner.models.autoencoders.dae:DAE",
        "autoencoder",
        "Denoising autoencoder, for any degradation",
        "Vincent et al. 2008, Extracting and Composing Robust Features with Denoising Autoencoders",
        "003, 004",
    ),
    "vae": Entry(
        "limner.models.autoencoders.vae:VAE",
        "autoencoder",
        "Variational autoencoder",
        "Kingma & Welling 2014, Auto-Encoding Variational Bayes",
        "000, 003, 004",
    ),
    "cvae": Entry(
        "limner.models.autoencoders.cvae:CVAE",
        "autoencoder",
        "Conditional variational autoencoder",
        "Sohn et al. 2015, Learning Structured Output Representation using Deep Conditional Generative Models",
        "000",
    ),
    "beta-vae": Entry(
        "limner.models.autoencoders.beta_vae:BetaVAE",
        "autoencoder",
        "Beta-VAE, with a capacity schedule",
        "Higgins et al. 2017, beta-VAE; Burgess et al. 2018, Understanding Disentangling in beta-VAE",
        "004",
    ),
    "vae-gan": Entry(
        "limner.models.autoencoders.vae_gan:VAEGAN",
        "autoencoder",
        "VAE with a discriminator's features as its likelihood",
        "Larsen et al. 2016, Autoencoding Beyond Pixels Using a Learned Similarity Metric",
        "000",
    ),
    "vqvae": Entry(
        "limner.models.autoencoders.vqvae:VQVAE",
        "autoencoder",
        "Vector-quantised autoencoder: discrete codes",
        "van den Oord et al. 2017, Neural Discrete Representation Learning; Mentzer et al. 2024 (FSQ)",
        "001",
    ),
    "vqvae2": Entry(
        "limner.models.autoencoders.vqvae2:VQVAE2",
        "autoencoder",
        "Two-level vector-quantised autoencoder",
        "Razavi et al. 2019, Generating Diverse High-Fidelity Images with VQ-VAE-2",
        "001, 003",
    ),
    "kl-ae": Entry(
        "limner.models.autoencoders.kl_ae:KLAE",
        "autoencoder",
        "First stage of latent diffusion with a slight KL penalty",
        "Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models",
        "003",
    ),
    "vqgan": Entry(
        "limner.models.autoencoders.vqgan:VQGAN",
        "autoencoder",
        "Vector-quantised autoencoder with perceptual and adversarial losses",
        "Esser et al. 2021, Taming Transformers for High-Resolution Image Synthesis",
        "001, 003",
    ),
    "face-swap": Entry(
        "limner.models.autoencoders.face_swap:FaceSwap",
        "autoencoder",
        "Shared encoder with a decoder for each of two domains",
        "Perov et al. 2020, DeepFaceLab; Liu et al. 2017, Unsupervised Image-to-Image Translation Networks",
        "003",
    ),
    "pixelcnn": Entry(
        "limner.models.autoregressive.pixelcnn:PixelCNN",
        "autoregressive",
        "Gated PixelCNN",
        "van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders",
        "001",
    ),
    "transformer": Entry(
        "limner.models.autoregressive.transformer:Transformer",
        "autoregressive",
        "Causal transformer over grey levels or codes",
        "Chen et al. 2020, Generative Pretraining from Pixels; Esser et al. 2021 (over codes)",
        "001",
    ),
    "realnvp": Entry(
        "limner.models.flows.realnvp:RealNVP",
        "flow",
        "Real-valued non-volume-preserving flow",
        "Dinh et al. 2017, Density Estimation Using Real NVP",
        "000",
    ),
    "gan": Entry(
        "limner.models.gans.gan:GAN",
        "gan",
        "Generative adversarial network with DCGAN networks",
        "Goodfellow et al. 2014, Generative Adversarial Nets; Radford et al. 2016 (DCGAN)",
        "000, 001, 002, 003",
    ),
    "ddpm": Entry(
        "limner.models.diffusion.ddpm:DDPM",
        "diffusion",
        "Denoising diffusion probabilistic model",
        "Ho et al. 2020, Denoising Diffusion Probabilistic Models; Song et al. 2021 (DDIM)",
        "003",
    ),
}

FAMILIES = ("autoencoder", "autoregressive", "flow", "gan", "translation", "diffusion")

PLUGINS_VARIABLE = "LIMNER_MODELS"
_plugins_loaded = False


def register(name: str, entry: Entry) -> None:
    """Add a model to the catalogue.

    Python files named in the environment variable LIMNER_MODELS (separated as in PATH) and installed packages with an entry
    point in the group `limner.models` are imported before the catalogue is read: there is where this is called.
    """
    if name in CATALOGUE and CATALOGUE[name] != entry:
        raise UserError(f"a model called '{name}' is in the catalogue already")
    CATALOGUE[name] = entry


def catalogue() -> dict[str, Entry]:
    """The whole catalogue, plug-ins included."""
    global _plugins_loaded
    if not _plugins_loaded:
        _plugins_loaded = True
        for file in filter(None, os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep)):
            import_file(Path(file))
        for point in importlib.metadata.entry_points(group="limner.models"):
            point.load()
    return CATALOGUE


def import_file(path: Path) -> None:
    """Import a Python file of the user's under its own name, so that "stem:Class" finds what it defines."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{PLUGINS_VARIABLE} names '{path}', which is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def entry_of(name: str) -> Entry:
    """The catalogue line of `name`.

    Raises:
        UserError: no such model; the nearest name is given.
    """
    table = catalogue()
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else "see `limner models`"
        raise UserError(f"there is no model called '{name}'; {hint}")
    return table[name]


def model_class(name: str) -> type[Model]:
    """Import and return the class of the model called `name`."""
    module, _, attribute = entry_of(name).target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(cls: type) -> str:
    """The catalogue name of a model class.

    Raises:
        UserError: the class is not in the catalogue, so that what it saves could not be loaded by name.
    """
    for name, entry in catalogue().items():
        module, _, attribute = entry.target.partition(":")
        if (module, attribute) == (cls.__module__, cls.__qualname__):
            return name
    raise UserError(
        f"{cls.__qualname__} is not in the catalogue: call limner.models.register(name, Entry('{cls.__module__}:{cls.__qualname__}', ...))"
    )
