"""Posteriors: a prior's score, an observation, and a way to move: moment matching, particles, replacement.

The public names stand in ``__init__.pyi``; they are imported on first use, as the command line answers before torch is
loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
