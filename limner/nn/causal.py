"""Causal transformer blocks: each position sees itself and those before it, all at once or one at a time from a cache.

Vaswani et al. 2017, "Attention Is All You Need", section 3.1 (decoder); the normalisation before each sub-layer as in GPT-2
(Radford et al. 2019), so that the residual path is free of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValues:
    """The keys and values of the positions so far, (n, heads, length, D) each, for `CausalBlock.step`."""

    def __init__(self, n: int, heads: int, length: int, width: int, like: Tensor):
        self.keys, self.values = (like.new_zeros(n, heads, length, width // heads) for _ in range(2))
        self.filled = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of the next position, (n, heads, 1, D) each; returns all so far."""
        t, self.filled = self.filled, self.filled + 1
        self.keys[:, :, t : t + 1], self.values[:, :, t : t + 1] = key, value
        return self.keys[:, :, : t + 1], self.values[:, :, : t + 1]


class CausalBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); (B, N, width) to the same.

    Args:
        width: features of a position; a multiple of `heads`.
        heads: of the attention.
        dropout: on what is added to the residual path.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        return self._finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def step(self, x: Tensor, past: KeyValues) -> Tensor:
        """The next position, (n, 1, width), given what `past` holds; up to rounding what `forward` gives there."""
        q, k, v = self._project(x)
        return self._finish(x, F.scaled_dot_product_attention(q, *past.append(k, v)))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, D)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, heads, N, D) each
        return q, k, v

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh")))


@torch.no_grad()
def initialise(module: nn.Module, layers: int) -> None:
    """GPT-2's initial weights: N(0, 0.02^2), those that are added to the residual path divided by sqrt(2 layers)."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            continue
        last = name.endswith(("out.weight", "down.weight"))
        nn.init.normal_(parameter, 0.0, 0.02 / (2 * layers) ** 0.5 if last else 0.02)
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
