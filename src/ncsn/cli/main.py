"""The command ``ncsn`` and its subcommands."""

import functools
import operator
from importlib import import_module
from typing import Annotated

import tyro

from ncsn import __version__
from ncsn.cli import console

COMMANDS = {
    "train": "train",
    "sample": "sample",
    "share": "export play",
    "measure": "evaluate likelihood calibrate",
    "solve": "impute inpaint denoise superres deblur",
}
MODULES = {name: module for module, names in COMMANDS.items() for name in names.split()}


def find_command(name: str) -> type:
    """The dataclass of a command.  Only its own module is imported, so that it starts sooner."""
    command: type = getattr(import_module(f"ncsn.cli.{MODULES[name]}"), name.capitalize())
    return command


def main(args: list[str]) -> None:
    """Run the command that ``args`` name."""
    if args == ["--version"]:
        print(f"ncsn {__version__}")  # noqa: T201
    elif not console.is_main() and args[:1] != ["train"]:
        return  # of the processes that torchrun starts, one does what isn't training
    elif args and args[0] in MODULES:
        console.run(lambda command: command(), find_command(args[0]), args[1:], f"ncsn {args[0]}")
    else:
        commands = (Annotated[find_command(name), tyro.conf.subcommand(name)] for name in MODULES)
        console.run(lambda command: command(), functools.reduce(operator.or_, commands), args, "ncsn")
