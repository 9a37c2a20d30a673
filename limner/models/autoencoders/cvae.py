"""Conditional variational autoencoder: a VAE whose encoder and decoder are told the label, so that z holds all but that.

Kingma et al. 2014, "Semi-Supervised Learning with Deep Generative Models" (M2, equation 6) for images given labels; Sohn et al.
2015, "Learning Structured Output Representation using Deep Conditional Generative Models" in general; lecture 000. With the label y,

    log p(x|y) >= ELBO(x, y) = E_q log p(x|y, z) - KL(q(z|x, y) || p(z|y))                    (Sohn et al., equation 4)

The prior p(z|y) is N(0, I) for all labels (Kingma et al.; Sohn et al. remark that z may be made independent of what is given). A
learned N(m_y, L_y L_y') would be the same model: z = m_y + L_y u with u ~ N(0, I) leaves the divergence as it is, and the decoder
begins with an affine map for each label, which contains that one.

Images without a label. Labels being equally probable a priori, log p(x) = log 1/K sum_y p(x|y) >= log 1/K sum_y exp ELBO(x, y).
Where a label is needed and none is given, it is the y of the largest ELBO at z = the posterior mean: Bayes' rule, so far as the
bound is tight.

The latent is the code and the label side by side: (z, one-hot y). So two images of unlike classes can be interpolated, and the
style of an image given another label.

Deviations: networks and likelihoods are those of the `vae`. The label does not enter the encoder beside the image: the encoder ends
in a mean and a deviation for each label, of which the label chooses (so one pass gives q(z|x, y) for all y); averaged weights.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.config import Positive, config
from limner.errors import UserError
from limner.losses.gaussian import kl_to_standard_normal
from limner.model import Preset
from limner.models.autoencoders import vae
from limner.noise import SampleNoise, Seed


@config
class Config(vae.Config):
    """A VAE's, and what it is told of the labels."""

    classes: Positive = 10
    """Classes of the labels; filled from the data."""


class ForLabel(nn.Module):
    """(z, y) side by side, (B, latent + classes), to (B, classes * (latent + 1)): (z, 1) in the place of its label, zeros elsewhere.

    So the linear layer that follows has a matrix and a bias for each label. A label between two gets a mixture of theirs.
    """

    def __init__(self, latent: int, classes: int):
        super().__init__()
        self.sizes = [latent, classes]

    def forward(self, code: Tensor) -> Tensor:
        z, y = code.split(self.sizes, dim=1)
        return (y[:, :, None] * F.pad(z, (0, 1), value=1.0)[:, None]).flatten(1)


class CVAE(vae.VAE):
    """Samples by label, scores by a bound (with or without labels), encodes, reconstructs; tells the label of an image."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(
            8,
            Config(size=8, levels=17, network="mlp", latent=8, hidden=(256, 128)),
            {**vae.TRAIN, "images": 200_000, "ema_halflife": 5_000},
        ),
        # A small, cheap code (about 5 nats): its draws from the prior are those that the decoder knows, each clearly of its class.
        "32px": Preset(
            28,
            Config(size=28, network="mlp", latent=8, likelihood="gaussian", beta=16.0, lr=2e-3),
            {**vae.TRAIN, "images": 300_000},
        ),
        "64px": Preset(
            64,
            Config(size=64, channels=3, latent=64, width=48, likelihood="gaussian"),
            {**vae.TRAIN, "images": 2_000_000},
        ),
    }
    inputs = ("image", "label")

    def __init__(self, config: Config | None = None):
        c = config or Config()
        super().__init__(c, gives=c.classes * 2 * c.latent, takes=c.classes * (c.latent + 1))
        self.decoder = nn.Sequential(ForLabel(c.latent, c.classes), self.decoder)

    def labels(self, label: Tensor | int, n: int) -> Tensor:
        """(n,) int64 of an int for all or of (n,) labels.

        Raises:
            UserError: a label that the model does not have.
        """
        classes = self.config.classes
        label = torch.as_tensor(label, device=self.device).expand(n).long()
        if n and not 0 <= int(label.min()) <= int(label.max()) < classes:
            raise UserError(f"labels must be between 0 and {classes - 1}: the model has {classes} classes")
        return label

    def posterior(self, image: Tensor, *, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x, y), (B, latent) each; with the most probable label where none is given."""
        label = self.classify(image) if label is None else self.labels(label, len(image))
        for_each = self.encoder(image).to(image.dtype).unflatten(1, (self.config.classes, -1))  # (B, classes, 2 latent)
        mu, log_sigma = for_each[torch.arange(len(image), device=image.device), label].chunk(2, dim=1)
        return mu, log_sigma

    def code(self, z: Tensor, label: Tensor | int | None) -> Tensor:
        """(B, latent + classes): the code and the label, as the decoder takes them.

        Raises:
            UserError: there is no label, or one that the model does not have.
        """
        if label is None:
            raise UserError(
                "a CVAE decodes a code together with a label, and bounds the likelihood of images given theirs: give it"
            )
        return torch.cat([z, F.one_hot(self.labels(label, len(z)), self.config.classes).to(z.dtype)], dim=1)

    def prior(self, noise: SampleNoise, label: Tensor | int | None) -> Tensor:
        # The label's noise last: of one seed, the code is the same for all labels.
        z = noise.normal(self.config.latent)
        return self.code(z, noise.integers(self.config.classes) if label is None else label)

    # --- Images without a label ---

    def bits_per_dim(
        self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, samples: int = 1
    ) -> Tensor:
        """(B,) upper bound of the bits per dimension of images (B, C, H, W) in [-1, 1]: given their labels, or of the image alone
        (then all labels are tried). Else as in the VAE.

        Raises:
            UserError: the likelihood gives no probability to such images (see `log_mass`), or a label that the model does not have.
        """
        if label is not None:
            return super().bits_per_dim(image, label=label, generator=generator, samples=samples)
        bits = [
            super(CVAE, self).bits_per_dim(image, label=y, generator=generator, samples=samples)
            for y in self.every_label(image)
        ]
        unit = math.log(2) * math.prod(self.image_shape)
        nats = torch.logsumexp(-torch.stack(bits) * unit, dim=0) - math.log(self.config.classes)
        return -nats / unit

    @torch.no_grad()
    def classify(self, image: Tensor) -> Tensor:
        """(B,) int64, the most probable label of each image under the model's own bound."""
        scores = []
        for y in self.every_label(image):
            mu, log_sigma = self.posterior(image, label=y)
            log_p = self.log_likelihood(image, self.decoder(self.code(mu, y)).to(image.dtype))
            scores.append(log_p - kl_to_standard_normal(mu, log_sigma))
        return torch.stack(scores).argmax(dim=0)

    def every_label(self, image: Tensor) -> list[Tensor]:
        """For each class, that label for all images: `classes` tensors (B,)."""
        return [torch.full((len(image),), y, device=image.device) for y in range(self.config.classes)]

    # --- Encoding ---

    def encode(self, image: Tensor, *, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, latent + classes): mean of q(z|x, y) and the one-hot label, the most probable if not given."""
        label = self.classify(image) if label is None else label
        return self.code(self.posterior(image, label=label)[0], label)

    def reconstruct(self, image: Tensor, *, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> mean image given the posterior mean and the label, the most probable if not given."""
        return self.decode(self.encode(image, label=label))
