"""What the command ``ncsn`` can do: one dataclass each, whose fields are its options, and which is called to do it.

Torch is imported when one is called, so that ``--help`` answers at once.
"""

import sys

from ncsn.machine.interrupts import quit_on_signals as quit_on_signals


def program() -> None:
    """The command line of a process that Ctrl-C and SIGTERM end in one line, from its first import on."""
    quit_on_signals()
    from ncsn.cli.main import main

    main(sys.argv[1:])
