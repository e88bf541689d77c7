"""Which pixels are hidden, drawn by hand."""

import pytest
import torch

from ncsn.problems import known_pixels, mean_filled
from ncsn.validation import Region


@pytest.mark.parametrize(
    ("hide", "rows"),
    [
        ("top", ["....", "....", "####", "####"]),
        ("bottom", ["####", "####", "....", "...."]),
        ("left", ["..##", "..##", "..##", "..##"]),
        ("right", ["##..", "##..", "##..", "##.."]),
        ("centre", ["####", "#..#", "#..#", "####"]),
    ],
)
def test_what_is_known_is_what_is_not_hidden(hide: Region, rows: list[str]) -> None:
    expected = torch.tensor([[pixel == "#" for pixel in row] for row in rows])
    known = known_pixels((3, 4, 4), hide)
    assert all(torch.equal(channel, expected) for channel in known)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_of_the_smallest_images_the_centre_is_all(side: int) -> None:
    assert not known_pixels((1, side, side), "centre").any()


def test_a_quarter_is_known_at_random_the_same_in_every_channel(generator: torch.Generator) -> None:
    known = known_pixels((3, 60, 60), "random", generator=generator)
    assert torch.equal(known[0], known[1])
    assert torch.equal(known[0], known[2])
    # Four standard errors of a share of 0.25 among 3,600.
    assert float(known[0].float().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 3600) ** 0.5)


def test_what_is_hidden_is_shown_as_the_mean_of_what_is_known() -> None:
    known = torch.tensor([[[True, False], [False, True]]])
    y = torch.tensor([[0.2, 0.6], [1.0, 0.0]])
    expected = torch.tensor([[[[0.2, 0.4], [0.4, 0.6]]], [[[1.0, 0.5], [0.5, 0.0]]]])
    torch.testing.assert_close(mean_filled(known, y), expected)


def test_the_centre_of_an_image_that_is_no_square_is_half_as_high_and_half_as_wide() -> None:
    known = known_pixels((1, 8, 12), "centre")
    assert (~known[0]).nonzero().amin(0).tolist() == [2, 3]
    assert (~known[0]).nonzero().amax(0).tolist() == [5, 8]
    assert int((~known).sum()) == 4 * 6
    assert int((~known_pixels((1, 8, 12), "right")).sum()) == int((~known_pixels((1, 8, 12), "bottom")).sum()) == 48
