"""Every figure and animation; the only room that knows matplotlib, which is loaded by the first figure."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
