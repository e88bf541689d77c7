"""How files become pixels, as options of the command line; neither torch nor numpy is needed here."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval
from PIL import ImageColor

from ncsn.validation import check_ranges

Fit = Literal["crop", "pad", "stretch"]
PLACE_SUFFIX = re.compile(r"(\.tar)?\.(zip|tar|gz|bz2|xz|tgz|tbz2|txz|npy|npz)$", re.IGNORECASE)


def is_pattern(path: str) -> bool:
    """Whether it is a name for many shards, such as shards-{0000..0127}.tar."""
    return "{" in path and not Path(path).exists()


def short_name(path: str) -> str:
    """What a data set is called: the last part of its path, without what says what kind of file it is."""
    place = path.partition("{")[0].rstrip("-_.") if is_pattern(path) else path
    return PLACE_SUFFIX.sub("", Path(os.path.normpath(Path(place).absolute())).name) or "images"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become pixels.

    Args:
        size: What images are resized to: 64, or 48x64 for height x width. By default the size that they have.
        fit: How an image of another shape becomes that size: crop its middle, pad it with --background, or stretch it.
        background: What shows through transparent pixels, and around padded images: white, #rrggbb or any CSS colour.
        max_broken: So many files that cannot be read are skipped; with more, all are named and nothing is read.
    """

    size: str | None = None
    fit: Fit = "crop"
    background: str = "white"
    max_broken: Annotated[int, Interval(ge=0, le=10**9)] = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        self.pixels()
        self.colour()
        check_ranges(self)

    def pixels(self) -> tuple[int, int] | None:
        """Height and width of ``size``.  Raises ValueError if it is neither a number nor two of 1 to 9999."""
        if self.size is None:
            return None
        sides = re.fullmatch(r"([1-9]\d{0,3})(?:[x×]([1-9]\d{0,3}))?", self.size, re.ASCII)
        if sides is None:
            raise ValueError(f"size is {self.size!r}; it must be like 64, or 48x64 for height x width")
        return int(sides[1]), int(sides[2] or sides[1])

    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of ``background``, 0 to 255.  Raises ValueError if it is no colour."""
        red, green, blue = ImageColor.getrgb(self.background)[:3]
        return red, green, blue

    @property
    def reading(self) -> "Reading":
        """These options alone, without those that a command adds."""
        return Reading(**{field.name: getattr(self, field.name) for field in fields(Reading)})

    def coloured(self) -> bool:
        """Whether ``background`` is a colour that grey images do not have."""
        return len(set(self.colour())) > 1


AS_THEY_ARE = Reading()
"""Of the size that they have, on white, all of them whole."""
