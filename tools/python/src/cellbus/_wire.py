"""Bytes and descriptors between a core and its socket; what both shells share."""

from __future__ import annotations

import array
import os
import socket
from collections import deque

from cellbus import _memfd
from cellbus._core import Core
from cellbus._frames import Decoder, Frame, write_frame
from cellbus._shapes import ToCell
from cellbus.errors import Disconnected, ProtocolError
from cellbus.payload import Outgoing
from cellbus.status import Status

_ROOM = socket.CMSG_SPACE(8 * 4)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CTRUNC = int(socket.MSG_CTRUNC)
DONTWAIT = int(socket.MSG_DONTWAIT)
_JOIN_MAX = 16_384
_IOV_MAX = 512
BACKLOG_MAX = 512
"""Frames that wait to leave beyond which nothing more is read."""


class Entry:
    """A frame that is leaving."""

    __slots__ = ("buffers", "fd", "is_sent", "out")

    def __init__(self, buffers: list[memoryview], fd: int | None, out: Outgoing | None) -> None:
        self.buffers = buffers
        self.fd = fd
        self.out = out
        self.is_sent = False


class Wire:
    """The two directions of one connection."""

    def __init__(self, stream: socket.socket, core: Core) -> None:
        self.stream = stream
        self.decoder = Decoder(core.decoder_shapes, _memfd.receive)
        self.outbox: deque[Entry] = deque()

    def greet(self, core: Core, secret: bytes) -> None:
        """Says HELLO and waits for WELCOME; the one thing here that waits, as long as the socket allows.

        Raises `RefusedError` where the cell refuses, `Disconnected`, `ProtocolError`, `OSError`.
        """
        self.stream.sendall(core.hello(secret))
        while True:
            if not self.read():
                raise Disconnected("the cell closed the connection before WELCOME")
            frame = self.next()
            if frame is not None:
                core.greet(frame, self.decoder)
                return

    def read(self, flags: int = 0) -> bool:
        """Receives once. `False` at the end of the stream; `BlockingIOError` where there is nothing."""
        decoder = self.decoder
        count, ancillary, found, _ = self.stream.recvmsg_into((decoder.buffer(),), _ROOM, flags | _CLOEXEC)
        if ancillary or found & _CTRUNC:
            self._keep(ancillary)
            if found & _CTRUNC:
                raise ProtocolError(Status.BAD_FRAME, "more descriptors than any frame has")
        if count == 0:
            return False
        decoder.received(count)
        return True

    def _keep(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(data[: len(data) - len(data) % found.itemsize])
                self.decoder.descriptors.extend(found)

    def next(self) -> Frame | None:
        """The next frame of what was received."""
        return self.decoder.next()

    def send(self, head: bytes, out: Outgoing | None = None) -> Entry | None:
        """Sends a frame as far as the socket takes it. Gives what is left, which stays in the outbox."""
        fd = None
        if out is None or (out.size == 0 and out.fd is None):
            if not self.outbox:
                sent = self._try(head)
                if sent == len(head):
                    return None
                return self._left([memoryview(head)[sent:]], None, None)
            return self._left([memoryview(head)], None, None)
        fd = out.fd
        if fd is not None:
            return self._queue([memoryview(head)], fd, out)
        if out.size <= _JOIN_MAX and not self.outbox:
            joined = b"".join((head, *out.buffers))
            sent = self._try(joined)
            if sent == len(joined):
                return None
            return self._left([memoryview(joined)[sent:]], None, None)
        return self._queue([memoryview(head), *(part.cast("B") for part in out.buffers if part.nbytes)], None, out)

    def send_small(self, data: bytes) -> Entry | None:
        """As `send`, for a whole frame in one piece."""
        if not self.outbox:
            sent = self._try(data)
            if sent == len(data):
                return None
            data = data[sent:]
        return self._left([memoryview(data)], None, None)

    def flush(self) -> None:
        """Sends what waits, as far as the socket takes it. `OSError` where the connection is gone."""
        outbox = self.outbox
        while outbox:
            entry = outbox[0]
            try:
                self._push(entry)
            except BlockingIOError:
                return
            if entry.buffers:
                continue
            outbox.popleft()
            entry.is_sent = True
            if entry.out is not None:
                entry.out.close()
                entry.out = None

    def _queue(self, buffers: list[memoryview], fd: int | None, out: Outgoing | None) -> Entry | None:
        entry = self._left(buffers, fd, out)
        if self.outbox[0] is entry:
            self.flush()
        return None if entry.is_sent else entry

    def _left(self, buffers: list[memoryview], fd: int | None, out: Outgoing | None) -> Entry:
        entry = Entry(buffers, fd, out)
        self.outbox.append(entry)
        return entry

    def _try(self, data: bytes) -> int:
        try:
            return self.stream.send(data, _SEND)
        except BlockingIOError:
            return 0

    def _push(self, entry: Entry) -> None:
        buffers = entry.buffers
        ancillary = []
        if entry.fd is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [entry.fd]))]
        sent = self.stream.sendmsg(buffers[:_IOV_MAX], ancillary, _SEND)
        entry.fd = None
        done = 0
        while done < len(buffers) and sent >= buffers[done].nbytes:
            sent -= buffers[done].nbytes
            done += 1
        if done:
            del buffers[:done]
        if sent:
            buffers[0] = buffers[0][sent:]

    def fail(self, error: BaseException, core: Core) -> Disconnected:
        """What the end of the connection is, and tells the other side where it broke the protocol."""
        if isinstance(error, ProtocolError):
            try:
                self.stream.send(write_frame(ToCell.BYE, (int(error.status),)), _SEND)
            except OSError:
                pass
            return Disconnected(f"the cell broke the protocol: {error}", error.status, core.cell or None)
        if isinstance(error, OSError):
            return Disconnected(f"the socket failed: {error.strerror or error}")
        return Disconnected(str(error) or type(error).__name__)

    def close(self) -> None:
        """Closes the socket and every descriptor that came with it."""
        try:
            self.stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.stream.close()
        self.drop()

    def drop(self) -> None:
        """Lets go of descriptors and of what waits to leave."""
        while self.decoder.descriptors:
            os.close(self.decoder.descriptors.popleft())
        for entry in self.outbox:
            if entry.out is not None:
                entry.out.close()
        self.outbox.clear()
