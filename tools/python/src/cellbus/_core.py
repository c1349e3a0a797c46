"""One connection as a state machine: ids, limits, what is outstanding, what a frame means. No I/O and no clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from cellbus._frames import Decoder, Frame, write_frame
from cellbus._shapes import TO_JOB, ToCell, ToJob
from cellbus.errors import CellbusError, Disconnected, ProtocolError, RefusedError, StatusError, status_error
from cellbus.message import (
    Event,
    EventKind,
    Fetched,
    Origin,
    Outcome,
    Part,
    Progress,
    Reply,
    Settled,
    SettledEnd,
)
from cellbus.status import Status

VERSION_MIN, VERSION_MAX = 1, 2
QUEUE_MAX = 4_096
"""Parts or events of one call that wait for whoever takes them."""


class Kind(Enum):
    """What was asked for."""

    REQUEST = 0
    STREAM = 1
    PUBLISH = 2
    MULTICAST = 3
    HANDLE = 4
    EVENTS = 5
    SERVE = 6
    FETCH = 7


class Limits(NamedTuple):
    """What this connection may have, from the cell."""

    payload_max: int
    """Bytes of a payload in the socket."""
    requests_max: int
    """What was asked and has not ended."""
    bytes_max: int
    """Bytes of payload of all that."""
    deliveries_max: int
    """Messages that wait for a handler's answer."""
    deliveries_bytes_max: int
    """Bytes of messages that wait at the cell."""
    handlers_max: int
    budget_ms: int
    """Milliseconds that a request has where it does not say."""
    attachment_max: int
    """Bytes of one attachment."""
    attached_max: int
    """Bytes of all attachments that have not ended."""


class Call:
    """Something that was asked and has, or has not, ended."""

    number = 0
    end: Any = None
    error: CellbusError | None = None
    is_done = False
    is_abandoned = False
    items: deque[Any] | None = None
    missed = 0
    wake: Callable[[], None] | None = None
    event: threading.Event | None = None

    def __init__(self, kind: Kind, size: int = 0, attached: int = 0) -> None:
        self.kind = kind
        self.size = size
        self.attached = attached

    def finish(self, end: Any = None, error: CellbusError | None = None) -> None:
        """Ends it, once."""
        if not self.is_done:
            self.end, self.error = end, error
            self.is_done = True
            if self.wake is not None:
                self.wake()

    def push(self, item: Any) -> None:
        """Adds something that comes before the end."""
        if self.is_abandoned:
            return
        if self.items is None:
            self.items = deque()
        if self.kind is not Kind.SERVE and len(self.items) >= QUEUE_MAX:
            self._overflow(item)
        else:
            self.items.append(item)
        if self.wake is not None:
            self.wake()

    def _overflow(self, item: Any) -> None:
        items = self.items
        if items is None:
            return
        if self.kind is Kind.EVENTS:
            items.popleft()
            self.missed += 1
            items.append(item)
        else:
            self.finish(error=RefusedError(Status.SLOW_CONSUMER, None, "answers were not taken"))


class Incoming:
    """A message for a handler of this process, until it is answered."""

    __slots__ = (
        "budget_ms", "channel", "content_type", "expects_reply", "headers", "is_answered", "is_cancelled", "number",
        "on_cancel", "origin", "payload", "topic", "trace",
    )  # fmt: skip

    def __init__(self, frame: Frame) -> None:
        number, origin, channel, topic, budget_ms, expects_reply, content_type, _, headers, *rest = frame.fields
        self.trace: bytes | None = rest[0] if rest else None
        self.number: int = number
        self.origin = Origin(*origin)
        self.channel: str = channel
        self.topic: str = topic
        self.budget_ms: int = budget_ms
        self.expects_reply: bool = expects_reply
        self.content_type: str | None = content_type
        self.headers: bytes = headers
        self.payload: bytes | memoryview = frame.payload
        self.is_cancelled = False
        self.is_answered = False
        self.on_cancel: Callable[[], None] | None = None


class Core:
    """The state of one connection."""

    def __init__(self) -> None:
        self.decoder_shapes = TO_JOB
        self.is_open = False
        self.failure: Disconnected | None = None
        """Why the connection has ended."""
        self.cell = ""
        self.job: str | None = None
        self.attempt: int | None = None
        self.role: str | None = None
        self.heartbeat_ms: int | None = None
        self.limits = Limits(0, 0, 0, 0, 0, 0, 0, 0, 0)
        self.calls: dict[int, Call] = {}
        self.incoming: dict[int, Incoming] = {}
        self.replies: deque[bytes] = deque()
        """Frames that have to be sent because of what was received."""
        self.freed = False
        """Whether something has ended since this was last looked at."""
        self._next = 1
        self._bytes = 0
        self._attached = 0
        self._delivered = 0

    @staticmethod
    def hello(secret: bytes) -> bytes:
        """The first frame."""
        return write_frame(ToCell.HELLO, (VERSION_MIN, VERSION_MAX, secret))

    def has_room(self, size: int, attached: int) -> bool:
        """Whether something of so many bytes can be asked now without exceeding the limits.

        Raises `RefusedError` for what never can.
        """
        limits = self.limits
        if size > limits.payload_max or size > limits.bytes_max or attached > limits.attached_max:
            raise RefusedError(Status.TOO_LARGE, None, f"{size + attached} bytes")
        if attached > limits.attachment_max:
            limit = limits.attachment_max
            raise RefusedError(Status.TOO_LARGE, None, f"attachment of {attached} bytes, the limit is {limit}")
        return (
            len(self.calls) < limits.requests_max
            and self._bytes + size <= limits.bytes_max
            and self._attached + attached <= limits.attached_max
        )

    def begin(self, call: Call) -> int:
        """Gives a call its number. The frame with it has to leave before that of the next."""
        if self.failure is not None:
            raise RefusedError(Status.NO_ROUTE, None, f"the connection has ended: {self.failure.detail}")
        number = self._next
        self._next = number + 1
        call.number = number
        self.calls[number] = call
        self._bytes += call.size
        self._attached += call.attached
        return number

    def withdraw(self, call: Call) -> None:
        """Takes back a call of which nothing was sent."""
        self._forget(call.number)

    def greet(self, frame: Frame, decoder: Decoder) -> None:
        """Takes the first frame. Raises `RefusedError` for REJECT, `ProtocolError` for anything else."""
        if frame.kind == ToJob.REJECT:
            raise RefusedError(Status(frame.fields[0]), None, "the cell refuses the connection")
        if frame.kind != ToJob.WELCOME:
            raise ProtocolError(Status.BAD_FRAME, "something came before WELCOME")
        version, self.cell, self.job, self.attempt, self.role, self.heartbeat_ms, limits = frame.fields
        if not VERSION_MIN <= version <= VERSION_MAX:
            raise ProtocolError(Status.VERSION, f"version {version} was not offered")
        self.limits = Limits(*limits)
        decoder.payload_max = self.limits.payload_max
        decoder.attachment_max = self.limits.attachment_max
        self.is_open = True

    def take(self, frame: Frame) -> Incoming | None:
        """Takes a frame. Gives the message where it is one for a handler."""
        kind = frame.kind
        if kind == _REPLY:
            call = self.calls.get(frame.fields[0])
            if call is None or call.kind is not Kind.REQUEST:
                call = self._end(frame, Kind.REQUEST)
            self._forget(call.number)
            call.finish(Reply(frame.payload, frame.fields[1]))
            return None
        if kind == ToJob.DELIVER:
            return self._deliver(frame)
        handler = _HANDLERS.get(kind)
        if handler is None:
            raise ProtocolError(Status.BAD_FRAME, f"frame type {kind:#04x} comes out of turn")
        handler(self, frame)
        return None

    def close(self, reason: Disconnected) -> None:
        """Ends everything that is outstanding."""
        if self.failure is None:
            self.failure = reason
        self.is_open = False
        calls = list(self.calls.values())
        self.calls.clear()
        self.freed = True
        for call in calls:
            call.finish(error=self.failure)
        for message in list(self.incoming.values()):
            self._cancel(message)

    def answered(self, message: Incoming) -> bool:
        """Marks a message as answered. `False` where it was, or where nobody can be told any longer."""
        if message.is_answered:
            return False
        message.is_answered = True
        return self.incoming.pop(message.number, None) is not None and self.failure is None

    def _deliver(self, frame: Frame) -> Incoming:
        number = frame.fields[0]
        if number <= self._delivered:
            raise ProtocolError(Status.STALE_ID, f"delivery {number} is not higher than the last")
        if len(self.incoming) >= self.limits.deliveries_max:
            raise ProtocolError(Status.OVERLOADED, "more deliveries than were agreed on")
        self._delivered = number
        message = self.incoming[number] = Incoming(frame)
        return message

    def _end(self, frame: Frame, *kinds: Kind) -> Call:
        number = frame.fields[0]
        call = self.calls.get(number)
        if call is None or call.kind not in kinds:
            raise ProtocolError(Status.REPLY_UNSOLICITED, f"an answer to {number}, which is not outstanding")
        self._forget(number)
        return call

    def _forget(self, number: int) -> None:
        call = self.calls.pop(number, None)
        if call is not None:
            self._bytes -= call.size
            self._attached -= call.attached
            self.freed = True

    def _find(self, frame: Frame, *kinds: Kind) -> Call:
        call = self.calls.get(frame.fields[0])
        if call is None or call.kind not in kinds:
            raise ProtocolError(Status.REPLY_UNSOLICITED, f"an answer to {frame.fields[0]}, which is not outstanding")
        return call

    def _return(self, frame: Frame) -> None:
        number, status, by = frame.fields
        call = self.calls.get(number)
        if call is not None and call.kind in (Kind.HANDLE, Kind.EVENTS):
            raise ProtocolError(Status.REPLY_UNSOLICITED, f"a return for {number}")
        call = self._end(frame, *Kind)
        call.finish(error=status_error(Status(status), by, _detail(frame)))

    def _accepted(self, frame: Frame) -> None:
        self._end(frame, Kind.PUBLISH, Kind.MULTICAST).finish()

    def _handled(self, frame: Frame) -> None:
        self._end(frame, Kind.HANDLE).finish(Outcome(frame.fields[1]))

    def _part(self, frame: Frame) -> None:
        _, cell, content_type, _ = frame.fields
        call = self._find(frame, Kind.STREAM, Kind.MULTICAST)
        call.push(Part(frame.payload, content_type, cell))

    def _part_failed(self, frame: Frame) -> None:
        _, cell, status, by = frame.fields
        error: StatusError = status_error(Status(status), by, _detail(frame))
        self._find(frame, Kind.MULTICAST).push(Part(b"", None, cell, error))

    def _ended(self, frame: Frame) -> None:
        self._end(frame, Kind.STREAM, Kind.MULTICAST, Kind.EVENTS, Kind.SERVE).finish()

    def _event(self, frame: Frame) -> None:
        _, event, cell, missed = frame.fields
        self._find(frame, Kind.EVENTS).push(Event(EventKind(event), cell, missed, _detail(frame)))

    def _served(self, frame: Frame) -> None:
        call = self._find(frame, Kind.SERVE)
        if call.end is not None:
            raise ProtocolError(Status.REPLY_UNSOLICITED, "SERVED twice")
        call.end = bytes(frame.payload)
        call.push(call.end)

    def _progress(self, frame: Frame) -> None:
        _, cell, done, total = frame.fields
        call = self._find(frame, Kind.SERVE, Kind.FETCH)
        latest = Progress(cell, done, total)
        for item in call.items or ():
            if isinstance(item, Progress) and item.cell == cell and call.items:
                call.items.remove(item)
                break
        call.push(latest)

    def _settled(self, frame: Frame) -> None:
        _, cell, end, status = frame.fields
        found = None if status is None else Status(status)
        self._find(frame, Kind.SERVE).push(Settled(cell, SettledEnd(end), found))

    def _fetched(self, frame: Frame) -> None:
        _, content_type, _, headers, digest = frame.fields
        self._end(frame, Kind.FETCH).finish(Fetched(frame.payload, content_type, headers, digest))

    def _cancelled(self, frame: Frame) -> None:
        message = self.incoming.get(frame.fields[0])
        if message is not None:
            self._cancel(message)

    def _cancel(self, message: Incoming) -> None:
        if not message.is_cancelled:
            message.is_cancelled = True
            if message.on_cancel is not None:
                message.on_cancel()

    def _ping(self, frame: Frame) -> None:
        self.replies.append(write_frame(ToCell.PONG, frame.fields))

    def _pong(self, frame: Frame) -> None:
        """Nobody waits for one."""

    def _bye(self, frame: Frame) -> None:
        status = frame.fields[0]
        if status is None:
            self.close(Disconnected("the cell has said goodbye", by=self.cell or None, is_goodbye=True))
        else:
            found = Status(status)
            self.close(Disconnected("the cell has ended the connection", found, self.cell or None))


_REPLY = int(ToJob.REPLY)


def _detail(frame: Frame) -> str:
    return bytes(frame.payload).decode("utf-8", "replace")


_HANDLERS: dict[int, Callable[[Core, Frame], None]] = {
    ToJob.RETURN: Core._return,
    ToJob.ACCEPTED: Core._accepted,
    ToJob.HANDLED: Core._handled,
    ToJob.PART: Core._part,
    ToJob.PART_FAILED: Core._part_failed,
    ToJob.END: Core._ended,
    ToJob.EVENT: Core._event,
    ToJob.SERVED: Core._served,
    ToJob.PROGRESS: Core._progress,
    ToJob.SETTLED: Core._settled,
    ToJob.FETCHED: Core._fetched,
    ToJob.CANCEL: Core._cancelled,
    ToJob.PING: Core._ping,
    ToJob.PONG: Core._pong,
    ToJob.BYE: Core._bye,
}
