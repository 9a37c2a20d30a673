"""The mutual information gap of hand-made codes, whose truths are known, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from limner.data import open_data
from limner.data.settings import DataConfig
from limner.metrics import mig
from limner.metrics.mig import discrete, equal_widths, mutual_information_gap
from limner.metrics.model_bench import ModelBench


def uniform(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


N = 20_000


def test_a_perfect_code_has_one():
    factors = (uniform(0, N, 3) * torch.tensor([4, 6, 10])).floor()
    noise = uniform(1, N, 5)  # numbers that tell nothing
    found = mutual_information_gap(torch.cat([noise, -3 * factors.flip(1) + 1], 1), factors)
    assert found.mig.value == pytest.approx(
        1, abs=0.01
    )  # less by what 20 x 10 cells of 20,000 images seem to tell of chance
    assert found.information.argmax(0).tolist() == [7, 6, 5]


def test_a_duplicated_number_has_none():
    factors = (uniform(0, N, 2) * 5).floor()
    found = mutual_information_gap(torch.cat([factors, 7 - 2 * factors], 1), factors)
    assert found.mig.value == pytest.approx(0, abs=1e-12)
    assert found.information[:, 0].tolist() == pytest.approx([1, 0, 1, 0], abs=1e-2)


def test_a_turned_code_has_none():
    factors = uniform(0, N, 2)
    straight = mutual_information_gap(factors, factors).mig
    turned = mutual_information_gap(factors @ torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double(), factors).mig
    assert straight.value > 0.95  # 10 bins of equal frequency against 20 of equal width
    assert abs(turned.value) < 3 * turned.error + 1e-3
    assert turned.value < 0.02


def test_of_half_the_information_it_is_the_half():
    """A number that tells whether v < 2 of v in 0..3: one bit of two, the other number nothing."""
    v = (uniform(0, N) * 4).floor()
    found = mutual_information_gap(torch.stack([(v < 2).double(), uniform(1, N)], 1), v[:, None])
    assert found.mig.value == pytest.approx(0.5, abs=0.005)


def test_information_is_that_of_scikit_learn():
    factors = torch.stack([(uniform(0, 500) * 6).floor(), uniform(1, 500)], 1)
    codes = torch.cat(
        [factors @ torch.tensor([[1.0, 0.3, 0], [2.0, 0, 1.0]]).double() + uniform(2, 500, 3), uniform(3, 500, 1)], 1
    )
    found = mutual_information_gap(codes, factors)
    for k in range(2):
        v = factors[:, k].numpy()
        v = v if k == 0 else np.digitize(v, np.quantile(v, np.linspace(0, 1, 11)[1:-1]), right=True)
        truth = []
        for z in codes.T.numpy():
            edges = np.histogram_bin_edges(z, 20)
            truth.append(mutual_info_score(v, np.digitize(z, edges[1:-1])) / mutual_info_score(v, v))
        assert found.information[:, k].tolist() == pytest.approx(truth, rel=1e-9)
        best = sorted(truth)
        assert found.gaps[k].item() == pytest.approx(best[-1] - best[-2], rel=1e-9)


def test_the_error_is_that_of_other_images():
    def of(seed, n=4000):
        factors = uniform(seed, n, 2)
        codes = factors + 0.3 * uniform(seed + 1000, n, 2) + 0.3 * factors.flip(1)
        return mutual_information_gap(codes, factors).mig

    found = [of(seed) for seed in range(60)]
    assert np.mean([f.error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.35)


def test_bins():
    assert equal_widths(torch.tensor([[0.0, 5], [0.099, 5], [0.1, 5], [2, 5]]).double()).T.tolist() == [
        [0, 0, 1, 19],
        [0] * 4,
    ]
    assert discrete(torch.tensor([7.0, -1, 7, 3])).tolist() == [2, 0, 2, 1]
    assert torch.bincount(discrete(uniform(0, 1000))).tolist() == [100] * 10


def test_one_number_and_maps_of_numbers():
    v = (uniform(0, 400) * 4).floor()[:, None]
    assert mutual_information_gap(v, v).mig.value == pytest.approx(1)
    maps = torch.cat([v, uniform(1, 400, 3)], 1)
    assert mutual_information_gap(maps.view(400, 1, 2, 2), v).mig == mutual_information_gap(maps, v).mig


def test_what_it_refuses():
    with pytest.raises(ValueError, match="factor 1 is the same"):
        mutual_information_gap(uniform(0, 50, 2), torch.stack([torch.arange(50), torch.ones(50)], 1).double())
    with pytest.raises(ValueError, match="as many of both"):
        mutual_information_gap(uniform(0, 50, 2), uniform(0, 40, 2))
    with pytest.raises(ValueError, match="finite"):
        mutual_information_gap(torch.full((50, 2), math.nan), uniform(0, 50, 2))


class Corner(torch.nn.Module):
    """Encodes an image of shapes as its ground, which is seen in the corner, beside a number that tells nothing."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def encode(self, image):
        return torch.stack([self.scale * image[:, 0, 0, 0], torch.sin(1e4 * image.mean((1, 2, 3)))], 1)

    def decode(self, latent):
        return latent[:, :1, None, None].expand(-1, 3, 16, 16)


def test_on_a_bench():
    data = open_data(DataConfig(data="shapes", size=16, count=4000, test_fraction=0.5))
    bench = ModelBench(Corner().eval(), data, data.held_out, n=2000)
    assert mig.gap_lacks(bench) == ""
    found = mig.gap(bench)
    gaps = dict(part.split() for part in found["note"].split(", "))
    assert list(gaps) == ["shape", "colour", "background", "radius", "x", "y"]
    assert float(gaps.pop("background")) > 0.8
    assert all(abs(float(v)) < 0.05 for v in gaps.values())
    assert found["value"] == pytest.approx(1 / 6, abs=0.03)
    assert "2000 held-out images" in mig.gap_protocol(bench)
    assert "rotation" in mig.gap_protocol(bench)
    digits = open_data(DataConfig(data="digits"))
    assert "factors" in mig.gap_lacks(ModelBench(Corner().eval(), digits, digits.held_out))
