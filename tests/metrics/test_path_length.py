"""Path length of generators for which it is known in closed form, and what the protocol's switches do."""

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln, polygamma

from limner.metrics.path_length import PathLength, path_length, prepared, slerp, squared_euclidean, walk_lengths
from limner.noise import SampleNoise

D, SHAPE = 6, (1, 4, 4)
WEIGHT = torch.randn(16, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MIX = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def latents(n, *, generator):
    return SampleNoise(n, generator).normal(D).double()


def linear(z):
    return (z @ WEIGHT.T).unflatten(1, SHAPE)


def spherical_truth(sampling):
    """E |A dz/dt|^2 along a slerp between draws of N(0, I) in D dimensions.

    With z = r u: |dz/dt|^2 = r'^2 + (r angle)^2, in a direction that is uniform, so that A contributes tr(A'A) / D. The lengths at
    the ends are independent of each other and of the angle: E (r2 - r1)^2 = 2 (D - m^2) with m = E r, E r(t)^2 = D at the end and
    2/3 D + 1/3 m^2 on the average over t. The angle's density is as sin^(D-2): its second moment is pi^2/4 + trigamma(D/2)/2.
    """
    m = math.sqrt(2) * math.exp(gammaln((D + 1) / 2) - gammaln(D / 2))
    squared_length = D if sampling == "end" else 2 / 3 * D + m * m / 3
    squared_angle = math.pi**2 / 4 + float(polygamma(1, D / 2)) / 2
    return float(WEIGHT.square().sum()) / D * (2 * (D - m * m) + squared_length * squared_angle)


@pytest.mark.parametrize("sampling", ["full", "end"])
@pytest.mark.parametrize("epsilon", [1e-4, 0.25])
def test_straight_walks_of_a_linear_generator(sampling, epsilon):
    mapping = lambda z: z @ MIX.T  # noqa: E731
    options = {"mapping": mapping, "sampling": sampling, "epsilon": epsilon}
    # Of every pair: |A (w2 - w1)|^2, at any t and for any step.
    drawn = [(i, 1000 + i, 2000 + i) for i in range(20)]
    a, b = (mapping(latents(20, generator=[d[k] for d in drawn])) for k in (0, 1))
    found = walk_lengths(linear, latents, squared_euclidean, drawn, **options)
    assert found.tolist() == pytest.approx(squared_euclidean(linear(a), linear(b)).tolist(), rel=1e-8)
    # On the average: 2 tr(A M M' A').
    truth = 2 * float((WEIGHT @ MIX).square().sum())
    value, error = path_length(linear, latents, squared_euclidean, n=3000, reject=False, batch=1000, **options)
    assert abs(value - truth) < 4 * error < 0.12 * truth


@pytest.mark.parametrize("sampling", ["full", "end"])
def test_spherical_walks_of_a_linear_generator(sampling):
    value, error = path_length(linear, latents, squared_euclidean, n=4000, sampling=sampling, reject=False, batch=1000)
    truth = spherical_truth(sampling)
    assert abs(value - truth) < 4 * error < 0.12 * truth
    other = spherical_truth("end" if sampling == "full" else "full")
    assert abs(value - other) > 0.5 * abs(truth - other)


def test_slerp_turns_at_constant_speed_and_its_length_goes_linearly():
    a, b = latents(5, generator=0), 3 * latents(5, generator=1)
    t = torch.full((5,), 0.3, dtype=torch.float64)
    angle = lambda x, y: torch.acos(torch.cosine_similarity(x, y))  # noqa: E731
    point = slerp(a, b, t)
    assert torch.allclose(angle(a, point), 0.3 * angle(a, b))
    assert torch.allclose(angle(point, b), 0.7 * angle(a, b))
    assert torch.allclose(point.norm(dim=1), 0.7 * a.norm(dim=1) + 0.3 * b.norm(dim=1))
    assert torch.allclose(slerp(a, a, t), a)
    assert slerp(a.view(5, 1, 2, 3), b.view(5, 1, 2, 3), t).shape == (5, 1, 2, 3)


def test_a_constant_generator_has_length_zero():
    constant = lambda z: torch.ones(len(z), *SHAPE)  # noqa: E731
    assert path_length(constant, latents, squared_euclidean, n=30) == (0.0, 0.0)


def test_a_generator_with_a_cliff_is_longer_than_a_smooth_one():
    smooth = lambda z: torch.erf(z / 2**0.5).unflatten(1, (1, 1, D))  # noqa: E731
    cliff = lambda z: torch.erf(8 * z / 2**0.5).unflatten(1, (1, 1, D))  # noqa: E731 - the same ends, nearly
    values = [path_length(g, latents, squared_euclidean, n=300) for g in (smooth, cliff)]
    assert values[1].value > 2 * values[0].value > 0


def test_the_result_does_not_depend_on_the_batch_or_on_the_split():
    lengths = [path_length(linear, latents, squared_euclidean, n=50, batch=batch) for batch in (50, 7, 1)]
    assert lengths[1] == pytest.approx(lengths[0], rel=1e-9)
    assert lengths[2] == pytest.approx(lengths[0], rel=1e-9)
    values = torch.rand(501, generator=torch.Generator().manual_seed(2)).double().exp()
    whole, parts = PathLength(), [PathLength() for _ in range(3)]
    whole.update(values)
    for i, part in enumerate(values.flip(0).split(40)):
        parts[i % 3].update(part)
    parts[0].merge(parts[2])
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()


def test_outliers_are_rejected_as_in_the_authors_program():
    values = torch.randn(777, generator=torch.Generator().manual_seed(3)).double().mul(3).exp()
    low, high = (np.percentile(values, q, method=m) for q, m in ((1, "lower"), (99, "higher")))
    kept = values[(values >= low) & (values <= high)]
    trimmed, whole = PathLength(), PathLength(reject=False)
    trimmed.update(values)
    whole.update(values)
    assert trimmed.compute().value == pytest.approx(float(kept.mean()), rel=1e-12)
    assert whole.compute() == pytest.approx((float(values.mean()), float(values.std()) / math.sqrt(777)))


def test_the_error_is_that_of_other_walks():
    g = torch.Generator().manual_seed(4)
    for reject in (True, False):
        found = []
        for _ in range(200):
            walks = PathLength(reject=reject)
            walks.update(torch.randn(300, generator=g).double().exp())
            found.append(walks.compute())
        stated = np.mean([e.error for e in found])
        assert stated == pytest.approx(np.std([e.value for e in found]), rel=0.2)


def test_crop_and_reduction():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert prepared(image, "face").flatten().tolist() == [8.0 * r + c for r in (3, 4, 5, 6) for c in (2, 3, 4, 5)]
    assert prepared(image) is image
    large = torch.rand(1, 3, 1024, 1024)
    assert prepared(large).shape[2:] == (256, 256)
    assert torch.allclose(prepared(large, "face")[0, 0, 0, 0], large[0, 0, 384:386, 256:258].mean())


def test_what_has_no_path_is_refused():
    codes = lambda n, *, generator: torch.zeros(n, 4, dtype=torch.int64)  # noqa: E731
    with pytest.raises(ValueError, match="two or more real numbers"):
        path_length(linear, codes, squared_euclidean, n=2)
    with pytest.raises(ValueError, match="one finite number a pair"):
        path_length(linear, latents, lambda a, b: (a - b).square(), n=2)
    with pytest.raises(ValueError, match="sampling"):
        path_length(linear, latents, squared_euclidean, n=2, sampling="start")
    with pytest.raises(ValueError, match="crop"):
        path_length(linear, latents, squared_euclidean, n=2, crop="centre")
    with pytest.raises(ValueError, match="no rows"):
        path_length(linear, latents, squared_euclidean, n=0)
