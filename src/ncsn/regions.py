"""Which pixels of an image are known, when a region of it is hidden."""

from typing import TYPE_CHECKING

from ncsn.validation import Region

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Generator, Tensor

RANDOM_SHARE = 0.25  # of the pixels that are known when the hidden ones are random


def known_pixels(
    shape: tuple[int, int, int], hide: Region, *, generator: "Generator | None" = None
) -> "Bool[Tensor, 'c h w']":
    """What is known of an image of ``shape`` (c, h, w) when a half, the centre, or three quarters at random are hidden.

    A random pixel is hidden in all its channels.
    """
    import torch

    _, height, width = shape
    if hide == "random":
        drawn = torch.rand(
            1, height, width, generator=generator, device="cpu" if generator is None else generator.device
        )
        return (drawn < RANDOM_SHARE).expand(shape)
    rows = {"top": slice(height // 2), "bottom": slice(height // 2, None)}.get(hide, slice(None))
    columns = {"left": slice(width // 2), "right": slice(width // 2, None)}.get(hide, slice(None))
    if hide == "centre":
        rows = slice(height // 4, height - height // 4)
        columns = slice(width // 4, width - width // 4)
    known = torch.ones(shape, dtype=torch.bool, device="cpu")
    known[:, rows, columns] = False
    return known


def mean_filled(known: "Bool[Tensor, 'c h w']", y: "Float[Tensor, 'b m']") -> "Float[Tensor, 'b c h w']":
    """Images of the known pixels ``y``, and of their mean elsewhere: the guess of somebody without a prior."""
    images = y.mean(1)[:, None, None, None].repeat(1, *known.shape)
    images[:, known] = y
    return images
