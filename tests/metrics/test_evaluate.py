"""`evaluate` on small models whose figures are known."""

import json
import math

import pytest
import torch

import toy_runs
from limner.errors import UserError
from limner.metrics.bench import Bench
from limner.metrics.evaluate import evaluate
from limner.metrics.figure import Evaluation
from limner.metrics.registry import METRICS

DATA = toy_runs.digits()


def test_likelihood_of_a_histogram_is_its_known_value_and_what_it_lacks_is_said():
    found = evaluate(toy_runs.fitted("histogram"), data=DATA, n=360, metrics=["bits_per_dim", "psnr", "psnr_search"])
    bits = found.figures["bits_per_dim"]
    assert bits.value == pytest.approx(2.433, abs=0.03)  # published for a per-pixel histogram of held-out digits
    assert 0 < bits.error < 0.03
    assert bits.note == "exact"
    assert "360 held-out images" in bits.protocol
    assert DATA[1].fingerprint[:12] in bits.protocol
    assert set(found.skipped) == {"psnr", "psnr_search"}


def test_reconstruction_equals_the_pca_worked_out_here():
    x = DATA[1].batch(range(360))["image"]
    model = toy_runs.fitted("projector", rank=10)
    found = evaluate(model, data=DATA, n=360, metrics=["psnr"])
    levels = (model.reconstruct(x).clamp(-1, 1) + 1) / 2 * 16
    error = ((levels.round() * 255 / 16).round() - ((x + 1) / 2 * 255).round()).square().mean().item()
    assert found.figures["psnr"].value == pytest.approx(10 * math.log10(255**2 / error), abs=1e-6)
    better = evaluate(toy_runs.fitted("projector", rank=30), data=DATA, n=360, metrics=["psnr"])
    assert better.figures["psnr"].value > found.figures["psnr"].value + 3


def test_options_reach_the_model_and_the_note_and_unknown_ones_are_refused():
    model = toy_runs.fitted("projector")
    plain = evaluate(model, data=DATA, n=50, metrics=["bits_per_dim"]).figures["bits_per_dim"]
    many = evaluate(model, data=DATA, n=50, metrics=["bits_per_dim"], options={"score": {"samples": 100}})
    assert plain.note == "bound, samples=1"
    assert many.figures["bits_per_dim"].note == "bound, samples=100"
    assert many.figures["bits_per_dim"].value == pytest.approx(4 + (plain.value - 4) / 100, abs=1e-5)
    with pytest.raises(UserError, match=r"--score\.sample: .* it takes samples"):
        evaluate(model, data=DATA, options={"score": {"sample": 3}})


def test_distances_order_the_toys_and_name_collapse_and_copying():
    names = ["kid", "frechet", "classes", "novelty", "as_asked"]
    of = {
        name: evaluate(toy_runs.fitted(name, **settings), data=DATA, n=360, metrics=names).figures
        for name, settings in {
            "memoriser": {}, "gaussian": {"rank": 40}, "histogram": {}, "collapsed": {"rank": 40}
        }.items()
    }  # fmt: skip
    kid = {name: figures["kid"] for name, figures in of.items()}
    assert kid["memoriser"].value < kid["gaussian"].value < kid["collapsed"].value
    assert kid["gaussian"].value < kid["histogram"].value
    assert abs(kid["memoriser"].floor) < 4 * kid["memoriser"].floor_error
    assert kid["gaussian"].value > kid["gaussian"].floor + 4 * kid["gaussian"].error
    assert of["collapsed"]["classes"].value < 1.5
    assert of["memoriser"]["classes"].value > 9
    assert of["memoriser"]["novelty"].value == 0
    assert of["gaussian"]["novelty"].value > 0.5
    assert of["memoriser"]["as_asked"].value > 0.93
    assert "as_asked" not in of["gaussian"]
    assert of["gaussian"]["frechet"].floor < of["gaussian"]["frechet"].value < of["collapsed"]["frechet"].value


def test_frechet_is_given_where_images_suffice():
    found = evaluate(toy_runs.fitted("gaussian"), data=DATA, n=300, metrics=["frechet"])
    figure = found.figures["frechet"]
    assert figure.value > figure.floor > 0
    assert figure.error > 0


def test_seconds_count_the_time_that_drawing_takes():
    found = evaluate(
        toy_runs.fitted("gaussian", nap=0.004), data=DATA, n=64, batch=16, metrics=["seconds_batch", "seconds_one"]
    )
    assert 0.004 <= found.figures["seconds_batch"].value < 0.04
    assert found.figures["seconds_one"].value >= 0.004
    assert "16 at once" in found.figures["seconds_batch"].protocol


def test_budget_reduces_the_images_and_says_so():
    model = toy_runs.fitted("gaussian", nap=0.005)
    found = evaluate(model, data=DATA, n=256, batch=16, budget=0.5, metrics=["kid"])
    assert found.data["compared"] in (32, 64)
    assert f"{found.data['compared']} samples" in found.figures["kid"].protocol


def test_samples_of_a_smaller_n_are_the_first_of_a_larger():
    from limner.metrics.evaluate import open_bench

    model = toy_runs.fitted("gaussian")
    bench = open_bench(model, data=DATA, n=50, batch=7)[0]
    torch.testing.assert_close(bench.draw(20), model.sample(20, generator=0))
    torch.testing.assert_close(bench.draw(50), model.sample(50, generator=0))


def test_evaluation_is_kept_and_reused_only_under_the_same_weights_and_protocol(tmp_path, monkeypatch):
    run = toy_runs.make_run(tmp_path / "a", "gaussian", seconds=12)
    calls = []
    extract = Bench._extract
    monkeypatch.setattr(Bench, "_extract", lambda bench, kind: calls.append(kind) or extract(bench, kind))

    first = evaluate(run, data=DATA, n=100, metrics=["kid", "train_seconds"])
    assert first.figures["train_seconds"].value == 12
    assert sorted(calls) == ["floor", "real", "samples"]
    assert evaluate(run, data=DATA, n=100, metrics=["kid"]).figures["kid"] == first.figures["kid"]
    assert len(calls) == 3
    kept = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert set(kept["figures"]) == {"kid", "train_seconds"}
    evaluate(run, data=DATA, n=90, metrics=["kid"])  # another protocol
    assert len(calls) == 6
    toy_runs.make_run(tmp_path / "a", "gaussian", rank=8)  # other weights
    assert evaluate(run, data=DATA, n=90, metrics=["kid"]).figures["kid"] != first.figures["kid"]
    assert len(calls) == 9


def test_evaluation_survives_json_with_infinite_values():
    found = evaluate(toy_runs.fitted("projector", rank=64), data=DATA, n=20, metrics=["psnr"])
    assert found.figures["psnr"].value == math.inf
    text = found.to_json()
    assert "Infinity" not in text
    assert Evaluation.from_json(text) == found
    with pytest.raises(UserError, match="does not hold an evaluation"):
        Evaluation.from_json("{}", where="x")


def test_unlike_shapes_unknown_metrics_and_missing_data_are_refused():
    model = toy_runs.fitted("gaussian")
    with pytest.raises(UserError, match="choose from kid"):
        evaluate(model, data=DATA, metrics=["fud"])
    with pytest.raises(UserError, match="on which data"):
        evaluate(model)
    with pytest.raises(UserError, match=r"draws images of 1 x 16 x 16"):
        evaluate(toy_runs.Gaussian(toy_runs.Config(size=16)), data=DATA)


def test_every_metric_says_what_it_means():
    assert all(len(m.meaning) > 20 and m.better in ("", "lower", "higher") for m in METRICS.values())
