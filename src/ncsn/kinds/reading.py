"""The options of reading data, and what data is called; neither torch nor numpy is needed."""

import os
import re
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
OF_IMAGES = ("size", "fit", "background", "max_broken")  # options that only images have


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become pixels.

    Args:
        size: What images are resized to: 64, or 48x64 for height x width. By default the size that they have.
        fit: How an image of another shape gets that size: crop its middle, or stretch it.
        background: What shows through transparent pixels: white, #rrggbb or the name of a colour.
        max_broken: How many files that cannot be read may be skipped. If there are more, ncsn names them all and stops.
        signals: The array holds signals (n, channels, length), or (n, length) of one channel: real numbers in units of
            their own, and no pixels.
        keep_missing: Of a table, learn where values are missing, too: new rows then have gaps as often and in the same
            places.
    """

    size: str | None = None
    fit: Literal["crop", "stretch"] = "crop"
    background: str = "white"
    max_broken: Annotated[int, Interval(ge=0, le=10**9)] = 0
    signals: bool = False
    keep_missing: bool = False

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
        return ImageColor.getrgb(self.background)[:3]

    @property
    def reading(self) -> "Reading":
        """These options alone, without those that a command adds."""
        return Reading(**{field.name: getattr(self, field.name) for field in fields(Reading)})


AS_THEY_ARE = Reading()
"""Images of the size that they have, on white, all of them whole."""


def short_name(path: str) -> str:
    """What a dataset is called: the last part of its path, without the suffix of its kind of file."""
    name = Path(os.path.normpath(Path(path).absolute())).name
    return re.sub(r"\.(zip|npy|npz|tar(\.\w+)?|tgz|csv|tsv|parquet)$", "", name, flags=re.IGNORECASE) or "images"


def check_place(name: str) -> None:
    """Raises ValueError, which suggests a similar name, for a path at which there is nothing."""
    place = Path(name)
    if not place.exists():
        beside = ["mnist", *(str(path) for path in place.parent.glob("[!.]*"))]
        near = get_close_matches(str(place), beside, n=1)
        raise ValueError(f"{name} does not exist{''.join(f'; did you mean {path}?' for path in near)}")
