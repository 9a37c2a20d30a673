"""Measures of translation on translators whose images are known: a perfect one, one that does nothing, one that always draws the same."""

import math

import numpy as np
import pytest
import torch

from limner.data import DataConfig, open_data, shapes
from limner.data.dataset import pair
from limner.data.grid import from_uint8
from limner.errors import UserError
from limner.metrics import psnr, translation
from limner.metrics.evaluate import evaluate
from limner.metrics.pair_bench import PairBench, union

SIZE, OTHER = 16, {"A": "B", "B": "A"}
SOURCE = DataConfig("shapes-ab", size=SIZE, count=800, test_fraction=0.4)


class Translator(torch.nn.Module):
    """Translates the images of `test`, each to what `make(domain, factors)` says. Images are recognised by their pixels."""

    inputs = ("A", "B")
    image_shape = (3, SIZE, SIZE)
    device = torch.device("cpu")

    def __init__(self, test, make):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers = {}
        for source, data in test.domains.items():
            for target in "AB":
                made = make(source, target, data)
                self.answers |= {(image.tobytes(), target): x for image, x in zip(data.images, made, strict=True)}

    def translate(self, image, *, target):
        pixels = ((image + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return from_uint8(np.stack([self.answers[p.tobytes(), target] for p in pixels]))


def perfect(source, target, data):
    return shapes.redraw(data.extras["factors"], SIZE, shapes.DOMAIN_STYLE[target])


def nothing(source, target, data):
    return data.images


def one_image(source, target, data):
    scene = shapes.Scene(0, 0, 0, 0.25, 0.5, 0.5, 0.0)
    return np.repeat(shapes.draw(scene, SIZE, shapes.DOMAIN_STYLE[target])[0][None], len(data), 0)


@pytest.fixture(scope="module")
def splits(_cache):
    with pytest.MonkeyPatch.context() as patch:  # the cache of the tests, before the fixture of each sets it
        patch.setenv("LIMNER_CACHE", str(_cache))
        return open_data(SOURCE), open_data(SOURCE, split="test")


@pytest.fixture(scope="module")
def figures(splits, _cache):
    """style, kept and truth of each translator, as fields of a figure, with predictors that were trained for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(_cache))
        patch.setattr(translation, "IMAGES_SEEN", 14_000)
        benches = {f: PairBench(Translator(splits[1], f), *splits, n=500) for f in (perfect, nothing, one_image)}
        measures = (translation.style, translation.kept, translation.truth)
        return {f.__name__: {m.__name__: m(bench) for m in measures} for f, bench in benches.items()}


def test_scenes_redrawn_from_their_factors_are_the_pictures(splits):
    for domain, data in splits[1].domains.items():
        assert np.array_equal(perfect(domain, domain, data), data.images)


def test_a_perfect_translator_is_as_good_as_real_images(figures):
    found = figures["perfect"]
    assert found["truth"]["value"] == math.inf
    for name in ("style", "kept"):
        assert abs(found[name]["value"] - found[name]["floor"]) < 4 * max(found[name]["error"], 0.01), name
    assert found["style"]["value"] > 0.9
    assert found["kept"]["value"] > 0.55  # the predictors were hardly trained here


def test_doing_nothing_keeps_the_style(figures, splits):
    found = figures["nothing"]
    assert found["style"]["value"] < 0.1
    a, b = (splits[1].domains[d] for d in "AB")
    drawn = [torch.from_numpy(perfect(d, OTHER[d], data)) for d, data in (("A", a), ("B", b))]
    real = [torch.from_numpy(d.images) for d in (a, b)]
    everything = psnr.psnr(torch.cat(drawn), torch.cat(real))
    assert found["truth"]["value"] == pytest.approx(everything, abs=0.3)  # of 500 of 640
    assert f"{found['truth']['value']:.2f} dB" in found["truth"]["note"]


def test_always_one_image_has_the_style_but_keeps_nothing(figures):
    found = figures["one_image"]
    assert found["style"]["value"] > 0.99
    assert found["kept"]["value"] < 0.32  # guessing: 1/6, 1/8, 1/4, and for numbers what lies within 0.03 of the guess
    assert found["kept"]["value"] < figures["perfect"]["kept"]["value"] - 0.2


def test_each_direction_and_each_factor_is_said(figures):
    note = figures["perfect"]["kept"]["note"]
    assert all(f"{name} " in note for name in ("A to B", "B to A", *translation.EXACT, *translation.WITHIN))


def test_directions_are_those_of_the_sources(splits):
    bench = PairBench(
        Translator(splits[1], lambda s, t, d: perfect(s, "B", d)), *splits, n=500
    )  # draws B whatever is asked
    note = translation.style(bench)["note"]
    to_b, to_a = (float(part.split()[-1]) for part in note.split(", "))
    assert note.startswith("A to B")
    assert to_b > 0.85
    assert to_a < 0.15


def test_flips_move_the_centre_with_the_picture():
    scene = shapes.Scene(5, 1, 3, 0.2, 0.3, 0.6, 40.0)
    x = from_uint8(shapes.draw(scene, 64)[0][None])
    known = torch.tensor([[5, 1, 3, 0.2, 0.3, 0.6]])
    for flips in [(a, d, t) for a in (0, 1) for d in (0, 1) for t in (0, 1)]:
        picture, moved = translation._flipped(x, known, *flips)
        shape = (picture - picture[..., :1, :1]).abs().sum(1)[0] > 0.2  # (64, 64), where the background is not
        rows, columns = shape.nonzero().float().add(0.5).div(64).unbind(1)
        extent = torch.tensor([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
        assert (extent - moved[0, 4:]).abs().max() < 0.06, flips
        assert moved[0, :4].equal(known[0, :4])


def test_predictors_come_back_from_the_cache_the_same(splits, monkeypatch):
    monkeypatch.setattr(translation, "IMAGES_SEEN", 300)
    monkeypatch.setattr(translation, "RECIPE", "test")
    train, test = (union(s) for s in splits)
    made = translation.predictors_of(train, test)
    monkeypatch.setattr(translation, "fit", None)  # not called again
    kept = translation.predictors_of(train, test)
    assert kept.hash == made.hash
    assert kept.accuracy == made.accuracy


def test_the_truth_of_paired_domains_is_the_partner(splits):
    a, b = splits[1].domains.values()
    paired = pair("pairs", {"A": a, "B": b}, "test", paired=True)
    bench = PairBench(Translator(paired, perfect), paired, paired, n=100)
    rows = bench.held_out_indices[:100].numpy()
    partner = [b.images[r] if r < len(a) else a.images[r - len(a)] for r in rows]
    assert np.array_equal(bench.truth(100).numpy(), np.stack(partner))
    assert translation.kept_lacks(bench) == "the factors of pairs are not known, as those of shapes-ab are"


def test_a_pair_is_measured_by_evaluate(splits):
    found = evaluate(Translator(splits[1], perfect), data=splits, n=200)
    assert found.figures["psnr"].value == math.inf
    assert found.figures["parameters"].value == 1
    assert found.skipped["kid"]
    assert found.data["name"] == "shapes-ab"
    assert found.data["fingerprint"] == splits[1].fingerprint
    assert found.data["held_out"] == 640


def test_a_pair_needs_a_model_that_translates(splits):
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"'shapes-ab' is a pair of domains: .* translate"):
        evaluate(model, data=splits)


def test_a_set_of_one_domain_is_not_measured_for_style(splits):
    from limner.metrics.model_bench import ModelBench

    one = splits[1].domains["A"]
    bench = ModelBench(Translator(splits[1], perfect), one, one)
    assert all(
        f(bench) == translation.NO_DOMAINS
        for f in (translation.style_lacks, translation.kept_lacks, translation.truth_lacks)
    )


def test_a_union_has_both_domains(splits):
    both = union(splits[1])
    a, b = splits[1].domains.values()
    assert np.array_equal(both.images[: len(a)], a.images)
    assert both.labels.tolist() == [0] * len(a) + [1] * len(b)
    assert np.array_equal(both.extras["factors"][len(a) :], b.extras["factors"])
