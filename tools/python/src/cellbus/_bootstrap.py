"""How a process finds its cell: the bootstrap of a launcher, or a rendezvous file; and whether to trust the socket."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from pathlib import Path
from typing import NamedTuple

from cellbus import _msgpack
from cellbus.errors import BootstrapError, UnsafePlaceError

VARIABLE = "CELLBUS_BOOTSTRAP_FD"
BOOTSTRAP_MAX = 256
RENDEZVOUS_MAX = 1_024
PATH_MAX = 100


class Bootstrap(NamedTuple):
    """Where the socket is, and what opens it once. It is never shown."""

    path: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Bootstrap(path={self.path!r}, secret=<hidden>)"


def from_environment() -> Bootstrap:
    """Reads the bootstrap that a launcher handed over, once, and empties it.

    Raises `BootstrapError` where there is none, or where it was read before.
    """
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        raise BootstrapError(
            f"{VARIABLE} is not set: this process was not launched as job code, or has connected before"
        )
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BootstrapError(f"{VARIABLE} is no number of a descriptor")
    fd = int(text)
    try:
        raw = _read_all(fd, BOOTSTRAP_MAX)
        try:
            os.ftruncate(fd, 0)
        except OSError:
            pass
    except OSError as error:
        raise BootstrapError(f"descriptor {fd} cannot be read: {error.strerror}") from None
    finally:
        _let_go(fd)
    if not raw:
        raise BootstrapError("the bootstrap has been read before")
    return parse(raw)


def _let_go(fd: int) -> None:
    try:
        if fd > 2:
            os.close(fd)
            return
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, fd)
        os.close(nothing)
    except OSError:
        pass


def parse(raw: bytes) -> Bootstrap:
    """A bootstrap from its bytes. Raises `BootstrapError`, which shows none of them."""
    if len(raw) > BOOTSTRAP_MAX:
        raise BootstrapError("the bootstrap is longer than any may be")
    try:
        fields = _msgpack.unpack(raw)
    except ValueError:
        raise BootstrapError("the bootstrap is damaged") from None
    if type(fields) is not list or len(fields) != 3:
        raise BootstrapError("the bootstrap is damaged")
    return _checked(fields)


def from_rendezvous(path: str | os.PathLike[str], now_ms: int | None = None) -> Bootstrap:
    """Reads a rendezvous file, checks that only this user can have written it, and removes it.

    Raises `UnsafePlaceError` for a file or directory that others can reach, `BootstrapError` for one that is
    damaged or has expired.
    """
    place = Path(path)
    _examine(place.parent, "directory", 0o700)
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnsafePlaceError(f"`{place}` cannot be opened: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        _compare(place, found, "regular file", 0o600, stat.S_ISREG(found.st_mode))
        if found.st_nlink != 1:
            raise UnsafePlaceError(f"`{place}` has {found.st_nlink} names")
        raw = _read_all(fd, RENDEZVOUS_MAX)
    finally:
        os.close(fd)
    try:
        place.unlink()
    except OSError as error:
        raise UnsafePlaceError(f"`{place}` cannot be removed: {error.strerror}") from None
    try:
        fields = _msgpack.unpack(raw)
    except ValueError:
        raise BootstrapError("the rendezvous file is damaged") from None
    if len(raw) > RENDEZVOUS_MAX or type(fields) is not list or len(fields) != 6:
        raise BootstrapError("the rendezvous file is damaged")
    _, _, _, cell, job, expires = fields
    if type(cell) is not str or not (job is None or type(job) is str) or type(expires) is not int:
        raise BootstrapError("the rendezvous file is damaged")
    if expires <= (int(time.time() * 1000) if now_ms is None else now_ms):
        raise BootstrapError("the rendezvous file has expired: ask for another one")
    return _checked(fields[:3])


def open_socket(bootstrap: Bootstrap, timeout: float) -> socket.socket:
    """Connects to the cell's socket after checking that it is this user's alone.

    Raises `UnsafePlaceError`, and then nothing was sent; `OSError` where nobody listens.
    """
    check_place(bootstrap.path)
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        stream.settimeout(timeout)
        stream.connect(bootstrap.path)
        raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("iII", raw)
        if uid != os.geteuid():
            raise UnsafePlaceError(f"user {uid} listens at `{bootstrap.path}`, not {os.geteuid()}")
    except BaseException:
        stream.close()
        raise
    return stream


def check_place(path: str) -> None:
    """Checks socket and directory without following links. Raises `UnsafePlaceError`."""
    if not os.path.isabs(path) or len(os.fsencode(path)) > PATH_MAX or "\0" in path:
        raise UnsafePlaceError(f"`{path}` is no absolute path of at most {PATH_MAX} bytes")
    _examine(Path(path).parent, "directory", 0o700)
    _examine(Path(path), "socket", 0o600)


def _checked(fields: list[object]) -> Bootstrap:
    version, path, secret = fields
    if version != 1 or type(version) is not int:
        raise BootstrapError("the bootstrap is of a version that this package does not know")
    if type(path) is not str or type(secret) is not bytes or len(secret) != 32:
        raise BootstrapError("the bootstrap is damaged")
    return Bootstrap(path, secret)


def _read_all(fd: int, limit: int) -> bytes:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        pass
    raw = b""
    while len(raw) <= limit:
        more = os.read(fd, limit + 1 - len(raw))
        if not more:
            break
        raw += more
    return raw


def _examine(path: Path, expected: str, mode: int) -> None:
    try:
        found = os.lstat(path)
    except OSError as error:
        raise UnsafePlaceError(f"`{path}` cannot be examined: {error.strerror}") from None
    fits = stat.S_ISDIR(found.st_mode) if expected == "directory" else stat.S_ISSOCK(found.st_mode)
    _compare(path, found, expected, mode, fits)


def _compare(path: Path, found: os.stat_result, expected: str, mode: int, fits: bool) -> None:
    uid = os.geteuid()
    if not fits:
        raise UnsafePlaceError(f"`{path}` is not a {expected}")
    if found.st_uid != uid:
        raise UnsafePlaceError(f"`{path}` belongs to user {found.st_uid}, not to {uid}")
    if stat.S_IMODE(found.st_mode) != mode:
        raise UnsafePlaceError(f"`{path}` has mode {stat.S_IMODE(found.st_mode):04o}, needed is {mode:04o}")
