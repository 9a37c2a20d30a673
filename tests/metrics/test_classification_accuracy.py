"""Classification accuracy score: real images give the classifier's own accuracy, noise gives chance, wrong labels are seen."""

import numpy as np
import pytest
import torch

import toy_runs
from limner.metrics.classification_accuracy import ClassificationAccuracy, classification_accuracy
from limner.metrics.classifier import classifier_of

TRAIN, TEST = toy_runs.digits()
REAL, LABELS = torch.from_numpy(TRAIN.images), torch.from_numpy(TRAIN.labels)
HELD_OUT, TRUTH = torch.from_numpy(TEST.images), torch.from_numpy(TEST.labels)


def score(samples, labels, **options):
    return classification_accuracy(samples, labels, HELD_OUT, TRUTH, classes=10, **options)


def test_real_images_give_the_classifiers_accuracy_and_noise_gives_chance():
    real = score(REAL, LABELS)
    own = classifier_of(TRAIN, TEST).accuracy  # trained on three quarters of them
    assert abs(real.value - own) < 0.02
    assert real.error == pytest.approx((real.value * (1 - real.value) / 359) ** 0.5)
    assert float((real.by_class * torch.bincount(TRUTH) / len(TRUTH)).sum()) == pytest.approx(real.value)
    # What a classifier of noise makes of a digit is arbitrary, but the same for many digits: scores scatter about chance.
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (6, 300, 8, 8, 1), generator=g, dtype=torch.uint8)
    scores = [score(samples, LABELS[:300]).value for samples in noise]
    assert np.mean(scores) == pytest.approx(0.1, abs=0.05)
    assert max(scores) < 0.3


def test_a_class_that_is_drawn_wrongly_or_never_is_named():
    wrong = torch.where(LABELS == 3, 8, torch.where(LABELS == 8, 3, LABELS))
    kept = wrong != 5
    found = score(REAL[kept], wrong[kept])
    assert found.by_class[[3, 5, 8]].max() < 0.2
    assert found.by_class[[0, 1, 2, 4, 6, 7]].min() > 0.85


def test_the_result_depends_on_the_samples_alone():
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    parts = [ClassificationAccuracy(10) for _ in range(2)]
    for i, rows in enumerate(order.split(70)):
        parts[i % 2].update(REAL[rows], LABELS[rows])
    parts[1].merge(parts[0])
    found, whole = parts[1].compute(HELD_OUT, TRUTH), score(REAL[:600], LABELS[:600])
    assert found.value == whole.value
    assert torch.equal(found.by_class, whole.by_class)
    state = torch.random.get_rng_state()
    score(REAL[:100], LABELS[:100])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_error_covers_held_out_images_and_trainings():
    few = score(REAL[:100], LABELS[:100], trainings=6)
    single = [score(REAL[:100], LABELS[:100], seed=k).value for k in range(6)]
    assert few.value == pytest.approx(np.mean(single))
    assert few.trainings == 6
    of_trainings = np.var(single, ddof=1) / 6
    assert 0 < few.error**2 - of_trainings < few.value * (1 - few.value) / 359


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="at least 100 samples, not 99"):
        score(REAL[:99], LABELS[:99])
    with pytest.raises(ValueError, match="from 0 to 9"):
        score(REAL[:200], LABELS[:200] + 1)
    with pytest.raises(ValueError, match="as many integer labels"):
        score(REAL[:200], LABELS[:199])
    with pytest.raises(ValueError, match="uint8"):
        score(REAL[:200].float(), LABELS[:200])
    with pytest.raises(ValueError, match="samples are"):
        score(REAL[:200, :7], LABELS[:200])
    with pytest.raises(ValueError, match="no samples"):
        ClassificationAccuracy(10).compute(HELD_OUT, TRUTH)
