"""What both shells say of their connection and of what comes: the same words, whether one waits or awaits."""

from __future__ import annotations

import json
import time
from typing import Any, TypeVar

from cellbus._core import Core, Incoming, Limits
from cellbus.errors import CellbusError
from cellbus.message import Origin, Reply
from cellbus.tensors import Tensors

__all__ = ["About", "Received", "parameters_of"]

M = TypeVar("M", bound="Received")


class About:
    """What a process is told of its cell and of its connection."""

    def _known(self) -> Core:
        raise NotImplementedError

    @property
    def cell(self) -> str:
        """The full name of the own cell, such as `site-1.job-7`."""
        return self._known().cell

    @property
    def job(self) -> str | None:
        """The job of the own cell."""
        return self._known().job

    @property
    def attempt(self) -> int | None:
        """Which attempt of the job this is, from 1."""
        return self._known().attempt

    @property
    def role(self) -> str | None:
        """What the launcher calls this process."""
        return self._known().role

    @property
    def site(self) -> str:
        """The name of the site: the cell's without the job."""
        cell, job = self.cell, self.job
        return cell.removesuffix(f".{job}") if job else cell

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended, as far as is known."""
        return self._known().failure is None

    @property
    def limits(self) -> Limits:
        """What this connection may have: a named tuple, in bytes, counts and milliseconds."""
        return self._known().limits


class Received:
    """What a handler is told of a message."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._is_deferred = False
        self.origin: Origin = incoming.origin
        """Who sent it, verified by the cell."""
        self.channel: str = incoming.channel
        self.topic: str = incoming.topic
        self.payload: bytes | memoryview = incoming.payload
        """The bytes; a read-only `memoryview` where they were attached."""
        self.content_type: str | None = incoming.content_type
        self.headers: bytes = incoming.headers
        """The application's own headers."""
        self.expects_reply: bool = incoming.expects_reply
        """Whether somebody waits for an answer."""
        self.trace: bytes | None = incoming.trace
        """The W3C trace context that it belongs to, in binary form: what its handler sends carries it on."""
        self.deadline: float | None = time.monotonic() + incoming.budget_ms / 1000 if incoming.expects_reply else None
        """Until when somebody waits, in seconds on the monotonic clock."""

    def tensors(self) -> Tensors:
        """The payload as named tensors, without a copy. Raises `TensorError`."""
        return Reply(self.payload).tensors()

    def defer(self: M) -> M:
        """Takes over answering: the return value of the handler is ignored. Gives this message."""
        self._is_deferred = True
        return self


def parameters_of(reply: Reply) -> dict[str, Any]:
    """The arguments of the job, as its cell gives them."""
    found = json.loads(bytes(reply.payload))
    if not isinstance(found, dict):
        raise CellbusError("the parameters of the job are no object")
    return found
