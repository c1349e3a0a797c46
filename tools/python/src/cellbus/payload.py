"""What can be sent: bytes, text, named tensors; and how it leaves, in the socket or as a sealed memory file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from cellbus import _memfd

__all__ = ["Outgoing", "Payload", "Sendable", "outgoing"]


@runtime_checkable
class Sendable(Protocol):
    """Something that knows its own bytes, such as `cellbus.tensors.Packed` and `cellbus.tensors.Arena`."""

    content_type: str | None

    def outgoing(self, prefix: bytes = b"") -> Outgoing:
        """Its bytes behind `prefix`."""


Payload = bytes | bytearray | memoryview | str | Sendable | Mapping[str, Any] | None
"""What the operations of a bus take: bytes-like objects, text (sent as UTF-8), a dict of named tensors
(numpy arrays or torch tensors), or anything `Sendable`. `None` is the empty payload."""


class Outgoing:
    """A payload that is about to leave: buffers that are not copied, or a sealed memory file."""

    __slots__ = ("buffers", "content_type", "fd", "is_own", "keep", "size")

    def __init__(
        self,
        buffers: Sequence[memoryview],
        content_type: str | None = None,
        *,
        fd: int | None = None,
        size: int | None = None,
        keep: object = None,
    ) -> None:
        self.buffers = buffers
        self.size = sum(buffer.nbytes for buffer in buffers) if size is None else size
        """Bytes."""
        self.content_type = content_type
        self.fd = fd
        """A sealed memory file with all of it, or `None`."""
        self.is_own = False
        """Whether `fd` is closed with this object."""
        self.keep = keep

    def attach(self, payload_max: int) -> None:
        """Moves a payload that is too large for the socket into a sealed memory file."""
        if self.fd is None and self.size > min(_memfd.THRESHOLD, payload_max):
            self.fd = _memfd.write_sealed(self.buffers)
            self.is_own = True
            self.buffers = ()

    def close(self) -> None:
        """Lets go of the memory file. Again is allowed."""
        if self.fd is not None and self.is_own:
            os.close(self.fd)
        self.fd = None

    def __del__(self) -> None:
        self.close()


_EMPTY: tuple[memoryview, ...] = ()


def outgoing(payload: Payload, prefix: bytes = b"") -> Outgoing:
    """The bytes of a payload behind `prefix`, without copying what is large.

    Raises `TypeError` for what cannot be sent, `TensorError` for tensors that cannot.
    """
    kind = type(payload)
    if kind is bytes:
        content: tuple[memoryview, ...] = (memoryview(payload),) if payload else _EMPTY  # type: ignore[arg-type]
        if not prefix:
            return Outgoing(content)
        return Outgoing((memoryview(prefix), *content))
    if payload is None:
        return Outgoing((memoryview(prefix),) if prefix else _EMPTY)
    if isinstance(payload, str):
        return outgoing(payload.encode(), prefix)
    if isinstance(payload, Sendable):
        return payload.outgoing(prefix)
    if isinstance(payload, Mapping):
        from cellbus import tensors

        return tensors.Packed(payload).outgoing(prefix)
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise TypeError(f"cannot send {type(payload).__name__}: bytes, text or named tensors are needed")
    view = memoryview(payload)
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    buffers = (memoryview(prefix), view.cast("B")) if prefix else (view.cast("B"),)
    return Outgoing(buffers)
