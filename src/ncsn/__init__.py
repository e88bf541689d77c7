"""Noise conditional score networks: learn ∇ₓ log p(x) of data at every noise level, and sample from it.

Everything is a function of ``score(x, sigma)``, and a ``Run`` is the result of training.  The public names are listed
in ``__init__.pyi`` and imported on first use, so that the command line responds before torch is loaded.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
