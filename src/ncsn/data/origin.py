"""Which images a run has learned from, so that it can be judged by the others of the same data set."""

from dataclasses import dataclass, replace
from pathlib import Path

from ncsn.data.images import Images
from ncsn.data.loading import load_images
from ncsn.data.named import DOWNLOADED, DOWNLOADS, NAMED
from ncsn.data.options import Reading, is_pattern


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A data set that can be found again.

    ``dataset``: a named set, or the absolute path.  ``folder``: where the files of a named set are.
    ``reading``: how files became pixels.  ``digest``: the sha256 of the pixels, all three parts.
    ``split``: how many images for training, validation and testing.
    """

    dataset: str
    folder: str | None
    reading: Reading
    digest: str
    split: tuple[int, int, int]

    @classmethod
    def of(cls, dataset: str, folder: Path | None, reading: Reading, images: Images) -> "Origin":
        """Where ``images`` came from, by ``load_images`` with these arguments."""
        if dataset in DOWNLOADS:
            folder = folder or DOWNLOADED
        return cls(
            dataset=dataset if dataset in NAMED else str(Path(dataset).absolute()),
            folder=None if folder is None else str(folder.absolute()),
            reading=reading.reading,
            digest=images.digest,
            split=(images.n, len(images.validation), len(images.test)),
        )

    def load(self, dataset: str | None = None) -> Images:
        """The same images again; ``dataset``: another place where they are now, or where the files of a named set are.

        Raises ValueError if they cannot be read, or are not the same, as another named set's.
        """
        if dataset in NAMED and dataset != self.dataset:
            raise ValueError(f"the run has learned from {self.dataset}, not from {dataset}")
        there = self if dataset is None else self.moved(dataset)
        if not (there.dataset in NAMED or is_pattern(there.dataset) or Path(there.dataset).exists()):
            raise ValueError(f"the images are not at {there.dataset}; --data PLACE, says where they are now")
        folder = None if there.folder is None else Path(there.folder)
        images = load_images(there.dataset, folder, reading=self.reading)
        if images.digest != self.digest:
            raise ValueError(
                f"{dataset or self.dataset} holds other images than those that the run has learned from (sha256 "
                f"{images.digest[:9]}…, not {self.digest[:9]}…)"
            )
        return images

    def moved(self, dataset: str) -> "Origin":
        """The same images in another place; of a named set, its files."""
        place = str(Path(dataset).absolute())
        return replace(self, folder=place) if self.dataset in NAMED else replace(self, dataset=place)
