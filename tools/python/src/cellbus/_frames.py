"""Frames of the local socket: which there are, what their headers hold, and their bytes.

A header is read only if it is exactly what its type prescribes. Lengths are checked before anything is kept.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

from cellbus import _msgpack, _names
from cellbus.errors import ProtocolError
from cellbus.status import Status

PREFIX = struct.Struct(">BHI")
"""Type, header length, payload length."""
HEADER_MAX = 16_384
DETAIL_MAX = 4_096
HEADERS_MAX = 4_096
"""Bytes of an application's own headers."""
CELLS_MAX = 512
CELLS_BYTES_MAX = 8_192

Fields = list[Any]
Check = Callable[[Any], bool]


class ToCell(IntEnum):
    """Types of frames from the job."""

    HELLO = 0x01
    REQUEST = 0x02
    PUBLISH = 0x03
    HANDLE = 0x04
    DELIVER_REPLY = 0x05
    DELIVER_FAIL = 0x06
    DELIVER_PART = 0x07
    MULTICAST = 0x08
    EVENTS = 0x09
    SERVE = 0x0A
    FETCH = 0x0B
    CANCEL = 0x10
    PING = 0x11
    PONG = 0x12
    BYE = 0x1F


class ToJob(IntEnum):
    """Types of frames from the cell."""

    WELCOME = 0x81
    REJECT = 0x82
    REPLY = 0x83
    RETURN = 0x84
    ACCEPTED = 0x85
    HANDLED = 0x86
    DELIVER = 0x87
    PART = 0x88
    PART_FAILED = 0x89
    END = 0x8A
    EVENT = 0x8B
    SERVED = 0x8C
    PROGRESS = 0x8D
    SETTLED = 0x8E
    FETCHED = 0x8F
    CANCEL = 0x90
    PING = 0x91
    PONG = 0x92
    BYE = 0x9F


class Rule(IntEnum):
    """What payload a type of frame has."""

    NOTHING = 0
    DETAIL = 1
    MESSAGE = 2


class Shape(NamedTuple):
    """What a type of frame looks like."""

    rule: Rule
    checks: tuple[Check, ...]
    attached: int | None
    """Which field is the size of what is attached."""
    whole: Callable[[Fields], bool] | None = None
    """What must hold between fields."""


class Frame(NamedTuple):
    """One frame as it was read."""

    kind: int
    fields: Fields
    payload: Any
    """`bytes`, or a read-only `memoryview` of what is large or attached."""


def _uint(bits: int, least: int = 0) -> Check:
    limit = 1 << bits
    return lambda value: type(value) is int and least <= value < limit


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _bin(length: int) -> Check:
    return lambda value: type(value) is bytes and len(value) == length


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_status(value: Any) -> bool:
    return type(value) is int and value in _STATUSES


def _is_cell(value: Any) -> bool:
    return type(value) is str and _names.is_cell(value)


def _is_channel(value: Any) -> bool:
    return type(value) is str and _names.is_channel(value)


def _is_segment(value: Any) -> bool:
    return type(value) is str and _names.is_segment(value)


def _is_content_type(value: Any) -> bool:
    return value is None or (type(value) is str and _names.is_content_type(value))


def _is_headers(value: Any) -> bool:
    return type(value) is bytes and len(value) <= HEADERS_MAX


def _is_origin(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 4
        and _is_cell(value[0])
        and type(value[1]) is str
        and value[1] in _names.KINDS
        and _is_segment(value[2])
        and (value[3] is None or _is_segment(value[3]))
    )


def _is_cells(value: Any) -> bool:
    if value is None:
        return True
    if type(value) is not list or len(value) > CELLS_MAX:
        return False
    if not all(type(cell) is str for cell in value):
        return False
    return sum(len(cell.encode()) for cell in value) <= CELLS_BYTES_MAX


def _is_options(value: Any) -> bool:
    if value is None:
        return True
    if type(value) is not list or len(value) != 4:
        return False
    flags, retry, trace, headers = value
    if not (type(flags) is int and 0 <= flags <= 127 and _is_headers(headers)):
        return False
    if retry is not None and not (type(retry) is list and len(retry) == 2 and all(map(_U32, retry))):
        return False
    return trace is None or _bin(25)(trace)


def _is_limits(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 9
        and all(map(_uint(32, 1), value[:7]))
        and all(map(_uint(64, 1), value[7:]))
    )


_STATUSES = frozenset(int(status) for status in Status)
_U16, _U32, _U64 = _uint(16), _uint(32), _uint(64)
_ATTACHED = _maybe(_uint(64, 1))
_BODY: tuple[Check, ...] = (_is_content_type, _ATTACHED)


def _shape(
    rule: Rule,
    *checks: Check,
    attached: int | None = None,
    whole: Callable[[Fields], bool] | None = None,
) -> Shape:
    return Shape(rule, checks, attached, whole)


_NOTHING, _DETAIL, _MESSAGE = Rule.NOTHING, Rule.DETAIL, Rule.MESSAGE

TO_CELL: dict[int, Shape] = {
    ToCell.HELLO: _shape(_NOTHING, _U16, _U16, _bin(32)),
    ToCell.REQUEST: _shape(_MESSAGE, _U64, _is_text, _is_text, _is_text, _maybe(_U32), *_BODY, _is_options, attached=6),
    ToCell.PUBLISH: _shape(_MESSAGE, _U64, _is_text, _is_text, _is_text, *_BODY, _is_options, attached=5),
    ToCell.HANDLE: _shape(_NOTHING, _U64, _maybe(_is_text), _maybe(_is_text), _maybe(_uint(32, 1))),
    ToCell.DELIVER_REPLY: _shape(_MESSAGE, _U64, *_BODY, attached=2),
    ToCell.DELIVER_FAIL: _shape(_DETAIL, _U64, _is_status),
    ToCell.DELIVER_PART: _shape(_MESSAGE, _U64, *_BODY, attached=2),
    ToCell.MULTICAST: _shape(
        _MESSAGE,
        *(_U64, _is_cells, _is_text, _is_text, _is_bool, _maybe(_U32), *_BODY, _is_options),
        attached=7,
    ),
    ToCell.EVENTS: _shape(_NOTHING, _U64),
    ToCell.SERVE: _shape(
        _NOTHING,
        *(_U64, _is_cells, _is_text, _is_text, _maybe(_U32), _is_content_type, _uint(64, 1), _is_headers),
        attached=6,
    ),
    ToCell.FETCH: _shape(_MESSAGE, _U64, _maybe(_U64), _maybe(_U32)),
    ToCell.CANCEL: _shape(_NOTHING, _U64),
    ToCell.PING: _shape(_NOTHING, _U64),
    ToCell.PONG: _shape(_NOTHING, _U64),
    ToCell.BYE: _shape(_NOTHING, _maybe(_is_status)),
}
"""Frames from the job. Cells and targets are texts here: a wrong one costs the message, not the connection."""

TO_JOB: dict[int, Shape] = {
    ToJob.WELCOME: _shape(
        _NOTHING,
        *(_U16, _is_cell, _maybe(_is_segment), _maybe(_U32), _maybe(_is_segment), _maybe(_U32), _is_limits),
    ),
    ToJob.REJECT: _shape(_NOTHING, _is_status),
    ToJob.REPLY: _shape(_MESSAGE, _U64, *_BODY, attached=2),
    ToJob.RETURN: _shape(_DETAIL, _U64, _is_status, _is_cell),
    ToJob.ACCEPTED: _shape(_NOTHING, _U64),
    ToJob.HANDLED: _shape(_NOTHING, _U64, lambda value: type(value) is int and 0 <= value <= 5),
    ToJob.DELIVER: _shape(
        _MESSAGE,
        *(_U64, _is_origin, _is_channel, _is_channel, _U32, _is_bool, *_BODY, _is_headers),
        attached=7,
    ),
    ToJob.PART: _shape(_MESSAGE, _U64, _is_cell, *_BODY, attached=3),
    ToJob.PART_FAILED: _shape(_DETAIL, _U64, _is_cell, _is_status, _is_cell),
    ToJob.END: _shape(_NOTHING, _U64),
    ToJob.EVENT: _shape(
        _DETAIL,
        *(_U64, lambda value: type(value) is int and 0 <= value <= 7, _maybe(_is_cell), _U64),
        whole=lambda fields: (fields[2] is None) == (fields[1] == 7),
    ),
    ToJob.SERVED: _shape(_MESSAGE, _U64),
    ToJob.PROGRESS: _shape(_NOTHING, _U64, _maybe(_is_cell), _U64, _maybe(_U64)),
    ToJob.SETTLED: _shape(
        _NOTHING,
        *(_U64, _is_cell, lambda value: type(value) is int and 0 <= value <= 2, _maybe(_is_status)),
        whole=lambda fields: (fields[3] is None) == (fields[2] != 1),
    ),
    ToJob.FETCHED: _shape(_NOTHING, _U64, _is_content_type, _U64, _is_headers, _bin(32), attached=2),
    ToJob.CANCEL: _shape(_NOTHING, _U64),
    ToJob.PING: _shape(_NOTHING, _U64),
    ToJob.PONG: _shape(_NOTHING, _U64),
    ToJob.BYE: _shape(_NOTHING, _maybe(_is_status)),
}
"""Frames from the cell."""


def read_header(shape: Shape, kind: int, raw: Any) -> Fields:
    """The fields of a header. Raises `ProtocolError` unless they are exactly what the type prescribes."""
    try:
        fields = _msgpack.unpack(raw)
    except ValueError as error:
        raise ProtocolError(Status.BAD_HEADER, f"header of frame type {kind:#04x}: {error}") from None
    checks = shape.checks
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
            if shape.rule is _NOTHING:
                raise ProtocolError(Status.BAD_FRAME, f"frame type {kind:#04x} has no payload")
            limit = DETAIL_MAX if shape.rule is _DETAIL else self.payload_max
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
