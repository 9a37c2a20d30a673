"""The rules of `limner.training.health`: each looks at the statistics of a run so far and says what is wrong, if anything is.

The bounds are wide of what the healthy runs of every family in the gallery show (`tests/training/healthy`): a rule that is silent
where it might have spoken costs less than one that nobody believes. Most bounds are on means over lines of statistics, of which
there are 200 in a run, and ask for a number of steps as well, since a line of a short run is a single noisy step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from limner.training.health_history import History, Verdict

Layers = Mapping[str, str]
"""By optimizer: the name of the layer with the smallest gradient."""
Rule = Callable[[History, Layers], Iterator[Verdict]]

WINDOW = 10
"""Lines of statistics, a twentieth of a run, over which a game or a gradient is judged."""
SETTLED = 500
"""Steps after which the first disorder of a training is over."""


# ---- a game between a critic and a generator


def _games(history: History) -> Iterator[tuple[str, list[tuple[float, ...]]]]:
    """By critic: the probability that real and generated images get of being real, and the step, line by line."""
    for critic in history.ending("D(x)", "D(G(z))"):
        yield critic.rstrip("/"), history.rows(f"{critic}D(x)", f"{critic}D(G(z))", "step")


CRITIC_LEADS = 0.9
"""D(x) - D(G(z)) from which the critic has won: it is sure of nearly every image."""
CRITIC_LOST = 0.03
"""D(x) - D(G(z)) below which the critic tells nothing apart."""


def critic_wins(history: History, layers: Layers) -> Iterator[Verdict]:
    """The critic is sure of every image, so that nothing it says tells the generator which way is better."""
    for critic, game in _games(history):
        window = _window(game, steps=200)
        if window and _mean(r - f for r, f, _ in window) > CRITIC_LEADS:
            real, fake = _mean(r for r, _, _ in window), _mean(f for _, f, _ in window)
            yield Verdict(
                "critic-wins",
                "the critic wins",
                f"'{critic}' takes real images for real with probability {real:.3g} and generated ones with {fake:.2g}, "
                f"the mean over the last {_steps(window)} steps, and the generator learns little from that",
                "fewer updates of the critic for each of the generator, a lower --model.lr, a gradient penalty on the critic (r1) "
                "or the non-saturating loss",
            )


def generator_wins(history: History, layers: Layers) -> Iterator[Verdict]:
    """The critic tells nothing apart, although the samples are not like the data."""
    for critic, game in _games(history):
        window = _window(game, steps=200)
        if not window or _mean(r - f for r, f, _ in window) > CRITIC_LOST:
            continue
        probe = history.probes("draw", "novelty", "spread", "recall")
        if probe:
            novelty, spread, recall = probe[-1]
            # A perfect generator has the critic at a loss, too: then the samples are as near to the data, and as varied.
            if novelty < 2 and spread > 0.75 and recall > 0.3:
                continue
        real, fake = _mean(r for r, _, _ in window), _mean(f for _, f, _ in window)
        looks = (
            f", though samples are {novelty:.2g} times as far from the training images as real ones are and {spread:.2g} times as varied"
            if probe
            else ""
        )
        yield Verdict(
            "generator-wins",
            "the generator wins",
            f"'{critic}' takes real images for real with probability {real:.2g} and generated ones with {fake:.2g}, the mean "
            f"over the last {_steps(window)} steps: it no longer tells them apart{looks}",
            "more updates of the critic for each of the generator, a higher learning rate or a wider network for the critic, or a weaker "
            "gradient penalty",
        )


SWING = 0.5
"""Change of D(x) - D(G(z)) that is a swing."""
SWINGS = 5
"""Swings within `SEASON` lines (or more, to have 200 steps) that are an oscillation."""
SEASON = 40


def oscillation(history: History, layers: Layers) -> Iterator[Verdict]:
    """Critic and generator take turns in winning instead of both getting better."""
    for critic, game in _games(history):
        window = _window(game, steps=200, lines=SEASON) or game
        turns = _turns([r - f for r, f, _ in window], SWING)
        if len(turns) > SWINGS:
            low, high = min(turns), max(turns)
            yield Verdict(
                "oscillation",
                "critic and generator oscillate",
                f"the lead of '{critic}', D(x) - D(G(z)), swung {len(turns) - 1} times between about {low:.2f} and {high:.2f} in the "
                f"last {_steps(window)} steps",
                "a lower --model.lr, --model.beta1 of 0.5 or 0, a gradient penalty on the critic (r1), or a larger --batch",
            )


def _turns(values: Sequence[float], least: float) -> list[float]:
    """The turning points of a series whose swings are `least` or more."""
    turns: list[float] = []
    low = high = values[0] if values else 0.0
    rising: bool | None = None
    for value in values:
        low, high = min(low, value), max(high, value)
        if rising is not False and high - value >= least:  # it came down from `high`
            turns.append(high)
            rising, low, high = False, value, value
        elif rising is not True and value - low >= least:
            turns.append(low)
            rising, low, high = True, value, value
    if rising is not None:
        turns.append(high if rising else low)
    return turns


# ---- samples


ALIKE = 0.5
"""Distance between samples over that between real images, below which samples are alike."""
TWINS = 0.15
"""The same for the distance to the nearest fellow: below it most samples come twice."""
FALLEN = 0.7
"""Share of its best past value below which the variety of samples has fallen."""


def mode_collapse(history: History, layers: Layers) -> Iterator[Verdict]:
    """The samples are few images over and over."""
    looks = history.probes("draw", "spread", "recall", "step")
    twins = [n for (n,) in history.probes("draw", "nearest")]
    if len(looks) < 5 or looks[-1][-1] < SETTLED or any(posterior_collapse(history, layers)):
        return  # a latent that says nothing gives one image for ever, and has a verdict of its own
    spread, recall = [s for s, *_ in looks], [r for _, r, _ in looks]
    # Noise is more varied than any image and has a wide reach: the best is that of real images.
    best, usual = min(1.0, _best(spread)), _best(recall)
    evidence = ""
    if _stays_below(spread, ALIKE) or (_mean(spread[-3:]) < FALLEN * best):
        evidence = f"two samples are {spread[-1]:.0%} as far apart as two real images"
        evidence += f", after {best:.0%} at the best" if spread[-1] < FALLEN * best else ""
    elif _stays_below(twins, TWINS):
        evidence = f"a sample is {twins[-1]:.0%} as far from its nearest fellow as a real image is from its own"
    if evidence:
        fell = f", after {usual:.0%} at the best" if usual > 2 * recall[-1] else ""
        yield Verdict(
            "mode-collapse",
            "mode collapse",
            f"the samples are too much alike: {evidence}, and they reach {recall[-1]:.0%} of the real images (recall){fell}",
            "an earlier checkpoint, a lower --model.lr, a gradient penalty on the critic (r1), a larger --batch, or another kind of model",
        )


def _stays_below(values: Sequence[float], bound: float) -> bool:
    """Whether the latest five values are below the bound and do not rise: at first every generator draws one grey image."""
    return len(values) >= 5 and max(values[-5:]) < bound and _mean(values[-2:]) < 1.1 * _mean(values[-5:-2])


def memorisation(history: History, layers: Layers) -> Iterator[Verdict]:
    """The samples are training images."""
    looks = history.probes("draw", "copies", "novelty")[-2:]
    if len(looks) == 2 and min(copies for copies, _ in looks) > 0.3:
        copies, novelty = looks[-1]
        yield Verdict(
            "memorisation",
            "memorisation",
            f"{copies:.0%} of the samples are near copies of training images; the median sample is {novelty:.2g} times as far from its "
            "nearest one as an image is that the model has not seen",
            "more images or random variants of them, a smaller model, dropout, fewer --images, or an earlier checkpoint",
        )


# ---- likelihood and latents


def overfitting(history: History, layers: Layers) -> Iterator[Verdict]:
    """What is gained on training images is lost on held-out ones."""
    looks = history.probes("fit", "fit_train", "fit_held_out", "fit_error")
    best = min((held for _, held, _ in looks), default=0.0)
    apart = [held - train > max(4 * error, 0.1 * held) for train, held, error in looks]
    worse = [held > 1.08 * best or train < held / 4 for train, held, _ in looks]
    if len(looks) >= 3 and all(apart[-2:]) and all(worse[-2:]):
        train, held, error = looks[-1]
        before = f"; held-out ones were at {best:.3g} before" if held > 1.08 * best else ""
        yield Verdict(
            "overfitting",
            "overfitting",
            f"held-out images cost {held:.3g} and training images {train:.3g} (bits per dimension, or squared error), a gap of "
            f"{(held - train) / error:.0f} standard errors{before}",
            "an earlier checkpoint, more images, a smaller model, dropout or weight decay where the model has it, or fewer --images",
        )


SILENT = 1e-3
"""KL term over reconstruction term below which the latent says nothing."""


def posterior_collapse(history: History, layers: Layers) -> Iterator[Verdict]:
    """The latent says nothing of the image."""
    evidence = []
    if history.step < SETTLED:  # a latent comes to life only after a while
        return
    for part in history.ending("kl", "reconstruction"):
        window = _window(history.rows(f"{part}kl", f"{part}reconstruction", "step"), steps=100)
        kl = [k for k, _, _ in window]
        if kl and _mean(kl) < SILENT * abs(_mean(r for _, r, _ in window)) and kl[-1] < 1.1 * kl[0]:
            evidence.append(f"the KL term is {_mean(kl):.2g}, its reconstruction term {window[-1][1]:.3g}")
    looks = history.probes("encode", "active_units", "latent_units")
    active = [a for a, _ in looks]
    # It is usual that some units are not needed.
    if len(looks) >= 5 and max(active[-5:]) < max(1, 0.05 * looks[-1][1]) and active[-1] <= active[-5]:
        evidence.append(
            f"{active[-1]:.0f} of the {looks[-1][1]:.0f} units of the latent vary from image to image by more than a hundredth of the "
            "prior's variance"
        )
    if evidence:
        yield Verdict(
            "posterior-collapse",
            "posterior collapse",
            ", and ".join(evidence),
            "a lower weight of the KL term (--model.beta) or a slow rise of it, a weaker decoder, or fewer latent units",
        )


def dead_codes(history: History, layers: Layers) -> Iterator[Verdict]:
    """Most codes of a codebook are never used."""
    for book in history.ending("perplexity", "codebook_size"):
        window = _window(history.rows(f"{book}perplexity", f"{book}codebook_size", "step"), lines=2 * WINDOW, steps=200)
        if not window:
            continue
        size = window[-1][1]
        before, now = _mean(p for p, _, _ in window[:WINDOW]), _mean(p for p, _, _ in window[-WINDOW:])
        if now < 0.1 * size and now < 1.1 * before:
            yield Verdict(
                "dead-codes",
                "dead codes",
                f"the codebook of '{book.rstrip('/')}' has {size:.0f} codes and is used as if it had {now:.0f} (perplexity)",
                "starting unused codes afresh, moving averages for the codebook, narrower or normalised codes, or a smaller codebook",
                "caution",
            )


# ---- gradients and time


RISE = 10.0
"""How many times its earlier median a gradient norm must reach, line after line, to be called a climb."""
CLIMB = 1.5
"""Factor from one window to the next that, five windows long, is a climb as well."""
FADED = 1e-5
"""Gradient of the layer that learns least over that of the one that learns most, below which it has vanished."""


def divergence(history: History, layers: Layers) -> Iterator[Verdict]:
    """The gradient norm climbs away from its own history."""
    for name in history.latest:
        if not name.startswith("norm/"):
            continue
        optimizer = name.removeprefix("norm/")
        lines = history.rows(name, f"loss/{optimizer}")
        norms, losses = [n for n, _ in lines], [loss for _, loss in lines]
        # Early training is restless in every family.
        if len(norms) < WINDOW + 3 or history.step < 100:
            continue
        # Gradients also grow as a model comes to life; but then its loss falls.
        rises = statistics.median(losses[-3:]) > statistics.median(losses[-50:-3])
        # A gradient that had faded may come back to where it began.
        usual = max(statistics.median(norms[-53:-3]), statistics.median(norms[:WINDOW]))
        high = rises and min(norms[-3:]) > RISE * usual
        # A slow climb takes its own median along: five windows, each higher than the one before by half.
        blocks = [statistics.median(norms[len(norms) - WINDOW * i :][:WINDOW]) for i in range(5, 0, -1)]
        climbs = rises and len(norms) >= 5 * WINDOW and all(b > CLIMB * a for a, b in pairwise(blocks))
        usual = blocks[0] if climbs else usual
        if usual > 0 and (high or climbs or norms[-1] > 10 * RISE * usual):
            yield Verdict(
                "divergence",
                "divergence ahead",
                f"the gradient norm of '{optimizer}' is {norms[-1]:.3g}, {norms[-1] / usual:.0f} times what it was",
                "a lower --model.lr, a longer --warmup or --clip 1",
            )


def vanishing_gradients(history: History, layers: Layers) -> Iterator[Verdict]:
    """Nothing reaches the layers far from the loss."""
    for name in history.latest:
        if not name.startswith("gradient/"):
            continue
        optimizer = name.removeprefix("gradient/")
        window = [share for share, _ in _window(history.rows(name, "step"), steps=100)]
        # What stands behind a layer that starts at zero gets its gradient little by little.
        if window and history.step >= SETTLED and (share := statistics.median(window)) < FADED:
            layer = f"'{layers[optimizer]}'" if optimizer in layers else "the layer that learns least"
            yield Verdict(
                "vanishing-gradients",
                "vanishing gradients",
                f"the gradient of {layer} is {share:.1g} of that of the layer of '{optimizer}' that learns most (root mean squares, "
                f"median of {len(window)} lines)",
                "ReLU or SiLU instead of sigmoid or tanh, normalisation, residual connections, another initialisation, or fewer layers",
            )


STARVED = 0.3
"""Share of the time spent waiting for data, over `PATIENCE` lines, from which the loop counts as starved."""
FETCH = 0.005
"""Seconds a step that may go into a batch in any case: taking it from memory."""
PATIENCE = 5


def data_starvation(history: History, layers: Layers) -> Iterator[Verdict]:
    """The loop waits for images."""
    lines = history.rows("wait", "images_per_second", "seconds", "step")[-PATIENCE - 1 :]
    if len(lines) <= PATIENCE or lines[-1][-1] <= lines[0][-1]:
        return
    wait = _mean(w for w, *_ in lines[1:])
    of_a_step = wait * (lines[-1][2] - lines[0][2]) / (lines[-1][3] - lines[0][3])
    if wait > STARVED and of_a_step > FETCH:
        yield Verdict(
            "data-starvation",
            "data starvation",
            f"{wait:.0%} of the time goes into waiting for images, {1e3 * of_a_step:.0f} ms of every step; {lines[-1][1]:,.0f} images "
            "a second arrive",
            "a local copy of the data, a smaller --size, or a data set that fits into memory",
            "caution",
        )


RULES: tuple[Rule, ...] = (
    divergence,
    critic_wins,
    generator_wins,
    oscillation,
    mode_collapse,
    vanishing_gradients,
    posterior_collapse,
    dead_codes,
    memorisation,
    overfitting,
    data_starvation,
)


def _window(rows: Sequence[tuple], steps: int, lines: int = WINDOW) -> Sequence[tuple]:
    """The latest `lines` rows, or more so that they cover `steps` steps (the last entry of a row); empty if there are not so many."""
    for i in range(len(rows) - lines, 0, -1):
        if rows[-1][-1] - rows[i - 1][-1] >= steps:
            return rows[i:]
    return []


def _steps(window: Sequence[tuple]) -> str:
    return f"{window[-1][-1] - window[0][-1]:,.0f}"


def _mean(values) -> float:
    return statistics.fmean(values)


def _best(values: Sequence[float]) -> float:
    """The highest median of three successive values before the latest three; 0 if there are none."""
    earlier = values[:-3]
    return max((statistics.median(earlier[i : i + 3]) for i in range(len(earlier) - 2)), default=0.0)
