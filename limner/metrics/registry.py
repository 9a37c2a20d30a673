"""The metrics by name: what each means, for a reader who has never met it, and how it is measured.

A metric asks what a model *can do* and what the data have, never which family the model belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limner.metrics import measures
from limner.metrics.bench import Bench
from limner.metrics.figure import Figure


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    title: str
    """Short, for the head of a table."""
    meaning: str
    """One or two sentences for the glossary."""
    lacks: Callable[[Bench], str]
    """Why it does not apply to this model or data; empty where it does."""
    measure: Callable[[Bench], dict[str, Any]]
    """The figure's fields: value, error, note, floor ..."""
    protocol: Callable[[Bench], str] = measures.nothing
    """What another figure must share to be compared with this one; known before measuring."""
    unit: str = ""
    better: str = ""
    """ "lower", "higher", or "" where neither is better in itself."""

    def figure(self, bench: Bench) -> Figure:
        """Measure it."""
        return Figure(name=self.name, protocol=self.protocol(bench), **self.measure(bench))


_KID = Metric(
    name="kid",
    title="KID",
    better="lower",
    meaning="Kernel distance between the features of samples and of held-out images. Around 0 the two sets cannot be told apart;"
    " read it beside its floor, the same distance for real images that no model made.",
    lacks=measures.lacks("sample", "draws no new images"),
    protocol=measures.distance_protocol,
    measure=measures.kid_to_held_out,
)
_FRECHET = Metric(
    name="frechet",
    title="Fréchet distance",
    better="lower",
    meaning="Distance between the features of samples and of held-out images, each set taken as one Gaussian: the formula of FID on"
    " another network's features. Too large on few images, so it is only read beside its floor.",
    lacks=measures.frechet_lacks,
    protocol=measures.distance_protocol,
    measure=measures.frechet_to_held_out,
)
_BITS = Metric(
    name="bits_per_dim",
    title="Bits per dimension",
    unit="bits",
    better="lower",
    meaning="How many bits the model needs for each pixel value of an image it has never seen: the better it predicts, the fewer."
    " Some families give the exact figure, others a bound that the true figure does not exceed.",
    lacks=measures.lacks("score", "gives images no probability"),
    protocol=measures.bits_protocol,
    measure=measures.bits,
)
_PSNR = Metric(
    name="psnr",
    title="Reconstruction",
    unit="dB",
    better="higher",
    meaning="Peak signal-to-noise ratio between held-out images and their copies through the model. Six decibels more halve the error.",
    lacks=measures.lacks("reconstruct", "has no way from an image to a latent"),
    protocol=measures.reconstruction_protocol,
    measure=measures.reconstruction,
)
_SEARCH = Metric(
    name="psnr_search",
    title="Nearest image found",
    unit="dB",
    better="higher",
    meaning="For models without an encoder: the same ratio for the nearest image that gradient descent on the latent finds.",
    lacks=measures.search_lacks,
    protocol=measures.search_protocol,
    measure=measures.search,
)
_CLASSES = Metric(
    name="classes",
    title="Classes drawn",
    better="higher",
    meaning="The number of equally frequent classes that would be as varied as the samples are, in the eyes of a classifier. Real"
    " images give its ceiling; a collapsed model falls towards 1.",
    lacks=measures.labels_lacks,
    protocol=measures.labels_protocol,
    measure=measures.classes,
)
_ASKED = Metric(
    name="as_asked",
    title="Classified as asked",
    better="higher",
    meaning="The share of samples that a classifier takes for the class that was asked for.",
    lacks=measures.asked_lacks,
    protocol=measures.labels_protocol,
    measure=measures.asked,
)
_NOVELTY = Metric(
    name="novelty",
    title="Novelty",
    meaning="Distance of samples to their nearest training image over the same distance for held-out images. About 1 for new images,"
    " near 0 for copies; blur lowers it too.",
    lacks=measures.novelty_lacks,
    protocol=measures.novelty_protocol,
    measure=measures.novelty,
)
_SECONDS_BATCH = Metric(
    name="seconds_batch",
    title="Time per image",
    unit="s",
    better="lower",
    meaning="Time to draw one image when many are drawn at once.",
    lacks=measures.lacks("sample", "draws no new images"),
    protocol=measures.speed_protocol(measures.batched),
    measure=measures.speed(measures.batched),
)
_SECONDS_ONE = Metric(
    name="seconds_one",
    title="Time for a single image",
    unit="s",
    better="lower",
    meaning="Time to draw one image alone: the wait of somebody who wants just one.",
    lacks=measures.lacks("sample", "draws no new images"),
    protocol=measures.speed_protocol(measures.singly),
    measure=measures.speed(measures.singly),
)
_PARAMETERS = Metric(
    name="parameters",
    title="Parameters",
    meaning="Trainable numbers in all of a model's networks, those included that only training needs.",
    lacks=measures.nothing,
    measure=measures.parameters,
)
_TRAIN_SECONDS = Metric(
    name="train_seconds",
    title="Training time",
    unit="s",
    meaning="Time spent in training steps.",
    lacks=measures.log_lacks("seconds"),
    measure=measures.last("seconds"),
)
_TRAIN_IMAGES = Metric(
    name="train_images",
    title="Images seen",
    meaning="Training images seen, repeats counted.",
    lacks=measures.log_lacks("images"),
    measure=measures.last("images"),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(_KID, _FRECHET, _CLASSES, _ASKED, _NOVELTY, _BITS, _PSNR, _SEARCH),
        *(_SECONDS_BATCH, _SECONDS_ONE, _PARAMETERS, _TRAIN_SECONDS, _TRAIN_IMAGES),
    )
}
"""In the order they are measured: speeds after what draws samples, since those draws count as repeats."""
