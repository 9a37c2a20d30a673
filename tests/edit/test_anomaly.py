"""Scores of strangeness, AUROC and heat maps, against closed forms and peers."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import toy_runs
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.settings import DataConfig
from limner.edit import anomaly, heat, turns
from limner.errors import UserError

TRAIN, TEST = toy_runs.digits()


@pytest.fixture(scope="module")
def pca():
    """PCA of the digits without the eights, and what is normal to it."""
    rows = np.flatnonzero(TRAIN.labels != 8)
    data = TRAIN.subset(rows)
    toy = toy_runs.Projector(toy_runs.Config(size=8, rank=10)).fit(data.batch(range(len(data)))["image"]).eval()
    return anomaly.Normal(toy, data, k=5)


def images(data):
    return data.batch(range(len(data)))["image"]


def numpy_view(normal):
    """Codes of training and test images, and their errors, by numpy alone."""
    toy = normal.model
    axes, mean = toy.axes.double().numpy(), toy.mean.double().numpy()
    both = []
    for x in (images(normal.data)[normal.rows], images(TEST)):
        x = x.flatten(1).double().numpy()
        z = (x - mean) @ np.linalg.pinv(axes)
        both.append((z, ((x - mean - z @ axes) ** 2).mean(1)))
    return both


# --- AUROC ---


@pytest.mark.parametrize("levels", [3, 20, 10**6])
def test_auroc_is_that_of_scikit_learn_ties_included(levels):
    rng = np.random.default_rng(levels)
    truth = rng.random(500) < 0.2
    scores = np.floor(levels * (rng.random(500) + 0.3 * truth)) / levels
    assert anomaly.auroc(scores, truth).value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_auroc_of_separated_equal_and_reversed_scores():
    truth = np.array([True, True, False, False, False])
    assert anomaly.auroc(np.array([5.0, 4, 3, 2, 1]), truth)[:2] == (1.0, 0.0)
    assert anomaly.auroc(np.ones(5), truth).value == 0.5
    assert anomaly.auroc(np.arange(5.0), truth).value == 0.0
    with pytest.raises(UserError, match="of 5 images 0 are anomalous"):
        anomaly.auroc(np.ones(5), np.zeros(5, bool))


def test_the_error_of_an_auroc_is_delong_s_and_the_spread_that_repetition_shows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 60), rng.normal(0, 1, 200)
    # DeLong's structural components, from the matrix of all pairs.
    psi = (a[:, None] > b).astype(float)
    written_out = psi.mean(1).var(ddof=1) / 60 + psi.mean(0).var(ddof=1) / 200
    truth = np.r_[np.ones(60, bool), np.zeros(200, bool)]
    assert anomaly.auroc(np.r_[a, b], truth).error == pytest.approx(written_out**0.5, rel=1e-9)
    draws = [anomaly.auroc(np.r_[rng.normal(1, 1, 60), rng.normal(0, 1, 200)], truth) for _ in range(400)]
    assert np.mean([d.error for d in draws]) == pytest.approx(np.std([d.value for d in draws]), rel=0.12)


# --- Scores ---


def test_error_is_the_mean_square_of_what_pca_leaves(pca):
    _, (_, left) = numpy_view(pca)
    np.testing.assert_allclose(anomaly.score(pca, TEST, "error"), left, rtol=1e-4, atol=1e-7)


def test_mahalanobis_is_numpy_s(pca):
    (train, _), (test, _) = numpy_view(pca)
    inverse, centred = np.linalg.inv(np.cov(train.T)), test - train.mean(0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", centred, inverse, centred))
    np.testing.assert_allclose(anomaly.score(pca, TEST, "mahalanobis"), expected, rtol=1e-3)


def test_energy_is_the_bits_of_code_and_residual_under_their_gaussians(pca):
    from scipy.stats import multivariate_normal, norm

    (train, usual), (test, left) = numpy_view(pca)
    code = multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(test)
    scale = usual.mean() ** 0.5
    residual = [norm(0, scale).logpdf(np.full(64, e**0.5)).sum() for e in left]  # depends on the mean square alone
    expected = -(code + residual) / (64 * math.log(2))
    np.testing.assert_allclose(anomaly.score(pca, TEST, "energy"), expected, rtol=1e-3, atol=1e-3)


def test_neighbours_are_those_of_scikit_learn_in_mahalanobis_distance(pca):
    (train, _), (test, _) = numpy_view(pca)
    inverse = np.linalg.inv(np.cov(train.T))
    peer = NearestNeighbors(n_neighbors=5, metric="mahalanobis", metric_params={"VI": inverse}).fit(train)
    np.testing.assert_allclose(anomaly.score(pca, TEST, "neighbours"), peer.kneighbors(test)[0][:, -1], rtol=1e-3)


def test_local_is_the_distance_relative_to_the_neighbours_own(pca):
    (train, _), (test, _) = numpy_view(pca)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(train.T)))
    place = [(z - train.mean(0)) @ root for z in (train, test)]
    peer = NearestNeighbors(n_neighbors=5).fit(place[0])
    own, around = peer.kneighbors(n_neighbors=5)  # of each training image among the others
    distance, index = peer.kneighbors(place[1])
    expected = np.log(distance[:, -1]) - np.log(own[:, -1][index].mean(1))
    np.testing.assert_allclose(anomaly.score(pca, TEST, "local"), expected, atol=2e-3)
    of_training = np.log(own[:, -1]) - np.log(own[:, -1][around].mean(1))
    np.testing.assert_allclose(pca.cloud.relative().numpy(), of_training, atol=2e-3)


def test_improbability_is_minus_the_logarithm_of_the_conformal_p_value():
    usual = torch.tensor([3.0, 1.0, 2.0, 2.0])
    found = anomaly.improbability(torch.tensor([0.0, 2.0, 2.5, 9.0]), usual)
    torch.testing.assert_close(found, -torch.log(torch.tensor([1.0, 4 / 5, 2 / 5, 1 / 5])).double())
    # Of training images themselves p is uniform, so -ln p has mean 1.
    rng = torch.Generator().manual_seed(0)
    scores, usual = torch.randn(4000, generator=rng), torch.randn(4000, generator=rng)
    assert anomaly.improbability(scores, usual).mean().item() == pytest.approx(1, abs=0.06)


def test_the_copy_that_tells_turns_tells_them_and_the_model_stays_as_it_was():
    from limner.models.autoencoders.ae import AE, Config

    torch.manual_seed(0)
    model = AE(Config(size=8, network="mlp", latent=12, hidden=(64,))).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    normal = anomaly.Normal(model, TRAIN, k=10)
    x, quarters = turns.turn(images(TEST))
    torch.testing.assert_close(x[5, 0], torch.rot90(images(TEST)[5, 0], 1))
    assert (normal.tuned(x).argmax(1) == quarters).float().mean() > 0.8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # What was never seen upright is strange: digits on their side.
    side = torch.rot90(images(TEST), 1, (2, 3))
    upright, lying = normal.direction(images(TEST)), normal.direction(side)
    distance = normal.directions.distance(torch.cat([upright, lying])).detach().numpy()
    assert roc_auc_score(np.repeat([0, 1], len(TEST)), distance) > 0.85
    combined = anomaly.score(normal, TEST, "combined")
    p = [
        (1 + (usual[:, None] >= own).sum(0)) / (1 + len(usual))
        for usual, own in (
            (normal.cloud.relative().numpy(), anomaly.score(normal, TEST, "local")),
            (normal.directions.distance().numpy(), anomaly.score(normal, TEST, "turns")),
        )
    ]
    np.testing.assert_allclose(combined, -np.log(p[0]) - np.log(p[1]), atol=1e-2)


def test_whitening_does_not_blow_up_directions_without_variance(pca):
    class Padded(toy_runs.Projector):
        def encode(self, image):
            code = super().encode(image)
            return torch.cat([code, 1e-6 * image.flatten(1)[:, 30:31] + 3], 1)

        def reconstruct(self, image):
            return self.decode(self.encode(image)[:, :-1])

    padded = Padded(pca.model.config)
    padded.load_state_dict(pca.model.state_dict())
    with_it = anomaly.score(anomaly.Normal(padded.eval(), pca.data, k=5), TEST, "local")
    np.testing.assert_allclose(with_it, anomaly.score(pca, TEST, "local"), atol=1e-3)


def test_bits_and_complexity(pca):
    histogram = toy_runs.fitted("histogram")
    normal = anomaly.Normal(histogram)
    bits = histogram.bits_per_dim(images(TEST)).numpy()
    np.testing.assert_allclose(anomaly.score(normal, TEST, "bits"), bits, rtol=1e-6)
    x = torch.cat([torch.zeros(1, 1, 64, 64), torch.rand(1, 1, 64, 64) * 2 - 1])
    flat, noise = anomaly.png_bits(x).tolist()
    assert flat < 0.4
    assert 8 < noise < 8.6
    np.testing.assert_allclose(
        anomaly.score(normal, TEST, "complexity"), bits - anomaly.png_bits(images(TEST)).numpy(), rtol=1e-6
    )


def test_scores_do_not_depend_on_what_else_is_scored(pca):
    part = TEST.subset(np.arange(100, 130))
    for method in ("error", "bits", "mahalanobis", "energy", "neighbours", "local"):
        whole, alone = anomaly.score(pca, TEST, method)[100:130], anomaly.score(pca, part, method)
        np.testing.assert_allclose(alone, whole, rtol=1e-5, atol=1e-5, err_msg=method)


def test_methods_are_chosen_by_what_a_model_can(pca):
    assert anomaly.choose(pca.model) == "local"
    assert anomaly.choose(toy_runs.fitted("histogram")) == "bits"
    with pytest.raises(UserError, match="choose bits or complexity"):
        anomaly.choose(toy_runs.fitted("histogram"), "error")
    with pytest.raises(UserError, match="neither reconstructs, scores nor encodes"):
        anomaly.choose(toy_runs.fitted("gaussian"))
    with pytest.raises(UserError, match="choose auto, error"):
        anomaly.choose(pca.model, "magic")


def test_local_finds_what_lies_beside_a_dense_cluster_where_distances_alone_do_not():
    class FirstTwo(toy_runs.Toy):
        def encode(self, image):
            return image.flatten(1)[:, :2]

        decode = None

    def points(rng, tight, wide, beside):
        xy = np.concatenate(
            [
                rng.normal(-0.7, 0.03, (tight, 2)),
                rng.normal(0.3, 0.3, (wide, 2)),
                rng.normal([-0.5, -0.7], 0.02, (beside, 2)),
            ]
        )
        grey = np.zeros((len(xy), 8, 8, 1), np.uint8)
        grey[:, 0, :2, 0] = np.clip(np.round((xy + 1) * 127.5), 0, 255)
        return Dataset("points", grey)

    rng = np.random.default_rng(0)
    normal = anomaly.Normal(FirstTwo(toy_runs.Config(size=8)), points(rng, 500, 500, 0))
    test, truth = points(rng, 100, 100, 50), np.arange(250) >= 200
    found = {m: anomaly.auroc(anomaly.score(normal, test, m), truth).value for m in ("neighbours", "local")}
    assert found["local"] > 0.95
    assert found["neighbours"] < 0.92


# --- Heat maps ---


def test_heat_sums_to_the_error_and_lies_where_the_damage_is(pca):
    x = images(TEST)[:6].clone()
    x[:, :, 1:3, 5:7] = 1.0
    found = heat.heat_map(pca.model, x)
    error = (x - pca.model.reconstruct(x)).square().flatten(1).mean(1)
    torch.testing.assert_close(found.heat.sum((1, 2)), error)
    raw = (x - pca.model.reconstruct(x)).square().sum(1)
    torch.testing.assert_close(heat.blur(raw, 2.0).sum((1, 2)), raw.sum((1, 2)))
    spot = torch.zeros(1, 9, 9)
    spot[0, 0, 4] = 1  # at the edge: half the blur would fall out
    blurred = heat.blur(spot, 1.5)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-6)
    assert blurred.argmax() == 4
    torch.testing.assert_close(blurred[0, :, 2], blurred[0, :, 6])


def test_bits_of_each_pixel_sum_to_the_image_s():
    class Dialogue(toy_runs.Histogram):
        def predict(self, n, *, label=None, condition=None):
            for i in range(len(self.p)):
                chosen = yield self.p[i].log().expand(n, -1) + 3.0  # logits up to a constant
                assert chosen.shape == (n,)

    model = Dialogue(toy_runs.Config(size=8)).fit(images(TRAIN))
    x = images(TEST)[:5]
    bits = heat.surprise(model, x)
    assert bits.shape == (5, 8, 8)
    torch.testing.assert_close(bits.mean((1, 2)), model.bits_per_dim(x).double(), rtol=1e-5, atol=1e-6)
    k = model.levels_of(x)
    torch.testing.assert_close(bits[2, 3, 4], -model.p[28, k[2, 28]].log2().double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(heat.heat_map(model, x).heat.sum((1, 2)), bits.mean((1, 2)))
    assert heat.heat_map(toy_runs.fitted("gaussian"), x) is None


def test_an_overlay_leaves_the_cold_alone_and_colours_the_hot():
    x = torch.full((1, 1, 2, 2), 0.0)
    shown = heat.overlay(x, torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]), 2.0)
    assert (shown[0, 0, 0] == shown[0, 0, 0, 0]).all()
    assert 126 < shown[0, 0, 0, 0] < 129
    assert shown[0, 1, 1].max() - shown[0, 1, 1].min() > 60


# --- The verb ---


def test_the_verb_ranks_the_class_that_was_left_out(tmp_path, capsys):
    from limner.cli.detecting import anomaly as verb
    from limner.training.run import train

    run = tmp_path / "run"
    train("ae", data="digits", without=("8",), images=6400, out=run, device="cpu", quiet=True)
    verb(str(run), device="cpu")
    said = capsys.readouterr().out
    rows = list(csv.DictReader((run / "anomaly.csv").open()))
    document = json.loads((run / "anomaly.json").read_text())
    test = open_data(DataConfig("digits"), split="test")
    assert len(rows) == len(test) == len(document["images"])
    scores = np.array([float(row["score"]) for row in rows])
    assert (np.diff(scores) <= 0).all()
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    truth = np.array([row["label"] == "8" for row in rows])
    assert truth.tolist() == [row["anomalous"] == "1" for row in rows]
    assert 0 < truth.sum() < len(rows)
    expected = roc_auc_score(truth, scores)
    assert document["auroc"]["value"] == pytest.approx(expected)
    assert f"AUROC {expected:.4f}" in said
    assert (run / "anomaly.png").stat().st_size > 10_000
    assert (int(rows[0]["name"].split("/")[1])) in np.flatnonzero(test.labels == int(rows[0]["label"]))

    verb(
        str(run), "digits", method="error", anomalous=("3", "5"), n=100, show=3, out=str(tmp_path / "out"), device="cpu"
    )
    rows = list(csv.DictReader((tmp_path / "out" / "anomaly.csv").open()))
    assert len(rows) == 100
    assert {row["label"] for row in rows if row["anomalous"] == "1"} == {"3", "5"}
    with pytest.raises(UserError, match="--anomalous 11: there is no such class"):
        verb(str(run), anomalous=("11",), device="cpu")
