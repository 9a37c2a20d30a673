"""What a value may depend on beside the values before it: the class of the image, and a coarser map of codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.errors import UserError
from limner.nn.conv_stacks import ResidualBlock


class CodeContext(nn.Module):
    """A coarser map of codes (B, h', w') to features (B, width, size, size) at every place of the finer one.

    Codes are embedded and repeated (nearest neighbour); a few convolutions then see round them, nothing masked, for all of the
    map is known. A learned map tells apart the places under one code, which start alike.

    Source: van den Oord et al. 2016b, section 2.3; as in the bottom prior of VQ-VAE-2 (Razavi et al. 2019, section 3.2).
    """

    def __init__(self, levels: int, size: int, width: int, blocks: int = 2):
        super().__init__()
        self.size = size
        self.embed = nn.Embedding(levels, width)
        self.place = nn.Parameter(torch.zeros(1, width, size, size))
        convolution = nn.Conv2d(width, width, 3, padding=1)
        self.refine = nn.Sequential(convolution, *(ResidualBlock(width) for _ in range(blocks)), nn.SiLU())

    def forward(self, codes: Tensor) -> Tensor:
        x = self.embed(codes).permute(0, 3, 1, 2)  # (B, width, h', w')
        return self.refine(F.interpolate(x, size=(self.size, self.size)) + self.place)


def check_condition_fields(levels: int, size: int) -> None:
    """Refuses a configuration that has one of `condition_levels` and `condition_size` alone."""
    if bool(levels) != bool(size):
        raise UserError(
            f"--condition-levels {levels} and --condition-size {size}: a model conditioned on a coarser map of codes needs both"
        )


def checked_condition(condition: Tensor | None, n: int, levels: int, size: int, device: torch.device) -> Tensor | None:
    """`condition` on the device, if it is n maps of `levels` codes of that size and the model wants them.

    Raises:
        UserError: it is missing, of another shape or range, or the model takes none.
    """
    if not levels:
        if condition is not None:
            raise UserError("this model is not conditioned on coarser codes: leave the condition out")
        return None
    if condition is None:
        raise UserError(f"this model needs `condition`, the coarser map of codes (n, {size}, {size}) of each image")
    if tuple(condition.shape) != (n, size, size) or condition.is_floating_point():
        raise UserError(
            f"the condition is {condition.dtype} of shape {tuple(condition.shape)}, not codes (int64) of shape {(n, size, size)}"
        )
    if n and not 0 <= int(condition.min()) <= int(condition.max()) < levels:
        raise UserError(f"the codes of the condition must be between 0 and {levels - 1}")
    return condition.to(device).long()


def checked_label(
    label: Tensor | int | None, n: int, classes: int, device: torch.device, *, model: str
) -> Tensor | None:
    """(n,) int64 on the device of a label for all or one for each; None stays None.

    Raises:
        UserError: a label out of range, of another number, or for a model without classes.
    """
    if label is None:
        return None
    if not classes:
        raise UserError(f"this {model} was trained without classes: leave the label out, or train one with classes")
    labels = torch.as_tensor(label, device=device)
    if labels.numel() not in (1, n) or labels.ndim > 1:
        raise UserError(f"labels of shape {tuple(labels.shape)} were given for {n} images")
    labels = labels.expand(n).long()
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"labels must be between 0 and {classes - 1}: the model has {classes} classes")
    return labels
