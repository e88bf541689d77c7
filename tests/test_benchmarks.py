"""The tables of the side-by-side runs say what their rows say."""

from pathlib import Path
from typing import Any

import bench

METRICS = {
    "frechet_distance": {"generated": 2.0, "held_out": 0.2, "training": 0.1},
    "confident": {"generated": 0.8, "held_out": 0.99},
}
OURS: dict[str, Any] = {
    "peer": "ours",
    "minutes": 10.0,
    "processor": "AVX2",
    "parameters": 1_850_000,
    "metrics": METRICS,
    "n": 10_000,
    "images_seen": 1000,
    "training_images_per_second": 100.0,
    "sampling_images_per_second": 50.0,
    "nfe": 31,
}


def row(distance: float, **other: Any) -> dict[str, Any]:
    """A row like ours, but for what is given."""
    fd = METRICS["frechet_distance"] | {"generated": distance}
    return OURS | {"metrics": METRICS | {"frechet_distance": fd}} | other


def test_a_table_has_the_longest_budgets_first_and_ratios_to_ours_of_the_same_data(tmp_path: Path) -> None:
    slow = {"training_images_per_second": 50.0, "sampling_images_per_second": 10.0}
    other = row(90.0, data="cifar10", training_images_per_second=7.0)
    results = [row(8.0, peer="azula", **slow), row(4.0, minutes=5.0), OURS, other]
    lines = [line.split(" | ") for line in bench.table(results).splitlines()[2:]]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("| mnist", "10", "ours"), ("| mnist", "10", "azula"), ("| mnist", "5", "ours"), ("| cifar10", "10", "ours")
    ]  # fmt: skip
    assert lines[1][4:] == [
        "no", "1.85 M", "8.00 (0.20, 0.10)", "10,000", "**4**", "0.800 (0.990)", "1,000", "0.50", "0.20", "31 |"
    ]  # fmt: skip
    assert lines[3][11] == "1.00", "a speed is a ratio to ours on the same data"
    bench.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000
