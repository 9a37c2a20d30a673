"""What is measured of images that a model drew, or of a folder of images: how good they are, how varied, whether they are copies."""

from __future__ import annotations

from limner.metrics import set_measures
from limner.metrics.metric import Metric

METRICS = (
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
)
