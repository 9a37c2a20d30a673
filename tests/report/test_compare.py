"""The comparison: one protocol or none, a page that needs nothing else, and the same figures as table, JSON and picture."""

import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import toy_runs
from limner.errors import UserError
from limner.metrics.bench import Bench
from limner.metrics.figure import Evaluation, Figure
from limner.report import charts, numbers, table, words
from limner.report.compare import TOPICS, compare, write_page
from limner.report.comparison import check_same_protocols, complaints, curves, gather, winners
from limner.report.images import mosaic
from limner.report.picture import comparison_picture
from limner.report.table import as_json, evaluation_table, markdown

DATA = toy_runs.digits()
TOYS = {"histogram": {"nap": 0.0005}, "gaussian": {"rank": 40}, "projector": {"rank": 10}, "memoriser": {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [toy_runs.make_run(root / name, name, **settings) for name, settings in TOYS.items()]


@pytest.fixture(scope="module")
def comparison(runs, _cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(_cache))
        return gather(runs, data=DATA, n=150)


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    return write_page(comparison, tmp_path_factory.mktemp("page") / "deep" / "report.html").read_text(encoding="utf-8")


def test_every_run_shows_what_it_can_and_says_what_it_cannot(comparison):
    histogram, gaussian, projector, memoriser = comparison.runs
    assert [run.label for run in comparison.runs] == ["toy-histogram", "toy-gaussian", "toy-projector", "toy-memoriser"]
    assert gaussian.pictures.samples.shape == (24, 8, 8, 1)
    assert projector.pictures.samples is None
    assert projector.pictures.copies.shape == (24, 8, 8, 1)
    assert projector.pictures.walk_how.startswith("linear walk between codes")
    assert gaussian.pictures.copies_how.startswith("found by latent search")
    assert gaussian.pictures.walk.shape == (4, 9, 8, 8, 1)
    assert "no latents to walk between" in histogram.pictures.missing["walk"]
    np.testing.assert_array_equal(memoriser.pictures.samples[:10], memoriser.pictures.neighbours)
    assert list(projector.curves) == ["main"]
    assert len(projector.curves["main"][0]) == 40


def test_samples_and_originals_are_the_same_for_every_run(comparison, runs):
    first = runs[1].model().sample(24, generator=0)
    levels = ((first + 1) / 2 * 16).round() * 255 / 16
    np.testing.assert_array_equal(comparison.runs[1].pictures.samples[..., 0], levels.round().numpy()[:, 0])


def test_page_is_one_file_that_asks_for_nothing(page):
    class Collector(HTMLParser):
        def __init__(self):
            super().__init__()
            self.images, self.tags, self.open = [], [], []

        def handle_starttag(self, tag, attributes):
            self.tags.append((tag, dict(attributes)))
            if tag == "img":
                self.images.append(dict(attributes))
            if tag not in ("img", "meta"):
                self.open.append(tag)

        def handle_startendtag(self, tag, attributes):
            self.tags.append((tag, dict(attributes)))

        def handle_endtag(self, tag):
            assert tag == self.open.pop()

    collector = Collector()
    collector.feed(page)
    assert collector.open == []  # every element that is opened is closed, in order
    assert len(collector.images) > 10
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in collector.images)
    names = [tag for tag, _ in collector.tags]
    assert "script" not in names
    assert "link" not in names
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", page)
    assert "@import" not in page
    ids = [attributes["id"] for _, attributes in collector.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", page))
    assert referred <= set(ids)


def test_page_is_for_phones_print_and_dark_rooms_and_holds_the_figures(page, comparison):
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "image-rendering: pixelated" in page
    for statement in comparison.statements:
        assert statement.text.split("'")[0] in page
    assert "toy-memoriser" in page
    assert comparison.protocols["kid"] in page


def test_markdown_and_json_hold_the_same_figures(comparison):
    text = markdown(comparison)
    head, _, real, *rows = text.splitlines()[: 3 + len(TOYS)]
    assert head.startswith("| model | KID ↓ |")
    assert real.startswith("| *real images* |")
    assert all(row.count("|") == head.count("|") for row in [real, *rows])
    document = json.loads(as_json(comparison))
    kid = document["runs"]["toy-gaussian"]["figures"]["kid"]["value"]
    assert kid == comparison.runs[1].figure("kid").value
    assert numbers.figure(comparison.runs[1].figure("kid")) in rows[1]
    assert document["best"]["kid"] == ["toy-memoriser"]
    assert "**" in rows[3]


def test_picture_is_a_png_of_every_run(comparison, tmp_path):
    path = comparison_picture(comparison, tmp_path / "comparison.png", dpi=60)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 660
        assert np.asarray(picture.convert("L")).std() > 20


def test_terminal_table_holds_floor_and_protocol(comparison):
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation_table(comparison.runs[1].evaluation))
    text = console.export_text()
    assert "150 samples against 150 held-out images" in text
    assert "gives images no probability" in text


def test_second_comparison_takes_its_figures_from_the_run_folders(runs, comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "_extract", lambda bench, kind: pytest.fail("measured again"))
    document = json.loads(compare(runs, data=DATA, n=150, format="json"))
    assert document["runs"]["toy-gaussian"]["figures"]["kid"]["value"] == comparison.runs[1].figure("kid").value


def test_unlike_data_and_unlike_protocols_are_refused(runs):
    train, test = DATA
    models = [toy_runs.fitted("gaussian"), toy_runs.fitted("histogram")]
    fewer = SimpleNamespace(
        path=runs[0].path, name="x", data_config=(train, test.subset(range(100))), stats=list, model=runs[0].model
    )
    whole = SimpleNamespace(path=runs[1].path, name="y", data_config=DATA, stats=list, model=runs[1].model)
    with pytest.raises(UserError, match="unlike held-out images"):
        compare([whole, fewer])
    one, other = (
        Evaluation("a", "w", {}, {"kid": Figure("kid", 1.0, protocol)}) for protocol in ("1000 samples", "500 samples")
    )
    with pytest.raises(UserError, match=r"KID of 'a' and 'a' cannot stand in one column.*1000 samples; 500 samples"):
        check_same_protocols([one, other])
    with pytest.raises(UserError, match="at least one run"):
        compare([])
    with pytest.raises(UserError, match="choose html, markdown, json, latex"):
        compare(models, data=DATA, format="pdf")


def test_budget_gives_all_runs_the_count_that_the_slowest_can_afford(tmp_path):
    slow, quick = toy_runs.fitted("histogram", nap=0.004), toy_runs.fitted("gaussian")
    found = gather([slow, quick], data=DATA, n=256, budget=0.6, batch=32)
    assert found.data["compared"] in (32, 64, 128)
    assert {run.figure("kid").protocol for run in found.runs} == {found.protocols["kid"]}
    assert f"{found.data['compared']} samples" in found.protocols["kid"]


def test_winners_are_marked_only_where_the_spread_allows():
    def run(label, value, error):
        return SimpleNamespace(label=label, figure=lambda name: Figure(name, value, "", error))

    assert winners([run("a", 1.0, 0.1), run("b", 1.1, 0.1), run("c", 3.0, 0.1)], "kid") == ["a", "b"]
    assert winners([run("a", 1.0, 0.5), run("b", 1.1, 0.5)], "kid") == []
    assert winners([run("a", 20.0, 0.1), run("b", 25.0, 0.1)], "psnr") == ["b"]


def test_curves_are_thinned_to_means_and_leave_out_what_is_not_finite():
    stats = [{"images": 10 * i, "loss/g": float(i % 2), "loss/d": math.nan, "seconds": 1.0} for i in range(3000)]
    found = curves(stats)
    assert list(found) == ["g"]
    x, y = found["g"]
    assert len(x) == 300
    assert x[0] == 45
    assert y == [0.5] * 300
    assert curves(stats[:4])["g"] == ([0, 10, 20, 30], [0, 1, 0, 1])


def test_mosaic_places_images_row_by_row():
    images = np.arange(5, dtype=np.uint8).repeat(4).reshape(5, 2, 2, 1) * 10
    sheet = np.asarray(mosaic(images, 3))
    assert sheet.shape == (5, 8, 4)
    assert sheet[0, 3].tolist() == [10, 10, 10, 255]
    assert sheet[3, 0].tolist() == [30, 30, 30, 255]
    assert sheet[0, 2, 3] == 0  # the gap is transparent
    assert sheet[4, 7, 3] == 0  # and so is the place of a sixth image


def test_latex_has_a_column_a_metric_a_row_a_run_and_the_protocols_as_comments(comparison):
    text = table.latex(comparison)
    lines = text.splitlines()
    assert lines[-1] == r"\end{tabular}"
    head = next(line for line in lines if line.startswith("Model & "))
    assert head.count("&") == len(comparison.metrics)
    for run in comparison.runs:
        row = next(line for line in lines if line.startswith(f"{run.label} & "))
        assert row.count(" & ") == len(comparison.metrics)
        assert row.endswith(r" \\")
    assert any(line.startswith("% KID") and "held-out images" in line for line in lines)
    assert not any(c in line for line in lines for c in "±≤µ")


def test_tables_answer_four_questions_with_all_metrics(comparison):
    shown = [m for topics in TOPICS.values() for m in comparison.of_topics(topics)]
    assert sorted(shown) == sorted(comparison.metrics)
    assert {"kid", "precision"} <= set(comparison.of_topics(["quality"]))
    assert {"recall", "copies"} <= set(comparison.of_topics(["variety"]))


def test_precision_and_recall_are_drawn_and_told(comparison):
    drawing = charts.precision_recall(comparison.runs)
    for run in comparison.runs:
        if run.figure("recall") is not None:
            assert run.label in drawing
    assert "real images" in drawing
    assert charts.precision_recall(comparison.runs[:1]) == ""
    assert any(statement.topic == "both" for statement in comparison.statements)


def test_what_was_wrong_in_training_is_gathered_from_its_log():
    verdict = {
        "name": "critic-wins",
        "headline": "the critic wins",
        "evidence": "a",
        "advice": "b",
        "severity": "serious",
    }
    stats = [
        {"images": 100, "health": [verdict]},
        {"images": 200, "health": [verdict | {"evidence": "later"}, verdict | {"name": "x", "headline": "y"}]},
        {"images": 300, "health": [verdict | {"name": "x", "headline": "y"}]},
    ]
    first, second = complaints(stats)
    assert (first.headline, first.evidence, first.since, first.until, first.lasting) == (
        "the critic wins", "later", 100, 200, False
    )  # fmt: skip
    assert (second.since, second.until, second.lasting) == (200, 300, True)
    assert complaints([{"images": 1}]) == []
    run = SimpleNamespace(label="gan", health=[first, second])
    assert words.health([run]).text.startswith("gan's training ended with y.")
    assert words.health([SimpleNamespace(label="ae", health=[])]) is None
