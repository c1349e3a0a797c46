"""What is asked of a cell: the call, its payload, and the frame that says so. Shared by both shells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from cellbus import _frames
from cellbus._core import Call, Core, Incoming, Kind
from cellbus._frames import write_frame
from cellbus._shapes import DETAIL_MAX, ToCell
from cellbus.errors import CellbusError, FailedError, RefusedError, StatusError, UnknownError
from cellbus.message import Flags, Options, Outcome, Reply, cell_list, option_fields
from cellbus.payload import Outgoing, Payload, outgoing
from cellbus.status import Status, StatusClass

SERVER_VARIABLE = "CELLBUS_SERVER_CELL"
GRACE = 10.0
"""Seconds beyond a budget after which the own cell is taken for dead."""

deadline: ContextVar[float | None] = ContextVar("cellbus_deadline", default=None)
"""Until when the message that is handled here has an asker, on the monotonic clock."""

trace: ContextVar[bytes | None] = ContextVar("cellbus_trace", default=None)
"""The trace of the message that is handled here; what is sent meanwhile belongs to it."""


class Asked(NamedTuple):
    """Something that is about to be asked."""

    call: Call
    out: Outgoing | None
    frame: Callable[[int], bytes]
    """The frame, given its number."""
    patience: float | None
    """Seconds after which the own cell is taken for dead."""


class HandleRefused(CellbusError):  # noqa: N818 - named after what happened
    """The cell does not deliver these messages to this process."""

    def __init__(self, outcome: Outcome, selector: str) -> None:
        super().__init__(f"messages of {selector} are not delivered here: {_REASONS[outcome]}")
        self.outcome = outcome


_REASONS = {
    Outcome.TAKEN: "somebody else handles them",
    Outcome.RESERVED: "they are the system's own",
    Outcome.STOPPING: "the cell is stopping",
    Outcome.TOO_MANY: "there are too many handlers",
    Outcome.NO_SELECTOR: "this is no channel and topic",
    Outcome.REGISTERED: "",
}


def destination(to: str | None) -> str:
    """The cell to ask; without one the server's cell of this job."""
    if to is not None:
        return to
    found = os.environ.get(SERVER_VARIABLE)
    if not found:
        raise ValueError(f"`to` is needed: {SERVER_VARIABLE} is not set")
    return found


def budget_ms(budget: float | None, core: Core) -> int | None:
    """A budget in milliseconds. Within a handler it is at most what its asker has left."""
    until = deadline.get()
    if budget is None:
        if until is None:
            return None
        budget = core.limits.budget_ms / 1000
    if not 0 <= budget < 4_294_967:
        raise ValueError(f"a budget of {budget} s")
    if until is not None:
        budget = min(budget, max(0.0, until - time.monotonic()))
    return int(budget * 1000)


def _body(
    core: Core, payload: Payload, content_type: str | None, outgoing_: Outgoing | None = None
) -> tuple[Outgoing, str | None, int | None]:
    out = outgoing(payload) if outgoing_ is None else outgoing_
    if out.size > 65_536 or out.fd is not None:
        out.attach(core.limits.payload_max)
    return out, content_type or out.content_type, out.size if out.fd is not None else None


def _call(kind: Kind, out: Outgoing) -> Call:
    return Call(kind, 0, out.size) if out.fd is not None else Call(kind, out.size)


def request(
    core: Core,
    to: str | None,
    channel: str,
    topic: str,
    payload: Payload,
    budget: float | None,
    content_type: str | None,
    options: Options | None,
    *,
    many: bool = False,
    body: Outgoing | None = None,
) -> Asked:
    """A REQUEST."""
    out, media, attached = _body(core, payload, content_type, body)
    cell = destination(to)
    time_ms = budget_ms(budget, core)
    patience = (core.limits.budget_ms if time_ms is None else time_ms) / 1000 + GRACE
    flags = option_fields(options, trace.get(), Flags.MANY if many else Flags.NONE)
    call = _call(Kind.STREAM if many else Kind.REQUEST, out)
    size = call.size
    if flags is None and attached is None:

        def plain(number: int) -> bytes:
            return _frames.write_request(number, cell, channel, topic, time_ms, media, size)

        return Asked(call, out, plain, patience)

    def frame(number: int) -> bytes:
        fields = (number, cell, channel, topic, time_ms, media, attached, flags)
        return write_frame(ToCell.REQUEST, fields, size)

    return Asked(call, out, frame, patience)


def publish(
    core: Core,
    to: str | None,
    channel: str,
    topic: str,
    payload: Payload,
    content_type: str | None,
    options: Options | None,
) -> Asked:
    """A PUBLISH."""
    out, media, attached = _body(core, payload, content_type)
    cell = destination(to)
    flags = option_fields(options, trace.get())
    call = _call(Kind.PUBLISH, out)

    def frame(number: int) -> bytes:
        return write_frame(ToCell.PUBLISH, (number, cell, channel, topic, media, attached, flags), call.size)

    return Asked(call, out, frame, None)


def multicast(
    core: Core,
    cells: Sequence[str] | None,
    channel: str,
    topic: str,
    payload: Payload,
    is_publish: bool,
    budget: float | None,
    content_type: str | None,
    options: Options | None,
) -> Asked:
    """A MULTICAST."""
    out, media, attached = _body(core, payload, content_type)
    to = cell_list(cells)
    time_ms = budget_ms(budget, core)
    flags = option_fields(options, trace.get())
    call = _call(Kind.MULTICAST, out)
    patience = (core.limits.budget_ms if time_ms is None else time_ms) / 1000 + GRACE

    def frame(number: int) -> bytes:
        fields = (number, to, channel, topic, is_publish, time_ms, media, attached, flags)
        return write_frame(ToCell.MULTICAST, fields, call.size)

    return Asked(call, out, frame, patience)


def handle(channel: str | None, topic: str | None, concurrency: int | None) -> Asked:
    """A HANDLE."""
    if channel is None and topic is not None:
        raise ValueError("a topic without a channel")

    def frame(number: int) -> bytes:
        return write_frame(ToCell.HANDLE, (number, channel, topic, concurrency))

    return Asked(Call(Kind.HANDLE), None, frame, GRACE)


def events() -> Asked:
    """EVENTS."""
    return Asked(Call(Kind.EVENTS), None, lambda number: write_frame(ToCell.EVENTS, (number,)), None)


def serve(
    out: Outgoing,
    cells: Sequence[str] | None,
    channel: str,
    topic: str,
    lifetime: float | None,
    content_type: str | None,
    headers: bytes,
) -> Asked:
    """A SERVE of a descriptor."""
    to = cell_list(cells)
    seconds = None if lifetime is None else int(lifetime)

    def frame(number: int) -> bytes:
        fields = (number, to, channel, topic, seconds, content_type, out.size, headers)
        return write_frame(ToCell.SERVE, fields)

    return Asked(Call(Kind.SERVE), out, frame, None)


def fetch(reference: bytes | memoryview, size_max: int | None, patience: float | None) -> Asked:
    """A FETCH."""
    out = outgoing(reference)
    call = Call(Kind.FETCH, out.size)
    seconds = None if patience is None else max(1, int(patience))

    def frame(number: int) -> bytes:
        return write_frame(ToCell.FETCH, (number, size_max, seconds), out.size)

    return Asked(call, out, frame, None)


def cancel(call: Call) -> bytes:
    """A CANCEL."""
    return write_frame(ToCell.CANCEL, (call.number,))


def answer(core: Core, message: Incoming, result: Any, content_type: str | None, part: bool) -> tuple[bytes, Outgoing]:
    """A DELIVER_REPLY or DELIVER_PART."""
    if isinstance(result, Reply):
        content_type = content_type or result.content_type
        result = result.payload
    out, media, attached = _body(core, result, content_type)
    kind = ToCell.DELIVER_PART if part else ToCell.DELIVER_REPLY
    size = 0 if attached is not None else out.size
    return write_frame(kind, (message.number, media, attached), size), out


def failure(message: Incoming, error: BaseException) -> tuple[bytes, Outgoing | None]:
    """A DELIVER_FAIL for what a handler has raised."""
    if isinstance(error, FailedError):
        status, text = Status.HANDLER_FAILED, error.detail
    elif isinstance(error, (RefusedError, UnknownError)) and error.by is None:
        status, text = error.status, error.detail
    elif isinstance(error, StatusError):
        status, text = Status.HANDLER_FAILED, str(error)
    elif isinstance(error, Exception):
        status, text = Status.HANDLER_FAILED, f"{type(error).__name__}: {error}"
    else:
        status, text = Status.HANDLER_GONE, ""
    return fail(message, status, text)


def fail(message: Incoming, status: Status, text: str = "") -> tuple[bytes, Outgoing | None]:
    """A DELIVER_FAIL."""
    detail = text.encode("utf-8", "replace")[:DETAIL_MAX]
    head = write_frame(ToCell.DELIVER_FAIL, (message.number, int(status)), len(detail))
    return head, outgoing(detail) if detail else None


def refusal(status: Status) -> Status:
    """Raises `ValueError` unless the status says that the work was certainly not done."""
    if status.kind is not StatusClass.REFUSED:
        raise ValueError(f"{status.name} does not say that the work was not done")
    return status


Handlers = dict[tuple[str | None, str | None], Any]


def find_handler(handlers: Mapping[tuple[str | None, str | None], Any], channel: str, topic: str) -> Any:
    """The most specific handler, or `None`."""
    for selector in ((channel, topic), (channel, None), (None, None)):
        found = handlers.get(selector)
        if found is not None:
            return found
    return None
