"""The verbs `anomaly` and `transfer`: what a model that was trained without labels is good for besides drawing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

Count = Annotated[int | None, arg(aliases=["-n"])]


def anomaly(
    run: Positional[str],
    images: Positional[str | None] = None,
    /,
    *,
    method: Literal[
        "auto", "error", "bits", "complexity", "mahalanobis", "energy", "neighbours", "local", "turns", "combined"
    ] = "auto",
    anomalous: UseAppendAction[tuple[str, ...]] = (),
    n: Count = None,
    reference: int = 10_000,
    k: int = 50,
    show: int = 12,
    out: str | None = None,
    device: str = "auto",
) -> None:
    """Rank images by how unlike the training images they are: a table, a picture with heat maps, and the AUROC where classes say.

    Args:
        run: a run folder.
        images: a folder, a zip or the name of a data set; by default the run's test images, of all classes.
        method: error (of the reconstruction), bits (per dimension), complexity (bits above those of a PNG file), mahalanobis
            (of the code), energy (code and residual, weighed by what is usual), neighbours (how far the nearest training
            codes are), local (the same, relative to how far apart those are), turns (distance in a code tuned to tell how
            an image was turned; takes a training of its own) or combined (local and turns); auto takes local where the
            code is smaller than the image, else bits, else error.
        anomalous: a class that counts as anomalous; may be given several times. By default those that the run was trained without.
        n: at most so many images.
        reference: training images to compare with.
        k: which of the nearest training images says how far away they are.
        show: images in each row of the picture.
        out: folder for anomaly.csv, anomaly.json and anomaly.png; the run folder by default.
        device: auto, cpu, cuda ...
    """
    from limner.edit.detect import detect

    given = {"anomalous": anomalous, "n": n, "reference": reference, "k": k, "device": device}
    found = detect(run, images, method=method, **given)  # type: ignore[arg-type]
    print(*found.lines(), sep="\n")
    print(*found.write(Path(out or run), n=show), sep="\n")


def transfer(
    run: Positional[str],
    /,
    *,
    labels: UseAppendAction[tuple[int, ...]] = (),
    seeds: int = 5,
    n: Count = None,
    out: str | None = None,
    device: str = "auto",
) -> None:
    """Classify with few labels: the run's encoder frozen and fine-tuned, against the same network from scratch.

    Args:
        run: a run folder, of labelled data.
        labels: how many labelled images, as many of each class; may be given several times. 100 by default.
        seeds: repetitions, each with other labelled images and fresh weights.
        n: at most so many test images.
        out: where to write the figures; RUN/transfer.json by default.
        device: auto, cpu, cuda ...
    """
    from limner.edit.transfer import transfer
    from limner.files import write_atomically

    result = transfer(run, labels=labels or (100,), seeds=seeds, n=n, device=device, say=_say)
    print(*result.lines(), sep="\n")
    path = Path(out) if out else Path(run) / "transfer.json"
    write_atomically(path, result.to_json())
    print(path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
