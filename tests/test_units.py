import math

import pytest
import torch

from ncsn.units import Units


def test_units_are_the_mean_and_the_deviation_of_every_column() -> None:
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]])
    units = Units.of(x)
    assert units.shift.tolist() == [3, 30]
    assert units.scale.tolist() == pytest.approx([2, 20])
    assert units.standardise(x).flatten().tolist() == pytest.approx([-1, -1, 0, 0, 1, 1])
    assert units.restore(torch.tensor([[0.5, -2.0]])).flatten().tolist() == pytest.approx([4, -10])
    assert units.log_volume((2,)) == pytest.approx(math.log(40))


def test_a_scale_common_to_all_coordinates_counts_once_for_each() -> None:
    assert Units(torch.tensor(0.5), torch.tensor(0.1)).log_volume((2, 3)) == pytest.approx(6 * math.log(0.1))


@pytest.mark.parametrize(("spread", "constant"), [(1e-4, True), (1e-2, False)])
def test_a_column_is_constant_where_float32_cannot_tell_its_numbers(spread: float, constant: bool) -> None:
    """Its deviation over its mean is 7·10⁻⁹ or 7·10⁻⁷, for a limit of 10⁻⁷; above and below zero."""
    for sign in (1, -1):
        x = torch.tensor([[1.0, sign * 1e4], [2.0, sign * (1e4 + spread)]], dtype=torch.float64)
        if constant:
            with pytest.raises(ValueError, match="column 1 is constant"):
                Units.of(x)
        else:
            assert float(Units.of(x).scale[1]) == pytest.approx(spread / 2**0.5)
