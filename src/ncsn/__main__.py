"""``python -m ncsn``: the same as the command ``ncsn``."""

from ncsn.cli import main

main()
