"""The extractors by name: what `--features` chooses from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.errors import UserError
from limner.metrics.features import Extractor, Pixels

if TYPE_CHECKING:
    import torch

    from limner.metrics.bench import Bench

NAMES = {
    "classifier": "a small network trained on the data's own labels, once; the default of labelled data",
    "pixels": "the pixels themselves; the default of data without labels",
    "inception": "the Inception network of the FID: comparable with published figures",
    "mobilenet-v2": "ImageNet features of a small network, from a package of the registry",
    "efficientnet-lite0": "ImageNet features of another, the backbone of projected GANs",
    "dino": "DINOv2, from a folder or by its hub id",
    "clip": "CLIP's image tower, from a folder or by its hub id: what CMMD is defined on",
}
PROTOCOLS = ("torch", "tf", "clean")
"""Resize modes of the Inception network, as in pytorch-fid, torch-fidelity and clean-fid."""


def chooser(
    name: str | None, *, weights: str | Path | None = None, protocol: str | None = None, device: str = "cpu"
) -> Callable[[Bench], Extractor] | None:
    """What makes the extractor of this name for a bench; None where a bench is to choose by its data.

    Raises:
        UserError: no such extractor or protocol, or options that do not go together.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise UserError(f"--protocol {protocol}: choose {', '.join(PROTOCOLS)}")
    if protocol is not None and name not in (None, "inception"):
        raise UserError(
            f"--protocol {protocol} is a way to resize images for the Inception network, not for --features {name}"
        )
    name = "inception" if protocol is not None else name
    if name is None:
        if weights is not None:
            raise UserError("--weights needs --features: of which network are they?")
        return None
    if name not in NAMES:
        raise UserError(f"--features {name}: there is no such extractor; choose from {', '.join(NAMES)}")
    if weights is not None and name in ("classifier", "pixels"):
        raise UserError(f"--weights: --features {name} takes no weights from a file")
    return lambda bench: make(name, bench, weights=weights, protocol=protocol or "tf", device=device)


def make(name: str, bench: Bench, *, weights: str | Path | None, protocol: str, device: str) -> Extractor:
    """The extractor of this name.

    Raises:
        UserError: its weights are not to be found, or the data have no labels to train it on.
    """
    from limner.training.device import pick

    return _MAKERS[name](name, bench, weights, protocol, pick(device))


Maker = Callable[[str, "Bench", "str | Path | None", str, "torch.device"], Extractor]
"""From the name, the bench, a file of weights, a resize protocol and a device."""


def _pixels(name: str, bench: Bench, *rest: Any) -> Extractor:
    return Pixels()


def _classifier(name: str, bench: Bench, *rest: Any) -> Extractor:
    if not bench.labelled:
        raise UserError("--features classifier: the data have no labels to train it on; choose another")
    return bench.classifier


def _inception(name: str, bench: Bench, weights: str | Path | None, protocol: str, device: torch.device) -> Extractor:
    from limner.metrics.inception import inception

    return inception(weights, resize=protocol, device=device)


def _of_hub(name: str, bench: Bench, weights: str | Path | None, protocol: str, device: torch.device) -> Extractor:
    from limner.metrics.hub_features import hub_features

    return hub_features(name, weights).to(device)


def _backbone(name: str, bench: Bench, weights: str | Path | None, protocol: str, device: torch.device) -> Extractor:
    from limner.metrics.backbones import backbone

    return backbone(name, weights).to(device)


_MAKERS: dict[str, Maker] = {
    "classifier": _classifier,
    "pixels": _pixels,
    "inception": _inception,
    "mobilenet-v2": _backbone,
    "efficientnet-lite0": _backbone,
    "dino": _of_hub,
    "clip": _of_hub,
}
