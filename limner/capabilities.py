"""What a trained model can do, as protocols. The command line, the metrics and the report ask for these, never for a family.

Images are float32 (B, C, H, W) in [-1, 1] everywhere here. `generator` is an int, a list of one seed per sample, or a
`torch.Generator`; see `limner.noise`. Sample i of a seed is the same whatever the batch it is drawn in.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from limner.noise import Seed


@runtime_checkable
class Samples(Protocol):
    """Draws new images."""

    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        """n images (n, C, H, W). `label` (an int for all, or (n,) int64) needs a class-conditional model."""
        ...


@runtime_checkable
class Scores(Protocol):
    """Knows how probable an image is. A model of densities says in `dequantisation` by what noise grey levels become real numbers."""

    @property
    def likelihood(self) -> Literal["exact", "bound"]:
        """Whether `bits_per_dim` is the exact value of the model's discrete likelihood or an upper bound of it."""
        ...

    def bits_per_dim(self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0) -> Tensor:
        """(B,) negative log2-likelihood per dimension of 8-bit images (or of `config.levels` grey levels)."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Maps an image to a latent and back."""

    def encode(self, image: Tensor) -> Tensor:
        """The latent (B, ...) of each image, deterministic."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """The image (B, C, H, W) of each latent, deterministic."""
        ...


@runtime_checkable
class Infers(Protocol):
    """Has a Gaussian posterior of the code of an image."""

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, ...) of q(z | image); the prior of z is N(0, I)."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Has latents with a known prior, each of which stands for an image."""

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n latents (n, ...) drawn from the prior."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """The image (B, C, H, W) of each latent, deterministic."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Gives back an image after passing it through the model's own bottleneck or inverse."""

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W), the reconstruction of each image."""
        ...


@runtime_checkable
class Translates(Protocol):
    """Turns an image of one domain into one of another."""

    def translate(self, image: Tensor, *, target: str) -> Tensor:
        """(B, C, H, W), the images as they would look in the domain `target`."""
        ...


@runtime_checkable
class Restores(Protocol):
    """Gives back the clean image behind a damaged one."""

    any_size: bool
    """Whether `restore` takes images of other heights and widths than those of training."""

    def restore(self, image: Tensor) -> Tensor:
        """(B, C, H, W), the images without the damage that the model was trained to undo."""
        ...

    def damage(self, image: Tensor) -> Tensor:
        """(B, C, H, W), images damaged as in training, each the same way at every call; where the data bring no damaged ones."""
        ...


@runtime_checkable
class Tokenizes(Protocol):
    """Maps an image to maps of discrete codes and back. Several maps are of different resolutions, the coarsest first."""

    @property
    def codebooks(self) -> tuple[int, ...]:
        """How many codes there are for each map."""
        ...

    @property
    def code_shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each map."""
        ...

    def tokenize(self, image: Tensor) -> tuple[Tensor, ...]:
        """The maps of codes of each image, int64 (B, h, w) each, in 0 .. codebook - 1."""
        ...

    def detokenize(self, codes: tuple[Tensor, ...]) -> Tensor:
        """The image (B, C, H, W) of the maps of codes. `detokenize(tokenize(image))` is the reconstruction."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """Knows the exact distribution of each grey level (or code) given those before it."""

    def predict(
        self, n: int, *, label: Tensor | int | None = None, condition: Tensor | None = None
    ) -> Generator[Tensor, Tensor, None]:
        """A dialogue that draws n images at once, value by value, in the model's order (raster; at a pixel channel by channel).

        Yields the logits (n, levels), float64, of the next value; is sent the value chosen for each image, (n,) int64. Sampling sends
        draws of these distributions; an entropy coder sends what it encodes or has decoded. The logits do not depend on anything but
        the model and what was sent. `condition`, for models that take one: maps of coarser codes (n, h, w) int64.
        """
        ...


@runtime_checkable
class Denoises(Protocol):
    """Estimates the clean image behind a noisy one."""

    def denoise(self, image: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x0 + sigma * noise = image]; sigma (B,) is the standard deviation of the noise."""
        ...


CAPABILITIES: dict[str, type] = {
    "sample": Samples,
    "score": Scores,
    "encode": Encodes,
    "infer": Infers,
    "decode": Decodes,
    "reconstruct": Reconstructs,
    "translate": Translates,
    "restore": Restores,
    "tokenize": Tokenizes,
    "predict": Predicts,
    "denoise": Denoises,
}
"""Protocol by the word that `limner models` prints."""


def of(model: object) -> list[str]:
    """The names of the capabilities that `model` (a model, or a model class) has."""
    return [name for name, protocol in CAPABILITIES.items() if _has(model, protocol)]


def _has(model: object, protocol: type) -> bool:
    # A class has no instance attributes to look at, so ask for the protocol's members one by one: works for both.
    members = [m for m in vars(protocol) if not m.startswith("_")]
    return all(hasattr(model, m) for m in members)
