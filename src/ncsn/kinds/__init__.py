"""Kinds of data: images, signals and tables become tensors, and samples become files and pictures again.

The public names stand in ``__init__.pyi``; they are imported on first use, as ``--help`` needs the options only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
