"""The benchmarks read what the commands write today."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import ncsn
from ncsn.cli import main as cli

HERE = Path(__file__).parent.parent / "benchmarks"


def test_a_row_of_the_table_is_made_of_a_run_and_its_evaluation(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where classifiers are kept
    import bench

    out = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    cli.main(["evaluate", str(out), "--features", "classifier", "-n", "100", "--seed", "3", "--device", "cpu"])
    run, row = ncsn.load(out, device="cpu"), bench.row_of(out)
    assert row["parameters"] == run.parameters + run.guide_parameters
    assert (row["images_seen"], row["told_classes"], row["seed"], row["data"]) == (12 * 16, True, 3, "data")
    assert row["sampling_images_per_second"] == pytest.approx(row["n"] / row["sampling_seconds"])
    assert f"{run.recipe.sampling.sampler}, guidance {run.recipe.sampling.guidance:g}" in row["about"]
    assert str(tmp_path) not in str(row)
    common: dict[str, Any] = {"peer": "ours", "minutes": 0.1, "processor": "AVX2"}
    worse = row | {"peer": "reference", "sampling_images_per_second": row["sampling_images_per_second"] / 4}
    ours, theirs = bench.table([common | row, common | worse]).splitlines()[2:]
    assert [cell.strip() for cell in ours.split("|")][12:14] == ["1.00", "1.00"]
    assert [cell.strip() for cell in theirs.split("|")][13] == "0.25"
