"""Transformer: grey levels, or codes, are drawn one by one, each from its exact distribution given all that came before it.

The chain rule in raster order, the colours of a pixel one after the other (Chen et al. 2020, equation 1; lecture 001):

    p(x) = prod_t p(x_t | x_1 .. x_{t-1})

One decoder gives all the factors at once: at step t it is fed the value x_{t-1} (at the first, a learned vector, the class's
where there are classes) and sees, by causal attention, every value before; a linear layer turns what it finds into logits.

    h_t = e(x_{t-1}) + row(t) + column(t) + colour(t),    h <- h + attention(norm(h)),    h <- h + mlp(norm(h))

The cost of attention grows with the square of the number of values: over pixels this is a model of small images. Over the codes
of an autoencoder (Esser et al. 2021), which are few and have no order, it is at home; there a coarser map of codes, if there is
one, is added as features of the place to be predicted.

Sources: Chen, Radford, Child, Wu, Jun, Luan & Sutskever 2020, "Generative Pretraining from Pixels" (iGPT); Esser, Rombach & Ommer
2021, "Taming Transformers for High-Resolution Image Synthesis", section 3.2.
Deviations: places are embedded by row, column and colour, those of the value to be predicted. Grey levels as they are, with no
palette; as they have an order, a linear function of the level is added to the embedding of each (not where `unordered`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from limner.config import Fraction, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.logistic import invert_categorical, levels_of, values_of
from limner.model import Batch, Clock, Preset, Update
from limner.models.autoregressive.conditioning import CodeContext
from limner.models.autoregressive.raster import RasterConfig, RasterModel
from limner.nn.causal import CausalBlock, KeyValues, initialise

LONGEST = 1 << 14
"""Values of an image at most: attention over more is out of reach of one device."""
CACHE_BYTES = 1 << 30
"""Keys and values kept while sampling: more images than this is enough for are drawn in parts."""


@config
class Config(RasterConfig):
    """Causal transformer over the values of an image."""

    width: Positive = 128
    """Features of a position."""
    layers: Positive = 6
    """Blocks of attention and MLP."""
    heads: Positive = 4
    """Heads of the attention; they divide the width."""
    dropout: Fraction = 0.0
    """Dropout on the embedding and on what each block adds."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay of AdamW."""
    lr: PositiveFloat = 1e-3
    """Learning rate of AdamW."""


class TransformerNetwork(nn.Module):
    """Values (B, N) to the logits (B, N, levels) of each given those before it."""

    level: nn.Linear | None

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.config = c
        self.start = nn.Embedding(max(c.classes, 1), c.width)
        self.value = nn.Embedding(c.levels, c.width)
        self.level = None if c.unordered else nn.Linear(1, c.width, bias=False)
        self.row, self.column = nn.Embedding(c.size, c.width), nn.Embedding(c.size, c.width)
        self.colour = nn.Embedding(c.channels, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(CausalBlock(c.width, c.heads, c.dropout) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, c.levels)
        initialise(self, c.layers)
        self.context = CodeContext(c.condition_levels, c.size, c.width) if c.condition_levels else None

    def embed(self, values: Tensor) -> Tensor:
        """(B, T) int64 to (B, T, width)."""
        x = self.value(values)
        if self.level is None:
            return x
        return x + self.level(values_of(values[..., None].to(x.dtype), self.config.levels))

    def begin(self, n: int, label: Tensor | None) -> Tensor:
        """(n, 1, width): what is fed at the first step."""
        label = torch.zeros(n, dtype=torch.long, device=self.start.weight.device) if label is None else label
        return self.start(label)[:, None]

    def places(self, condition: Tensor | None) -> Tensor:
        """(1 or B, N, width): where the value to be predicted is, and what the coarser codes say there."""
        rows, columns, colours = self.row.weight, self.column.weight, self.colour.weight
        x = (rows[:, None, None] + columns[:, None] + colours).flatten(0, 2)[None]
        if self.context is None:
            return x
        context = self.context(condition).flatten(2).transpose(1, 2)  # (B, H W, width)
        return x + context.repeat_interleave(self.config.channels, dim=1)

    def forward(self, values: Tensor, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        before = torch.cat([self.begin(len(values), label), self.embed(values[:, :-1])], dim=1)
        x = self.dropout(before + self.places(condition))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def step(self, before: Tensor, place: Tensor, past: list[KeyValues]) -> Tensor:
        """Logits (n, levels) of the next value: from what is fed, (n, 1, width), and the place of the value, (1 or n, 1, width)."""
        x = before + place
        for block, kept in zip(self.blocks, past, strict=True):
            x = block.step(x, kept)  # type: ignore[operator]
        return self.head(self.norm(x))[:, 0]


class Transformer(RasterModel):
    """Causal transformer. `sample` and `complete` draw values, `predict` is asked for one after the other, `bits_per_dim` is exact."""

    Config = Config

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        if c.width % c.heads:
            raise UserError(f"--heads {c.heads} must divide --width {c.width}")
        self.length = math.prod(self.image_shape)
        if self.length > LONGEST:
            raise UserError(
                f"images of {'x'.join(map(str, self.image_shape))} are {self.length} values, and attention over more than "
                f"{LONGEST} is out of reach: make them smaller with --size, model the codes of a vqvae with --first-stage, "
                "or train pixelcnn"
            )
        self.network = TransformerNetwork(c)

    def optimizers(self) -> dict[str, Optimizer]:
        c = self.config
        matrices = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        return {"transformer": AdamW(groups, lr=c.lr, betas=(0.9, 0.95), weight_decay=c.weight_decay, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        image = batch["image"]
        self._check_memory(len(image))
        log_prob = self.log_prob(image, **{key: batch[key] for key in self.inputs[1:]})
        bits = -log_prob.mean() / (math.log(2) * self.length)
        yield Update("transformer", bits, {"bits_per_dim": bits.detach()})

    def log_prob(self, image: Tensor, *, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        values = self.values(image)
        logits = self.network(values, *self._given(label, condition, len(image)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # out of bfloat16 autocast
        losses = F.cross_entropy(logits.flatten(0, 1), values.flatten(), reduction="none")
        return -losses.view(len(image), -1).sum(dim=1)

    def values(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to its values in the order of the chain rule, (B, H W C) int64."""
        return levels_of(image, self.config.levels).long().permute(0, 2, 3, 1).flatten(1)

    def image(self, values: Tensor) -> Tensor:
        """The inverse of `values`, float32."""
        channels, height, width = self.image_shape
        image = values_of(values.double(), self.config.levels).float()
        return image.view(-1, height, width, channels).permute(0, 3, 1, 2).contiguous()

    # ------------------------------------------------------------------------------------------------------ sampling

    @torch.no_grad()
    def predict(
        self, n: int, *, label: Tensor | int | None = None, condition: Tensor | None = None
    ) -> Generator[Tensor, Tensor, None]:
        """A dialogue that draws n images value by value, see `limner.capabilities.Predicts`.

        Yields the logits (n, levels) of the next value, in raster order and R, G, B at a pixel; is sent the values chosen,
        (n,) int64. `sample` holds this dialogue too.

        Raises:
            UserError: as `log_prob`.
        """
        values = torch.zeros(n, self.length, dtype=torch.long, device=self.device)
        given = self._given(label, condition, n)
        yield from self._cached(self._exact_copy(self.network), values, 0, *given)

    def _uniforms(self) -> tuple[int, ...]:
        return (self.length,)

    def _fill(
        self,
        image: Tensor,
        rows: int,
        given: tuple[Tensor | None, Tensor | None],
        uniforms: Tensor,
        temperature: float,
        cached: bool,
    ) -> Tensor:
        c, values, network = self.config, self.values(image), self._exact_copy(self.network)
        first = rows * c.size * c.channels
        dialogue = self._cached if cached else self._naive
        at_once = max(1, CACHE_BYTES // (2 * 8 * c.layers * c.width * self.length))
        for i in range(0, len(values), at_once):
            part = slice(i, i + at_once)
            own = (None if given_to is None else given_to[part] for given_to in given)
            draw(dialogue(network, values[part], first, *own), uniforms[part, first:], temperature)
        return self.image(values)

    # Dialogues: each yields the logits of the next value from `first` on and writes the one it is sent into `values` (n, N).

    @staticmethod
    def _naive(
        network: TransformerNetwork, values: Tensor, first: int, label: Tensor | None, condition: Tensor | None
    ) -> Generator[Tensor, Tensor, None]:
        for t in range(first, values.shape[1]):
            values[:, t] = yield network(values, label, condition)[:, t]

    @staticmethod
    def _cached(
        network: TransformerNetwork, values: Tensor, first: int, label: Tensor | None, condition: Tensor | None
    ) -> Generator[Tensor, Tensor, None]:
        c, (n, length) = network.config, values.shape
        places, before = network.places(condition), network.begin(n, label)
        past = [KeyValues(n, c.heads, length, c.width, like=before) for _ in network.blocks]
        for t in range(length):
            logits = network.step(before, places[:, t : t + 1], past)
            if t >= first:
                values[:, t] = yield logits
            before = network.embed(values[:, t : t + 1])

    def _check_memory(self, batch: int) -> None:
        # At least the inputs of every linear layer and the logits are kept for the backward pass, in 2 bytes under autocast.
        c = self.config
        needed = 2 * batch * self.length * (12 * c.width * c.layers + 2 * c.levels)
        if self.device.type == "cuda":
            there = torch.cuda.get_device_properties(self.device).total_memory
        elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        else:
            return
        if needed > there:
            raise UserError(
                f"a batch of {batch} sequences of {self.length} values needs at least {needed / 2**30:.0f} GiB of memory, and "
                f"{self.device.type} has {there / 2**30:.0f}: split it with --micro-batches, make images smaller with --size, or "
                "model the codes of a vqvae with --first-stage"
            )


def draw(dialogue: Generator[Tensor, Tensor, None], uniforms: Tensor, temperature: float = 1.0) -> None:
    """Answer a dialogue of logits (n, levels) with draws at the uniforms (n, values), the distribution sharpened below 1."""
    choice = None
    for u in uniforms.unbind(1):
        logits = dialogue.send(choice)  # type: ignore[arg-type]
        choice = invert_categorical(logits / temperature, u)
    with suppress(StopIteration):
        dialogue.send(choice)  # type: ignore[arg-type]


_TRAIN = {"schedule": "cosine", "clip": 1.0}

Transformer.PRESETS = {
    # Embedded digits: a minute on one CPU core.
    "8px": Preset(
        8,
        Config(size=8, levels=17, width=48, layers=3, heads=2, lr=3e-3),
        {**_TRAIN, "images": 40_000, "batch": 32, "warmup": 2_000, "ema_halflife": 3_000},
    ),
    # 784 values on a CPU: small, and far from trained to the end.
    "32px": Preset(
        28,
        Config(size=28, width=64, layers=4, heads=2, lr=3e-3),
        {**_TRAIN, "images": 12_000, "batch": 8, "warmup": 1_000, "ema_halflife": 1_000},
    ),
    # For a GPU: 12288 values.
    "64px": Preset(
        64,
        Config(size=64, channels=3, width=256, layers=8, heads=8, lr=5e-4),
        {**_TRAIN, "images": 1_000_000, "batch": 16, "warmup": 20_000, "ema_halflife": 20_000},
    ),
    # Maps of 7x7 to 16x16 codes.
    "codes": Preset(
        8,
        Config(size=8, levels=512, unordered=True, width=128, layers=4, heads=4, dropout=0.1, lr=1e-3),
        {**_TRAIN, "images": 120_000, "batch": 64, "warmup": 5_000, "ema_halflife": 5_000},
        of="codes",
    ),
}
