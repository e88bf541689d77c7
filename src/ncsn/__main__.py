"""The command ``ncsn``, and ``python -m ncsn``."""

from ncsn.machine.interrupts import quit_on_signals


def main() -> None:
    """Run the command line."""
    quit_on_signals()
    from ncsn.cli.main import main

    main()


if __name__ == "__main__":
    main()
