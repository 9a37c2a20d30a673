"""Self-attention between the positions of a feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of (B, heads, N, D) tensors.

    Spelt out for bfloat16 on a CPU, where PyTorch's fused kernel was 2 to 6 times slower at 16 to 256 positions.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class SelfAttention2d(nn.Module):
    """Residual multi-head self-attention over the pixels of a map (Vaswani et al. 2017; in a U-Net: Ho et al. 2020, appendix B).

    Args:
        channels: of the map.
        head_channels: channels of one head; `channels` must be a multiple of it, else there is one head.
        norm: the normalisation before it, a module that maps (B, C, H, W) to itself.
    """

    def __init__(self, channels: int, *, head_channels: int = 32, norm: nn.Module):
        super().__init__()
        self.heads = channels // head_channels if channels % head_channels == 0 else 1
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        B, C, H, W = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = (
            self.qkv(tokens).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        )  # (B, heads, HW, C/heads)
        h = attend(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.out(h).transpose(1, 2).view(B, C, H, W)
