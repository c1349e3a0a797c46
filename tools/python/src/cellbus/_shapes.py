"""Which frames there are and what their headers hold, both ways."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from cellbus import _names
from cellbus.status import Status

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
    last: Check | None = None
    """One more field, which need not be there."""


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
    last: Check | None = None,
) -> Shape:
    return Shape(rule, checks, attached, whole, last)


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
        last=_bin(25),
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
