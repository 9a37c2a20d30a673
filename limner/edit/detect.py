"""The anomalies among a run's test images, or other images: ranked, written as a table, and shown with heat maps."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.opening import class_index
from limner.data.order import held_out_order
from limner.data.settings import DataConfig
from limner.edit.anomaly import METHODS, NEIGHBOUR, REFERENCE, Auroc, Normal, auroc, choose, score
from limner.errors import UserError
from limner.files import make_folder, write_atomically
from limner.training.device import pick
from limner.training.folder import RunFolder


@dataclass(frozen=True)
class Anomalies:
    """The images that were looked at, and how strange each is."""

    data: Dataset
    scores: np.ndarray
    """(N,) float64, larger for stranger images."""
    anomalous: np.ndarray | None
    """(N,) bool, which ones are anomalies, where that is known."""
    auroc: Auroc | None
    method: str
    protocol: str
    model: Any

    @property
    def ranking(self) -> np.ndarray:
        """Rows of `data`, the strangest first."""
        return np.argsort(-self.scores, kind="stable")

    def name(self, row: int) -> str:
        """The file's name, or the number in its split."""
        return self.data.names[row] if self.data.names else f"{self.data.split}/{row:05d}"

    def label(self, row: int) -> str:
        """The name of the image's class; "" where there are no classes."""
        if self.data.labels is None or not self.data.class_names:
            return ""
        return self.data.class_names[int(self.data.labels[row])]

    def to_csv(self) -> str:
        """A line for each image, the strangest first: rank, name, label, anomalous (1, 0 or unknown), score."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["rank", "name", "label", "anomalous", "score"])
        for rank, row in enumerate(self.ranking, 1):
            known = "" if self.anomalous is None else int(self.anomalous[row])
            lines.writerow([rank, self.name(row), self.label(row), known, repr(float(self.scores[row]))])
        return text.getvalue()

    def to_json(self) -> str:
        """The same, with how it was made and how well it tells anomalies."""
        images = [
            {"name": self.name(row), "label": self.label(row), "score": float(self.scores[row])} for row in self.ranking
        ]
        figures = None if self.auroc is None else self.auroc._asdict()
        document = {"method": self.method, "protocol": self.protocol, "auroc": figures, "images": images}
        return json.dumps(document, indent=1) + "\n"

    def lines(self) -> list[str]:
        """For a person."""
        first = ", ".join(f"{self.name(row)} ({self.label(row) or 'no label'})" for row in self.ranking[:3])
        lines = [f"{self.method}: {self.protocol}", f"strangest: {first}"]
        if self.auroc is not None:
            a = self.auroc
            lines.append(
                f"AUROC {a.value:.4f} ± {a.error:.4f} ({a.anomalous:,} anomalies among {a.normal:,} normal images)"
            )
        return lines

    def write(self, folder: Path, *, n: int = 12) -> list[Path]:
        """`anomaly.csv`, `anomaly.json`, and `anomaly.png` with the n strangest and the n least strange images; their paths.

        Raises:
            UserError: a file cannot be written.
        """
        from limner.edit.heat import Strip, picture

        make_folder(folder)
        order, strips = self.ranking, []
        for title, rows in (("Strangest", order[:n]), ("Least strange", order[-n:][::-1].copy())):
            words = [f"{self.label(row)[:14]} {self.scores[row]:.3g}".strip() for row in rows]
            strips.append(Strip(f"{title} of {len(order):,} by {self.method}", self.data.batch(rows)["image"], words))
        paths = [folder / f"anomaly.{kind}" for kind in ("csv", "json", "png")]
        write_atomically(paths[0], self.to_csv())
        write_atomically(paths[1], self.to_json())
        picture(self.model, strips, paths[2])
        return paths


def detect(
    run: str | Path,
    images: str | None = None,
    *,
    method: str = "auto",
    anomalous: Sequence[str] = (),
    n: int | None = None,
    reference: int = REFERENCE,
    k: int = NEIGHBOUR,
    device: str = "auto",
) -> Anomalies:
    """Score images by how unlike a run's training images they are.

    Args:
        run: the run folder.
        images: a folder, a zip or a name; by default the run's test images, those of all classes.
        method: one of `METHODS`, or "auto".
        anomalous: the classes that are anomalies; by default those that the run was trained without.
        n: at most so many images, chosen once for all.
        reference: training images to compare with, for the methods that do.
        k: which of the nearest of them says how far away they are.

    Raises:
        UserError: nothing is there, the model cannot, or there is no such method or class.
    """
    folder = RunFolder(run)
    config = folder.data_config
    model = folder.model(pick(device))
    method = choose(model, method)
    if images is None:
        everything = dataclasses.replace(config, only=(), without=(), degrade=(), limit=None)
        data = open_data(everything, split="test")
    else:
        channels, size = model.image_shape[:2]
        given = DataConfig(images, size=size, channels=channels, test_fraction=0.0, duplicates="keep")  # type: ignore[arg-type]
        data = open_data(given)
    if n is not None and n < len(data):
        data = data.subset(np.sort(held_out_order(len(data))[:n]))
    which = _anomalous(data, config, anomalous)
    train = open_data(dataclasses.replace(config, degrade=())) if METHODS[method].trained_on else None
    normal = Normal(model, train, count=reference, k=k)
    scores = score(normal, data, method)
    known = which is not None and 0 < which.sum() < len(which)
    protocol = f"{METHODS[method].unit}, {len(data):,} images of {data.name}"
    if train is not None:
        protocol += f", against {len(normal.rows):,} training images"
        protocol += f", neighbour {k}" if method in ("neighbours", "local", "turns", "combined") else ""
    return Anomalies(data, scores, which, auroc(scores, which) if known else None, method, protocol, model)  # type: ignore[arg-type]


def _anomalous(data: Dataset, config: DataConfig, names: Sequence[str]) -> np.ndarray | None:
    """(N,) bool: which images are of the classes `names`, or else of those that the run did not train on. None if unknown."""
    if not (names or config.only or config.without):
        return None
    if data.labels is None or not data.class_names:
        if names:
            raise UserError(f"--anomalous: the images of '{data.name}' have no classes")
        return None
    flag, given = (
        ("anomalous", names) if names else ("without", config.without) if config.without else ("only", config.only)
    )
    try:
        classes = [class_index(name, data.class_names, flag=flag) for name in given]
    except UserError:
        if names:
            raise
        return None  # other images than the run's, with other classes
    return np.isin(data.labels, classes) == (flag != "only")
