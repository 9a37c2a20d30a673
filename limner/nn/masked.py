"""Masked convolutions: features of a pixel that depend only on the pixels before it, in raster order.

A pixel comes after every row above it and every pixel on its left. Two stacks of features see exactly that context:

- the *vertical* stack at row i sees rows < i, at any column: no mask is needed, only a shift;
- the *horizontal* stack at (i, j) sees row i up to column j - 1, and takes the rest from the vertical stack.

One stack of convolutions masked in the plane has a blind spot (the rows above, to the right); two stacks have none.
Source: van den Oord et al. 2016b, "Conditional Image Generation with PixelCNN Decoders", section 2.2 and figure 2; the
masks A and B over channels are those of van den Oord et al. 2016a, "Pixel Recurrent Neural Networks", section 3.4.

Every layer here can also be evaluated a row and a pixel at a time (`GatedCache`), which is what makes sampling fast.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def channel_groups(channels: int, groups: int) -> Tensor:
    """The group of each of `channels` features: equal, contiguous parts, group g standing for colour channel g."""
    return torch.arange(channels) * groups // channels


def channel_mask(out_groups: Tensor, in_groups: Tensor, kind: Literal["A", "B"]) -> Tensor:
    """(O, I) mask over the channels of one pixel: which inputs an output may see.

    Kind A: those of earlier groups only (the first layer, whose inputs are the colours to be predicted).
    Kind B: those of its own group as well (all later layers, whose inputs are features that respect the order).
    """
    allowed = in_groups[None] < out_groups[:, None] if kind == "A" else in_groups[None] <= out_groups[:, None]
    return allowed.float()


class MaskedConv2d(nn.Conv2d):
    """A convolution, without padding, whose weights are multiplied by a constant mask that broadcasts to their shape."""

    mask: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int], mask: Tensor, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel, bias=bias)
        self.register_buffer("mask", mask, persistent=False)

    @property
    def masked_weight(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.masked_weight, self.bias)


def gate(x: Tensor, dim: int = 1) -> Tensor:
    """tanh(a) * sigmoid(2b), with a and b the two halves of x (van den Oord et al. 2016b, equation 2).

    The factor 2, a matter of the scale of the weights, lets sigmoid(2b) = (1 + tanh(b)) / 2 share one tanh with a: on a
    CPU a sigmoid costs twice as much.
    """
    a, b = torch.tanh(x).chunk(2, dim)
    return a * (b + 1) * 0.5


class GatedLayer(nn.Module):
    """One layer of the two gated stacks (van den Oord et al. 2016b, figure 2).

    With k the half-width of its kernel, the vertical stack sees k + 1 rows of 2k + 1 columns of its input, its own row the
    last; the horizontal stack k + 1 columns, its own pixel the last. The `first` layer, whose input is the image, sees the k
    rows above, and of its own pixel only the earlier colours.

    Args:
        in_channels: of the input; width, but for the first layer.
        width: features of each stack.
        kernel: odd width of the kernel, 2k + 1.
        groups: colour channels among which the horizontal features are divided (1: the pixel is predicted as a whole).
        classes: adds a bias per class to both stacks (equation 4); 0 for none.
        context: channels of a map that adds a bias for each place to both stacks (section 2.3); 0 for none.
        in_groups: group of each input channel; needed for the first layer.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        kernel: int,
        groups: int = 1,
        classes: int = 0,
        in_groups: Tensor | None = None,
        context: int = 0,
    ):
        super().__init__()
        self.first = in_groups is not None
        self.reach = k = kernel // 2
        gated_groups = channel_groups(width, groups).repeat(2)  # both halves of a gate are divided in the same way
        width_groups = channel_groups(width, groups)
        centre = channel_mask(
            gated_groups, in_groups if in_groups is not None else width_groups, "A" if self.first else "B"
        )
        self.vertical = nn.Conv2d(in_channels, 2 * width, (k + (0 if self.first else 1), 2 * k + 1))
        mask = torch.ones(2 * width, in_channels, 1, k + 1)
        mask[:, :, 0, k] = centre
        self.horizontal = MaskedConv2d(in_channels, 2 * width, (1, k + 1), mask, bias=False)
        self.across = nn.Conv2d(2 * width, 2 * width, 1)  # vertical to horizontal: rows above, so no mask
        self.mix = MaskedConv2d(width, width, (1, 1), channel_mask(width_groups, width_groups, "B")[:, :, None, None])
        self.label = nn.Embedding(classes, 4 * width) if classes else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)
        self.context = nn.Conv2d(context, 4 * width, 1, bias=False) if context else None

    def biases(self, label: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """What the class and the map (B, context, H, W) add to the vertical and to the horizontal stack:
        (B, 2 width, 1, 1) each, or (B, 2 width, H, W)."""
        both: Tensor | float = 0.0
        if self.label is not None:
            both = self.label(label)[:, :, None, None]
        if self.context is not None:
            both = both + self.context(context)
        if not isinstance(both, Tensor):
            return 0.0, 0.0
        vertical, horizontal = both.chunk(2, 1)
        return vertical, horizontal

    def forward(
        self, v: Tensor, h: Tensor, label: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vertical and horizontal input (B, in_channels, H, W) each to output (B, width, H, W) each."""
        k = self.reach
        v_bias, h_bias = self.biases(label, context)
        # The first layer leaves the own row out: padded above, cropped below.
        v_gates = self.vertical(F.pad(v, (k, k, k, -1 if self.first else 0))) + v_bias  # (B, 2 width, H, W)
        h_gates = self.horizontal(F.pad(h, (k, 0, 0, 0))) + self.across(v_gates) + h_bias
        mixed = self.mix(gate(h_gates))
        return gate(v_gates), mixed if self.first else h + mixed


class GatedCache:
    """A `GatedLayer` evaluated step by step on (n, ..) images of `columns` columns: a row of its vertical stack, then
    pixel after pixel of its horizontal stack. It keeps the rows and the columns of its inputs that its kernels see.

    Calls of `row` and then of `pixel` for every column give, up to rounding, what `layer(v, h, label, context)` gives.
    """

    def __init__(
        self, layer: GatedLayer, n: int, columns: int, label: Tensor | None = None, context: Tensor | None = None
    ):
        self.layer, k = layer, layer.reach
        weight = layer.vertical.weight
        new = {"dtype": weight.dtype, "device": weight.device}
        self.rows = torch.zeros(n, weight.shape[1], weight.shape[2], columns + 2 * k, **new)  # newest last
        self.columns = torch.zeros(n, columns + k, weight.shape[1], **new)  # channels last: a window is one block
        self.v_bias, self.h_bias = layer.biases(label, context)
        self.next = 0  # the row that `row` will give
        # (taps * in_channels, 2 width), so that a pixel is one matrix product.
        self.horizontal = layer.horizontal.masked_weight.flatten(2).permute(2, 1, 0).flatten(0, 1).contiguous()
        self.mix = layer.mix.masked_weight[:, :, 0, 0]
        self.from_vertical: Tensor

    def row(self, v: Tensor) -> Tensor:
        """The next row (n, in_channels, W) of the vertical input to that of the output (n, width, W).

        The first layer's output at row i belongs to its input at row i - 1: it starts with a row of zeros.
        """
        k = self.layer.reach
        self.rows[:, :, :-1] = self.rows[:, :, 1:].clone()
        self.rows[:, :, -1, k : self.rows.shape[-1] - k] = v
        v_bias, h_bias = _row(self.v_bias, self.next), _row(self.h_bias, self.next)
        self.next += 1
        gates = self.layer.vertical(self.rows) + v_bias  # (n, 2 width, 1, W)
        self.from_vertical = (self.layer.across(gates) + h_bias)[:, :, 0].movedim(1, 2).contiguous()
        self.columns[:, k:] = 0
        return gate(gates)[:, :, 0]

    def pixel(self, j: int, h: Tensor) -> Tensor:
        """Column j (n, in_channels) of the horizontal input of this row to that of the output (n, width)."""
        self.put(j, h)
        window = self.columns[:, j : j + self.layer.reach + 1].flatten(1)  # (n, taps * in_channels), a view
        gates = torch.addmm(self.from_vertical[:, j], window, self.horizontal)  # (n, 2 width)
        mixed = F.linear(gate(gates), self.mix, self.layer.mix.bias)
        return mixed if self.layer.first else h + mixed

    def put(self, j: int, h: Tensor) -> None:
        """Set column j (n, in_channels) of the horizontal input, for the columns after it to see."""
        self.columns[:, j + self.layer.reach] = h


def _row(bias: Tensor | float, i: int) -> Tensor | float:
    """Row i of a bias that has rows; one that is the same everywhere is itself."""
    return bias[:, :, i : i + 1] if isinstance(bias, Tensor) and bias.shape[2] > 1 else bias
