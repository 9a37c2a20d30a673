"""What a person can say about the data of a run."""

from __future__ import annotations

from typing import Literal

from PIL import ImageColor

from limner.config import Fraction, NonNegative, Positive, config
from limner.errors import UserError

Resize = Literal["lanczos", "bicubic", "bilinear", "box", "nearest"]
Crop = Literal["center", "pad", "stretch", "none"]


@config
class DataConfig:
    """Where the images come from and how each is made a square of `size` pixels."""

    data: str
    """A folder, a zip or tar file, an IDX file, or a name: digits, fashion-mini, fashion-mnist, mnist, cifar10, shapes, shapes-ab."""
    size: Positive | None = None
    """Height and width in pixels. Not given: the images' own size if they are all square and equal, else a power of two up to 64."""
    channels: Literal[1, 3] | None = None
    """1 grey, 3 colour. Not given: 1 if every pixel of every image is grey, else 3."""
    resize: Resize = "lanczos"
    """Pillow's resampling filter. All but nearest are antialiased: the filter is widened when an image is made smaller."""
    crop: Crop = "center"
    """How an image becomes square: center cuts the longer side, pad adds background, stretch distorts, none refuses other sizes."""
    background: str = "white"
    """Colour that transparent pixels are composited on, and that `pad` adds: a name or #rrggbb."""
    test_fraction: Fraction = 0.1
    """Share of the images kept for testing where the source has no test set of its own; chosen by a hash of each image's content."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Images of a split with the same pixels: drop keeps the first alone, keep keeps all (a set to be judged is judged as it is)."""
    max_pixels: Positive = 64_000_000
    """An image with more pixels than this is refused unread (a decompression bomb)."""
    only: tuple[str, ...] = ()
    """Use the images of these classes alone (names, or numbers from 0)."""
    without: tuple[str, ...] = ()
    """Leave the images of these classes out (names, or numbers from 0)."""
    degrade: tuple[str, ...] = ()
    """Damage that a model learns to undo: noise=0.2, blur=1.5+jpeg=20, watermark ...; of several each image suffers one, by chance."""
    limit: Positive | None = None
    """Use at most so many images of a split, chosen at random by `data_seed`."""
    data_seed: NonNegative = 0
    """Seed of procedural images, of splits and of `limit`."""
    count: Positive | None = None
    """How many training images a procedural source draws (10000 if not given)."""

    def __post_init__(self) -> None:
        if not self.data:
            raise UserError("--data is empty; give a folder, a zip, or a name such as digits")
        self.background_rgb  # noqa: B018 - refuses an unknown colour now rather than at the first transparent pixel

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """The background as 8-bit red, green and blue.

        Raises:
            UserError: no colour of that name.
        """
        try:
            return ImageColor.getrgb(self.background)[:3]  # type: ignore[return-value]
        except ValueError:
            raise UserError(
                f"--background: '{self.background}' is not a colour; give a name such as white or a code such as #ffffff"
            ) from None
