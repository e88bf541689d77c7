"""How good generated images are: every number beside what real ones score, and how many were judged."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
