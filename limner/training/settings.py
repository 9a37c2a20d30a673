"""How to train: the settings of the one loop. Every length is counted in images, never in epochs or steps."""

from __future__ import annotations

from typing import Literal

from limner.config import Fraction, NonNegative, Positive, PositiveFloat, config


@config
class TrainConfig:
    """Settings of a training run."""

    images: Positive = 100_000
    """Training images to see, repeats counted."""
    batch: Positive = 64
    """Images in one step, over all processes and micro-batches together."""
    micro_batches: Positive = 1
    """Parts that a step's images are split into to save memory; gradients add up to those of the whole batch."""
    seed: NonNegative = 0
    """Seed of initial weights, order of images and noise."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up: constant, or a half cosine down to zero at the last image."""
    warmup: NonNegative = 0
    """Images over which the learning rate rises linearly from zero."""
    clip: PositiveFloat | None = None
    """Largest gradient norm of one update; larger gradients are scaled down to it."""
    ema_halflife: NonNegative = 10_000
    """Half-life, in images, of the moving average of the weights that are saved and sampled from. 0: no averaging."""
    ema_rampup: Fraction = 0.1
    """The half-life is at most this fraction of the images seen so far, so that early weights are forgotten."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast; auto: for models that declare it safe, on hardware that has it."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, mps."""
    save_every: NonNegative = 0
    """Images between checkpoints. 0: a tenth of the run."""
    keep: Positive = 2
    """Checkpoints to keep for `resume`."""
    grid_every: NonNegative = 0
    """Images between grids of samples from fixed noise. 0: a tenth of the run."""
    tensorboard: bool = False
    """Also write TensorBoard event files into the run folder."""
