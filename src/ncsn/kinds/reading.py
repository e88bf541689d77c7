"""Options for reading data, and names of datasets; without importing torch or numpy."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from PIL import ImageColor

from ncsn.validation import check_ranges

Split = Literal["train", "validation", "test"]
PARTS: tuple[Split, ...] = ("validation", "test", "train")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".parquet")
OF_IMAGES = ("size", "fit", "background", "max_broken")  # options for images only


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become pixels.

    Args:
        size: Resize images, to 64 or, for height x width, 48x64. By default they keep their size.
        fit: How images with another aspect ratio get that size: crop their centre, or stretch them.
        background: The colour behind transparent pixels: white, #rrggbb or the name of a colour.
        max_broken: Number of unreadable files that may be skipped. If there are more, ncsn lists them and stops.
        signals: The array holds signals (n, channels, length), or (n, length) for one channel, instead of images or
            rows.
    """

    size: str | None = None
    fit: Literal["crop", "stretch"] = "crop"
    background: str = "white"
    max_broken: Annotated[int, Interval(ge=0, le=10**9)] = 0
    signals: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        self.pixels()
        self.colour()

    def pixels(self) -> tuple[int, int] | None:
        """Height and width of ``size``.  Raises ValueError unless it has one or two numbers from 1 to 9999."""
        if self.size is None:
            return None
        sides = re.fullmatch(r"([1-9]\d{0,3})(?:[x×]([1-9]\d{0,3}))?", self.size, re.ASCII)
        if sides is None:
            raise ValueError(f"size is {self.size!r}; give 64, for example, or 48x64 for height x width")
        return int(sides[1]), int(sides[2] or sides[1])

    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of ``background``, 0 to 255.  Raises ValueError if it isn't a colour."""
        with suppress(ValueError):
            return ImageColor.getrgb(self.background)[:3]
        raise ValueError(f"background is {self.background!r}; give white, #rrggbb or the name of a colour")

    @property
    def reading(self) -> "Reading":
        """These options, without those that a command adds."""
        return Reading(**{field.name: getattr(self, field.name) for field in fields(Reading)})


AS_THEY_ARE = Reading()
"""The defaults: images keep their size, on white, and none may be broken."""


def short_name(path: str) -> str:
    """The name of a dataset: the last part of its path, without a known suffix."""
    name = Path(os.path.normpath(Path(path).absolute())).name
    return re.sub(r"\.(zip|npy|npz|tar(\.\w+)?|tgz|csv|tsv|parquet)$", "", name, flags=re.IGNORECASE) or "images"


def check_place(name: str) -> None:
    """Raises ValueError, which suggests a similar name, for a path that doesn't exist."""
    place = Path(name)
    if not place.exists():
        beside = ["mnist", *(str(path) for path in place.parent.glob("[!.]*"))]
        near = get_close_matches(str(place), beside, n=1)
        raise ValueError(f"{name} does not exist{''.join(f'; did you mean {path}?' for path in near)}")
