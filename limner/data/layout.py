"""What the names in a tree say: split, domain and class of each image.

    x.png ...                                      images without labels
    cat/x.png, dog/y.png                           classes, one for each folder
    train/..., test/... (or val/...)               the source's own split; each side laid out like any of the others
    A/x.png, B/x.png                               two domains
    trainA/ trainB/ testA/ testB/                  two domains with their own split
A folder that everything lies in is looked through.
"""

from __future__ import annotations

from dataclasses import dataclass

from limner.data.dataset import Refused, Split
from limner.data.decode import EXTENSIONS
from limner.data.tree import Member

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "test",
    "valid": "test",
    "validation": "test",
}
VALIDATION = ("val", "valid", "validation")
DOMAINS = ("A", "B")
DOMAIN_SPLITS: dict[str, tuple[Split, str]] = {
    f"{name}{domain}": (split, domain) for name, split in SPLIT_FOLDERS.items() for domain in DOMAINS
}


@dataclass
class Item:
    """An image file and what its place says about it."""

    member: Member
    split: Split | None = None
    domain: str = ""
    folder_class: str | None = None
    inner: str = ""
    """The name within its domain, without the extension: partners share it."""
    label: int | str | None = None
    caption: str | None = None


def is_image(name: str) -> bool:
    """Whether a file is called like an image, or has no extension at all."""
    base = name.rpartition("/")[2]
    stem, dot, extension = base.rpartition(".")
    return not (dot and stem) or f".{extension.lower()}" in EXTENSIONS


def arrange(members: list[Member]) -> tuple[list[Item], list[Refused]]:
    """The images among `members`, each with its split, domain and class."""
    items = [Item(m) for m in members]
    refused: list[Refused] = []
    places = [m.name.split("/") for m in members]
    places = _unwrapped(places)
    top = {p[0] for p in places if len(p) > 1}
    flat = any(len(p) == 1 for p in places)
    if not flat and {"trainA", "trainB"} <= top <= set(DOMAIN_SPLITS):
        for item, place in zip(items, places, strict=True):
            item.split, item.domain = DOMAIN_SPLITS[place.pop(0)]
    elif not flat and "train" in {t.lower() for t in top} and {t.lower() for t in top} <= set(SPLIT_FOLDERS):
        spare = _spare(top)
        for item, place in zip(items, places, strict=True):
            item.split = SPLIT_FOLDERS[place[0].lower()]
            item.domain = "unused" if place.pop(0) in spare else ""
        kept = [i for i, item in enumerate(items) if item.domain != "unused"]
        for folder in sorted(spare):
            refused.append(Refused(f"{folder}/", f"{len(items) - len(kept)} files left out: test/ is the test set"))
        items, places = [items[i] for i in kept], [places[i] for i in kept]
    if not items:
        return items, refused
    if {p[0] for p in places} == set(DOMAINS) and all(len(p) > 1 for p in places):
        for item, place in zip(items, places, strict=True):
            item.domain = place.pop(0)
    elif not any(item.domain for item in items) and all(len(p) > 1 for p in places) and len({p[0] for p in places}) > 1:
        for item, place in zip(items, places, strict=True):
            item.folder_class = place[0]
    for item, place in zip(items, places, strict=True):
        item.inner = "/".join(place).rpartition(".")[0] or "/".join(place)
    return items, refused


def _unwrapped(places: list[list[str]]) -> list[list[str]]:
    while places and all(len(p) > 1 for p in places) and len({p[0] for p in places}) == 1:
        places = [p[1:] for p in places]
    return places


def _spare(top: set[str]) -> set[str]:
    lower = {t.lower() for t in top}
    return {t for t in top if t.lower() in VALIDATION} if lower & {"test", "testing"} else set()
