"""The command ``ncsn``: one dataclass for each of its commands, whose fields are the options.

Torch is imported when a command runs, so that ``--help`` answers at once.
"""

import functools
import operator
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import tyro

from ncsn.cli import console
from ncsn.cli.measure import Evaluate, Info, Likelihood
from ncsn.cli.sample import Interpolate, Sample
from ncsn.cli.share import Export, Play, Push
from ncsn.cli.solve import Deblur, Denoise, Inpaint, Superres
from ncsn.cli.train import Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "likelihood": Likelihood,
    "inpaint": Inpaint,
    "denoise": Denoise,
    "superres": Superres,
    "deblur": Deblur,
    "interpolate": Interpolate,
    "export": Export,
    "info": Info,
    "play": Play,
    "push": Push,
}


def main(args: list[str] | None = None) -> None:
    """Run the command that ``args``, by default the command line, ask for."""
    if (sys.argv[1:] if args is None else args) == ["--version"]:
        print(f"ncsn {version('ncsn')}")
        return

    def execute(command: Callable[[], None]) -> None:
        command()

    commands = (Annotated[settings, tyro.conf.subcommand(name)] for name, settings in COMMANDS.items())
    console.run(execute, functools.reduce(operator.or_, commands), args, "ncsn")
