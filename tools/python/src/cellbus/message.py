"""What arrives: replies, parts, messages for handlers, events, progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

from cellbus import tensors as _tensors
from cellbus.errors import StatusError
from cellbus.status import Status

__all__ = [
    "Event",
    "EventKind",
    "Fetched",
    "Flags",
    "Options",
    "Origin",
    "Outcome",
    "Part",
    "Progress",
    "Reply",
    "Settled",
    "SettledEnd",
]


@dataclass(frozen=True)
class Reply:
    """An answer."""

    payload: bytes | memoryview
    """The bytes; a read-only `memoryview` over mapped memory where they were attached."""
    content_type: str | None = None
    """Media type, as the one who answers says."""

    def tensors(self) -> _tensors.Tensors:
        """The payload as named tensors, without a copy. Raises `TensorError`."""
        return _tensors.read(self.payload)

    def text(self) -> str:
        """The payload as UTF-8. Raises `UnicodeDecodeError`."""
        return bytes(self.payload).decode()


@dataclass(frozen=True)
class Part(Reply):
    """One of several answers: from one cell of many, or one of many from a cell."""

    cell: str = ""
    """The cell that gave it."""
    error: StatusError | None = None
    """Why this cell gave no answer; the payload is empty then."""


@dataclass(frozen=True)
class Fetched(Reply):
    """What a transfer brought, verified."""

    headers: bytes = b""
    """The application's own, at most 4,096 bytes."""
    digest: bytes = b""
    """BLAKE3 of the payload, 32 bytes."""


@dataclass(frozen=True)
class Origin:
    """Who sent a message, verified by the cell."""

    cell: str
    """Full name, such as `site-1.job-7`."""
    kind: str
    """`server`, `relay`, `client`, `admin` or `job`."""
    org: str
    """The organisation that runs it."""
    job: str | None
    """The job of a job cell."""


@dataclass(frozen=True)
class Progress:
    """How far a transfer is."""

    cell: str | None
    """The receiver; `None` for what this process fetches."""
    done: int
    """Bytes."""
    total: int | None
    """Bytes, where they are known."""


class SettledEnd(IntEnum):
    """What became of a receiver."""

    STORED = 0
    """It has everything, verified and receipted."""
    FAILED = 1
    MISSING = 2
    """Nothing was heard of it."""


@dataclass(frozen=True)
class Settled:
    """The end of one receiver of a transfer."""

    cell: str
    end: SettledEnd
    status: Status | None
    """Why it failed."""


class EventKind(IntEnum):
    """What has happened."""

    LINK_UP = 0
    LINK_DOWN = 1
    CELL_REGISTERED = 2
    CELL_GONE = 3
    JOB_STARTED = 4
    JOB_COMPLETED = 5
    JOB_FAILED = 6
    MISSED = 7
    """Events are missing here, because they were read too slowly."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a link of the cell, to a cell below it or to a job."""

    kind: EventKind
    cell: str | None
    missed: int
    """How many events are missing here."""
    detail: str


class Outcome(IntEnum):
    """The answer to asking for messages."""

    REGISTERED = 0
    TAKEN = 1
    RESERVED = 2
    STOPPING = 3
    TOO_MANY = 4
    NO_SELECTOR = 5


class Flags(IntFlag):
    """How a message is handled."""

    NONE = 0
    OPTIONAL = 1
    """A publish may be dropped where there is too much to do."""
    IDEMPOTENT = 2
    """Executing it twice does no harm."""
    SEALED = 4
    """Only the destination can read the payload, and only the requester the reply."""
    RECEIPT = 8
    """A publish is acknowledged by the destination cell and not by the own one."""
    BULK = 16
    """The lane for what nobody waits for."""
    MANY = 32
    """A request that takes several replies; set by `stream`."""
    BATCH = 64
    """The payload is a batch of small messages."""


@dataclass(frozen=True)
class Options:
    """What a message is sent with beyond the ordinary."""

    flags: Flags = Flags.NONE
    retry: tuple[float, float] | None = None
    """Seconds until it is sent again while nothing is heard of it: at first, at most."""
    trace: bytes | None = None
    """A W3C trace context in binary form, 25 bytes; that of the message that is being handled where it is left out."""
    headers: bytes = b""
    """The application's own, opaque to every cell, at most 4,096 bytes."""

    def fields(self, extra: Flags = Flags.NONE, around: bytes | None = None) -> list[Any] | None:
        """As on the wire; `None` where nothing is said. `around` is the trace of what is being handled."""
        flags = int(self.flags | extra)
        trace = around if self.trace is None else self.trace
        if not flags and self.retry is None and trace is None and not self.headers:
            return None
        retry = None if self.retry is None else [int(seconds * 1000) for seconds in self.retry]
        return [flags, retry, trace, bytes(self.headers)]


def option_fields(options: Options | None, trace: bytes | None = None, extra: Flags = Flags.NONE) -> list[Any] | None:
    """As on the wire."""
    if options is not None:
        return options.fields(extra, trace)
    return [int(extra), None, trace, b""] if extra or trace is not None else None


def cell_list(cells: Sequence[str] | None) -> list[str] | None:
    """Cells to send to; `None` stays `None`. A single text is refused: it is a sequence of letters."""
    if isinstance(cells, str):
        raise TypeError("a list of cells is needed, not one text")
    return None if cells is None else list(cells)
