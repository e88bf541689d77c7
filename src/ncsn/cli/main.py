"""The command ``ncsn``."""

import functools
import operator
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import tyro

from ncsn.cli import console
from ncsn.cli.evaluate import Evaluate
from ncsn.cli.export import Export
from ncsn.cli.info import Info
from ncsn.cli.interpolate import Interpolate
from ncsn.cli.likelihood import Likelihood
from ncsn.cli.play import Play
from ncsn.cli.push import Push
from ncsn.cli.sample import Sample
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
    """The command ``ncsn``."""
    if (sys.argv[1:] if args is None else args) == ["--version"]:
        print(f"ncsn {version('ncsn')}")
        return

    def execute(command: Callable[[], None]) -> None:
        command()

    commands = (Annotated[settings, tyro.conf.subcommand(name)] for name, settings in COMMANDS.items())
    console.run(execute, functools.reduce(operator.or_, commands), args, "ncsn")
