"""The classifier that serves as an extractor: right, reproducible, cached; and distances on it order damage."""

import numpy as np
import torch

import toy_runs
from limner.metrics.classifier import classifier_of, reserved
from limner.metrics.features import Pixels, to_bytes
from limner.metrics.kid import kid

TRAIN, TEST = toy_runs.digits()


def test_is_accurate_cached_and_the_same_when_trained_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    first = classifier_of(TRAIN, TEST)
    assert first.accuracy > 0.95
    (file,) = (tmp_path / "classifiers").glob("*/*.safetensors")
    written = file.stat().st_mtime_ns
    again = classifier_of(TRAIN, TEST)
    assert again.hash == first.hash
    assert again.accuracy == first.accuracy
    assert file.stat().st_mtime_ns == written
    file.write_bytes(b"damaged")
    assert classifier_of(TRAIN, TEST).hash == first.hash  # trained anew, to the same bits
    labels = first.labels(torch.from_numpy(TEST.images))
    assert np.mean(labels.numpy() == TEST.labels) == first.accuracy
    features = first(torch.from_numpy(TEST.images[:5]))
    assert features.shape == (5, 64)
    assert features.dtype == torch.float64


def test_reserved_images_are_a_quarter_at_most_and_always_the_same():
    assert len(reserved(1437)) == 359
    assert len(reserved(60000)) == 2000
    assert torch.equal(reserved(1437), reserved(1437))


def test_kid_orders_held_out_blurred_and_noisy_images():
    real, rest = torch.from_numpy(TEST.images[:180]), torch.from_numpy(TEST.images[180:]).float()
    x = rest.permute(0, 3, 1, 2)
    blur = lambda k: torch.nn.functional.avg_pool2d(x, k, 1, k // 2, count_include_pad=False)  # noqa: E731
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) * 255
    sets = [(s / 127.5 - 1) for s in (x, 0.5 * x + 0.5 * blur(3), blur(3), noise)]
    for extractor in (classifier_of(TRAIN, TEST), Pixels()):
        values = [kid(extractor(to_bytes(s)), extractor(real)).value for s in sets]
        assert values == sorted(values), (extractor.name, values)


def test_bytes_round_to_the_grey_levels_of_the_data():
    x = toy_runs.digits()[1].batch(range(50))["image"]
    assert torch.equal(to_bytes(x, 17), torch.from_numpy(TEST.images[:50]))
    assert set(np.unique(to_bytes(torch.rand(9, 1, 8, 8) * 2 - 1, 3)).tolist()) <= {0, 128, 255}
