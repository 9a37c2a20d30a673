"""On real images metrics order held-out < light blur < heavy blur < noise, save those that take blur for quality, as they say of
themselves; and each sees a collapsed set for what it is."""

import pytest
import torch

import toy_runs
from limner.data import open_data
from limner.metrics.backbones import backbone
from limner.metrics.classifier import SIZE, classifier_of, reserved
from limner.metrics.cmmd import cmmd
from limner.metrics.degrade import blur
from limner.metrics.density_coverage import density_coverage, expected_coverage
from limner.metrics.features import Pixels, to_floats
from limner.metrics.frechet import frechet
from limner.metrics.inception_score import inception_score
from limner.metrics.kid import kid
from limner.metrics.precision_recall import precision_recall
from limner.metrics.two_sample import two_sample

UNBOUNDED = {
    "frechet": frechet,
    "kid": lambda fake, real: kid(fake, real).value,
    "cmmd": lambda fake, real: cmmd(fake, real).value,
}
BOUNDED = {  # from some damage on they are at their worst value
    "two-sample": lambda fake, real: two_sample(fake, real).value,
    "1 - recall": lambda fake, real: 1 - precision_recall(fake, real).recall.value,
}
OF_WHAT_IS_DEPICTED = {  # in pixels a blurred image lies near to every other, and covers it
    "1 - coverage": lambda fake, real: 1 - density_coverage(fake, real).coverage.value,
}


def damaged(images, seed=0):
    """The images (N, H, W, C) uint8 as they are, lightly and heavily blurred, and noise of their shape."""
    x = images.permute(0, 3, 1, 2).float()
    smooth = lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)  # noqa: E731
    noise = torch.randint(256, x.shape, generator=torch.Generator().manual_seed(seed)).float()
    sets = (x, 0.5 * x + 0.5 * smooth(x), smooth(smooth(x)), noise)
    return [s.round().to(torch.uint8).permute(0, 2, 3, 1) for s in sets]


def embedded(name):
    if name == "digits":
        return toy_runs.digits()
    return open_data("fashion-mini"), open_data("fashion-mini", split="test")


@pytest.fixture(scope="module", params=["digits", pytest.param("fashion-mini", marks=pytest.mark.slow)])
def sets(request, _cache):
    """The extractors, real images, and four sets of other images: those that the classifier did not see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(_cache))
        train, test = embedded(request.param)
        classifier = classifier_of(train, test)
    real = torch.from_numpy(test.images[:1000])
    held_out = torch.from_numpy(train.images[reserved(len(train)).numpy()][: len(real)])
    return {"pixels": Pixels(), "classifier": classifier}, real, damaged(held_out)


@pytest.mark.parametrize("extractor", ["pixels", "classifier"])
def test_metrics_order_held_out_light_blur_heavy_blur_and_noise(sets, extractor):
    extractors, real, images = sets
    of_real, of_sets = extractors[extractor](real), [extractors[extractor](x) for x in images]
    for name, metric in (UNBOUNDED | BOUNDED | (OF_WHAT_IS_DEPICTED if extractor == "classifier" else {})).items():
        values = [metric(x, of_real) for x in of_sets]
        assert values == sorted(values), (name, values)
        assert values[0] < values[1] < values[2], (name, values)
        assert values[2] < values[3] or name not in UNBOUNDED, (name, values)


def test_every_metric_orders_held_out_light_blur_heavy_blur_and_noise_in_imagenet_features():
    train, test = embedded("fashion-mini")
    extractor = backbone("efficientnet-lite0")
    real, held_out = (torch.from_numpy(part.images[:100]) for part in (test, train))
    noise = torch.randint(256, held_out.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    of_real = extractor(real)
    of_sets = [extractor(x) for x in (held_out, blur(held_out, 0.7), blur(held_out, 1.5), noise)]
    worse = UNBOUNDED | BOUNDED | OF_WHAT_IS_DEPICTED
    worse["1 - precision"] = lambda fake, real: 1 - precision_recall(fake, real).precision.value
    worse["-density"] = lambda fake, real: -density_coverage(fake, real).density.value
    for name, metric in worse.items():
        values = [metric(x, of_real) for x in of_sets]
        assert values[0] < values[1] < values[2] <= values[3], (name, values)
        assert values[2] < values[3] or name not in UNBOUNDED, (name, values)


@pytest.mark.parametrize("extractor", ["pixels", "classifier"])
def test_precision_and_density_find_noise_but_take_blur_for_quality_in_pixels(sets, extractor):
    extractors, real, images = sets
    of_real, of_sets = extractors[extractor](real), [extractors[extractor](x) for x in images]
    precision = [precision_recall(x, of_real).precision.value for x in of_sets]
    density = [density_coverage(x, of_real).density.value for x in of_sets]
    for values in (precision, density):
        assert values[3] == min(values), values
        if extractor == "pixels":
            assert values[1] > values[0], values


@pytest.mark.parametrize("extractor", ["pixels", "classifier"])
def test_held_out_images_are_told_from_real_ones_by_none(sets, extractor):
    extractors, real, images = sets
    of_real, held_out = extractors[extractor](real), extractors[extractor](images[0])
    value, error = kid(held_out, of_real)
    assert abs(value) < 3 * error
    value, error = two_sample(held_out, of_real)
    assert abs(value - 0.5) < 3 * error
    found = density_coverage(held_out, of_real)
    assert abs(found.density.value - 1) < 4 * found.density.error
    assert abs(found.coverage.value - expected_coverage(len(held_out), len(real))) < 4 * found.coverage.error


@pytest.mark.parametrize("extractor", ["pixels", "classifier"])
def test_one_image_repeated_is_precise_and_covers_nothing(sets, extractor):
    extractors, real, images = sets
    of_real, held_out = extractors[extractor](real), extractors[extractor](images[0])
    collapsed = extractors[extractor](images[0][:1].repeat(len(images[0]), 1, 1, 1))
    found = precision_recall(collapsed, of_real)
    assert found.recall.value < 0.005
    assert found.precision.value == 1
    assert density_coverage(collapsed, of_real).coverage.value < 0.05
    assert two_sample(collapsed, of_real).value > 0.98
    for metric in UNBOUNDED.values():
        assert metric(collapsed, of_real) > 10 * metric(held_out, of_real)


def test_inception_score_falls_to_one_on_one_image(sets):
    extractors, _, images = sets
    network = extractors["classifier"].network
    with torch.no_grad():
        logits = network(to_floats(images[0], SIZE))
    held_out = inception_score(logits)
    classes = logits.shape[1]
    assert 0.5 * classes < held_out.value < classes
    assert inception_score(logits[:1].repeat(50, 1)).value == pytest.approx(1, abs=1e-9)
    half = inception_score(logits[logits.argmax(1) < classes // 2])
    assert half.value < 0.7 * held_out.value
