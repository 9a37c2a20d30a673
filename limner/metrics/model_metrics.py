"""What is measured of a model: likelihood, reconstruction, latent space, codes, translation, cost."""

from __future__ import annotations

from limner.metrics import codes, measures, mig, translation
from limner.metrics.metric import Metric

METRICS = (
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
        name="mig",
        topic="continuity",
        needs_model=True,
        title="Disentanglement (MIG)",
        better="higher",
        meaning=(
            "Mutual information gap: how much more one number of the code tells about a factor of the images than any "
            "other number does. From 0 to 1, where each factor has one number to itself."
        ),
        lacks=mig.gap_lacks,
        protocol=mig.gap_protocol,
        measure=mig.gap,
    ),
    Metric(
        name="codebook_perplexity",
        topic="codes",
        noted=True,
        needs_model=True,
        title="Codebook perplexity",
        better="higher",
        meaning=(
            "How many codes are in use, counted by how often: as many as would have this entropy if all were used "
            "equally. From 1 to the size of the codebook."
        ),
        lacks=codes.lacks,
        protocol=codes.protocol,
        measure=codes.perplexity,
    ),
    Metric(
        name="codes_used",
        topic="codes",
        noted=True,
        needs_model=True,
        title="Codes used",
        better="higher",
        meaning="Share of the codes that occur at all in held-out images.",
        lacks=codes.lacks,
        protocol=codes.protocol,
        measure=codes.used,
    ),
    Metric(
        name="bits_uniform",
        topic="codes",
        noted=True,
        needs_model=True,
        title="Bits of codes, uniform",
        unit="bits/image",
        meaning="Length of an image's codes if each were as likely as any other.",
        lacks=codes.lacks,
        measure=codes.uniform,
    ),
    Metric(
        name="bits_position",
        topic="codes",
        noted=True,
        needs_model=True,
        title="Bits of codes, by position",
        unit="bits/image",
        better="lower",
        meaning="Length of an image's codes if each place in the map has its own frequencies and knows nothing of the others.",
        lacks=codes.lacks,
        protocol=codes.protocol,
        measure=codes.position,
    ),
    Metric(
        name="bits_prior",
        topic="codes",
        noted=True,
        needs_model=True,
        title="Bits of codes, by the prior",
        unit="bits/image",
        better="lower",
        meaning=(
            "Length of an image's codes under the model's own prior; what it needs less than by position is what "
            "the prior knows of images."
        ),
        lacks=codes.prior_lacks,
        protocol=codes.protocol,
        measure=codes.prior,
    ),
    Metric(
        name="style",
        topic="translation",
        needs_model=True,
        title="Style reached",
        better="higher",
        meaning=(
            "Share of translated images that a classifier of the two domains takes for the target; the floor is its "
            "accuracy on real images."
        ),
        lacks=translation.style_lacks,
        protocol=translation.style_protocol,
        measure=translation.style,
    ),
    Metric(
        name="factors_kept",
        topic="translation",
        needs_model=True,
        title="Factors kept",
        better="higher",
        meaning=(
            "Share of the known factors (shape, colour, background, size, place) that are still those of the source in "
            "the translated image, read by networks trained on real images; the floor is their accuracy on those."
        ),
        lacks=translation.kept_lacks,
        protocol=translation.kept_protocol,
        measure=translation.kept,
    ),
    Metric(
        name="translation_psnr",
        topic="translation",
        noted=True,
        needs_model=True,
        title="PSNR to the true translation",
        unit="dB",
        better="higher",
        meaning="Nearness of translated images to the right answers, where those are known.",
        lacks=translation.truth_lacks,
        protocol=translation.truth_protocol,
        measure=translation.truth,
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
