"""A discriminator that judges patches: a map of logits, each of which sees a square of the image and no more.

Isola, Zhu, Zhou & Efros 2017, "Image-to-Image Translation with Conditional Adversarial Networks" (PatchGAN; section 3.2.2 and appendix
6.1.2): 4 x 4 convolutions, `layers` of them of stride 2 and two of stride 1, with leaky ReLU (0.2) and, after all but the first and the
last, normalisation; weights from N(0, 0.02^2). Going back from a logit, a convolution of stride s needs (n - 1) s + 4 inputs for n outputs:
the patches have 16, 34, 70 pixels a side with 1, 2, 3 layers. Deviation: the last convolution has no bias. (It would add to real and
false images alike, and the hinge loss moves it only where the discriminator is sure.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from limner.errors import UserError

KERNEL = 4
WIDEST = 8
"""Channels of the widest map, as a multiple of the first one's."""


def batch_norm(channels: int) -> nn.Module:
    """Batch normalisation that remembers nothing: a discriminator is never asked about a single image."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class PatchDiscriminator(nn.Sequential):
    """(B, channels, H, W) -> logits (B, 1, h, w), one for each patch of `receptive_field(layers)` pixels a side.

    Args:
        channels: of the image.
        width: channels of the first map, doubled at each further convolution up to eight times.
        layers: convolutions of stride 2.
        size: of the images, to refuse those that would leave no patch.
        norm: normalisation by the number of channels. The paper's is of the batch.

    Raises:
        UserError: images of this size are too small for so many layers.
    """

    def __init__(
        self, channels: int, width: int, layers: int, *, size: int, norm: Callable[[int], nn.Module] = batch_norm
    ):
        if size >> layers < 3:
            raise UserError(
                f"a patch discriminator of {layers} strided layers is for images of {3 << layers} pixels and more, not {size}: use "
                f"fewer layers"
            )
        widths = [min(width * 2**i, width * WIDEST) for i in range(layers + 1)]
        stages: list[nn.Module] = [nn.Conv2d(channels, width, KERNEL, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < layers else 1
            stages += [nn.Conv2d(before, after, KERNEL, stride, padding=1, bias=False), norm(after), nn.LeakyReLU(0.2)]
        stages += [nn.Conv2d(widths[-1], 1, KERNEL, padding=1, bias=False)]
        super().__init__(*stages)
        self.apply(small_weights)


def receptive_field(layers: int) -> int:
    """Pixels a side of the patch that a logit sees."""
    side = 1
    for stride in (1, 1, *[2] * layers):
        side = (side - 1) * stride + KERNEL
    return side


def small_weights(module: nn.Module) -> None:
    """Isola et al. 2017, appendix 6.2: weights from N(0, 0.02^2); normalisation's scales from N(1, 0.02^2)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
