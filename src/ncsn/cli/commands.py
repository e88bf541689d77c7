"""The commands of ``ncsn`` by their names, and the program that runs one of them."""

from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import Annotated

import tyro

from ncsn import __version__
from ncsn.cli import console
from ncsn.cli.measure import Calibrate, Evaluate, Likelihood
from ncsn.cli.sample import Sample
from ncsn.cli.share import Export, Play
from ncsn.cli.solve import Deblur, Denoise, Doubt, Impute, Inpaint, Superres
from ncsn.cli.train import Train

COMMANDS: dict[str, type] = {
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "likelihood": Likelihood,
    "calibrate": Calibrate,
    "impute": Impute,
    "doubt": Doubt,
    "inpaint": Inpaint,
    "denoise": Denoise,
    "superres": Superres,
    "deblur": Deblur,
    "export": Export,
    "play": Play,
}


def main(args: list[str]) -> None:
    """Run the command that ``args`` name."""
    if args == ["--version"]:
        print(f"ncsn {__version__}")  # noqa: T201
    elif not console.is_main() and args[:1] != ["train"]:
        return  # of the processes that torchrun starts, one does what isn't training
    elif args and args[0] in COMMANDS:
        console.run(lambda command: command(), COMMANDS[args[0]], args[1:], f"ncsn {args[0]}")
    elif not args:
        console.fail(f"a command is missing; give one of {', '.join(COMMANDS)}")
    elif not args[0].startswith("-"):
        similar = get_close_matches(args[0], COMMANDS, 1)
        advice = f"did you mean {similar[0]}?" if similar else f"give one of {', '.join(COMMANDS)}"
        console.fail(f"{args[0]} is not a command; {advice}")
    else:
        subcommands = [Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items()]
        console.run(lambda command: command(), reduce(or_, subcommands), args, "ncsn")
