"""Numbers show no more digits than their spread allows, and sentences say what the figures say and nothing that they do not."""

import math
from types import SimpleNamespace

import pytest

from limner.metrics.figure import Figure
from limner.report import numbers, words
from limner.report.words import headlines, separated, statements


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.98342, 0.0123, "2.983"), (2.98342, 0.041, "2.98"), (1.7134, 0.2, "1.71"), (8.41, 0.52, "8.4"),
        (123.4, 21, "123"), (-0.1234, 0.06, "−0.12"), (3.14159, None, "3.14"), (0.0, None, "0.00"),
        (math.inf, None, "∞"), (math.nan, None, "–"),
    ],
)  # fmt: skip
def test_digits_follow_the_spread(value, error, text):
    assert numbers.value(value, error) == text


def test_units_follow_the_size():
    plain = lambda text: text.replace(numbers.SPACE, " ")  # noqa: E731
    assert [plain(numbers.seconds(s)) for s in (7.3e-6, 0.00123, 0.068, 0.4567, 2.0, 75, 185, 7805)] == [
        "7.3 µs", "1.2 ms", "68 ms", "457 ms", "2 s", "75 s", "3 min 05 s", "2 h 10 min"
    ]  # fmt: skip
    assert [plain(numbers.count(n)) for n in (950, 12_345, 3_400_000, 1.2e9)] == ["950", "12.3 k", "3.4 M", "1.2 G"]
    assert [numbers.times(r) for r in (1.44, 23.4, 344, 1296)] == ["1.4 times", "23 times", "340 times", "1,300 times"]
    assert numbers.listing(["a"]) + numbers.listing(["a", "b", "c"]) == "aa, b and c"


def run(label, **figures):
    """A run with these figures: value, (value, error) or (value, error, floor, floor error) or (value, error, note)."""
    made = {}
    for name, given in figures.items():
        value, error, *more = given if isinstance(given, tuple) else (given, None)
        note = more[0] if more and isinstance(more[0], str) else ""
        floor = tuple(more) if more and not note else (None, None)
        made[name] = Figure(name, value, "same", error, note, *floor)
    return SimpleNamespace(label=label, figure=made.get, health=[])


def said(runs, topic):
    found = [s.text.replace(numbers.SPACE, " ") for s in statements(runs) if s.topic == topic]
    return found[0] if found else ""


def test_separated_asks_for_twice_the_error_of_the_difference():
    f = lambda value, error: Figure("kid", value, "", error)  # noqa: E731
    assert separated(f(1.0, 0.1), f(1.3, 0.1))
    assert not separated(f(1.0, 0.1), f(1.2, 0.1))
    assert separated(f(math.inf, 0), f(40, 1))
    assert not separated(f(math.inf, 0), f(math.inf, 0))


def test_quality_ranks_and_does_not_split_what_the_spread_joins():
    runs = [
        run("a", kid=(2.0, 0.1, 0.0, 0.05)),
        run("b", kid=(1.0, 0.1, 0.0, 0.05)),
        run("c", kid=(1.1, 0.1, 0.0, 0.05)),
    ]
    text = said(runs, "quality")
    assert text.startswith("b and c come closest to held-out images; the spread does not tell them apart")
    assert "After them comes a (2.0" in text
    assert "a is 2.0 times as far as b" in text
    assert "no model here is that near" in text
    swapped = said([run("a", kid=(0.03, 0.05, 0.0, 0.05)), run("b", kid=(1.0, 0.1, 0.0, 0.05))], "quality")
    assert swapped.startswith("a comes closest")
    assert "a cannot be told from that" in swapped


def test_quality_warns_of_copies():
    text = said(
        [run("a", kid=(0.0, 0.1, 0.0, 0.1), novelty=0.02), run("b", kid=(3.0, 0.1, 0.0, 0.1), novelty=1.0)], "quality"
    )
    assert "a repeats its training images" in text
    assert "b repeats" not in text


def test_trade_off_is_between_those_not_beaten_and_names_those_that_are():
    runs = [
        run("fast", kid=(3.0, 0.1), seconds_batch=0.001),
        run("good", kid=(1.0, 0.1), seconds_batch=0.34),
        run("poor", kid=(4.0, 0.1), seconds_batch=0.9),
    ]
    text = said(runs, "trade")
    assert (
        "fast draws an image 340 times as fast as good, whose kernel distance from real images is 3.0 times smaller."
        in text
    )
    assert "poor is both slower and farther from real images than good." in text
    same = [run("fast", kid=(1.05, 0.1), seconds_batch=0.001), run("good", kid=(1.0, 0.1), seconds_batch=0.34)]
    assert said(same, "trade") == ""  # quality alike within the spread: there is nothing to trade
    ahead = [run("best", kid=(1.0, 0.1), seconds_batch=0.001), run("other", kid=(2.0, 0.1), seconds_batch=0.1)]
    assert said(ahead, "trade") == "best is ahead of every other in both quality and speed."


def test_variety_names_collapse_only_where_it_is():
    runs = [run("full", classes=(9.8, 0.1, 9.9, 0.05)), run("gone", classes=(2.0, 0.1, 9.9, 0.05))]
    assert "fewer in the samples of gone (2.00 ± 0.10)" in said(runs, "variety")
    assert "gone leaves out most: collapsed, or not trained enough." in said(runs, "variety")
    assert "All draw as many kinds" in said(runs[:1], "variety")


def test_likelihood_says_exact_or_bound_and_who_has_none():
    runs = [
        run("x", bits_per_dim=(2.9, 0.01, "exact")),
        run("v", bits_per_dim=(3.9, 0.01, "bound, samples=5")),
        run("g"),
    ]
    text = said(runs, "likelihood")
    assert "x needs the fewest bits for each value of an unseen image: 2.900 ± 0.010 bits (exact)" in text
    assert "v (3.900, bound, samples=5)" in text
    assert "A bound says: no more than that." in text
    assert "g gives an image no probability" in text
    assert "bound" not in said(runs[:1], "likelihood")


def test_reconstruction_tells_exact_from_bottleneck_from_search():
    runs = [
        run("flow", psnr=(math.inf, 0.0)),
        run("ae", psnr=(20.1, 0.1)),
        run("gan", psnr_search=(14.2, 0.3)),
        run("pix"),
    ]
    text = said(runs, "reconstruction")
    assert "flow gives every image back to the grey level" in text
    assert "There and back, ae reaches 20.10 dB." in text
    assert "gan has no encoder; the nearest images that a search of the latents finds are at 14.2 dB." in text
    assert "pix has no latent for an image." in text


def test_speed_and_cost_mention_notable_ratios_only():
    runs = [
        run("a", seconds_batch=0.001, seconds_one=0.05, train_seconds=60),
        run("b", seconds_batch=0.02, seconds_one=0.03, train_seconds=62),
    ]
    assert "a draws an image in 1 ms, b in 20 ms: 20 times as long." in said(runs, "speed")
    assert "an image of a takes 50 times as long" in said(runs, "speed")
    assert "about the same time (60 s to 62 s)" in said(runs, "cost")
    even = [run("a", seconds_batch=0.001), run("b", seconds_batch=0.0012)]
    assert said(even, "speed").startswith("All draw about equally fast")


def test_headlines_name_the_winners_and_their_figures():
    runs = [run("a", kid=(1.0, 0.1), seconds_batch=0.001), run("b", kid=(3.0, 0.1), seconds_batch=0.1)]
    found = headlines(runs, {"kid": ["a"], "seconds_batch": ["a"], "psnr": []})
    assert [(who, detail.replace(numbers.SPACE, " ")) for _, who, detail in found] == [
        ("a", "KID 1.00"),
        ("a", "1 ms an image"),
    ]


def test_nothing_is_said_of_nothing():
    assert statements([run("a")]) == []
    assert words.ranked([run("a", kid=(math.nan, 0.0))], "kid") == []
