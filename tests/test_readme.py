"""README's Python examples, and those of the pages that were a part of it, run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ncsn
from ncsn import evaluation
from ncsn.pixels import quantize

PAGES = ("README.md", "docs/howto/python.md", "docs/howto/own-parts.md")
BLOCKS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / page).read_text(encoding="utf-8"), re.S)
    )
]


def test_pages_have_examples() -> None:
    assert len(BLOCKS) >= 7


@pytest.mark.filterwarnings("ignore:.*examples are few")
@pytest.mark.parametrize("code", BLOCKS)
def test_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    monkeypatch.setitem(ncsn.METHODS, "mine", ncsn.METHODS["euler"])  # an example has a row of its own, for itself
    exec(compile(code, "a page", "exec"), names)
    if "digits" in names:
        seen = evaluation.digits()(quantize(names["digits"]))
        assert seen.confident >= 0.75  # of 16; measured over 10,000: see the README
        upper = names["answers"][:, :, :14] - names["digits"][:1, :, :14]
        assert upper.square().mean().sqrt() < 0.1  # what is known of the answers is as it was measured
        return
    if "mixture" in names:
        weight = (names["last"].x.sum(1) < 0).float().mean()
        assert weight == pytest.approx(0.204, abs=4 * (0.16 / 2000) ** 0.5)
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
    elif "income" in names:  # in the user's units: incomes of some thousand beside shares of some tenth
        quartiles = torch.tensor([0.25, 0.5, 0.75])
        expected = names["x"].quantile(quartiles, 0)
        torch.testing.assert_close(samples.quantile(quartiles, 0), expected, rtol=0.15, atol=0)
        assert names["logp"].isfinite().all()
        assert torch.equal(ncsn.load("runs/mine").sample(1000), samples)
    elif "Mine" in names:  # a standard normal, drawn by a sampler of one's own
        assert samples.std() == pytest.approx(1, abs=0.3)
        assert ncsn.load("runs/better").sample(3).shape == (3, 2)
    else:  # the samples have the covariance of the data
        torch.testing.assert_close(samples.T.cov(), names["x"].T.cov(), rtol=0.25, atol=0.25)
