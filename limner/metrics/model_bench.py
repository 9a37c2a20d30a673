"""A model on the bench: what it draws, scores and reconstructs, each made once and only if asked for."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limner import capabilities
from limner.edit.projection import project
from limner.errors import UserError
from limner.metrics.bench import Bench
from limner.metrics.features import Extractor, to_bytes
from limner.noise import mix, seeds

if TYPE_CHECKING:
    from limner.data import Dataset

CHUNK = 256
"""Images taken through a model at once where memory, not speed, is what matters."""


class ModelBench(Bench):
    """One model, the data it is measured on, and how many images.

    Args:
        model: in evaluation mode.
        train, test: the two splits of its data.
        n: images to draw and to compare with, and held-out images to score and reconstruct. Fewer where the data hold out fewer.
        batch: images drawn at once.
        seed: of the samples and of the choice of held-out images.
        options: extra keywords by verb, for models that take them: {"score": {"samples": 100}, "sample": {"steps": 50}}.
        stats: the run's training log.
        extractor, say: as in `Bench`.
    """

    def __init__(
        self,
        model: Any,
        train: Dataset,
        test: Dataset,
        *,
        n: int = 1000,
        batch: int = 64,
        seed: int = 0,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        stats: Sequence[Mapping[str, Any]] = (),
        extractor: Callable[[Bench], Extractor] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        super().__init__(train, test, n=n, seed=seed, extractor=extractor, say=say)
        self.model, self.batch = model, batch
        self.options = {verb: dict(values) for verb, values in (options or {}).items()}
        self.stats = list(stats)
        self.device = model.device
        self._drawn: list[Tensor] = []  # batches of samples, float, in order
        self._times: list[tuple[int, float]] = []  # images and seconds of each batch drawn
        self._copies = self._found = torch.empty(0, dtype=torch.uint8)
        self._check_options()

    def _check_options(self) -> None:
        verbs = {"score": "bits_per_dim", "sample": "sample"}
        for verb, values in self.options.items():
            if verb not in verbs:
                raise UserError(f"there are no options for '{verb}'; choose {' or '.join(verbs)}")
            known = extra_keywords(getattr(self.model, verbs[verb], None))
            for key in values:
                if key not in known:
                    has = f"it takes {', '.join(known)}" if known else "it takes none"
                    raise UserError(f"--{verb}.{key}: this model's {verbs[verb]} has no such option; {has}")

    def can(self, capability: str) -> bool:
        """Whether the model has the capability of this name."""
        return isinstance(self.model, capabilities.CAPABILITIES[capability])

    @property
    def has_samples(self) -> bool:
        """Whether the model draws new images."""
        return self.can("sample")

    def settings(self, verb: str, method: str) -> str:
        """The extra keywords of a method with the values that will be used, as "samples=100", for the note beside a figure."""
        values = {**extra_keywords(getattr(self.model, method)), **self.options.get(verb, {})}
        return ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)

    # ---- samples

    @property
    def conditional(self) -> bool:
        """Whether the model draws images of a class asked for."""
        return "label" in getattr(self.model, "inputs", ())

    @cached_property
    def asked(self) -> Tensor | None:
        """(n,) the classes asked for: those of the held-out images compared with; None of an unconditional model."""
        return self.test.batch(self.held_out_indices[: self.n].numpy(), "cpu")["label"] if self.conditional else None

    def draw(self, n: int) -> Tensor:
        """The first n samples (n, C, H, W) in [-1, 1] of the seed; those drawn before are not drawn again."""
        every = seeds(self.seed, max(n, self.n))
        have = sum(len(part) for part in self._drawn)
        while have < n:
            part = slice(have, min(have + self.batch, max(n, self.n)))
            self._draw_batch(every[part], part)
            have = part.stop
        return torch.cat(self._drawn)[:n] if self._drawn else torch.empty(0, *self.test.images.shape[1:])

    def _draw_batch(self, part_seeds: list[int], part: slice) -> None:
        label = {} if self.asked is None else {"label": self.asked[part].to(self.device)}
        start = self._clock()
        image = self.model.sample(len(part_seeds), generator=part_seeds, **label, **self.options.get("sample", {}))
        seconds = self._clock() - start
        if not torch.isfinite(image).all():
            raise UserError("the model drew images that are not finite numbers: its training has diverged")
        self._times.append((len(part_seeds), seconds))
        self._drawn.append(image.detach().float().cpu().clamp(-1, 1))

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @cached_property
    def samples_bytes(self) -> Tensor:
        """(n, H, W, C) uint8."""
        self.say(f"drawing {self.n} samples")
        return to_bytes(self.draw(self.n), self.test.levels)

    def seconds_per_image(self, batch: int) -> tuple[float, float]:
        """Median seconds per image drawn `batch` at a time, and half the range between the quickest and slowest repeat.

        Batches drawn for other metrics count as repeats; at least three are made unless one takes over two seconds.
        """
        full = [seconds / count for count, seconds in self._times if count == batch]
        full = full[1:] if len(full) > 3 else full  # the first also pays for warming up
        label = {} if not self.conditional else {"label": 0}
        if not full:
            self.model.sample(1, generator=0, **label, **self.options.get("sample", {}))  # warm-up
        while len(full) < 3 and not (full and full[-1] * batch > 2):
            start = self._clock()
            self.model.sample(batch, generator=mix(self.seed, len(full)), **label, **self.options.get("sample", {}))
            full.append((self._clock() - start) / batch)
        return statistics.median(full), (max(full) - min(full)) / 2

    # ---- what the model makes of held-out images

    def bits(self, n: int) -> Tensor:
        """(n,) float64 bits per dimension of the first n held-out images."""
        batch, every = self.held_out(n), seeds(self.seed, n)
        values = []
        for start in range(0, n, CHUNK):
            part = slice(start, min(start + CHUNK, n))
            label = {"label": batch["label"][part].to(self.device)} if self.conditional else {}
            image = batch["image"][part].to(self.device)
            with torch.no_grad():
                bits = self.model.bits_per_dim(image, generator=every[part], **label, **self.options.get("score", {}))
            values.append(bits.double().cpu())
        return torch.cat(values)

    def copies(self, n: int) -> Tensor:
        """(n, H, W, C) uint8, the first n held-out images through the model and back. The last result is kept."""
        if len(self._copies) < n:
            with torch.no_grad():
                parts = [
                    self.model.reconstruct(x.to(self.device)).cpu() for x in self.held_out(n)["image"].split(CHUNK)
                ]
            self._copies = to_bytes(torch.cat(parts), self.test.levels)
        return self._copies[:n]

    def posterior(self, n: int) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (n, ...) of the code of each of the first n held-out images."""
        with torch.no_grad():
            parts = [self.model.posterior(x.to(self.device)) for x in self.held_out(n)["image"].split(CHUNK)]
        mean, log_sigma = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return mean, log_sigma

    def found(self, n: int) -> Tensor:
        """(n, H, W, C) uint8, the nearest to the first n held-out images that a latent search finds. The last result is kept."""
        if len(self._found) < n:
            image = project(self.model, self.held_out(n)["image"].to(self.device), seed=self.seed).image
            self._found = to_bytes(image.cpu(), self.test.levels)
        return self._found[:n]

    # ---- how many

    def fit(self, budget: float) -> tuple[int, int]:
        """Shrink n and m, by halves down to 32, until drawing n samples, and scoring or reconstructing m held-out images, are each
        expected to take at most `budget` seconds. Returns both."""
        if self.can("sample"):
            self.draw(min(self.batch, self.n))
            self.n = _halved(self.n, budget, min(seconds / count for count, seconds in self._times))
        slowest = 0.0
        for capability, work in (("score", self.bits), ("reconstruct", self.copies)):
            if self.can(capability):
                self._copies = self._copies[:0]
                start = self._clock()
                work(min(16, self.m))
                slowest = max(slowest, (self._clock() - start) / min(16, self.m))
        self.m = _halved(self.m, budget, slowest)
        self._forget()
        return self.n, self.m


def _halved(n: int, budget: float, seconds: float) -> int:
    while n > 32 and n * seconds > budget:
        n = max(32, n // 2)
    return n


def extra_keywords(method: Any) -> dict[str, Any]:
    """The keywords, with their defaults, that a model's method takes beyond those of the capability protocols."""
    if method is None:
        return {}
    known = {"self", "n", "image", "x", "label", "text", "generator"}
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in known and p.default is not p.empty}
