"""Images that a user names: test images of a run's data by their index, or files."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.run import Run


def example(run: "Run", name: str, *, measured: tuple[int, ...] | None = None, data: str | None = None) -> "Tensor":
    """A test image of the run's data set by its index, or an image file fitted to the run's (said); pixels in [0, 1].

    ``measured``: the shape of a measurement, which must be the file's own.  ``data``: where the data set is now.
    Raises ValueError if there is no such image.
    """
    from ncsn.data import Reading, read_example

    reading = Reading() if run.origin is None else run.origin.reading
    shape = run.recipe.shape if measured is None else measured
    images = run.data(data) if name.isdecimal() else None
    return read_example(name, shape, reading=reading, images=images, depth=run.recipe.depth, fit=measured is None)
