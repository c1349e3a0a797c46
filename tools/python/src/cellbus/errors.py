"""What can go wrong, as exceptions that say whether the work may have been done."""

from __future__ import annotations

from cellbus.status import Status, StatusClass

__all__ = [
    "BootstrapError",
    "CellbusError",
    "Disconnected",
    "FailedError",
    "ProtocolError",
    "RefusedError",
    "StatusError",
    "TensorError",
    "UnknownError",
    "UnsafePlaceError",
    "status_error",
]


class CellbusError(Exception):
    """The root of all errors of this package."""


class BootstrapError(CellbusError):
    """There is no bootstrap, it has been read before, or it is damaged. Nothing was connected."""


class UnsafePlaceError(CellbusError):
    """The socket is not one that only this user can reach. The secret was not sent."""


class ProtocolError(CellbusError):
    """The other side broke the protocol; the connection has ended."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status
        """The code that the other side is told."""


class TensorError(CellbusError, ValueError):
    """Bytes that are not named tensors, or tensors that cannot be sent. The text names the tensor."""


class StatusError(CellbusError):
    """A message ended with a status instead of an answer."""

    def __init__(self, status: Status, by: str | None = None, detail: str = "") -> None:
        text = status.name if by is None else f"{status.name} by {by}"
        super().__init__(f"{text}: {detail}" if detail else f"{text} ({status_text(status)})")
        self.status = status
        """Why."""
        self.by = by
        """The cell that gave the status; `None` where this process did."""
        self.detail = detail
        """What the handler said, else empty."""

    @property
    def kind(self) -> StatusClass:
        """What the status says about the work."""
        return self.status.kind

    @property
    def may_have_been_done(self) -> bool:
        """Whether the work that was asked for can have been done, in whole or in part."""
        return self.status.kind is not StatusClass.REFUSED


class RefusedError(StatusError):
    """The work has certainly not been done. Asking again is safe."""


class UnknownError(StatusError):
    """Nobody can say whether the work has been done."""


class FailedError(StatusError):
    """The handler ran and reported failure; `detail` is what it said."""


class Disconnected(UnknownError):  # noqa: N818 - a state that has a name of its own
    """The connection to the cell has ended. What was outstanding may have been done."""

    def __init__(
        self, reason: str, status: Status = Status.PEER_LOST, by: str | None = None, *, is_goodbye: bool = False
    ) -> None:
        super().__init__(status, by, reason)
        self.is_goodbye = is_goodbye
        """Whether one of the two sides has ended it on purpose and in order."""

    @property
    def may_have_been_done(self) -> bool:
        """Always: what was sent may have been taken."""
        return True


def status_text(status: Status) -> str:
    """What the class of a status means, for people."""
    if status.kind is StatusClass.REFUSED:
        return "certainly not done"
    return "may have been done" if status.kind is StatusClass.UNKNOWN else "the handler failed"


def status_error(status: Status, by: str | None = None, detail: str = "") -> StatusError:
    """The exception for a status, by its class."""
    if status.kind is StatusClass.REFUSED:
        return RefusedError(status, by, detail)
    if status.kind is StatusClass.UNKNOWN:
        return UnknownError(status, by, detail)
    return FailedError(status, by, detail)
