"""Gated PixelCNN: an image is drawn pixel by pixel, each from its exact distribution given all the pixels before it.

The chain rule in raster order, colours in the order R, G, B (lecture 001):

    p(x) = prod_i p(x_i | x_1 .. x_{i-1})

and one convolutional network computes all the factors at once, because its features of pixel i see only earlier pixels. Each
layer is gated and may depend on a class c (equations 2 and 4):

    y = tanh(W_f * x + V_f c) . sigmoid(W_g * x + V_g c)

in two stacks, of the rows above and of the own row, so that no earlier pixel is out of sight (`limner.nn.masked`).

Source: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu 2016, "Conditional Image Generation with
PixelCNN Decoders"; the colour masks of van den Oord et al. 2016, "Pixel Recurrent Neural Networks", section 3.4.
Deviations: `output = "logistic_mixture"` takes the output distribution of PixelCNN++ (Salimans et al. 2017), whose coupling of
the means does R -> G -> B in place of masked features; `"categorical"` is the paper's softmax over the grey levels. The first
layer also sees where the image is darkest (many images have a background of exactly that level) and ones, so that padding is
not mistaken for mid-grey. The gate's sigmoid is sigmoid(2b). Horizontal features of the first layer have no residual.

As a prior over the codes of an autoencoder (van den Oord et al. 2017; Razavi et al. 2019) the "image" is the map of codes, code
k of L being the value 2k / (L - 1) - 1. Codes have no order: with `unordered` the first layer sees a learned vector for each in
place of its number. Where a coarser map is known, it adds a bias V * s for each place to the gates of every layer (section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from limner.config import Fraction, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.logistic import (
    couple,
    discretized_logistic_log_prob,
    discretized_logistic_mixture_log_prob,
    invert_categorical,
    levels_of,
    mixture_channels,
    sample_discretized_logistic_mixture,
    split_mixture,
    values_of,
)
from limner.model import Batch, Clock, Preset, Update
from limner.models.autoregressive.conditioning import CodeContext
from limner.models.autoregressive.raster import RasterConfig, RasterModel
from limner.nn.masked import GatedCache, GatedLayer, MaskedConv2d, channel_groups, channel_mask


@config
class Config(RasterConfig):
    """Gated PixelCNN."""

    output: Literal["logistic_mixture", "categorical"] = "categorical"
    """Distribution of a pixel: a mixture of discretised logistics (PixelCNN++), or a softmax over the grey levels."""
    components: Positive = 10
    """Components of the logistic mixture."""
    embedding: Positive = 32
    """Features of the embedding of a code, where `unordered` (which needs categorical output)."""
    width: Positive = 32
    """Features of each of the two stacks."""
    layers: Positive = 8
    """Gated layers after the first."""
    first_kernel: Positive = 7
    """Width of the first layer's kernel, odd."""
    kernel: Positive = 3
    """Width of the other layers' kernels, odd."""
    head: Positive = 64
    """Features between the last gated layer and the output."""
    dropout: Fraction = 0.0
    """Dropout on the input of each gated layer after the first."""
    lr: PositiveFloat = 2e-3
    """Learning rate of Adam."""


class PixelCNNNetwork(nn.Module):
    """Images to the parameters of every pixel's distribution given the pixels before it."""

    def __init__(self, config: Config):
        super().__init__()
        c = config
        # With a softmax each colour has its own features; a mixture predicts the pixel as a whole, so there is one group.
        self.groups = c.channels if c.output == "categorical" else 1
        self.levels = c.levels
        colours = channel_groups(c.channels, self.groups)
        seen = colours.repeat_interleave(c.embedding) if c.unordered else colours.repeat(2)
        in_groups = torch.cat([seen, torch.tensor([self.groups])])  # the ones are of no use at the pixel itself
        outputs = c.channels * c.levels if c.output == "categorical" else mixture_channels(c.channels, c.components)
        self.embed = nn.Embedding(c.channels * c.levels, c.embedding) if c.unordered else None
        self.context = CodeContext(c.condition_levels, c.size, c.width) if c.condition_levels else None
        context = c.width if c.condition_levels else 0
        self.first = GatedLayer(len(in_groups), c.width, c.first_kernel, self.groups, c.classes, in_groups, context)
        self.layers = nn.ModuleList(
            GatedLayer(c.width, c.width, c.kernel, self.groups, c.classes, context=context) for _ in range(c.layers)
        )
        self.dropout = nn.Dropout(c.dropout)
        groups = [channel_groups(n, self.groups) for n in (c.width, c.head, outputs)]
        masks = [channel_mask(groups[i + 1], groups[i], "B")[:, :, None, None] for i in range(2)]
        self.hidden = MaskedConv2d(c.width, c.head, (1, 1), masks[0])
        self.output = MaskedConv2d(c.head, outputs, (1, 1), masks[1])
        if c.output == "logistic_mixture":
            self._spread_components(c)

    @torch.no_grad()
    def _spread_components(self, c: Config) -> None:
        # Start with the components side by side over the grey scale, each about as wide as its share of it.
        k = c.components
        assert self.output.bias is not None
        sizes = [k, k * c.channels, k * c.channels]
        logits, means, log_scales = self.output.bias[: sum(sizes)].split(sizes)
        logits.zero_()
        means.copy_(torch.linspace(-1, 1, k + 2)[1:-1].repeat_interleave(c.channels))
        log_scales.fill_(-math.log(k))

    def features(self, image: Tensor) -> Tensor:
        """What the first layer sees of (B, C, ...): the image, where it is darkest, and ones: (B, 2C + 1, ...); of codes
        without an order the embedding of each, and ones: (B, C embedding + 1, ...)."""
        ones = torch.ones_like(image[:, :1])
        if self.embed is None:
            return torch.cat([image, (image == -1).to(image.dtype), ones], dim=1)
        codes = levels_of(image, self.levels).long()
        first = self.levels * torch.arange(codes.shape[1], device=codes.device)  # each channel has its own codes
        embedded = self.embed(codes.movedim(1, -1) + first).flatten(-2).movedim(-1, 1)
        return torch.cat([embedded, ones.to(embedded.dtype)], dim=1)

    def head(self, h: Tensor) -> Tensor:
        return self.output(F.relu(self.hidden(F.relu(h))))

    def forward(self, image: Tensor, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [-1, 1] to (B, P, H, W): logits (colour by colour), or parameters of the mixture."""
        x = self.features(image).contiguous(memory_format=torch.channels_last)
        context = None if self.context is None else self.context(condition)
        v, h = self.first(x, x, label, context)
        for layer in self.layers:
            v, h = layer(self.dropout(v), self.dropout(h), label, context)
        return self.head(h)


class PixelCNN(RasterModel):
    """Gated PixelCNN. `sample` and `complete` draw pixels, `bits_per_dim` is exact."""

    Config = Config

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        for field in ("kernel", "first_kernel"):
            width = getattr(c, field)
            if width % 2 == 0 or width < 3:
                raise UserError(f"--{field.replace('_', '-')} {width}: a kernel's width must be odd and at least 3")
        if c.output == "categorical" and min(c.width, c.head) < c.channels:
            raise UserError(f"--width and --head must be at least {c.channels}, a feature for each colour channel")
        if c.unordered and c.output != "categorical":
            raise UserError("--unordered: codes without an order need --output categorical")
        self.network = PixelCNNNetwork(c)

    def optimizers(self) -> dict[str, Optimizer]:
        return {"pixelcnn": torch.optim.Adam(self.network.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        image = batch["image"]
        log_prob = self.log_prob(image, **{key: batch[key] for key in self.inputs[1:]})
        bits = -log_prob.mean() / (math.log(2) * image[0].numel())
        yield Update("pixelcnn", bits, {"bits_per_dim": bits.detach()})

    def log_prob(self, image: Tensor, *, label: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        c = self.config
        params = self.network(image, *self._given(label, condition, len(image)))
        params = params.to(torch.promote_types(params.dtype, torch.float32))  # out of bfloat16 autocast
        if c.output == "logistic_mixture":
            return discretized_logistic_mixture_log_prob(image, params, c.levels).sum(dim=(1, 2))
        # (B, C L, H, W) -> (B, H, W, C, L): the classes last, where log_softmax is fastest.
        logits = params.permute(0, 2, 3, 1).unflatten(-1, (c.channels, c.levels))
        target = levels_of(image, c.levels).long().permute(0, 2, 3, 1)
        losses = F.cross_entropy(logits.flatten(0, 3), target.flatten(), reduction="none")
        return -losses.unflatten(0, (len(image), -1)).sum(dim=1)

    # ------------------------------------------------------------------------------------------------------ sampling

    @torch.no_grad()
    def predict(
        self, n: int, *, label: Tensor | int | None = None, condition: Tensor | None = None
    ) -> Generator[Tensor, Tensor, None]:
        """A dialogue that draws n images value by value, see `limner.capabilities.Predicts`.

        Yields the log-probabilities (n, levels), up to a constant for each image, of the next value, in raster order and R, G,
        B at a pixel; is sent the values chosen, (n,) int64. The walk is that of `sample`.

        Raises:
            UserError: as `log_prob`.
        """
        c = self.config
        given = self._given(label, condition, n)
        network = self._exact_copy(self.network)
        image = torch.zeros(n, *self.image_shape, dtype=self._exact, device=self.device)
        for i, j, colour, params in self._cached_params(network, image, 0, *given):
            pixel = image[:, :, i, j]
            if c.output == "categorical":
                choice = yield params.unflatten(1, (c.channels, c.levels))[:, colour]
                pixel[:, colour] = values_of(choice.to(pixel), c.levels)
                continue
            for channel in range(c.channels):
                choice = yield mixture_logits(params, pixel, channel, c.levels)
                pixel[:, channel] = values_of(choice.to(pixel), c.levels)

    def _uniforms(self) -> tuple[int, ...]:
        return self.config.size, self.config.size, self.config.channels + 1

    def _fill(
        self,
        image: Tensor,
        rows: int,
        given: tuple[Tensor | None, Tensor | None],
        uniforms: Tensor,
        temperature: float,
        cached: bool,
    ) -> Tensor:
        levels, network = self.config.levels, self._exact_copy(self.network)
        image = values_of(levels_of(image.to(self._exact), levels), levels)  # float32 values are rounded
        image[:, :, rows:] = 0
        walk = self._cached_params if cached else self._naive_params
        for i, j, colour, params in walk(network, image, rows, *given):
            self.draw_pixel(image[:, :, i, j], params, uniforms[:, i, j], colour, temperature)
        return image.float()

    def draw_pixel(self, pixel: Tensor, params: Tensor, u: Tensor, colour: int, temperature: float = 1.0) -> None:
        """Write into `pixel` (n, C) what the network's output there, params (n, P), and uniforms u (n, C + 1) give.

        A mixture draws all colours at once, u[:, 0] choosing the component; a softmax the one `colour`, from u[:, colour].
        """
        c = self.config
        if c.output == "logistic_mixture":
            pixel[:] = sample_discretized_logistic_mixture(params, u[:, 0], u[:, 1:], c.levels, temperature)
        else:
            logits = params.unflatten(1, (c.channels, c.levels))[:, colour] / temperature
            pixel[:, colour] = values_of(invert_categorical(logits, u[:, colour]).to(pixel.dtype), c.levels)

    # A pixel's distribution is asked for once for each group of colours, each time given the colours drawn before.

    @staticmethod
    def _naive_params(
        network: PixelCNNNetwork, image: Tensor, rows: int, label: Tensor | None, condition: Tensor | None
    ) -> Iterator[tuple[int, int, int, Tensor]]:
        """(i, j, colour, params (n, P)) in order, for pixels below the first `rows` rows, while `image` is filled in."""
        for i in range(rows, image.shape[2]):
            for j in range(image.shape[3]):
                for colour in range(network.groups):
                    yield i, j, colour, network(image, label, condition)[:, :, i, j]

    @staticmethod
    def _cached_params(
        network: PixelCNNNetwork, image: Tensor, rows: int, label: Tensor | None, condition: Tensor | None
    ) -> Iterator[tuple[int, int, int, Tensor]]:
        """What `_naive_params` gives, each feature computed once."""
        n, _, height, width = image.shape
        context = None if network.context is None else network.context(condition)
        layers = [GatedCache(layer, n, width, label, context) for layer in (network.first, *network.layers)]
        hidden, output = (m.masked_weight[:, :, 0, 0] for m in (network.hidden, network.output))
        above = torch.zeros_like(network.features(image[:, :, 0]))  # the row above the first is padding
        for i in range(height):
            v = above
            for layer in layers:
                v = layer.row(v)
            for j in range(width if i >= rows else 0):
                for colour in range(network.groups):
                    h = network.features(image[:, :, i, j])
                    for layer in layers:
                        h = layer.pixel(j, h)
                    h = F.relu(F.linear(F.relu(h), hidden, network.hidden.bias))
                    yield i, j, colour, F.linear(h, output, network.output.bias)
                layers[0].put(j, network.features(image[:, :, i, j]))
            above = network.features(image[:, :, i])


def mixture_logits(params: Tensor, pixel: Tensor, channel: int, levels: int) -> Tensor:
    """(n, levels) log-probability of each grey level of a channel given the earlier channels of the pixel (n, C).

    With w_m the weights of the mixture, P_m its components and x_c the earlier channels, the component being unknown:
    P(k | x) = sum_m w_m prod_c P_m(x_c) P_m(k) / sum_m w_m prod_c P_m(x_c).
    """
    log_weights, means, log_scales, coefficients = split_mixture(params, pixel.shape[1], levels)  # (n, K), (n, K, C)
    means = couple(means, coefficients, pixel)  # of `channel` and those before it: the later ones are not drawn yet
    earlier = discretized_logistic_log_prob(
        pixel[:, None, :channel], means[..., :channel], log_scales[..., :channel], levels
    )
    posterior = F.log_softmax(log_weights + earlier.sum(dim=2), dim=1)
    grid = values_of(torch.arange(levels, device=params.device, dtype=params.dtype), levels)
    each = discretized_logistic_log_prob(grid, means[..., channel, None], log_scales[..., channel, None], levels)
    return torch.logsumexp(posterior[..., None] + each, dim=1)


_TRAIN = {"schedule": "cosine", "clip": 1.0}

PixelCNN.PRESETS = {
    # Embedded digits: half a minute on one CPU core.
    "8px": Preset(
        8,
        Config(size=8, levels=17, output="categorical", layers=5, first_kernel=5, lr=3e-3),
        {**_TRAIN, "images": 48_000, "batch": 32, "warmup": 2_000, "ema_halflife": 4_000},
    ),
    # Wider kernels, so that within few layers a pixel is given all of the image above it.
    "16px": Preset(
        16,
        Config(size=16, output="logistic_mixture", layers=6, kernel=5, lr=5e-3),
        {**_TRAIN, "images": 60_000, "batch": 16, "warmup": 2_000, "ema_halflife": 3_000},
    ),
    # Fashion-MNIST and CIFAR-10: under half an hour on two CPU cores.
    "32px": Preset(
        28,
        Config(size=28, output="logistic_mixture", width=48, layers=6),
        {**_TRAIN, "images": 190_000, "batch": 16, "warmup": 2_000, "ema_halflife": 5_000},
    ),
    # For a GPU.
    "64px": Preset(
        64,
        Config(
            size=64,
            channels=3,
            output="logistic_mixture",
            width=128,
            layers=14,
            kernel=5,
            head=256,
            dropout=0.1,
            lr=5e-4,
        ),
        {**_TRAIN, "images": 3_000_000, "batch": 64, "warmup": 20_000, "ema_halflife": 50_000},
    ),
    # Prior over maps of 7x7 to 16x16 codes.
    "codes": Preset(
        8,
        Config(size=8, levels=512, unordered=True, width=64, layers=5, first_kernel=5, head=128, dropout=0.1),
        {**_TRAIN, "images": 200_000, "batch": 64, "warmup": 10_000, "ema_halflife": 10_000},
        of="codes",
    ),
}
