"""Two-stage models: a frozen first stage that turns images into maps of discrete codes, and a model of the codes for each map.

van den Oord et al. 2017 (VQ-VAE, section 3.2): after the autoencoder is trained, an autoregressive prior is fitted to its codes, and
ancestral sampling of codes followed by the decoder draws images. Razavi et al. 2019 (VQ-VAE-2, section 3.2): with several maps, the
prior of each finer one is conditioned on the coarser,

    p(c) = p(c_1) p(c_2 | c_1) ...,   x = decoder(c_1, c_2 ...),   c_1 the coarsest.

The first stage is anything that `Tokenizes`; a prior is any model of the catalogue whose images may be unordered codes. What a prior
sees is an image of one channel whose grey level is the code: `priors[0].sample(...)` draws such images. Bits are those of the codes:
a two-stage model with a deterministic first stage has no likelihood of images, so it has `code_bits` and not `bits_per_dim`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limner.config import from_mapping
from limner.errors import UserError
from limner.losses.logistic import levels_of, values_of
from limner.model import Batch, Clock, Model, Update
from limner.noise import SampleNoise, Seed, mix, seeds

if TYPE_CHECKING:
    from torch.optim import Optimizer

CODES = "codes"
"""`codes0`, `codes1` ... are the keys of the maps in a batch, the coarsest first."""


class Staged(Model):
    """A frozen `first_stage` and its `priors`, the coarsest map's first. Samples, reconstructs and tokenizes.

    Raises:
        UserError: the number of priors is not that of the first stage's maps.
    """

    first_stage: Any
    priors: Any

    def __init__(self, first_stage: Any, priors: Sequence[Any]):
        super().__init__(priors[0].config)
        if len(priors) != len(first_stage.codebooks):
            raise UserError(f"{len(first_stage.codebooks)} maps of codes need as many priors, not {len(priors)}")
        self.first_stage = first_stage.eval().requires_grad_(False)
        self.priors = nn.ModuleList(priors)
        self.autocast = all(prior.autocast for prior in priors)

    def train(self, mode: bool = True) -> Staged:
        """Training mode for the priors; the first stage stays as it is."""
        super().train(mode)
        self.first_stage.eval()
        return self

    @property
    def averaged(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"priors.{i}.{name}" for i, prior in enumerate(self.priors) for name in prior.averaged)

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("image", "label") if self.classes else ("image",)

    @property
    def classes(self) -> int:
        """Classes that the priors are conditioned on; 0 for none."""
        return getattr(self.config, "classes", 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.first_stage.image_shape

    # Training: that of the priors, one after the other, each on its own map

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            self._name(i, name): optimizer
            for i, prior in enumerate(self.priors)
            for name, optimizer in prior.optimizers().items()
        }

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        """Each prior's own step on its map of codes; those in the batch ("codes0" ...) are not computed again."""
        if f"{CODES}0" in batch:
            codes = tuple(batch[f"{CODES}{i}"].long() for i in range(len(self.priors)))
        else:
            codes = self.tokenize(batch["image"])
        for i, prior in enumerate(self.priors):
            part = {"image": values_of(codes[i][:, None].float(), self.codebooks[i])}  # (B, 1, h, w)
            if self.classes:
                part["label"] = batch["label"]
            if i:
                part["condition"] = codes[i - 1]
            for update in prior.train_step(part, clock):
                yield update._replace(optimizer=self._name(i, update.optimizer))

    def _name(self, i: int, name: str) -> str:
        return name if len(self.priors) == 1 else f"{name}-{i}"

    # What it can do

    @property
    def codebooks(self) -> tuple[int, ...]:
        """How many codes there are for each map."""
        return self.first_stage.codebooks

    @property
    def code_shapes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each map."""
        return self.first_stage.code_shapes

    @torch.no_grad()
    def tokenize(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) in [-1, 1] -> the first stage's codes, int64 (B, h, w) for each map."""
        return self.first_stage.tokenize(image)

    @torch.no_grad()
    def detokenize(self, codes: tuple[Tensor, ...]) -> Tensor:
        """Maps of codes -> images (B, C, H, W) in [-1, 1]."""
        return self.first_stage.detokenize(codes)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> the first stage's reconstruction."""
        return self.detokenize(self.tokenize(image))

    @torch.no_grad()
    def code_bits(self, image: Tensor, *, label: Tensor | None = None) -> Tensor:
        """(B,) bits of all the codes of an image (B, C, H, W) under the priors, -log2 p(c)."""
        codes = self.tokenize(image)
        nats = torch.zeros(len(image), device=image.device)
        for i, prior in enumerate(self.priors):
            given: dict[str, Any] = {"label": label} if self.classes else {}
            if i:
                given["condition"] = codes[i - 1]
            nats = nats - prior.log_prob(values_of(codes[i][:, None].float(), self.codebooks[i]), **given)
        return nats / math.log(2)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        label: Tensor | int | None = None,
        generator: Seed = 0,
        temperature: float = 1.0,
        uniform_codes: bool = False,
    ) -> Tensor:
        """n images (n, C, H, W) in [-1, 1], the decoded draws of the priors.

        Args:
            label: an int for all, or (n,) int64; priors with classes draw one for each image if none is given.
            generator: see `limner.noise`.
            temperature: of the priors' draws; below 1 for likelier codes.
            uniform_codes: draw every code with equal probability instead: what the first stage is worth without its priors.
        """
        return self.detokenize(self.draw_codes(n, label, generator, temperature, uniform_codes))

    def draw_codes(
        self, n: int, label: Tensor | int | None, generator: Seed, temperature: float = 1.0, uniform: bool = False
    ) -> tuple[Tensor, ...]:
        """The maps of codes that `sample` decodes, int64 (n, h, w) each."""
        every = seeds(generator, n)
        noise = SampleNoise(n, every, self.device)
        if uniform:
            return tuple(noise.integers(k, *s) for k, s in zip(self.codebooks, self.code_shapes, strict=True))
        if self.classes and label is None:
            label = noise.integers(self.classes)  # all maps of an image are of one class
        codes: list[Tensor] = []
        for i, prior in enumerate(self.priors):
            given: dict[str, Any] = {"condition": codes[-1]} if codes else {}
            own = [mix(seed, i) for seed in every]
            drawn = prior.sample(n, label=label, generator=own, temperature=temperature, **given)  # (n, 1, h, w)
            codes.append(levels_of(drawn[:, 0], self.codebooks[i]).long())
        return tuple(codes)


def prior_configs(config: Any, first_stage: Any) -> list[Any]:
    """The configuration of each map's prior, from one in which everything but the maps' own facts is chosen.

    Raises:
        UserError: it is not the configuration of a model of codes.
    """
    known = {f.name for f in dataclasses.fields(config)}
    if not {"levels", "unordered", "condition_levels"} <= known:
        raise UserError("--first-stage: this model is no model of discrete codes; pixelcnn and transformer are")
    configs, books, shapes = [], first_stage.codebooks, first_stage.code_shapes
    for i, (levels, (height, _)) in enumerate(zip(books, shapes, strict=True)):
        facts = {"channels": 1, "size": height, "levels": levels, "unordered": True}
        if i:
            facts |= {"condition_levels": books[i - 1], "condition_size": shapes[i - 1][0]}
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        configs.append(from_mapping(type(config), {**values, **facts}, where="prior"))
    return configs


def build(cls: type[Model], config: Any, first_stage: Any) -> Staged:
    """A two-stage model with fresh priors of the class `cls`."""
    return Staged(first_stage, [cls(c) for c in prior_configs(config, first_stage)])
