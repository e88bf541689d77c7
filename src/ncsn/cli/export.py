"""``ncsn export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ncsn.cli.options import TheRun, check_suffix
from ncsn.files import check_out


@dataclass(frozen=True, kw_only=True)
class Export(TheRun):
    """Write a run's score as an ONNX file, for browsers and other programs without PyTorch."""

    out: tyro.conf.Positional[Path]
    """The file, such as model.onnx; the smaller network that guides samples, if the run has one, goes beside it, into
    model.guide.onnx."""
    precision: Literal["fp16", "fp32"] = "fp16"
    """How weights are stored: fp16 takes half as much.  Computation is in float32."""
    overwrite: bool = False
    """Replace existing files."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_suffix(self.out, ".onnx")

    def __call__(self) -> None:
        """Export, check, and say how far it is off."""
        check_out(self.out, overwrite=self.overwrite)
        import ncsn

        run = ncsn.load(self.run, device="cpu")
        for made in ncsn.export(run, self.out, precision=self.precision, overwrite=self.overwrite):
            rounding = f", after its weights' rounding, which is {made.rounding:.1e}" if made.rounding else ""
            print(f"{made.path}: {made.size / 1e6:.2f} MB, at most {made.difference:.1e} off PyTorch{rounding}")
