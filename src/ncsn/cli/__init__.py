"""The commands of ``ncsn``: one callable dataclass each, with a field for every option.

Torch is imported only when a command runs, so that ``--help`` responds immediately.
"""

import os
import sys

from ncsn.machine.messages import quit_on_signals as quit_on_signals


def program() -> None:
    """Run the command line; Ctrl-C and SIGTERM end it with one line, even during imports."""
    quit_on_signals()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for some reads the metadata of every package
    from ncsn.cli.commands import main

    main(sys.argv[1:])
