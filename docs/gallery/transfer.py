"""Prints the gallery's table of transfer: what pretrained encoders are worth with few labels.

    python docs/gallery/transfer.py runs/ae runs/vae [--labels 100 1000]

Each run is one of `limner train NAME --data fashion-mnist`; its part of the table is that of `limner transfer RUN --labels 100`.
"""

from __future__ import annotations

import argparse
import sys

import torch

from limner.edit.transfer import transfer
from limner.training.folder import RunFolder


def main() -> None:
    """Print the table of each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--labels", type=int, nargs="+", default=[100])
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for run in given.runs:
        result = transfer(run, labels=given.labels, seeds=given.seeds, say=lambda text: print(text, file=sys.stderr))
        print(f"\n`{RunFolder(run).name}`\n", *result.lines(), sep="\n")


if __name__ == "__main__":
    main()
