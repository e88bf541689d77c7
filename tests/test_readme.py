"""README's Python examples run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ncsn import evaluation
from ncsn.pixels import quantize

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_readme_has_examples() -> None:
    assert BLOCKS


@pytest.mark.parametrize("code", BLOCKS)
def test_readme_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    if "digits" in names:
        seen = evaluation.judge(evaluation.load_classifier(), quantize(names["digits"]))
        assert seen.confident >= 0.75  # of 16; measured over 10,000: see the README
        return
    samples = names["samples"]
    assert samples.shape[1] == 2
    assert samples.isfinite().all()
    if "posterior" in names:  # the mode at (5, 5), narrowed in the first coordinate: (5 + 4/0.25)/(1 + 1/0.25) = 4.2
        right = samples[:, 1] > 0  # moment matching is exact for one mode, and nearly so for two: some go astray
        assert right.float().mean() > 0.97
        samples = samples[right]
        torch.testing.assert_close(samples.mean(0), torch.tensor([4.2, 5.0]), rtol=0, atol=0.25)
        torch.testing.assert_close(samples.std(0), torch.tensor([0.2**0.5, 1.0]), rtol=0.15, atol=0)
    elif "mixture" in names:
        assert (samples.sum(1) < 0).float().mean() == pytest.approx(0.2, abs=0.05)
    else:  # the samples have the covariance of the data
        torch.testing.assert_close(samples.T.cov(), names["x"].T.cov(), rtol=0.25, atol=0.25)
