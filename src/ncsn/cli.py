"""The command ``ncsn``."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import tyro

from ncsn import console
from ncsn.commands.evaluate import Evaluate
from ncsn.commands.export import Export
from ncsn.commands.info import Info
from ncsn.commands.interpolate import Interpolate
from ncsn.commands.likelihood import Likelihood
from ncsn.commands.sample import Sample
from ncsn.commands.solve import Deblur, Denoise, Inpaint, Superres
from ncsn.commands.train import Train


def main(args: list[str] | None = None) -> None:
    """The command ``ncsn``."""
    commands: Any = (
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Likelihood, tyro.conf.subcommand("likelihood")]
        | Annotated[Inpaint, tyro.conf.subcommand("inpaint")]
        | Annotated[Denoise, tyro.conf.subcommand("denoise")]
        | Annotated[Superres, tyro.conf.subcommand("superres")]
        | Annotated[Deblur, tyro.conf.subcommand("deblur")]
        | Annotated[Interpolate, tyro.conf.subcommand("interpolate")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Info, tyro.conf.subcommand("info")]
    )

    if (sys.argv[1:] if args is None else args) == ["--version"]:
        print(f"ncsn {version('ncsn')}")
        return

    def execute(command: Callable[[], None]) -> None:
        command()

    console.run(execute, commands, args, "ncsn")
