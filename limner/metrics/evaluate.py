"""Measuring one trained model or a folder of images: `limner evaluate`, and a column of `limner compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from limner import capabilities, card
from limner.data import named, open_data
from limner.data.opening import gather
from limner.data.settings import DataConfig
from limner.errors import UserError
from limner.files import sha256
from limner.metrics import figure
from limner.metrics.bench import Bench
from limner.metrics.extractors import chooser
from limner.metrics.figure import Evaluation, Figure
from limner.metrics.folder_bench import Against, FolderBench
from limner.metrics.model_bench import ModelBench
from limner.metrics.pair_bench import PairBench
from limner.metrics.registry import METRICS
from limner.nn.weights import weights_hash
from limner.training.device import pick


def evaluate(
    run: Any,
    *,
    data: Any = None,
    n: int | None = None,
    batch: int = 64,
    seed: int = 0,
    metrics: Iterable[str] | None = None,
    features: str | None = None,
    weights: str | None = None,
    protocol: str | None = None,
    split: Against | None = None,
    budget: float | None = None,
    device: str = "cpu",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Measure a run (or a model) on its held-out images, by everything that it can do; or the images of a folder against data.

    What an `evaluation.json` in the run folder already holds is kept where weights and protocol are the same.

    Args:
        run: a run folder (path or `RunFolder`), a model, or a folder (or archive) of images; the last two need `data`.
        data: what to measure on: a `DataConfig`, what one writes after --data, or a pair (train, test) of data sets. Default: the
            run's own.
        n: samples to draw, and held-out images to compare them with, score and reconstruct; fewer where the data hold out fewer.
            Default: 1000, or all images of a folder and all they are compared with.
        batch: images drawn at once.
        seed: of the samples and of the choice of held-out images.
        metrics: names out of `limner.metrics.registry.METRICS`; default: all that apply and take seconds rather than minutes.
        features: the network that distances are measured in, out of `limner.metrics.extractors.NAMES`; default: the classifier of
            the data, or their pixels where they have no labels.
        weights: file of that network's weights, where it is not found by itself.
        protocol: how images are made as large as the Inception network wants: "torch", "tf" or "clean", as in pytorch-fid,
            torch-fidelity and clean-fid; implies `features` "inception".
        split: of a folder: the images of the data it is compared with, "test", "train" or "all". Default: "test" where the data
            come with a test set, "all" of a plain folder's.
        budget: seconds that each of drawing, scoring and reconstructing may take; the number of images is halved until it fits
            (not below 32).
        device: where to compute: cpu, cuda, auto ...
        options: extra keywords for models that take them, as {"score": {"samples": 100}}.
        again: measure everything anew.
        say: called with a line whenever something long begins.

    Raises:
        UserError: nothing to measure there, an unknown metric or option, or data that do not fit the model.
    """
    if isinstance(run, str | Path) and not Path(run).expanduser().exists():
        raise UserError(f"'{run}' is neither a run folder nor a folder of images: there is nothing there")
    extractor = chooser(features, weights=weights, protocol=protocol, device=device)
    if is_images(run):
        if options:
            raise UserError(f"--score and --sample are options of a model, and '{run}' holds images")
        images = open_folder(run, data=data, split=split, n=n, seed=seed, extractor=extractor, say=say)
        return measure(images, Path(run).name, images.fingerprint, metrics=metrics)
    if split not in (None, "test"):
        raise UserError(f"--split {split}: a model is measured on held-out images; --split is for a folder of images")
    n = 1000 if n is None else n
    bench, folder, name, hash_of_weights = open_bench(
        run, data=data, n=n, batch=batch, seed=seed, device=device, options=options, extractor=extractor, say=say
    )
    if budget is not None:
        bench.fit(budget)
    return measure(bench, name, hash_of_weights, folder=folder, metrics=metrics, again=again)


def is_images(run: Any) -> bool:
    """Whether what is to be measured is a path with images rather than a run or a model."""
    from limner.training.folder import RunFolder

    return isinstance(run, str | Path) and not RunFolder(run).exists and Path(run).expanduser().exists()


def open_folder(path: str | Path, *, data: Any, split: Against | None = None, **arguments: Any) -> FolderBench:
    """The images of a folder on the bench, beside the data they are compared with."""
    if data is None:
        raise UserError(
            f"'{path}' is no run folder: to measure its images say what they are compared with, --against DATA"
        )
    if isinstance(data, tuple):
        train, test, plain = *data, False
    else:
        config = DataConfig(str(data)) if isinstance(data, str | Path) else data
        gathered = gather(config)
        train, test = gathered.splits["train"], gathered.splits["test"]
        plain = config.data not in {*named.NAMES, *named.PROCEDURAL}
    if test.domains:
        raise UserError(
            f"'{test.name}' is a pair of domains: a folder of images is measured against images of one kind"
        )
    return FolderBench(path, train, test, against=split or ("all" if plain else "test"), **arguments)


def open_bench(
    run: Any, *, data: Any = None, device: str = "cpu", **arguments: Any
) -> tuple[ModelBench, Path | None, str, str]:
    """Load a run (or take a model) with its data: the bench, the run's folder, the model's name and its weights' hash."""
    if isinstance(run, str | Path):
        from limner.training.folder import RunFolder

        run = RunFolder(run)
    if hasattr(run, "stats") and hasattr(run, "data_config"):
        folder, name, stats = Path(run.path), run.name, run.stats()
        model = run.model(pick(device))
        weights = sha256(folder / "model.safetensors")[:12]
        data = run.data_config if data is None else data
    else:
        if data is None:
            raise UserError("to measure a model that is not in a run folder, say on which data")
        folder, name, stats, model = None, type(run).__name__.lower(), [], run.to(pick(device)).eval()
        weights = weights_hash(model)
    train, test = data if isinstance(data, tuple) else _open(data)
    if test.domains and not isinstance(model, capabilities.Translates):
        raise UserError(
            f"'{test.name}' is a pair of domains: only models that translate between two are measured on one"
        )
    shape = tuple(test.images.shape[1:])
    wanted = getattr(model, "image_shape", None)
    if wanted is not None and (wanted[1], wanted[2], wanted[0]) != shape:
        raise UserError(
            f"the model draws images of {wanted[0]} x {wanted[1]} x {wanted[2]} (C, H, W), the data are {shape} (H, W, C)"
        )
    kind = PairBench if test.domains else ModelBench
    bench = kind(model, train, test, stats=stats, **arguments)
    return bench, folder, name, weights


def measure(
    bench: Bench,
    name: str,
    weights: str,
    *,
    folder: Path | None = None,
    metrics: Iterable[str] | None = None,
    again: bool = False,
) -> Evaluation:
    """Measure what applies to the model on the bench, keep it in the run folder, and return it."""
    wanted = [m for m in METRICS if not METRICS[m].asked_for] if metrics is None else list(metrics)
    for unknown in [m for m in wanted if m not in METRICS]:
        raise UserError(f"--metrics {unknown}: there is no such metric; choose from {', '.join(METRICS)}")
    if {"fid", "frechet"} & set(wanted):
        wanted.append("kid")  # a Frechet distance is not read alone
    kept = figure.read(folder) if folder is not None and not again else None
    known = kept.figures if kept is not None and kept.weights == weights else {}
    figures: dict[str, Figure] = {}
    skipped: dict[str, str] = {}
    for metric in (METRICS[m] for m in METRICS if m in wanted):
        if metric.needs_model and bench.model is None:
            if metrics is not None:
                skipped[metric.name] = "it is measured of a model, not of images alone"
            continue
        why = metric.lacks(bench)
        if why:
            skipped[metric.name] = why
            continue
        old = known.get(metric.name)
        if old is not None and old.protocol and old.protocol == metric.protocol(bench) and not bench.options:
            figures[metric.name] = old
        else:
            figures[metric.name] = metric.figure(bench)
    result = Evaluation(name, weights, data_facts(bench), figures, skipped)
    if folder is not None:
        # Metrics not asked for this time stay in the file, as long as the weights are the same.
        others = {key: value for key, value in known.items() if key not in figures and key not in skipped}
        Evaluation(name, weights, result.data, {**others, **figures}, skipped).save(folder)
        card.write(folder, bench.model, name)
    return result


def data_facts(bench: Bench) -> dict[str, Any]:
    """What an evaluation says of its data."""
    height, width, channels = bench.test.images.shape[1:]
    return {
        "name": getattr(bench.test, "name", "") or "data",
        "fingerprint": bench.test.fingerprint,
        "height": int(height),
        "width": int(width),
        "channels": int(channels),
        "levels": int(bench.test.levels),
        "train": len(bench.train.images),
        "held_out": len(bench.test.images),
        "compared": bench.n,
    }


def _open(config: Any) -> tuple[Any, Any]:
    return open_data(config, split="train"), open_data(config, split="test")
