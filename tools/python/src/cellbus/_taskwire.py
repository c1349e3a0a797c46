"""What trainers and their server say on the channel `task`: headers, checked, and bodies behind them. No I/O."""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from cellbus import _msgpack, _names
from cellbus.errors import CellbusError
from cellbus.payload import Outgoing, Payload, outgoing

CHANNEL = "task"
CONTENT_TYPE = "application/vnd.cellbus.task"
HEADER_MAX = 65_536
METRICS_MAX = 256
NAME_MAX = 128
TEXT_MAX = 4_096
_LENGTH = struct.Struct(">I")


class TaskError(CellbusError):
    """What came is no message about tasks."""


class Verdict(IntEnum):
    """What became of a result."""

    ACCEPTED = 0
    REPEATED = 1
    """It had been accepted before; its answer was lost."""
    LATE = 2
    """The task is over."""
    STALE = 3
    """Another attempt of this site has taken over."""
    REJECTED = 4
    """It cannot be used."""


class Fetch(NamedTuple):
    """A trainer asks for a task."""

    worker: bytes
    wait_ms: int


class Offer(NamedTuple):
    """A task for a site."""

    task: int
    attempt: int
    name: str
    round: int | None
    rounds: int | None
    content_type: str | None


class Submit(NamedTuple):
    """A result."""

    worker: bytes
    task: int
    attempt: int
    weight: float | None
    metrics: dict[str, float]
    content_type: str | None


class Report(NamedTuple):
    """How far a task is."""

    worker: bytes
    task: int
    attempt: int
    done: float
    text: str | None


class Framed:
    """A header, and a body behind it that is not copied."""

    content_type: str | None = CONTENT_TYPE

    def __init__(self, header: list[Any], body: Payload = None) -> None:
        raw = _msgpack.pack(header)
        if len(raw) > HEADER_MAX:
            raise TaskError(f"header of {len(raw)} bytes, the limit is {HEADER_MAX}")
        self._front = _LENGTH.pack(len(raw)) + raw
        self._body = body

    def outgoing(self, prefix: bytes = b"") -> Outgoing:
        """All of it behind `prefix`."""
        out = outgoing(self._body, prefix + self._front)
        out.content_type = CONTENT_TYPE
        return out


def fetch(worker: bytes, wait_ms: int) -> Framed:
    """`task/fetch`."""
    return Framed([1, worker, wait_ms])


def nothing() -> Framed:
    """The answer to a fetch: ask again."""
    return Framed([1, 0])


def offer(what: Offer, body: Payload) -> Framed:
    """The answer to a fetch: a task."""
    return Framed([1, 1, *what], body)


def over() -> Framed:
    """The answer to a fetch: there will be no more."""
    return Framed([1, 2])


def submit(what: Submit, body: Payload) -> Framed:
    """`task/submit`."""
    return Framed([1, *what], body)


def verdict(what: Verdict, text: str = "") -> Framed:
    """The answer to a result."""
    return Framed([1, int(what), text[:TEXT_MAX]] if what is Verdict.REJECTED else [1, int(what)])


def report(what: Report) -> Framed:
    """`task/progress`."""
    return Framed([1, *what])


def split(payload: bytes | memoryview) -> tuple[list[Any], memoryview]:
    """Header, without its version, and body. Raises `TaskError`."""
    view = memoryview(payload)
    if view.nbytes < 4:
        raise TaskError("shorter than 4 bytes")
    length = _LENGTH.unpack_from(view)[0]
    if length > min(HEADER_MAX, view.nbytes - 4):
        raise TaskError(f"header of {length} bytes, there are {view.nbytes - 4} and the limit is {HEADER_MAX}")
    try:
        header = _msgpack.unpack(view[4 : 4 + length])
    except ValueError as error:
        raise TaskError(f"the header is damaged: {error}") from None
    if type(header) is not list or not header or type(header[0]) is not int:
        raise TaskError("the header is no array with a version")
    if header[0] != 1:
        raise TaskError(f"version {header[0]} is not known")
    return header[1:], view[4 + length :]


def read_fetch(header: list[Any]) -> Fetch:
    """A fetch, checked."""
    _need(header, 2)
    return Fetch(_worker(header[0]), _uint(header[1], 32, "wait_ms"))


def read_offer(header: list[Any]) -> Offer | bool | None:
    """The answer to a fetch: a task, `None` for ask again, `False` for no more."""
    kind = header[0] if header else None
    if kind == 0 or kind == 2:
        _need(header, 1)
        return None if kind == 0 else False
    if kind != 1 or type(kind) is not int:
        raise TaskError("an answer of unknown kind")
    _need(header, 7)
    _, task, attempt, name, current, total, media = header
    return Offer(
        _uint(task, 64, "task"),
        _uint(attempt, 32, "attempt"),
        _text(name, NAME_MAX, "name"),
        None if current is None else _uint(current, 32, "round"),
        None if total is None else _uint(total, 32, "rounds"),
        _media(media),
    )


def read_submit(header: list[Any]) -> Submit:
    """A result, checked; whether its numbers make sense is somebody else's question."""
    _need(header, 6)
    worker, task, attempt, weight, metrics, media = header
    if weight is not None and type(weight) not in (float, int):
        raise TaskError("weight is no number")
    if type(metrics) is not dict or len(metrics) > METRICS_MAX:
        raise TaskError(f"metrics are no map of at most {METRICS_MAX}")
    for key, value in metrics.items():
        _text(key, NAME_MAX, "name of a metric")
        if type(value) not in (float, int):
            raise TaskError(f"metric `{key}` is no number")
    return Submit(
        _worker(worker),
        _uint(task, 64, "task"),
        _uint(attempt, 32, "attempt"),
        None if weight is None else float(weight),
        {key: float(value) for key, value in metrics.items()},
        _media(media),
    )


def read_verdict(header: list[Any]) -> tuple[Verdict, str]:
    """The answer to a result, and why it was rejected."""
    kind = header[0] if header else None
    if type(kind) is not int or not 0 <= kind <= 4:
        raise TaskError("a verdict of unknown kind")
    _need(header, 2 if kind == Verdict.REJECTED else 1)
    return Verdict(kind), _text(header[1], TEXT_MAX, "text") if kind == Verdict.REJECTED else ""


def read_report(header: list[Any]) -> Report:
    """How far a task is, checked."""
    _need(header, 5)
    worker, task, attempt, done, text = header
    if type(done) not in (float, int) or not math.isfinite(done) or not 0 <= done <= 1:
        raise TaskError("done is no number from 0 to 1")
    return Report(
        _worker(worker),
        _uint(task, 64, "task"),
        _uint(attempt, 32, "attempt"),
        float(done),
        None if text is None else _text(text, TEXT_MAX, "text"),
    )


def _need(header: list[Any], fields: int) -> None:
    if len(header) != fields:
        raise TaskError(f"{len(header)} fields, needed are {fields}")


def _worker(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != 16:
        raise TaskError("worker is not 16 bytes")
    return value


def _uint(value: Any, bits: int, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise TaskError(f"{name} is no number of {bits} bits")
    return value


def _text(value: Any, limit: int, name: str) -> str:
    if type(value) is not str or len(value.encode()) > limit:
        raise TaskError(f"{name} is no text of at most {limit} bytes")
    return value


def _media(value: Any) -> str | None:
    if value is not None and not (type(value) is str and _names.is_content_type(value)):
        raise TaskError("content type is not printable")
    return value
