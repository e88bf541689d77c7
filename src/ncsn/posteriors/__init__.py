"""Posteriors: a prior's score, an observation, and a way to move: moment matching, particles, replacement.

The public names are listed in ``__init__.pyi`` and imported on first use, so that the command line responds before
torch is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
