"""The verbs for a latent space: interpolate, latent-map, arithmetic, vary, embed. Each asks what a model can do.

Imports are inside the functions: `--help` must be quick.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Count = Annotated[int, arg(aliases=["-n"])]


def interpolate(
    run: Positional[str],
    /,
    *,
    rows: int = 8,
    steps: int = 9,
    walk: Literal["auto", "linear", "spherical"] = "auto",
    start: Annotated[tuple[str, ...], arg(name="from")] = (),
    end: Annotated[tuple[str, ...], arg(name="to")] = (),
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
) -> None:
    """Walk through the latent space: between pairs of images, or of latents where the model cannot encode.

    Args:
        run: a run folder.
        rows: how many pairs.
        steps: images from one end to the other.
        walk: straight (linear), along the arc (spherical), or auto: spherical where the prior is a standard Gaussian.
        start: image files to walk from, one for each row; held-out images of the run by default.
        end: image files to walk to. For a model that cannot encode, the latents of files are searched for.
        data: other images than the run's held-out ones: a folder, an archive or a name.
        seed: which pairs.
        out: the picture; RUN/interpolation.png by default.
        device: auto, cpu, cuda ...
    """
    from limner.edit.interpolate import interpolations

    path, how = interpolations(
        run, rows=rows, steps=steps, walk=walk, start=start, end=end, data=data, seed=seed, out=out, device=device
    )
    print(f"{how}\n{path}")


def latent_map(
    runs: Positional[tuple[str, ...]],
    /,
    *,
    n: Count = 3000,
    side: int = 15,
    range: tuple[float, float] | None = None,
    data: str | None = None,
    out: str | None = None,
    device: str = "auto",
) -> None:
    """Draw where images lie in the latent space, and what is decoded from where; several runs below one another.

    Args:
        runs: run folders of models that encode. Of codes longer than two numbers the plane of two principal components is drawn.
        n: held-out images whose codes are drawn.
        side: images along each side of the decoded grid.
        range: lowest and highest value of the decoded square on both axes, such as -1.5 1.5; by default quantiles of the prior
            where it is a Gaussian, else a square around the codes.
        data: other images than the runs' held-out ones: a folder, an archive or a name.
        out: the picture; RUN/latent-map.png for one run, latent-map.png here for several.
        device: auto, cpu, cuda ...
    """
    from limner.edit.latent_map import maps_of_runs

    print(maps_of_runs(runs, n=n, side=side, range=range, data=data, out=out, device=device))


def arithmetic(
    run: Positional[str],
    /,
    *,
    plus: str | None = None,
    minus: str | None = None,
    plus_images: Annotated[tuple[str, ...], arg(name="with")] = (),
    minus_images: Annotated[tuple[str, ...], arg(name="without")] = (),
    to: tuple[str, ...] = (),
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0),
    method: Literal["mean", "lda"] = "mean",
    balance: str | None = None,
    n: Count = 8,
    examples: int = 2000,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
) -> None:
    """Add an attribute to images: with it - without it + another image, at several strengths.

    Args:
        run: a run folder of a model that encodes.
        plus: the attribute: the name of a class, a word of the captions, or for `shapes` a factor such as background=white.
        minus: what it is instead of; all images without `plus` by default.
        plus_images: instead of --plus, a folder (or files) of images with the attribute.
        minus_images: instead of --minus, a folder (or files) of images without it.
        to: the images to change, files or a folder; by default held-out images that have `minus`.
        strengths: how many times the attribute vector is added; negative numbers take it away.
        method: mean: difference of the mean codes; lda: Fisher's linear discriminant, which keeps what is correlated out.
        balance: compare within each value of this, so that it is kept out: class, or of `shapes` shape, colour, background.
        n: how many images to change.
        examples: images of each side to take means of, at most.
        data: other images than the run's: a folder, an archive or a name.
        seed: which held-out images.
        out: the picture; RUN/arithmetic.png by default.
        device: auto, cpu, cuda ...
    """
    from limner.edit.arithmetic import arithmetic_of_run

    path, how = arithmetic_of_run(
        run,
        plus=plus,
        minus=minus,
        plus_images=plus_images,
        minus_images=minus_images,
        to=to,
        strengths=strengths,
        method=method,
        balance=balance,
        n=n,
        examples=examples,
        data=data,
        seed=seed,
        out=out,
        device=device,
    )
    print(f"{how}\n{path}")


def vary(
    run: Positional[str],
    /,
    *,
    images: tuple[str, ...] = (),
    n: Count = 2,
    factors: int = 8,
    only: tuple[int, ...] = (),
    along: Literal["dimensions", "components"] = "dimensions",
    reach: float = 3.0,
    steps: int = 7,
    noise: float | None = None,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
) -> None:
    """Change one factor of an image and hold the others; or with --noise show small variations of it.

    Args:
        run: a run folder of a model that encodes.
        images: the images to change, files or a folder; held-out images of the run by default.
        n: how many held-out images.
        factors: how many factors to change, the most telling first; those that do nothing are left out.
        only: change these numbers of the code instead, counted from 1.
        along: the single numbers of the code, or its principal components.
        reach: how many deviations to go to both sides.
        steps: images from one side to the other.
        noise: instead of one factor at a time, add so many deviations of noise to all, such as 0.3.
        data: other images than the run's held-out ones: a folder, an archive or a name.
        seed: which images, and which noise.
        out: the picture; RUN/vary.png (or RUN/variations.png) by default.
        device: auto, cpu, cuda ...
    """
    from limner.edit.vary import variations_of_run

    path, how = variations_of_run(
        run,
        images=images,
        n=n,
        count=factors,
        only=only,
        along=along,
        reach=reach,
        steps=steps,
        noise=noise,
        data=data,
        seed=seed,
        out=out,
        device=device,
    )
    print(f"{how}\n{path}")


def embed(
    run: Positional[str],
    data: Positional[str | None] = None,
    /,
    *,
    out: str,
    kind: Literal["auto", "codes", "tokens"] = "auto",
    split: Literal["test", "train", "all"] = "test",
    batch: int = 256,
    device: str = "auto",
) -> None:
    """Write the code of every image to a table, .npz or .parquet.

    Args:
        run: a run folder of a model with codes.
        data: images: a folder, an archive or a name; the run's own by default.
        out: the table; its name ends in .npz or .parquet.
        kind: the latent's numbers (codes) or discrete codes (tokens); auto: tokens where the model has them.
        split: which images of the run's data, or of a named data set; of a folder all are taken.
        batch: images encoded at once.
        device: auto, cpu, cuda ...
    """
    from limner.edit.embed import embed as write
    from limner.edit.examples import examples, load

    model = load(run, "encode", "tokenize", device=device)
    sets = examples(run, model, data, part=split)
    refused = sets[0].refused if data else []
    for file in refused[:5]:
        print(f"left out {file.name}: {file.reason}", file=sys.stderr)
    if len(refused) > 5:
        print(f"and {len(refused) - 5} more: limner data check {data}", file=sys.stderr)
    done = write(model, sets, out, kind=kind, batch=batch)
    shapes = " and ".join("x".join(map(str, shape)) for shape in done.shapes)
    print(f"{done.images:,} images, {done.kind} of {shapes} each: {done.path}")
