"""Images from files, archives and arrays; judged in features, with guidance chosen on held-out images."""

from dataclasses import dataclass
from typing import ClassVar

from ncsn.data import Dataset
from ncsn.images.read import Images, read_images
from ncsn.run.run import Run
from ncsn.settings import Reading


@dataclass(frozen=True, kw_only=True)
class ImageRun(Run):
    """A run that generates images."""

    examples: ClassVar[type[Dataset]] = Images

    def _read(self, place: str, reading: Reading) -> Images:
        return read_images(place, reading)
