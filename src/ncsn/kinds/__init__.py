"""Kinds of data: images, signals and tables become tensors, and samples become files and pictures again.

The public names are listed in ``__init__.pyi`` and imported on first use, because ``--help`` only needs the options.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
