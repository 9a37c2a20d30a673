"""The metrics by name: what each means, for a reader who has never met it, and how it is measured.

A metric asks what a model *can do* and what the data have, never which family the model belongs to. Formulas, ranges, sources and
what each misses stand in the file of each, and together in docs/metrics.md.
"""

from __future__ import annotations

from limner.metrics import measures, set_measures
from limner.metrics.metric import Metric

_ALL = (
    Metric(
        name="kid",
        topic="quality",
        title="KID",
        better="lower",
        meaning=(
            "Kernel distance between the features of samples and of held-out images. Around 0 the two sets cannot "
            "be told apart; read it beside its floor, the same distance for real images that no model made."
        ),
        lacks=set_measures.at_least(3),
        protocol=set_measures.protocol,
        measure=set_measures.kid_to_real,
    ),
    Metric(
        name="fid",
        topic="quality",
        noted=True,
        title="FID",
        better="lower",
        meaning=(
            "Fréchet Inception distance: between the Inception features of samples and of real images, each set "
            "taken as one Gaussian. Too large on few images, so it is only given beside its floor and KID."
        ),
        lacks=set_measures.fid_lacks,
        protocol=set_measures.protocol,
        measure=set_measures.frechet_to_real,
    ),
    Metric(
        name="frechet",
        topic="quality",
        noted=True,
        title="Fréchet distance",
        better="lower",
        meaning=(
            "The formula of FID on another network's features: distance between those of samples and of held-out "
            "images, each set taken as one Gaussian. Too large on few images, so it is only given beside its "
            "floor and KID."
        ),
        lacks=set_measures.other_frechet_lacks,
        protocol=set_measures.protocol,
        measure=set_measures.frechet_to_real,
    ),
    Metric(
        name="cmmd",
        topic="quality",
        title="CMMD",
        better="lower",
        meaning=(
            "Kernel distance between CLIP features of samples and of real images, times 1000. Needs fewer images "
            "than FID and does not take them for Gaussian."
        ),
        lacks=set_measures.cmmd_lacks,
        protocol=set_measures.protocol,
        measure=set_measures.cmmd_to_real,
    ),
    Metric(
        name="inception_score",
        topic="quality",
        title="Inception Score",
        better="higher",
        meaning=(
            "How surely the Inception network names what is on each sample, and how evenly the names are spread. "
            "From 1 up; never looks at the data, nor at variety within a class."
        ),
        lacks=set_measures.score_lacks,
        protocol=set_measures.score_protocol,
        measure=set_measures.score,
    ),
    Metric(
        name="precision",
        topic="quality",
        title="Precision",
        better="higher",
        meaning=(
            "Share of samples that lie where real images are. From 0 to 1; falls with every sample that looks "
            "like nothing in the data, while blur may pass for precise."
        ),
        lacks=set_measures.at_least(4),
        protocol=set_measures.protocol,
        measure=set_measures.precision,
    ),
    Metric(
        name="density",
        topic="quality",
        title="Density",
        better="higher",
        meaning=(
            "How crowded with real images the places are where samples lie. About 1 where both sets are alike; "
            "unlike precision, one odd real image does not raise it."
        ),
        lacks=set_measures.at_least(6),
        protocol=set_measures.protocol,
        measure=set_measures.density,
    ),
    Metric(
        name="told_apart",
        topic="quality",
        title="Told apart",
        better="lower",
        meaning=(
            "Accuracy of a classifier that learns to tell samples from real images. One half: it cannot; 1: every "
            "single image gives itself away."
        ),
        lacks=set_measures.at_least(20),
        protocol=set_measures.protocol,
        measure=set_measures.told_apart,
    ),
    Metric(
        name="recall",
        topic="variety",
        title="Recall",
        better="higher",
        meaning=(
            "Share of real images that lie where samples are. From 0 to 1; a model that draws few kinds of images "
            "has little."
        ),
        lacks=set_measures.at_least(4),
        protocol=set_measures.protocol,
        measure=set_measures.recall,
    ),
    Metric(
        name="coverage",
        topic="variety",
        title="Coverage",
        better="higher",
        meaning=(
            "Share of real images that have a sample among their nearest neighbours. From 0 to 1; unlike recall, "
            "a sample far out covers nothing."
        ),
        lacks=set_measures.at_least(6),
        protocol=set_measures.protocol,
        measure=set_measures.covered,
    ),
    Metric(
        name="classes",
        topic="variety",
        title="Classes drawn",
        better="higher",
        meaning=(
            "The number of equally frequent classes that would be as varied as the samples are, in the eyes of a "
            "classifier. Real images give its ceiling; a collapsed model falls towards 1."
        ),
        lacks=set_measures.labels_lacks,
        protocol=set_measures.labels_protocol,
        measure=set_measures.classes,
    ),
    Metric(
        name="as_asked",
        topic="variety",
        title="Classified as asked",
        better="higher",
        meaning="The share of samples that a classifier takes for the class that was asked for.",
        lacks=set_measures.asked_lacks,
        protocol=set_measures.labels_protocol,
        measure=set_measures.asked,
    ),
    Metric(
        name="accuracy_score",
        topic="variety",
        title="Accuracy score",
        better="higher",
        asked_for=True,
        meaning=(
            "Accuracy on real held-out images of a classifier that was trained on the samples alone (CAS): "
            "artefacts, wrong labels and missing variety lower it."
        ),
        lacks=set_measures.accuracy_lacks,
        protocol=set_measures.accuracy_protocol,
        measure=set_measures.accuracy,
    ),
    Metric(
        name="novelty",
        topic="variety",
        title="Novelty",
        meaning=(
            "Distance of samples to their nearest training image over the same distance for held-out images. "
            "About 1 for new images, near 0 for copies; blur lowers it too."
        ),
        lacks=set_measures.novelty_lacks,
        protocol=set_measures.novelty_protocol,
        measure=set_measures.novelty,
    ),
    Metric(
        name="copies",
        topic="variety",
        noted=True,
        title="Copies",
        better="lower",
        meaning="Share of samples that are far nearer to one training image than to its neighbours: copies of it.",
        lacks=set_measures.novelty_lacks,
        protocol=set_measures.novelty_protocol,
        measure=set_measures.copies,
    ),
    Metric(
        name="bits_per_dim",
        topic="likelihood",
        noted=True,
        needs_model=True,
        title="Bits per dimension",
        unit="bits",
        better="lower",
        meaning=(
            "How many bits the model needs for each pixel value of an image it has never seen: the better it "
            "predicts, the fewer. Some families give the exact figure, others a bound that the true figure does "
            "not exceed."
        ),
        lacks=measures.lacks("score", "gives images no probability"),
        protocol=measures.bits_protocol,
        measure=measures.bits,
    ),
    Metric(
        name="psnr",
        topic="reconstruction",
        noted=True,
        needs_model=True,
        title="Reconstruction",
        unit="dB",
        better="higher",
        meaning=(
            "Peak signal-to-noise ratio between held-out images and their copies through the model. Six decibels "
            "more halve the error."
        ),
        lacks=measures.lacks("reconstruct", measures.NO_LATENT),
        protocol=measures.reconstruction_protocol,
        measure=measures.reconstruction,
    ),
    Metric(
        name="ssim",
        topic="reconstruction",
        needs_model=True,
        title="SSIM",
        better="higher",
        meaning=(
            "Structural similarity of held-out images and their copies, from 1 (equal) down: compares brightness, "
            "contrast and structure around each pixel."
        ),
        lacks=measures.similarity_lacks,
        protocol=measures.reconstruction_protocol,
        measure=measures.similarity,
    ),
    Metric(
        name="ms_ssim",
        topic="reconstruction",
        needs_model=True,
        title="MS-SSIM",
        better="higher",
        meaning="Structural similarity on five scales, for images of 176 pixels or more.",
        lacks=measures.scales_lacks,
        protocol=measures.reconstruction_protocol,
        measure=measures.scales,
    ),
    Metric(
        name="lpips",
        topic="reconstruction",
        needs_model=True,
        title="LPIPS",
        better="lower",
        meaning=(
            "Perceptual distance of held-out images and their copies, in the features of a network trained to "
            "recognise objects; 0 is equal."
        ),
        lacks=measures.perceptual_lacks,
        protocol=measures.perceptual_protocol,
        measure=measures.perceptual,
    ),
    Metric(
        name="psnr_search",
        topic="reconstruction",
        needs_model=True,
        title="Nearest image found",
        unit="dB",
        better="higher",
        meaning=(
            "For models without an encoder: the same ratio for the nearest image that gradient descent on the "
            "latent finds."
        ),
        lacks=measures.search_lacks,
        protocol=measures.search_protocol,
        measure=measures.search,
    ),
    Metric(
        name="path_length",
        topic="continuity",
        noted=True,
        needs_model=True,
        title="Path length",
        better="lower",
        meaning=(
            "How abruptly the image changes along a walk through the latent space, per squared length of a small "
            "step. Less is smoother; a model that always draws one image has none."
        ),
        lacks=measures.path_lacks,
        protocol=measures.path_protocol,
        measure=measures.path,
    ),
    Metric(
        name="active_units",
        topic="continuity",
        noted=True,
        needs_model=True,
        title="Active units",
        meaning=(
            "Numbers of the code that tell something about the image. None: the decoder ignores its code "
            "(posterior collapse)."
        ),
        lacks=measures.units_lacks,
        protocol=measures.units_protocol,
        measure=measures.units,
    ),
    Metric(
        name="posterior_gap",
        topic="continuity",
        needs_model=True,
        title="Codes against prior",
        unit="nats",
        better="lower",
        meaning=(
            "How far the codes of real images, all together, are from the prior that samples are drawn from, in "
            "nats; the floor is what chance gives. Where it is large, samples come from codes that the decoder "
            "never saw."
        ),
        lacks=measures.aggregated_lacks,
        protocol=measures.units_protocol,
        measure=measures.aggregated,
    ),
    Metric(
        name="seconds_batch",
        topic="cost",
        needs_model=True,
        title="Time per image",
        unit="s",
        better="lower",
        meaning="Time to draw one image when many are drawn at once.",
        lacks=measures.lacks("sample", "draws no new images"),
        protocol=measures.speed_protocol(measures.batched),
        measure=measures.speed(measures.batched),
    ),
    Metric(
        name="seconds_one",
        topic="cost",
        needs_model=True,
        title="Time for a single image",
        unit="s",
        better="lower",
        meaning="Time to draw one image alone: the wait of somebody who wants just one.",
        lacks=measures.lacks("sample", "draws no new images"),
        protocol=measures.speed_protocol(measures.singly),
        measure=measures.speed(measures.singly),
    ),
    Metric(
        name="parameters",
        topic="cost",
        needs_model=True,
        title="Parameters",
        meaning="Trainable numbers in all of a model's networks, those included that only training needs.",
        lacks=measures.nothing,
        measure=measures.parameters,
    ),
    Metric(
        name="train_seconds",
        topic="cost",
        needs_model=True,
        title="Training time",
        unit="s",
        meaning="Time spent in training steps.",
        lacks=measures.log_lacks("seconds"),
        measure=measures.last("seconds"),
    ),
    Metric(
        name="train_images",
        topic="cost",
        needs_model=True,
        title="Images seen",
        meaning="Training images seen, repeats counted.",
        lacks=measures.log_lacks("images"),
        measure=measures.last("images"),
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""In the order they are measured and shown: speeds after what draws samples, since those draws count as repeats."""
