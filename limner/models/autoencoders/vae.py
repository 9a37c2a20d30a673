"""Variational autoencoder: a latent-variable model of images, trained by a lower bound of its likelihood.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes"; lectures 000, 003 and 004. With the prior p(z) = N(0, I) and the
encoder's q(z|x) = N(mu(x), diag sigma(x)^2),

    log p(x) >= ELBO = E_q log p(x|z) - KL(q(z|x) || p(z))                        (equation 3)
    KL = 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2)                       (equation 10, appendix B)
    z = mu + sigma * epsilon,  epsilon ~ N(0, I)                                  (section 2.4, the reparameterisation)

Lecture 004 writes the KL with sigma for the *variance*; with the standard deviation, which its code predicts, the term is
sigma^2, as here. A tighter bound on the same model is that of importance weighted autoencoders (Burda et al. 2016, equation 8),

    log p(x) >= IWAE_k = E log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x),  z_1 ... z_k ~ q(z|x).

The likelihood p(x|z) treats pixels as independent given z:

- `discretized_logistic`: a mixture of discretised logistics (Salimans et al. 2017) for each pixel, of which the decoder gives
  weights, means and scales. Gives probabilities of 8-bit images, so its bits per dimension compare with any model's.
- `gaussian`: N(x; m(z), s^2), with one s for all pixels: `sigma`, or learned where that is 0 (Rybkin et al. 2021, "sigma-VAE").
  Trained on the density, as in the paper; *scored* by the Gaussian's mass in each grey level's bin, which is a likelihood of
  8-bit images (the outermost bins are open, so the masses sum to 1).
- `bernoulli`: cross-entropy of pixels scaled to [0, 1]. A likelihood of black-and-white images only: others are not scored.

Deviations from the paper: convolutional networks, Adam for AdaGrad, averaged weights, and a weight `beta` on the KL term while
training (lecture 004; 1 is the paper's). The loss is -ELBO in bits per dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, NonNegative, NonNegativeFloat, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.losses.gaussian import discretized_gaussian_log_prob, kl_to_standard_normal, normal_log_density
from limner.losses.logistic import (
    couple,
    discretized_logistic_mixture_log_prob,
    levels_of,
    mixture_channels,
    sample_discretized_logistic_mixture,
    split_mixture,
    values_of,
)
from limner.model import Batch, Clock, Model, Preset, Update
from limner.nn.conv_stacks import ConvDecoder, ConvEncoder
from limner.nn.mlp import mlp
from limner.noise import SampleNoise, Seed

DECODED_AT_ONCE = 1024


@config
class Config(ImageConfig):
    """A variational autoencoder's networks and likelihood."""

    levels: Positive = 256
    """Grey levels of the images: 256 for 8 bits."""
    likelihood: Literal["discretized_logistic", "gaussian", "bernoulli"] = "discretized_logistic"
    """Distribution of a pixel given the latent."""
    mixtures: Positive = 5
    """discretized_logistic: components of the mixture."""
    sigma: NonNegativeFloat = 0.0
    """gaussian: standard deviation of a pixel (images span [-1, 1]); 0 learns it."""
    beta: NonNegativeFloat = 1.0
    """Weight of the KL term while training; 1 trains the ELBO."""
    network: Literal["mlp", "conv"] = "conv"
    """Fully connected or convolutional."""
    latent: Positive = 64
    """Dimensions of the latent."""
    hidden: tuple[Positive, ...] = (512, 256)
    """mlp: neurons of the encoder's hidden layers; the decoder has them in reverse."""
    width: Positive = 32
    """conv: channels after the first halving of the image, doubled at each further one."""
    blocks: NonNegative = 1
    """conv: residual blocks at each size of the feature maps."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""


TRAIN = {"batch": 64, "warmup": 10_000, "schedule": "cosine", "clip": 1.0, "ema_halflife": 10_000}


class VAE(Model):
    """Samples, scores by a bound, encodes and reconstructs. `config.likelihood` is the distribution of pixels given z."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(
            8,
            Config(size=8, levels=17, network="mlp", latent=16, hidden=(256, 128)),
            {**TRAIN, "images": 200_000, "ema_halflife": 5_000},
        ),
        "16px": Preset(16, Config(size=16, latent=16), {**TRAIN, "images": 300_000}),
        "32px": Preset(28, Config(size=28), {**TRAIN, "images": 600_000}),
        "64px": Preset(64, Config(size=64, channels=3, latent=128, width=48), {**TRAIN, "images": 2_000_000}),
    }
    averaged = ("encoder", "decoder")
    autocast = True
    likelihood: Literal["exact", "bound"] = "bound"

    def __init__(self, config: Config | None = None, *, gives: int = 0, takes: int = 0):
        """The encoder gives `gives` numbers and the decoder takes `takes`: by default 2 * latent and latent."""
        super().__init__(config)
        c = self.config
        gives, takes = gives or 2 * c.latent, takes or c.latent
        if c.likelihood == "discretized_logistic":
            outputs = mixture_channels(c.channels, c.mixtures)
        else:
            outputs = c.channels
        if c.network == "mlp":
            sizes, pixels = [c.channels * c.size**2, *c.hidden], c.size**2
            self.encoder: nn.Module = nn.Sequential(nn.Flatten(), mlp([*sizes, gives]))
            unflatten = nn.Unflatten(1, (outputs, c.size, c.size))
            self.decoder: nn.Module = nn.Sequential(mlp([takes, *c.hidden[::-1], outputs * pixels]), unflatten)
        else:
            self.encoder = ConvEncoder(c.channels, c.size, c.width, gives, blocks=c.blocks)
            self.decoder = ConvDecoder(takes, outputs, c.size, c.width, blocks=c.blocks)
        if c.likelihood == "gaussian":
            log_sigma = torch.tensor(math.log(c.sigma or 0.5))
            self.log_sigma = nn.Parameter(log_sigma, requires_grad=c.sigma == 0)

    def optimizers(self) -> dict[str, Optimizer]:
        trainable = [p for p in self.parameters() if p.requires_grad]
        return {"vae": Adam(trainable, lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        reconstruction, kl = self.terms(batch)
        bits = 1 / (math.log(2) * math.prod(self.image_shape))
        log = {"reconstruction": bits * reconstruction.detach(), "kl": bits * kl.detach()}
        yield Update("vae", bits * (reconstruction + self.config.beta * kl), log)

    def terms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """E -log p(x|z), with one z for each image, and the KL term; in nats, means over the batch, with gradients."""
        x, label = batch["image"], batch.get("label")
        mu, log_sigma = self.posterior(x, label=label)
        z = mu + torch.exp(log_sigma) * torch.randn_like(mu)
        params = self.decoder(self.code(z, label)).to(x.dtype)
        return -self.log_likelihood(x, params).mean(), kl_to_standard_normal(mu, log_sigma).mean()

    def posterior(self, image: Tensor, *, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z|x), (B, latent) each, of images (B, C, H, W) in [-1, 1]. Ignores `label`."""
        mu, log_sigma = self.encoder(image).to(image.dtype).chunk(2, dim=1)
        return mu, log_sigma

    def code(self, z: Tensor, label: Tensor | None) -> Tensor:
        """What the decoder is given for z (B, latent): z itself, whatever the label."""
        return z

    def log_likelihood(self, x: Tensor, params: Tensor) -> Tensor:
        """(B,) log p(x|z) in nats, as trained, where `params` (B, P, H, W) is the decoder's output for z."""
        c = self.config
        if c.likelihood == "discretized_logistic":
            return discretized_logistic_mixture_log_prob(x, params, c.levels).flatten(1).sum(1)
        if c.likelihood == "gaussian":
            return normal_log_density(x, params, self.log_sigma).flatten(1).sum(1)
        return -F.binary_cross_entropy_with_logits(params, (x + 1) / 2, reduction="none").flatten(1).sum(1)

    def log_mass(self, x: Tensor, params: Tensor) -> Tensor:
        """(B,) log-probability in nats of the grey levels of x given the decoder's output: what bits per dimension count.

        Raises:
            UserError: the likelihood is Bernoulli and the images have more than two levels.
        """
        c = self.config
        if c.likelihood == "gaussian":
            return discretized_gaussian_log_prob(x, params, self.log_sigma, c.levels).flatten(1).sum(1)
        if c.likelihood == "bernoulli" and c.levels > 2:
            raise UserError(
                f"a VAE with likelihood 'bernoulli' gives no probability to images of {c.levels} grey levels, only to "
                "black-and-white ones (levels 2); train with likelihood 'discretized_logistic' or 'gaussian' to score these"
            )
        return self.log_likelihood(x, params)

    # --- Scoring ---

    @torch.no_grad()
    def elbo(self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, samples: int = 1) -> Tensor:
        """(B,) ELBO in nats, with the analytic KL and the mean of log p(x|z) over `samples` draws of z for each image."""
        mu, log_sigma = self.posterior(image, label=label)
        _, log_mass = self._posterior_draws(image, label, mu, log_sigma, samples, generator)
        return log_mass.mean(dim=1) - kl_to_standard_normal(mu, log_sigma)

    @torch.no_grad()
    def iwae(self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, samples: int = 100) -> Tensor:
        """(B,) IWAE_k in nats, k = `samples` (Burda et al. 2016, equation 8): rises with k, in expectation, to log p(x)."""
        mu, log_sigma = self.posterior(image, label=label)
        z, log_mass = self._posterior_draws(image, label, mu, log_sigma, samples, generator)
        log_prior = normal_log_density(z, torch.zeros_like(z), torch.zeros_like(z)).sum(-1)
        log_q = normal_log_density(z, mu[:, None], log_sigma[:, None]).sum(-1)
        return torch.logsumexp(log_mass + log_prior - log_q, dim=1) - math.log(samples)

    def bits_per_dim(
        self, image: Tensor, *, label: Tensor | None = None, generator: Seed = 0, samples: int = 1
    ) -> Tensor:
        """(B,) upper bound of the bits per dimension of images (B, C, H, W) in [-1, 1] of `config.levels` grey levels.

        From the ELBO with one draw of z, or from IWAE_k where `samples` = k > 1. Knows no labels: `label` is ignored.

        Raises:
            UserError: the likelihood gives no probability to such images (see `log_mass`).
        """
        if samples > 1:
            nats = self.iwae(image, label=label, generator=generator, samples=samples)
        else:
            nats = self.elbo(image, label=label, generator=generator)
        return -nats / (math.log(2) * math.prod(self.image_shape))

    def _posterior_draws(
        self, x: Tensor, label: Tensor | None, mu: Tensor, log_sigma: Tensor, samples: int, generator: Seed
    ) -> tuple[Tensor, Tensor]:
        """z (B, samples, latent) from q(z|x), and log p(x|z) of each, (B, samples)."""
        noise = SampleNoise(len(x), generator, x.device).normal(samples, mu.shape[1]).to(mu.dtype)
        z = mu[:, None] + torch.exp(log_sigma)[:, None] * noise
        each, log_mass = self.code(z.flatten(0, 1), None if label is None else label.repeat_interleave(samples)), []
        for start in range(0, len(each), DECODED_AT_ONCE):
            part = torch.arange(start, min(start + DECODED_AT_ONCE, len(each)), device=x.device)
            log_mass.append(self.log_mass(x[part // samples], self.decoder(each[part])))
        return z, torch.cat(log_mass).view(len(x), samples)

    # --- Encoding and sampling ---

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> mean of q(z|x), (B, latent)."""
        return self.posterior(image)[0]

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) -> mean image of p(x|z), (B, C, H, W) in [-1, 1]."""
        params = self.decoder(latent)
        if self.config.likelihood == "discretized_logistic":
            return mixture_mean(params, self.config.channels, self.config.levels)
        return params.clamp(-1, 1) if self.config.likelihood == "gaussian" else 2 * torch.sigmoid(params) - 1

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> mean image given the posterior mean, the same shape and range."""
        return self.decode(self.encode(image))

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n draws (n, latent) of the prior N(0, I)."""
        return self.prior(SampleNoise(n, generator, self.device), None)

    def prior(self, noise: SampleNoise, label: Tensor | int | None) -> Tensor:
        """Draws (n, latent) of the prior, whatever the label."""
        return noise.normal(self.config.latent)

    @torch.no_grad()
    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0, pixels: bool = False) -> Tensor:
        """n images (n, C, H, W) in [-1, 1]: z from the prior, then the mean image of p(x|z), as is the custom.

        With `pixels` the image is drawn from p(x|z): a true, noisier sample of the model. Knows no labels: `label` is ignored.
        """
        c, noise = self.config, SampleNoise(n, generator, self.device)
        z = self.prior(noise, label)
        if not pixels:
            return self.decode(z)
        params = self.decoder(z)
        if c.likelihood == "discretized_logistic":
            u_mix, u_value = noise.uniform(c.size, c.size), noise.uniform(*self.image_shape)
            return sample_discretized_logistic_mixture(params, u_mix, u_value, c.levels)
        if c.likelihood == "gaussian":
            x = params + torch.exp(self.log_sigma) * noise.normal(*self.image_shape)
            return values_of(levels_of(x, c.levels), c.levels)
        return 2 * (noise.uniform(*self.image_shape) < torch.sigmoid(params)).float() - 1


def mixture_mean(params: Tensor, channels: int, levels: int) -> Tensor:
    """Mean (B, C, H, W) of the pixels' mixture of logistics cut to [-1, 1]; `params` as in `split_mixture`.

    For one logistic with mean m and scale s,

        E clip(y, -1, 1) = -1 + int_{-1}^{1} (1 - F(y)) dy = -1 + s (softplus((m + 1) / s) - softplus((m - 1) / s)).

    Of several coupled channels each is given the earlier ones' means, exact but for the cut.
    """
    log_weights, means, log_scales, coefficients = split_mixture(params, channels, levels)
    each = torch.zeros_like(means)  # (B, K, C, H, W)
    for c in range(channels):
        m = couple(means.flatten(0, 1)[:, None], coefficients.flatten(0, 1)[:, None], each.flatten(0, 1))
        m, s = m[:, 0, c].view_as(each[:, :, c]), torch.exp(log_scales[:, :, c])
        each[:, :, c] = -1 + s * (F.softplus((m + 1) / s) - F.softplus((m - 1) / s))
    return (torch.exp(log_weights)[:, :, None] * each).sum(dim=1).clamp(-1, 1)
