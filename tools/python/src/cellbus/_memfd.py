"""Sealed memory files: written once, then readable by everybody who has the descriptor, changeable by nobody."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Sequence

from cellbus.errors import CellbusError, ProtocolError
from cellbus.status import Status

THRESHOLD = 256 * 1024
"""Payloads above so many bytes are attached and not written into the socket."""
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_IOV_MAX = 512


def create(size: int) -> int:
    """A memory file of `size` bytes, all zero, that can be sealed. The caller closes it."""
    fd = os.memfd_create("cellbus", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_sealed(buffers: Sequence[memoryview]) -> int:
    """A sealed memory file with the bytes of `buffers`, one behind the other. The caller closes it."""
    fd = os.memfd_create("cellbus", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        waiting = [buffer.cast("B") for buffer in buffers if buffer.nbytes]
        waiting.reverse()
        while waiting:
            batch = waiting[-1 : -_IOV_MAX - 1 : -1]
            written = os.writev(fd, batch)
            while waiting and written >= len(waiting[-1]):
                written -= len(waiting.pop())
            if written:
                waiting[-1] = waiting[-1][written:]
        seal(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    """Seals a memory file for ever. Raises `OSError` while somebody can write to a mapping of it."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)


def receive(fd: int, size: int) -> memoryview:
    """Maps what was received, read-only, after checking that nobody can change it. Takes `fd`.

    Raises `ProtocolError` unless it is a memory file with all seals and exactly `size` bytes.
    """
    try:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            raise ProtocolError(Status.BAD_FRAME, "the attachment is no memory file") from None
        if seals & SEALS != SEALS:
            raise ProtocolError(Status.BAD_FRAME, "the attachment is not sealed")
        found = os.fstat(fd).st_size
        if found != size:
            raise ProtocolError(Status.BAD_FRAME, f"the attachment has {found} bytes, announced were {size}")
        return map_sealed(fd, size)
    finally:
        os.close(fd)


def map_sealed(fd: int, size: int) -> memoryview:
    """The `size` bytes of a sealed memory file, read-only. `fd` stays the caller's."""
    if size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))


class Region:
    """Memory that is a memory file, so that it can be passed on without a copy.

    Until `seal()` it is shared with the file. From then on it is a private copy, made page by page where it is
    written to: what was passed on stays as it was.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        """Bytes."""
        self._fd = create(size)
        try:
            self._map = mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError:
            os.close(self._fd)
            self._fd = -1
            raise
        self.view = memoryview(self._map)
        """The bytes, writable."""
        self._sealed = False

    def seal(self) -> int:
        """Seals the file and gives its descriptor, which stays this object's own."""
        if not self._sealed:
            self._make_private()
            seal(self._fd)
            self._sealed = True
        return self._fd

    @property
    def is_sealed(self) -> bool:
        """Whether the file can no longer be changed."""
        return self._sealed

    def _make_private(self) -> None:
        """Puts a private mapping of the same file in the place of the shared one.

        A file cannot be sealed while it is mapped for writing, and arrays that lie in this memory must stay
        where they are: so the mapping is replaced under them.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
        ]
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.view))
        fixed = 0x10
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        placed = libc.mmap(address, self.size, protection, mmap.MAP_PRIVATE | fixed, self._fd, 0)
        if placed != address:
            error = ctypes.get_errno()
            raise CellbusError(f"memory cannot be mapped privately: {os.strerror(error)}")

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1
