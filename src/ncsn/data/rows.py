"""The rows of an array in a file, an .npy or one in an .npz: read one at a time, and none before it is asked for.

By reading and not by mapping, as pages that are mapped count as this process' memory.
"""

import math
import zipfile

import numpy as np
from jaxtyping import Shaped

from ncsn.data.reading import Stream

WHOLE_LIMIT = 2**30  # bytes of an array that cannot be read by rows


class Rows:
    """An array in a file: its shape and dtype, and its rows.

    ``name``: what errors call it.  ``stream``: its bytes, ``size`` of them.
    Raises ValueError if it has no header that can be read, or one that claims more than there is.
    """

    def __init__(self, name: str, stream: Stream, size: int) -> None:
        self.name, self.stream = name, stream
        try:
            version = np.lib.format.read_magic(stream)[0]
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version]
            self.shape, self.fortran, self.dtype = read(stream)
        except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{name} cannot be read as an array ({error})") from error
        self.start = stream.tell()
        self.size = math.prod(self.shape) * self.dtype.itemsize
        if self.start + self.size > size and not self.dtype.hasobject:
            raise ValueError(f"{name} claims shape {self.shape} of {self.dtype}, {self.size:,} bytes; it has {size:,}")

    def row(self, number: int) -> Shaped[np.ndarray, "..."]:
        """One row.  Raises ValueError if the file ends before."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return np.frombuffer(self.read(number * size, size), self.dtype).reshape(self.shape[1:])

    def whole(self) -> Shaped[np.ndarray, "..."]:
        """The array, in memory.  Raises ValueError if it is too large for that, or cut short."""
        if self.size > WHOLE_LIMIT:
            raise ValueError(f"{self.name} has {self.size:,} bytes, in one piece; at most {WHOLE_LIMIT:,} are read")
        data = np.frombuffer(self.read(0, self.size), self.dtype)
        return data.reshape(self.shape, order="F" if self.fortran else "C")

    def read(self, offset: int, size: int) -> bytes:
        """Some of the array's bytes.  Raises ValueError if the file ends before, or if they are objects."""
        if self.dtype.hasobject:
            raise ValueError(f"{self.name} holds Python objects; numbers are needed")
        self.stream.seek(self.start + offset)
        data = self.stream.read(size)
        if len(data) < size:
            raise ValueError(f"{self.name} is cut short")
        return data
