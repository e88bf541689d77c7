"""Members of tar archives, read with limits; one that is damaged is an error, where tarfile takes it for the end."""

import tarfile

SAID_BEFORE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
SAID_LIMIT = 2**20  # bytes
ENDS = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]


class Member(tarfile.TarInfo):
    """A member of a tar archive; what is said of it in blocks before it, such as a long name, is read with a limit."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Member":
        """The member by its header.  Raises a TarError if it is damaged, or what is said of it is too long."""
        try:
            found = super().frombuf(buf, encoding, errors)
        except ENDS:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} of a file in it") from error
        if found.size < 0 or (found.type in SAID_BEFORE and found.size > SAID_LIMIT):
            raise tarfile.ReadError(f"a file, or a name or its like, claims {found.size:,} bytes")
        return found
