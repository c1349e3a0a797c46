"""Frames of the local socket as bytes.

A header is read only if it is exactly what its type prescribes. Lengths are checked before anything is kept.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from cellbus import _msgpack
from cellbus._shapes import DETAIL_MAX, HEADER_MAX, Fields, Rule, Shape, ToCell
from cellbus.errors import ProtocolError
from cellbus.status import Status

PREFIX = struct.Struct(">BHI")
"""Type, header length, payload length."""


class Frame(NamedTuple):
    """One frame as it was read."""

    kind: int
    fields: Fields
    payload: Any
    """`bytes`, or a read-only `memoryview` of what is large or attached."""


def read_header(shape: Shape, kind: int, raw: Any) -> Fields:
    """The fields of a header. Raises `ProtocolError` unless they are exactly what the type prescribes."""
    try:
        fields = _msgpack.unpack(raw)
    except ValueError as error:
        raise ProtocolError(Status.BAD_HEADER, f"header of frame type {kind:#04x}: {error}") from None
    checks = shape.checks
    if shape.last is not None and type(fields) is list and len(fields) == len(checks) + 1:
        checks = (*checks, shape.last)
    if type(fields) is not list or len(fields) != len(checks):
        raise ProtocolError(Status.BAD_HEADER, f"header of frame type {kind:#04x}: not {len(checks)} fields")
    for check, field in zip(checks, fields):  # noqa: B905 - the lengths were compared
        if not check(field):
            raise ProtocolError(Status.BAD_HEADER, f"header of frame type {kind:#04x}: {field!r:.40} is not allowed")
    if shape.whole is not None and not shape.whole(fields):
        raise ProtocolError(Status.BAD_HEADER, f"header of frame type {kind:#04x}: its fields do not fit")
    return fields


def write_frame(kind: int, fields: Iterable[Any], payload: int = 0) -> bytes:
    """Prefix and header of a frame; a payload of so many bytes has to follow."""
    header = _msgpack.pack(list(fields))
    if len(header) > HEADER_MAX:
        raise ValueError(f"header of {len(header)} bytes, the limit is {HEADER_MAX}")
    return PREFIX.pack(kind, len(header), payload) + header


def write_request(
    number: int,
    to: str,
    channel: str,
    topic: str,
    budget_ms: int | None,
    content_type: str | None,
    payload: int,
    content: bytes = b"",
) -> bytes:
    """As `write_frame` for a REQUEST without attachment and options; what repeats is written once.

    `content` is put behind it.
    """
    tail = _request_tail(to, channel, topic, budget_ms, content_type)
    if number < 0x80:
        head = bytes((0x98, number))
    elif number <= 0xFFFF and number > 0xFF:
        head = b"\x98\xcd" + number.to_bytes(2, "big")
    elif number <= 0xFFFF_FFFF and number > 0xFFFF:
        head = b"\x98\xce" + number.to_bytes(4, "big")
    else:
        head = b"\x98" + _msgpack.pack(number)
    return b"".join((PREFIX.pack(_REQUEST, len(head) + len(tail), payload), head, tail, content))


_REQUEST = int(ToCell.REQUEST)


@lru_cache(maxsize=512)
def _request_tail(to: str, channel: str, topic: str, budget_ms: int | None, content_type: str | None) -> bytes:
    packed = _msgpack.pack([to, channel, topic, budget_ms, content_type, None, None])
    if len(packed) + 9 > HEADER_MAX:
        raise ValueError("names are too long for a header")
    return packed[1:]


class Decoder:
    """Turns bytes into frames, without doing any I/O.

    Write received bytes into `buffer()`, say how many with `received()`, then call `next()` until it gives
    `None`. Large payloads are received where they stay.
    """

    BUFFER = 65_536

    def __init__(self, shapes: dict[int, Shape], attach: Callable[[int, int], memoryview] | None = None) -> None:
        self.payload_max = 0
        """Bytes that the payload of a message may have; 0 before the greeting."""
        self.attachment_max = 0
        self._shapes = shapes
        self._attach = attach
        self._buffer = bytearray(self.BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._large: tuple[int, Fields, bytearray] | None = None
        self._filled = 0
        self.descriptors: deque[int] = deque()
        """Received and not yet taken by a frame."""

    def buffer(self) -> memoryview:
        """Where the next bytes are to be written; never empty."""
        if self._large is not None:
            return memoryview(self._large[2])[self._filled :]
        return self._view[self._end :] if self._end else self._view

    def received(self, count: int) -> None:
        """Says that `count` bytes were written into `buffer()`."""
        if self._large is not None:
            self._filled += count
        else:
            self._end += count

    @property
    def is_drained(self) -> bool:
        """Whether `next()` can give nothing and has nothing to complain of."""
        return not self._end and self._large is None and not self.descriptors

    @property
    def is_mid_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._large is not None or self._end > self._start

    def next(self) -> Frame | None:
        """The next frame, or `None` where more bytes are needed.

        Raises `ProtocolError` with the code that the other side is told.
        """
        if self._large is not None:
            kind, fields, payload = self._large
            if self._filled < len(payload):
                return None
            self._large = None
            return self._complete(kind, fields, memoryview(payload).toreadonly())
        start = self._start
        have = self._end - start
        if have < 7:
            self._wait()
            return None
        kind, header, length = PREFIX.unpack_from(self._buffer, start)
        shape = self._check_prefix(kind, header, length)
        body = start + 7 + header
        if have < 7 + header:
            self._wait()
            return None
        end = body + length
        if end <= self._end:
            fields = read_header(shape, kind, self._view[start + 7 : body])
            content = bytes(self._view[body:end]) if length else b""
            if end == self._end:
                self._start = self._end = 0
            else:
                self._start = end
            if shape.attached is None or fields[shape.attached] is None:
                return Frame(kind, fields, content)
            return self._complete(kind, fields, content)
        if 7 + header + length <= self.BUFFER:
            self._wait()
            return None
        fields = read_header(shape, kind, self._view[start + 7 : body])
        large = bytearray(length)
        self._filled = self._end - body
        large[: self._filled] = self._view[body : self._end]
        self._start = self._end = 0
        self._large = (kind, fields, large)
        return None

    def end(self) -> None:
        """Says that there are no more bytes. Raises `ProtocolError` within a frame."""
        if self.is_mid_frame:
            raise ProtocolError(Status.BAD_FRAME, "the stream ends within a frame")

    def _wait(self) -> None:
        left = self._end - self._start
        if self._start and left:
            self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left
        if len(self.descriptors) > (1 if left else 0):
            raise ProtocolError(Status.BAD_FRAME, "a descriptor that no frame announces")

    def _check_prefix(self, kind: int, header: int, length: int) -> Shape:
        shape = self._shapes.get(kind)
        if shape is None:
            raise ProtocolError(Status.BAD_FRAME, f"frame type {kind:#04x} is unknown")
        if header > HEADER_MAX:
            raise ProtocolError(Status.TOO_LARGE, f"header of {header} bytes, the limit is {HEADER_MAX}")
        if length:
            if shape.rule is Rule.NOTHING:
                raise ProtocolError(Status.BAD_FRAME, f"frame type {kind:#04x} has no payload")
            limit = DETAIL_MAX if shape.rule is Rule.DETAIL else self.payload_max
            if length > limit:
                raise ProtocolError(Status.TOO_LARGE, f"payload of {length} bytes, the limit is {limit}")
        return shape

    def _complete(self, kind: int, fields: Fields, payload: Any) -> Frame:
        shape = self._shapes[kind]
        size = None if shape.attached is None else fields[shape.attached]
        if size is None:
            return Frame(kind, fields, payload)
        if len(payload):
            raise ProtocolError(Status.BAD_FRAME, "both a payload and an attachment")
        if size > self.attachment_max:
            raise ProtocolError(Status.TOO_LARGE, f"attachment of {size} bytes, the limit is {self.attachment_max}")
        if not self.descriptors or self._attach is None:
            raise ProtocolError(Status.BAD_FRAME, "a descriptor is missing")
        return Frame(kind, fields, self._attach(self.descriptors.popleft(), size))
