"""Transfers through the cell: serving bytes or a file under a reference, and fetching one."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from cellbus import _asking, _memfd
from cellbus.errors import CellbusError
from cellbus.message import Fetched, Progress, Settled
from cellbus.payload import Outgoing, Payload, outgoing

if TYPE_CHECKING:
    from cellbus._bus import Bus
    from cellbus._message import Pending

__all__ = ["Served", "Transfers"]

OnProgress = Callable[[Progress], None] | bool | None
"""Called for every step; `True` draws a bar with `tqdm` where it is installed; `None` and `False`, nothing."""
REFERENCE_TYPE = "application/vnd.cellbus.transfer"
"""Media type of a reference."""


class Bar:
    """Shows progress as a bar, or calls a function."""

    def __init__(self, progress: OnProgress, title: str) -> None:
        self._call = progress if callable(progress) else None
        self._bar: Any = None
        if progress is True:
            try:
                import tqdm
            except ImportError:
                return
            self._bar = tqdm.tqdm(desc=title, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr)

    def show(self, progress: Progress) -> None:
        """Shows one step."""
        if self._call is not None:
            self._call(progress)
        if self._bar is not None:
            self._bar.total = progress.total
            self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def source(what: Payload | os.PathLike[str]) -> tuple[Outgoing, str | None]:
    """What is served as a descriptor: a file by its path, or bytes in a sealed memory file."""
    if isinstance(what, os.PathLike):
        fd = os.open(what, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(fd)
        out = Outgoing((), fd=fd, size=found.st_size)
        out.is_own = True
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            out.close()
            raise CellbusError(f"`{os.fspath(what)}` is no regular file with anything in it")
        return out, None
    out = outgoing(what)
    if out.size == 0:
        raise CellbusError("nothing to serve")
    if out.fd is None:
        out.fd = _memfd.write_sealed(out.buffers)
        out.is_own = True
        out.buffers = ()
    return out, out.content_type


class Served(AbstractContextManager["Served"]):
    """Something that is served until all its receivers have ended, its time is over, or this is closed."""

    def __init__(self, bus: Bus, pending: Pending[Any]) -> None:
        self._bus = bus
        self._pending = pending
        self._items: Iterator[Any] = bus._items(pending)
        self.reference: bytes = next(self._items)
        """What receivers need. Hand it to them in any message."""
        self.ends: dict[str, Settled] = {}
        """What became of the receivers that have ended, by cell."""

    def __iter__(self) -> Iterator[Progress | Settled]:
        """Yields how far receivers are and what becomes of them, to the end."""
        for item in self._items:
            if isinstance(item, Settled):
                self.ends[item.cell] = item
            yield item

    def wait(self, progress: OnProgress = None) -> dict[str, Settled]:
        """Waits for the end. Gives what became of every receiver, by cell."""
        bar = Bar(progress, "serving")
        try:
            for item in self:
                if isinstance(item, Progress):
                    bar.show(item)
        finally:
            bar.close()
        return self.ends

    def close(self) -> None:
        """Serves no longer."""
        self._pending.cancel()

    def __exit__(self, *_: object) -> None:
        self.close()


class Transfers:
    """Serving and fetching."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def serve(
        self,
        what: Payload | os.PathLike[str],
        channel: str,
        topic: str,
        *,
        to: Sequence[str] | None = None,
        lifetime: float | None = None,
        content_type: str | None = None,
        headers: bytes = b"",
    ) -> Served:
        """Serves a file (by `pathlib.Path`), bytes or tensors to the cells `to`, or to all cells of this job.

        `lifetime` is in seconds; without it a day. A file must stay as it is until the end.
        """
        out, media = source(what)
        asked = _asking.serve(out, to, channel, topic, lifetime, content_type or media, headers)
        return Served(self._bus, self._bus._start(asked))

    def fetch(
        self,
        reference: bytes | memoryview,
        *,
        size_max: int | None = None,
        patience: float | None = None,
        progress: OnProgress = None,
    ) -> Fetched:
        """Fetches what a reference stands for; the payload is mapped memory, verified and read-only.

        `size_max` is in bytes, `patience` in seconds without progress (300). Raises `RefusedError` with
        `TRANSFER_STALLED` and its like.
        """
        pending = self._bus._start(_asking.fetch(reference, size_max, patience))
        bar = Bar(progress, "fetching")
        try:
            for item in self._bus._items(pending):
                if isinstance(item, Progress):
                    bar.show(item)
        finally:
            bar.close()
        fetched: Fetched = pending.result()
        return fetched
