"""Which images a run has learned from, so that it can be judged by the others of the same data set."""

from dataclasses import dataclass
from pathlib import Path

from ncsn.data.images import Images
from ncsn.data.loading import load_images
from ncsn.data.named import DOWNLOADS
from ncsn.data.options import Reading


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
        named = dataset == "mnist" or dataset in DOWNLOADS
        return cls(
            dataset=dataset if named else str(Path(dataset).absolute()),
            folder=None if folder is None else str(folder.absolute()),
            reading=reading.reading,
            digest=images.digest(),
            split=(len(images.train), len(images.validation), len(images.test)),
        )

    def load(self, dataset: str | None = None) -> Images:
        """The same images again; ``dataset``: another place where they are now.

        Raises ValueError if they cannot be read, or are not the same.
        """
        images = load_images(
            dataset or self.dataset, None if self.folder is None else Path(self.folder), reading=self.reading
        )
        self.check(images.digest(), dataset or self.dataset)
        return images

    def check(self, digest: str, place: str) -> None:
        """Raises ValueError if images of ``place`` with this ``digest`` are not those that were learned from."""
        if digest != self.digest:
            raise ValueError(
                f"{place} holds other images than those that the run has learned from (sha256 {digest[:9]}…, not "
                f"{self.digest[:9]}…)"
            )
