"""The command ``ncsn`` and its subcommands."""

import functools
import operator
from typing import Annotated

import tyro

from ncsn import __version__
from ncsn.cli import console
from ncsn.cli.calibrate import Calibrate
from ncsn.cli.measure import Evaluate, Info, Likelihood
from ncsn.cli.sample import Sample
from ncsn.cli.share import Export, Play, Push
from ncsn.cli.solve import Deblur, Denoise, Impute, Inpaint, Superres
from ncsn.cli.train import Train

MAKERS = (Train, Sample, Export, Play, Push)
QUESTIONS = (Evaluate, Likelihood, Calibrate, Info, Impute, Inpaint, Denoise, Superres, Deblur)
COMMANDS: dict[str, type] = {kind.__name__.lower(): kind for kind in (*MAKERS, *QUESTIONS)}


def main(args: list[str]) -> None:
    """Run the command that ``args`` name."""
    if args == ["--version"]:
        print(f"ncsn {__version__}")
        return
    commands = (Annotated[settings, tyro.conf.subcommand(name)] for name, settings in COMMANDS.items())
    console.run(lambda command: command(), functools.reduce(operator.or_, commands), args, "ncsn")
