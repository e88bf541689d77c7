"""The rows of an array in a file, an .npy or one in an .npz: read one at a time, and none before it is asked for.

Files are untrusted: what a header claims is compared with the file's size before anything is read or allocated.

By reading and not by mapping, as pages that are mapped count as this process' memory.
"""

import math
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ncsn.data.reading import Stream, reason
from ncsn.files import opened_zip

ARRAYS_LIMIT = 1000  # in an .npz
WHOLE_LIMIT = 2**30  # bytes of an array that cannot be read by rows


class Rows:
    """An array in a file: its shape and dtype, and its rows.

    ``name``: what errors call it.  ``stream``: its bytes, ``size`` of them.
    Raises ValueError if it has no header that can be read, or one that claims more or less than there is.
    """

    def __init__(self, name: str, stream: Stream, size: int) -> None:
        self.name, self.stream = name, stream
        try:
            version = np.lib.format.read_magic(stream)[0]
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version]
            self.shape, self.fortran, self.dtype = read(stream)
            self.start = stream.tell()
        except Exception as error:  # numpy and zipfile raise whatever they like
            raise ValueError(f"{name} cannot be read as an array ({reason(error)})") from error
        self.size = math.prod(self.shape) * self.dtype.itemsize
        negative = any(side < 0 for side in self.shape)
        if (negative or self.start + self.size != size) and not self.dtype.hasobject:
            raise ValueError(
                f"{name} claims shape {reprlib.repr(self.shape)} of {self.dtype!s:.60}, "
                f"{reprlib.repr(self.start + self.size)} bytes; it has {size}"
            )

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
        try:
            self.stream.seek(self.start + offset)
            data = self.stream.read(size)
            # At its end a member of an archive is compared with its checksum, if one reads on.
            more = self.stream.read(1) if offset + size == self.size else b""
        except Exception as error:  # zipfile and zlib raise whatever they like
            raise ValueError(f"{self.name} cannot be read ({reason(error)})") from error
        if len(data) < size or more:
            raise ValueError(f"{self.name} is {'longer than it says' if more else 'cut short'}")
        return data


@contextmanager
def arrays(path: Path) -> Iterator[dict[str, Rows]]:
    """The arrays in an .npz by their keys, while the block runs.

    Raises ValueError if it is none, if an array in it cannot be read, or if it has more than a thousand.
    """
    with opened_zip(path, "an .npz") as archive:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(infos) > ARRAYS_LIMIT:
            raise ValueError(f"{path} holds {len(infos):,} arrays; at most {ARRAYS_LIMIT:,} are allowed")
        found: dict[str, Rows] = {}
        for info in infos:
            key = info.filename.removesuffix(".npy")
            if key in found:
                raise ValueError(f"{path} holds {key} twice")
            try:
                stream = archive.open(info)
            except Exception as error:  # of many kinds, by what is broken
                raise ValueError(f"{path}/{key} cannot be read ({reason(error)})") from error
            found[key] = Rows(f"{path}/{key}", stream, info.file_size)
        yield found
