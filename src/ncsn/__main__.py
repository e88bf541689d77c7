"""The command ``ncsn``, and ``python -m ncsn``."""

from ncsn.cli import program as main

if __name__ == "__main__":
    main()
