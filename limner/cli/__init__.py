"""The command line: `limner VERB ...`. Only what every verb needs is here: choosing the verb, and errors as one line for a person."""

from __future__ import annotations

import os
import sys
from typing import Any

from limner.errors import UserError
from limner.version import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 2 something the user can put right."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _dispatch(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("limner: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; leave quietly, and keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory; try a smaller --batch")
    except RuntimeError as error:
        # torch has a class for GPUs only (OutOfMemoryError); on a CPU it is a RuntimeError with this text.
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            raise
        return _fail(
            "out of memory; try a smaller --batch, or --micro-batches 2 to keep the batch and halve the memory"
        )
    return 0


def _dispatch(arguments: list[str]) -> None:
    from limner.cli import data, train

    own = {"train": train.run, "data": data.run}  # their flags are made from configurations
    if arguments[:1] == ["--version"]:
        print(f"limner {__version__}")
        return
    if arguments and arguments[0] in own:
        own[arguments[0]](arguments[1:])
        return

    from tyro.extras import subcommand_cli_from_dict

    from limner.cli import compressing, detecting, latent, restoring, translating, verbs

    table: dict[str, Any] = {
        "models": verbs.models,
        "data": data.data,
        "train": train.train,
        "resume": verbs.resume,
        "sample": verbs.sample,
        "reconstruct": verbs.reconstruct,
        "restore": restoring.restore,
        "translate": translating.translate,
        "interpolate": latent.interpolate,
        "latent-map": latent.latent_map,
        "arithmetic": latent.arithmetic,
        "vary": latent.vary,
        "embed": latent.embed,
        "anomaly": detecting.anomaly,
        "transfer": detecting.transfer,
        "compress": compressing.compress,
        "decompress": compressing.decompress,
        "evaluate": verbs.evaluate,
        "compare": verbs.compare,
        "demo": verbs.demo,
    }
    subcommand_cli_from_dict(
        table,
        prog="limner",
        description="Every family of generative image model: train, sample, measure, compare. `limner VERB --help` says more.",
        args=arguments or ["--help"],
    )


def _fail(message: str) -> int:
    print(f"limner: {message}", file=sys.stderr)
    return 2
