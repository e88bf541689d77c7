"""The command ``ncsn``, and ``python -m ncsn``."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while it is being imported ends the process at once, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ncsn.cli import main

    main()


if __name__ == "__main__":
    main()
