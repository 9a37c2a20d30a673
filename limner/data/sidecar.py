"""Captions and labels that lie beside images: captions.txt, metadata.jsonl (Hugging Face) and dataset.json (StyleGAN, EDM).

They name images by path from where they lie, with or without the extension, or by bare file name where that is unique. They
are never used to open a file.
"""

from __future__ import annotations

import csv
import json
from typing import Any

from limner.data.dataset import Refused
from limner.data.layout import Item
from limner.data.tree import Member
from limner.errors import UserError

FILES = ("captions.txt", "metadata.jsonl", "dataset.json")
LIMIT = 1 << 30
MOST_CLASSES = 100_000
CAPTION_KEYS = ("text", "caption", "prompt")
LABEL_KEYS = ("label", "class")
SHOWN = 5
"""So many wrong lines of one file are named one by one."""


def is_sidecar(name: str) -> bool:
    """Whether a file describes images."""
    return name.rpartition("/")[2] in FILES


def describe(items: list[Item], member: Member, source: str) -> list[Refused]:
    """Write what `member` of `source` says onto the items it names.

    Returns:
        what could not be used, line by line.

    Raises:
        UserError: the file as a whole cannot be read.
    """
    if member.length > LIMIT:
        raise UserError(f"'{source}/{member.name}' has {member.length} bytes; that is no list of captions or labels")
    try:
        text = member.read().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"'{source}/{member.name}' cannot be read as UTF-8 text: {error}") from error
    folder, _, base = member.name.rpartition("/")
    index = _Index(items, f"{folder}/" if folder else "")
    read = {"captions.txt": _captions, "metadata.jsonl": _metadata, "dataset.json": _dataset}[base]
    wrong = read(text, index, f"{source}/{member.name}")
    refused = [Refused(f"{member.name}, {where}", reason) for where, reason in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        refused.append(Refused(member.name, f"{len(wrong) - SHOWN} further lines could not be used"))
    return refused


class _Index:
    """Finds items by what a sidecar calls them."""

    def __init__(self, items: list[Item], folder: str):
        self.items: dict[str, Item] = {}
        short: dict[str, list[Item]] = {}
        for item in items:
            if not item.member.name.startswith(folder):
                continue
            name = item.member.name[len(folder) :]
            self.items[name] = item
            base = name.rpartition("/")[2]
            for key in {name.rpartition(".")[0], base, base.rpartition(".")[0]}:
                short.setdefault(key, []).append(item)
        for key, found in short.items():
            if len(found) == 1:
                self.items.setdefault(key, found[0])

    def find(self, name: str) -> Item | None:
        return self.items.get(name.strip().removeprefix("./"))


def _captions(text: str, index: _Index, where: str) -> list[tuple[str, str]]:
    """`name<TAB>caption`, `name|caption`, `name,caption` (with or without a header line) or `name: caption`, one a line. Of
    several captions of one image the first is used."""
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _split_caption(line, index)
        if found is None:
            if number > 1:  # the first line may be a header
                wrong.append((f"line {number}", "names no usable image"))
            continue
        item, caption = found
        if item.caption is None:
            item.caption = caption
    return wrong


def _split_caption(line: str, index: _Index) -> tuple[Item, str] | None:
    for separator in ("\t", "|", ",", ":", " "):
        name, found, caption = line.partition(separator)
        item = index.find(name.strip().strip('"')) if found else None
        if item is not None:
            if separator == "," and caption.lstrip().startswith('"'):
                caption = next(csv.reader([caption.lstrip()]))[0]
            return item, caption.strip()
    return None


def _metadata(text: str, index: _Index, where: str) -> list[tuple[str, str]]:
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            wrong.append((f"line {number}", "is not JSON"))
            continue
        name = record.get("file_name") if isinstance(record, dict) else None
        if not isinstance(name, str):
            wrong.append((f"line {number}", 'has no "file_name"'))
            continue
        item = index.find(name)
        if item is None:
            wrong.append((f"line {number}", f"names no usable image: {name[:80]!r}"))
            continue
        caption = next((record[k] for k in CAPTION_KEYS if isinstance(record.get(k), str)), None)
        label = next((record[k] for k in LABEL_KEYS if k in record), None)
        if caption is not None:
            item.caption = caption
        if label is not None:
            if not _is_label(label):
                wrong.append((f"line {number}", f"a label is a whole number or a word, not {str(label)[:40]!r}"))
                continue
            item.label = label
    return wrong


def _dataset(text: str, index: _Index, where: str) -> list[tuple[str, str]]:
    """{"labels": [["00000/img00000000.png", 6], ...]}, or null for none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{where}' is not JSON: {error}") from error
    labels = content.get("labels") if isinstance(content, dict) else content
    if not isinstance(content, dict) or (labels is not None and not isinstance(labels, list | dict)):
        raise UserError(f"""'{where}' should be {{"labels": [["image.png", 0], ...]}} as StyleGAN and EDM write it""")
    wrong = []
    for number, pair in enumerate(labels.items() if isinstance(labels, dict) else labels or []):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            wrong.append((f"label {number}", "is not a pair of a file name and a label"))
        elif not _is_label(pair[1]):
            wrong.append((f"label {number}", f"a label is a whole number or a word, not {str(pair[1])[:40]!r}"))
        elif (item := index.find(pair[0])) is None:
            wrong.append((f"label {number}", f"names no usable image: {pair[0][:80]!r}"))
        else:
            item.label = pair[1]
    for item in index.items.values():
        item.folder_class = None  # the folders of this convention are shards, not classes
    return wrong


def _is_label(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and 0 <= value < MOST_CLASSES) or (isinstance(value, str) and value != "")


def classes(items: list[Item]) -> tuple[list[int] | None, list[str] | None, list[Refused]]:
    """Labels and class names of all items; None if there are none. Where some have a label, those without are refused and
    their label is -1."""
    given = [item.folder_class if item.label is None else item.label for item in items]
    present = [g for g in given if g is not None]
    if not present:
        return None, None, []
    if all(isinstance(g, int) for g in present):
        names = [str(i) for i in range(max(int(g) for g in present) + 1)]
    else:
        names = sorted({str(g) for g in present})
    number = {name: i for i, name in enumerate(names)}
    labels = [-1 if g is None else number[str(g)] for g in given]
    refused = [
        Refused(i.member.name, "has no label, and others have") for i, g in zip(items, given, strict=True) if g is None
    ]
    return labels, names, refused
