"""Principal component analysis, and the linear autoencoder that learns the same subspace by gradient.

Both are an encoder and a decoder without nonlinearities, of which no pair of that width reconstructs better in squared error:

    z = V^T (x - m),   x^ = m + V z,                V = the k leading eigenvectors of cov x,   m = mean x      (`fit="exact"`)
    z = A x + a,       x^ = B z + b,                A, B, a, b = argmin E |x - x^|^2                         (`fit="gradient"`)

Baldi & Hornik 1989, "Neural Networks and Principal Component Analysis": every minimum of the second has B A = V V^T, so it projects
on PCA's subspace, but in a basis of its own, since B R, R^-1 A is as good for any invertible R (lecture 000). PCA's own basis is
orthogonal, ordered by variance, and its signs are chosen so that the largest entry of each component is positive.

- `exact` keeps the moments of the images, D x D numbers in float64 for images of D, and no gradient is taken: training is reading.
  After one pass its components are those of the training set, of which further whole passes change nothing.
- `incremental` is for images too large for that. Ross et al. 2008, "Incremental Learning for Robust Visual Tracking", section 3.2:
  the components so far, scaled by their singular values, are stacked on the new batch and decomposed anew. A few components more than
  asked for are carried along, and only what lies outside of them is lost.
- `gradient` is trained by Adam.

New images are drawn from the Gaussian of the codes of the training images: of PCA's that is N(0, diag variances), which is the model of
Tipping & Bishop 1999, "Probabilistic Principal Component Analysis", less its white noise on the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from limner.config import ImageConfig, Positive, PositiveFloat, config
from limner.errors import UserError
from limner.model import Batch, Clock, Model, Preset, Update
from limner.noise import SampleNoise, Seed

LARGEST = 8192
"""Numbers of an image up to which `exact` keeps their moments (512 MB)."""
PRIOR_WINDOW = 10_000
"""gradient: the codes of so many images make the Gaussian that is sampled from; earlier ones are forgotten exponentially."""


@config
class Config(ImageConfig):
    """PCA or a linear autoencoder."""

    latent: Positive = 64
    """Components."""
    fit: Literal["exact", "incremental", "gradient"] = "exact"
    """From the images' moments, from a running decomposition (large images), or a linear autoencoder trained by gradient."""
    spare: Positive = 32
    """incremental: components carried along beyond those asked for."""
    lr: PositiveFloat = 1e-3
    """gradient: learning rate of Adam."""


class Principal(NamedTuple):
    """The leading principal components of some vectors."""

    mean: Tensor
    """(D,)"""
    components: Tensor
    """(k, D), orthonormal rows, by falling variance."""
    variances: Tensor
    """(k,) of the vectors along each, with n - 1 in the denominator."""
    total: Tensor
    """Their variance along all directions together."""


class Moments(nn.Module):
    """Mean and scatter of all vectors (n, D) seen, or of about the latest `window`."""

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, dimensions: int, window: int | None = None):
        super().__init__()
        self.window = window
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dimensions, dtype=torch.float64))
        self.register_buffer("scatter", torch.zeros(dimensions, dimensions, dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take in vectors (n, D), by the pairwise update of Chan et al. 1979."""
        x = everyones(x).double()
        if self.window is not None and self.count + len(x) > self.window:
            kept = (self.window - len(x)) / self.count
            self.count.mul_(kept.clamp(min=0))
            self.scatter.mul_(kept.clamp(min=0))
        n = self.count + len(x)
        centred, delta = x - x.mean(0), x.mean(0) - self.mean
        self.scatter.addmm_(centred.T, centred)
        self.scatter.addr_(delta, delta * (self.count * len(x) / n))
        self.mean.add_(delta * (len(x) / n))
        self.count.copy_(n)

    @property
    def covariance(self) -> Tensor:
        """(D, D)"""
        return self.scatter / (self.count - 1).clamp(min=1)

    def principal(self, k: int) -> Principal:
        """The k leading components."""
        variances, vectors = torch.linalg.eigh(self.covariance)
        components = vectors.T.flip(0)[:k]
        return Principal(self.mean, signed(components), variances.flip(0)[:k].clamp(min=0), self.covariance.trace())


class RunningSVD(nn.Module):
    """The `rank` leading singular vectors of the centred vectors (n, D) seen, nearly. Ross et al. 2008, section 3.2."""

    count: Tensor
    mean: Tensor
    scaled: Tensor
    squares: Tensor

    def __init__(self, dimensions: int, rank: int):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dimensions, dtype=torch.float64))
        self.register_buffer("scaled", torch.zeros(min(rank, dimensions), dimensions, dtype=torch.float64))  # S V^T
        self.register_buffer(
            "squares", torch.zeros((), dtype=torch.float64)
        )  # sum |x - m|^2 of all, to the last component

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take in vectors (n, D)."""
        x = everyones(x).double()
        n = self.count + len(x)
        delta = x.mean(0) - self.mean
        shift = torch.sqrt(self.count * len(x) / n) * delta  # what the two parts' different means add to the scatter
        new = torch.cat([x - x.mean(0), shift[None]])
        self.squares.add_(new.square().sum())
        rows = torch.cat([self.scaled, new])
        # The right singular vectors by way of the small rows x rows matrix: rows = U S V^T, so U^T rows = S V^T.
        _, u = torch.linalg.eigh(rows @ rows.T)
        self.scaled.copy_(u.flip(1)[:, : len(self.scaled)].T @ rows)
        self.mean.add_(delta * (len(x) / n))
        self.count.copy_(n)

    def principal(self, k: int) -> Principal:
        """The k leading components."""
        lengths = self.scaled[:k].norm(dim=1)
        components = self.scaled[:k] / lengths.clamp(min=1e-12)[:, None]
        freedom = (self.count - 1).clamp(min=1)
        return Principal(self.mean, signed(components), lengths.square() / freedom, self.squares / freedom)


def everyones(x: Tensor) -> Tensor:
    """The vectors (n, D) of all processes of the run, of which each has as many."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def signed(components: Tensor) -> Tensor:
    """Rows (k, D) turned so that the entry largest in size of each is positive."""
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return components * torch.where(largest < 0, -1.0, 1.0)


class PCA(Model):
    """Encodes, decodes, reconstructs; samples by the Gaussian of the codes."""

    Config = Config
    PRESETS: ClassVar = {
        "8px": Preset(8, Config(size=8, latent=16), {"images": 20_000, "batch": 256}),
        # One pass over 60,000 images, or six over 10,000. A checkpoint or a picture costs an eigendecomposition: one, at the end.
        "32px": Preset(
            28, Config(size=28), {"images": 60_000, "batch": 240, "save_every": 60_000, "grid_every": 60_000}
        ),
        "64px": Preset(
            64, Config(size=64, channels=3, latent=128, fit="incremental"), {"images": 40_000, "batch": 500}
        ),
    }

    mean: Tensor
    components: Tensor
    variances: Tensor
    total: Tensor

    def __init__(self, config: Config | None = None):
        super().__init__(config)
        c, D = self.config, math.prod(self.image_shape)
        if c.latent > D:
            raise UserError(f"an image has {D} numbers: there are no {c.latent} components; lower --model.latent")
        if c.fit == "exact" and D > LARGEST:
            raise UserError(
                f"the moments of images of {D} numbers take {8 * D**2 / 2**30:.1f} GB: use --model.fit incremental"
            )
        self._stale = False
        if c.fit == "gradient":
            self.encoder, self.decoder = nn.Linear(D, c.latent), nn.Linear(c.latent, D)
            self.codes = Moments(c.latent, PRIOR_WINDOW)
            return
        self.seen = Moments(D) if c.fit == "exact" else RunningSVD(D, c.latent + c.spare)
        for name, shape in {"mean": (D,), "components": (c.latent, D), "variances": (c.latent,), "total": ()}.items():
            self.register_buffer(name, torch.zeros(shape))
        # What is saved is up to date.
        self.register_state_dict_pre_hook(lambda model, *_: model.refresh())

    def optimizers(self) -> dict[str, Optimizer]:
        if self.config.fit != "gradient":
            return {}
        return {"autoencoder": Adam(self.parameters(), lr=self.config.lr, fused=True)}

    def train_step(self, batch: Batch, clock: Clock) -> Iterator[Update]:
        x = batch["image"].flatten(1)  # (B, D)
        if self.config.fit == "gradient":
            z = self.encoder(x)
            self.codes.add(z.detach())
            yield Update("autoencoder", F.mse_loss(self.decoder(z), x))
        else:
            self.seen.add(x)
            self._stale = True

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring mean, components and variances up to what was seen. Done by whoever needs them."""
        if self._stale:
            for name, value in self.seen.principal(self.config.latent)._asdict().items():
                getattr(self, name).copy_(value)
            self._stale = False

    @property
    def explained(self) -> Tensor:
        """(k,) share of the training images' variance that lies along each component. Not for `fit="gradient"`."""
        self.refresh()
        return self.variances / self.total

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> z, (B, latent)."""
        x = image.flatten(1)
        if self.config.fit == "gradient":
            return self.encoder(x)
        self.refresh()
        return (x - self.mean) @ self.components.T

    def linear(self, latent: Tensor) -> Tensor:
        """(B, latent) -> x^, (B, C, H, W), not cut to [-1, 1]."""
        if self.config.fit == "gradient":
            return self.decoder(latent).unflatten(1, self.image_shape)
        self.refresh()
        return (self.mean + latent @ self.components).unflatten(1, self.image_shape)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) -> x^, (B, C, H, W), cut to [-1, 1]."""
        return self.linear(latent).clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> x^, the same shape and range."""
        return self.decode(self.encode(image))

    def latents(self, n: int, *, generator: Seed = 0) -> Tensor:
        """n draws (n, latent) of the Gaussian of the codes of the training images."""
        noise = SampleNoise(n, generator, self.device).normal(self.config.latent)
        if self.config.fit != "gradient":
            self.refresh()
            return noise * self.variances.sqrt()
        values, vectors = torch.linalg.eigh(self.codes.covariance)
        root = vectors * values.clamp(min=0).sqrt()  # root @ root.T = covariance
        return (self.codes.mean + noise.double() @ root.T).float()

    @torch.no_grad()
    def sample(self, n: int, *, label: Tensor | int | None = None, generator: Seed = 0) -> Tensor:
        """n images (n, C, H, W) in [-1, 1], the decoded draws of that Gaussian. Knows no labels: `label` is ignored."""
        return self.decode(self.latents(n, generator=generator))
