"""Denoising diffusion probabilistic model.

Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*; lecture 003 (Algorithms 1 and 2, the time-conditioned
U-Net). Noise is added to an image in T small steps, q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (eq. 4), and a
network learns to take it away again: it minimises

    ||epsilon - epsilon_theta(sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon, t)||^2    (eq. 14).

Sampling starts from pure noise and goes back step by step.

Beside the paper's, the choices of its successors: the cosine schedule, fewer sampling steps and learned variances (Nichol &
Dhariwal 2021), deterministic sampling and its inversion (DDIM, Song et al. 2021), v-prediction (Salimans & Ho 2022), labels with
classifier-free guidance (Ho & Salimans 2022).

Stated deviations: the times of a batch are spread evenly over 1 .. T from one random offset, each still uniform (Kingma
et al. 2021, appendix I.1); the default schedule and prediction are cosine and v; the time scales and shifts the U-Net's
normalised features instead of being added (Nichol & Dhariwal 2021); x_1 is decoded with at least half the variance beta_1
(the posterior's is 0 there); the bound's part of the loss with learned variance is in bits per dimension. As in the papers
the last x_T keeps a trace of signal (abar_T is 4e-5, cosine 2e-9) and sampling starts from N(0, I) all the same; the bound
counts the difference as L_T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from limner.config import Fraction, ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.denoising import bound, samplers, schedules
from limner.denoising.parametrisation import Prediction, loss_weight, target, to_x0
from limner.errors import UserError
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.unet import UNet, check_size
from limner.noise import SampleNoise, Seed


@config
class Config(ImageConfig):
    """A diffusion model in discrete time."""

    levels: Positive = 256
    """Grey levels of the data, for the likelihood bound."""
    classes: NonNegative = 0
    """Number of labels to condition on, 0 for none."""
    width: Positive = 64
    """Channels of the U-Net at full resolution; a multiple of 8."""
    multipliers: tuple[Positive, ...] = (1, 2, 2)
    """Channels at each level as multiples of `width`. Every further level halves the image."""
    blocks: Positive = 2
    """ResNet blocks of a level on the way down; one more on the way up."""
    attention: tuple[Positive, ...] = (4,)
    """Reductions at which there is self-attention: 4 is a quarter of the image's size."""
    dropout: Fraction = 0.0
    """Dropout in the ResNet blocks."""
    timesteps: Positive = 1000
    """T, the steps of the forward process."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the noise grows with the time."""
    prediction: Prediction = "v"
    """What the network predicts: the noise (as in the paper; needs `clip` with cosine), v = a epsilon - s x0, or the image."""
    variance: Literal["small", "large", "learned"] = "small"
    """sigma_t^2 of the reverse steps: the posterior's, beta_t, or learned between the two for every pixel, which betters the bound."""
    label_dropout: Fraction = 0.1
    """How often a label is hidden in training, so that the model also knows images without one (needed for guidance)."""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """How images are sampled unless said otherwise: by Algorithm 2, or by DDIM (deterministic for eta 0)."""
    steps: Positive = 50
    """Sampling steps unless said otherwise; encoding and decoding take as many."""
    clip: bool = True
    """Hold the estimates of the clean image in [-1, 1] while sampling."""
    lr: PositiveFloat = 1e-3
    """Learning rate of AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of AdamW."""


TRAIN = {"batch": 64, "schedule": "cosine", "clip": 1.0}
"""What the presets' trainings share."""


class DDPM(Model):
    """Samples (unconditional, by label, with guidance), decodes noise, encodes images to noise, denoises, and bounds the likelihood."""

    Config: ClassVar[type] = Config
    averaged: ClassVar[tuple[str, ...]] = ("unet",)
    autocast = True
    likelihood: ClassVar[Literal["exact", "bound"]] = "bound"

    config: Config

    PRESETS: ClassVar = {
        "8px": Preset(
            8,
            Config(size=8, width=24, multipliers=(1, 2), blocks=1, attention=(2,), steps=25, lr=2e-3),
            train={**TRAIN, "images": 50_000, "warmup": 3_000, "ema_halflife": 3_000},
        ),
        "16px": Preset(
            16,
            Config(size=16, width=24, multipliers=(1, 2, 4), blocks=1, attention=(4,), lr=2e-3),
            train={**TRAIN, "images": 60_000, "batch": 32, "warmup": 3_000, "ema_halflife": 4_000},
        ),
        "32px": Preset(
            32,
            Config(size=32, width=24, multipliers=(1, 2, 4), blocks=1, attention=(4,), lr=2e-3),
            train={**TRAIN, "images": 300_000, "warmup": 6_000, "ema_halflife": 10_000},
        ),
        "64px": Preset(
            64,
            Config(size=64, width=64, multipliers=(1, 2, 2, 3), blocks=2, attention=(4, 8), dropout=0.1, lr=3e-4),
            train={**TRAIN, "images": 4_000_000, "warmup": 60_000, "schedule": "constant", "ema_halflife": 100_000},
        ),
    }

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c = self.config
        check_size(c.size, len(c.multipliers))
        self.unet = UNet(
            c.channels,
            c.channels * (2 if c.variance == "learned" else 1),
            width=c.width,
            multipliers=c.multipliers,
            blocks=c.blocks,
            attention=c.attention,
            dropout=c.dropout,
            classes=c.classes,
        )
        self.abar = schedules.SCHEDULES[c.schedule](c.timesteps)  # (T + 1,), float64, stays on the CPU

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("image", "label") if self.config.classes else ("image",)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        c = self.config
        return {"unet": torch.optim.AdamW(self.unet.parameters(), lr=c.lr, weight_decay=c.weight_decay, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        """Algorithm 1."""
        c, x0, label = self.config, batch["image"], None
        B = len(x0)
        if c.classes:
            hidden = torch.rand(B, device=x0.device) < c.label_dropout
            label = torch.where(hidden, c.classes, batch["label"])
        u = (torch.rand(()) + torch.arange(B) / B) % 1
        t = (u * c.timesteps).long().clamp(max=c.timesteps - 1) + 1  # (B,), line 3
        epsilon = torch.randn_like(x0)  # line 4
        a, s = self._signal_and_noise(t, x0)
        xt = a * x0 + s * epsilon
        output, fraction = self._unet(xt, t, label)
        error = (output - target(c.prediction, x0, epsilon, a, s)) ** 2
        loss = (loss_weight(c.prediction, a, s) * error).mean()  # line 5
        if fraction is None:
            yield Update("unet", loss)
            return
        # L_hybrid = L_simple + lambda L_vlb, where L_vlb trains the variance alone (Nichol & Dhariwal 2021, eq. 16; lambda = 0.001)
        guess = to_x0(c.prediction, output.detach(), xt, a, s)
        vlb = bound.term(
            lambda x, t: (guess, fraction), x0, self.abar, t.cpu(), epsilon, c.levels
        ).mean()  # bits per dimension
        yield Update(
            "unet", loss + 0.001 * c.timesteps * vlb, {"simple": loss.detach(), "bound": vlb.detach() * c.timesteps}
        )

    def _unet(self, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The prediction and, where the variance is learned, its fraction of the way (in the logarithm) from beta~ to beta."""
        # The network is told the time on a scale of 1000, whatever T.
        output = self.unet(x, (t * (1000 / self.config.timesteps)).float().to(x.device), label).float()
        if self.config.variance != "learned":
            return output, None
        output, v = output.chunk(2, dim=1)
        return output, (v + 1) / 2

    def _signal_and_noise(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) as (B, 1, 1, 1)."""
        a, s = schedules.signal_and_noise(self.abar[t.cpu()].view(-1, 1, 1, 1))
        return a.to(x), s.to(x)

    def denoiser(self, label: Tensor | int | None = None, guidance: float = 1.0) -> samplers.Denoiser:
        """The function (x_t, t) -> E[x_0 | x_t] of `limner.denoising`; with the learned fraction of the variance, if there is one.

        With a label, `guidance` w amplifies the difference that the label makes (classifier-free guidance, Ho & Salimans
        2022; lecture 003): (1 - w) x_0(x_t) + w x_0(x_t, label), so 0 is unconditional and 1 plainly conditional. That x_0 is
        mixed and not epsilon makes no difference: at the same x_t one is an affine function of the other.
        """

        def ask(x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
            output, fraction = self._unet(x, t, label)
            return to_x0(self.config.prediction, output, x, *self._signal_and_noise(t, x)), fraction

        def denoise(x: Tensor, t: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            given, fraction = ask(x, t, self._labels(label, len(x)))
            if label is not None and guidance != 1.0:
                free, _ = ask(x, t, self._labels(None, len(x)))
                given = free + guidance * (given - free)
            return given if fraction is None else (given, fraction)

        return denoise

    def _labels(self, label: Tensor | int | None, n: int) -> Tensor | None:
        classes = self.config.classes
        if label is None:
            if classes and not self.config.label_dropout:
                raise UserError(
                    "this model was trained with label_dropout 0 and knows no image without a label: give one"
                )
            return torch.full((n,), classes, device=self.device) if classes else None
        if not classes:
            raise UserError("this model was trained without labels (classes = 0): leave the label out")
        label = torch.as_tensor(label, device=self.device).expand(n)
        if label.min() < 0 or label.max() >= classes:
            raise UserError(f"labels of this model are 0 to {classes - 1}")
        return label

    @property
    def _fraction(self) -> float:
        return 1.0 if self.config.variance == "large" else 0.0

    def _times(self, steps: int | None) -> list[int]:
        return schedules.respaced(self.config.timesteps, self.config.steps if steps is None else steps)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        label: Tensor | int | None = None,
        generator: Seed = 0,
        steps: int | None = None,
        sampler: Literal["ddim", "ancestral"] | None = None,
        eta: float = 0.0,
        guidance: float = 1.0,
        callback: samplers.Callback | None = None,
    ) -> Tensor:
        """n images (n, C, H, W) in [-1, 1], by Algorithm 2 ("ancestral") or DDIM with its `eta`.

        `steps` network calls, at the times `schedules.respaced(T, steps)`. Without a label a conditional model draws from all classes.

        Raises:
            UserError: a label that the model does not have, or an unconditional model.
        """
        noise = SampleNoise(n, generator, self.device)
        x = noise.normal(*self.image_shape)
        options = {"noise": lambda: noise.normal(*self.image_shape), "clip": self.config.clip, "callback": callback}
        denoise, times = self.denoiser(label, guidance), self._times(steps)
        if (sampler or self.config.sampler) == "ancestral":
            x = samplers.ancestral(denoise, x, self.abar, times, fraction=self._fraction, **options)
        else:
            x = samplers.ddim(denoise, x, self.abar, times, eta=eta, **options)
        return x.clamp(-1, 1)

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n draws of x_T (n, C, H, W), standard normal. `sample` starts from the same; with DDIM it is `decode` of them."""
        return SampleNoise(n, generator, self.device).normal(*self.image_shape)

    @torch.no_grad()
    def decode(self, latent: Tensor, *, label: Tensor | int | None = None, steps: int | None = None) -> Tensor:
        """x_T (B, C, H, W) -> images (B, C, H, W) by deterministic DDIM."""
        return samplers.ddim(self.denoiser(label), latent, self.abar, self._times(steps), clip=self.config.clip).clamp(
            -1, 1
        )

    @torch.no_grad()
    def encode(self, image: Tensor, *, label: Tensor | int | None = None, steps: int | None = None) -> Tensor:
        """Images (B, C, H, W) -> the x_T (B, C, H, W) that DDIM makes nearly the same images of."""
        return samplers.ddim_inversion(
            self.denoiser(label), image, self.abar, self._times(steps), clip=self.config.clip
        )

    def reconstruct(self, image: Tensor, *, label: Tensor | int | None = None, steps: int | None = None) -> Tensor:
        """The DDIM round trip, (B, C, H, W). What it misses falls with the number of steps."""
        return self.decode(self.encode(image, label=label, steps=steps), label=label, steps=steps)

    @torch.no_grad()
    def denoise(self, image: Tensor, sigma: Tensor, *, label: Tensor | int | None = None) -> Tensor:
        """E[x0 | x0 + sigma noise = image], (B, C, H, W); sigma (B,) >= 0 in the units of the image.

        The network is asked at the time (interpolated) whose noise is sigma times its signal; beyond the schedule's ends, at its end.
        """
        sigma = sigma.to(image).expand(len(image)).view(-1, 1, 1, 1)
        t = schedules.time_of_sigma(self.abar, sigma.flatten())
        a = (1 + sigma**2).rsqrt()
        xt = a * image
        output, _ = self._unet(xt, t, self._labels(label, len(image)))
        return to_x0(self.config.prediction, output, xt, a, sigma * a).clamp(-1, 1)

    @torch.no_grad()
    def bits_per_dim(
        self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, timesteps: int | None = 50
    ) -> Tensor:
        """(B,) the variational bound (Ho et al. 2020, eqs. 5 and 13) of images of `config.levels` grey levels.

        `timesteps` of its T - 1 inner terms are drawn for each image without bias; None computes all, at T network calls.
        """
        noise = SampleNoise(len(image), generator, self.device)
        return bound.bits_per_dim(
            self.denoiser(label),
            image,
            self.abar,
            noise=noise,
            levels=self.config.levels,
            timesteps=timesteps,
            fraction=self._fraction,
        ).float()
