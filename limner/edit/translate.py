"""Images of one domain as they would look in another, by any model that translates: `limner translate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from limner import capabilities
from limner.data.dataset import Dataset, Refused
from limner.data.decode import Unusable, decode
from limner.data.files import open_tree
from limner.data.grid import from_uint8, save_image, to_uint8
from limner.data.layout import is_image
from limner.data.order import held_out_order
from limner.data.resizing import to_channels
from limner.data.settings import DataConfig
from limner.errors import UserError


def swap_strip(model: capabilities.Translates, dataset: Dataset, n: int = 8) -> Tensor:
    """Images of both domains, and what the model makes of them, as rows of n: for a grid of `n` columns.

    Args:
        model: trained on `dataset` or its like.
        dataset: a pair of domains; fewer images are shown where a domain has fewer than n.

    Returns:
        (6 n, C, H, W) in [-1, 1], on the CPU: images of A, the same translated to A (reconstructed) and to B; then images of B,
        translated to B and to A.

    Raises:
        UserError: the data are no pair of domains.
    """
    if not dataset.domains:
        raise UserError(f"'{dataset.name}' is not a pair of domains: there is nothing to translate to")
    device = getattr(model, "device", torch.device("cpu"))
    n = min(n, *(len(d) for d in dataset.domains.values()))
    rows = []
    for domain, images in dataset.domains.items():
        source = images.batch(held_out_order(len(images))[:n])["image"]
        targets = [domain, *(other for other in dataset.domains if other != domain)]
        with torch.no_grad():
            rows += [source, *(model.translate(source.to(device), target=t).cpu() for t in targets)]
    return torch.cat(rows).clamp(-1, 1)


def translate_files(
    model: capabilities.Translates, source: str | Path, out: str | Path, *, target: str, batch: int = 32
) -> tuple[int, list[Refused]]:
    """Translate each image file of a folder (or zip, or tar) and write it under its own name, as PNG, into another folder.

    An image of another size than the model's is cut square about its middle and resized. No more than `batch` images are in memory.

    Returns:
        How many were written, and the files that are no usable images, with the reason.

    Raises:
        UserError: the model does not translate to `target`, there is no image, or the folder cannot be written.
    """
    channels, size, _ = model.image_shape  # type: ignore[attr-defined]
    device, folder, done = model.device, Path(out), 0  # type: ignore[attr-defined]
    refused: list[Refused] = []
    for names, images in _read(Path(source), size, channels, batch, refused):
        with torch.no_grad():
            found = to_uint8(model.translate(images.to(device), target=target))  # (b, H, W, C)
        for name, pixels in zip(names, found, strict=True):
            save_image(pixels, folder / name)
        done += len(names)
    if not done:
        why = f" ({refused[0].name}: {refused[0].reason})" if refused else ""
        raise UserError(f"'{source}' holds no image that can be used{why}")
    return done, refused


def _read(
    source: Path, size: int, channels: int, batch: int, refused: list[Refused]
) -> Iterator[tuple[list[str], Tensor]]:
    """The images a batch at a time, with the names of the PNG files that they become; what is unusable goes to `refused`."""
    tree, config = open_tree(source), DataConfig(data=str(source))
    names: list[str] = []
    pixels: list[Tensor] = []
    taken: set[str] = set()
    try:
        for member in tree.members:
            if not is_image(member.name):
                continue
            try:
                image = decode(member.read(), size, config).pixels
            except (Unusable, OSError, ValueError) as error:
                refused.append(Refused(member.name, str(error)))
                continue
            stem = member.name.rpartition(".")[0] or member.name
            # Of a.jpg and a.png, which would both become a.png, the second keeps its whole name.
            names.append(f"{stem}.png" if f"{stem}.png" not in taken else f"{member.name}.png")
            taken.add(names[-1])
            pixels.append(from_uint8(to_channels(image[None].copy(), channels)))
            if len(names) == batch:
                yield names, torch.cat(pixels)
                names, pixels = [], []
        if names:
            yield names, torch.cat(pixels)
    finally:
        tree.close()
