"""What the models share that draw an image value by value, in raster order: what they may be told, and how they are asked to draw."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from limner.config import ImageConfig, NonNegative, Positive, config
from limner.errors import UserError
from limner.model import Model
from limner.models.autoregressive.conditioning import check_condition_fields, checked_condition, checked_label
from limner.noise import SampleNoise, Seed

Network = TypeVar("Network", bound=nn.Module)


@config
class RasterConfig(ImageConfig):
    """The values of an image, and what beside them a model is told."""

    levels: Positive = 256
    """Grey levels of a channel, or codes; filled from the data."""
    classes: NonNegative = 0
    """Classes to condition on; 0 for an unconditional model."""
    unordered: bool = False
    """Values are codes without an order: the network sees an embedding of each, not its number."""
    condition_levels: NonNegative = 0
    """Codes of a coarser map that is given with each image; 0 for none."""
    condition_size: NonNegative = 0
    """Height and width of that map."""


class RasterModel(Model):
    """Base of models with an exact likelihood that draw in raster order. Subclasses write `log_prob`, `_fill` and `predict`.

    Raises:
        UserError: fewer than two levels, or half of a condition.
    """

    averaged = ("network",)
    autocast = True
    likelihood: ClassVar[Literal["exact"]] = "exact"

    def __init__(self, config: RasterConfig | None = None):
        super().__init__(config)
        if self.config.levels < 2:
            raise UserError("--levels must be at least 2")
        check_condition_fields(self.config.condition_levels, self.config.condition_size)

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        c = self.config
        return ("image", *["label"] * bool(c.classes), *["condition"] * bool(c.condition_levels))

    def log_prob(self, image: Tensor, *, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """(B,) exact log-likelihood in nats of images (B, C, H, W) on the grid of `config.levels` in [-1, 1].

        Raises:
            UserError: the model has classes and no label (B,) is given, or the other way round; and so for `condition`,
                (B, condition_size, condition_size) int64.
        """
        raise TypeError(f"{type(self).__name__} must define log_prob()")

    @torch.no_grad()
    def bits_per_dim(
        self, image: Tensor, *, label: Tensor | None = None, condition: Tensor | None = None, generator: Seed = 0
    ) -> Tensor:
        """(B,) exact bits per dimension: -log2 p(image) / (C H W). Nothing is random: `generator` is not used."""
        return -self.log_prob(image, label=label, condition=condition) / (math.log(2) * math.prod(self.image_shape))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        label: Tensor | int | None = None,
        condition: Tensor | None = None,
        generator: Seed = 0,
        temperature: float = 1.0,
        cached: bool = True,
    ) -> Tensor:
        """n images (n, C, H, W) on the grid of `config.levels` in [-1, 1].

        Args:
            label: an int for all, or (n,) int64; a class-conditional model without one draws a class for each image.
            condition: (n, condition_size, condition_size) int64, for a model that is conditioned on coarser codes.
            generator: see `limner.noise`.
            temperature: below 1 for likelier, plainer images; 1 samples the model.
            cached: keep what was computed for the values drawn so far. False runs the whole network for every value, many times
                slower, to the same images: both compute in float64, where rounding does not change a value.

        Raises:
            UserError: a label or condition out of range, or for a model without; a temperature that is not positive.
        """
        image = torch.zeros(n, *self.image_shape)
        return self._draw(image, 0, label, condition, generator, temperature, cached)

    @torch.no_grad()
    def complete(
        self,
        image: Tensor,
        rows: int,
        *,
        label: Tensor | int | None = None,
        condition: Tensor | None = None,
        generator: Seed = 0,
        temperature: float = 1.0,
    ) -> Tensor:
        """Images (B, C, H, W) whose first `rows` rows are kept and whose rest is drawn given them; else as `sample`.

        Raises:
            UserError: images of another shape than the model's, or rows it does not have; else as `sample`.
        """
        if tuple(image.shape[1:]) != self.image_shape or not 0 <= rows <= image.shape[2]:
            shape = "x".join(map(str, image.shape[1:]))
            raise UserError(
                f"{rows} rows of {shape} images: the model has images of {'x'.join(map(str, self.image_shape))}"
            )
        return self._draw(image, rows, label, condition, generator, temperature, cached=True)

    def _draw(
        self,
        image: Tensor,
        rows: int,
        label: Tensor | int | None,
        condition: Tensor | None,
        generator: Seed,
        temperature: float,
        cached: bool,
    ) -> Tensor:
        if not temperature > 0:
            raise UserError(f"the temperature must be positive, not {temperature}")
        noise = SampleNoise(len(image), generator, self.device)
        uniforms = noise.uniform(*self._uniforms())  # all drawn first: a value's noise is its own
        if self.config.classes and label is None:
            label = noise.integers(self.config.classes)
        given = self._given(label, condition, len(image))
        return self._fill(image.to(self.device), rows, given, uniforms, temperature, cached)

    def _uniforms(self) -> tuple[int, ...]:
        """Shape of the uniform numbers that an image is drawn from."""
        raise TypeError(f"{type(self).__name__} must define _uniforms()")

    def _fill(
        self,
        image: Tensor,
        rows: int,
        given: tuple[Tensor | None, Tensor | None],
        uniforms: Tensor,
        temperature: float,
        cached: bool,
    ) -> Tensor:
        """Images (n, C, H, W) whose rows from `rows` on are drawn from the uniforms (n, ...)."""
        raise TypeError(f"{type(self).__name__} must define _fill()")

    @property
    def _exact(self) -> torch.dtype:
        # In float64 rounding does not change a value; Apple's GPUs have none.
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _exact_copy(self, network: Network) -> Network:
        return copy.deepcopy(network).to(self._exact).eval()

    def _given(
        self, label: Tensor | int | None, condition: Tensor | None, n: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Label and condition, checked, as the network takes them."""
        c, device, name = self.config, self.device, type(self).__name__
        if c.classes and label is None:
            raise UserError(f"this {name} is class-conditional: an image has a likelihood only with its label")
        return (
            checked_label(label, n, c.classes, device, model=name),
            checked_condition(condition, n, c.condition_levels, c.condition_size, device),
        )
