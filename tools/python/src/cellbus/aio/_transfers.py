"""Transfers through the cell, to be awaited."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from cellbus import _asking, _transfers
from cellbus._transfers import OnProgress
from cellbus.aio._link import Link
from cellbus.aio._message import Pending
from cellbus.message import Fetched, Progress, Settled
from cellbus.payload import Payload

__all__ = ["Served", "Transfers"]


class Served:
    """Something that is served. As `cellbus.Served`."""

    def __init__(self, bus: Link, pending: Pending[Any]) -> None:
        self._pending = pending
        self._items = bus._items(pending)
        self.reference: bytes = b""
        """What receivers need. Hand it to them in any message."""
        self.ends: dict[str, Settled] = {}
        """What became of the receivers that have ended, by cell."""

    async def __aiter__(self) -> AsyncIterator[Progress | Settled]:
        """Yields how far receivers are and what becomes of them, to the end."""
        async for item in self._items:
            if isinstance(item, Settled):
                self.ends[item.cell] = item
            yield item

    async def wait(self, progress: OnProgress = None) -> dict[str, Settled]:
        """Waits for the end. Gives what became of every receiver, by cell."""
        bar = _transfers.Bar(progress, "serving")
        try:
            async for item in self:
                if isinstance(item, Progress):
                    bar.show(item)
        finally:
            bar.close()
        return self.ends

    def close(self) -> None:
        """Serves no longer."""
        self._pending.cancel()

    async def __aenter__(self) -> Served:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Transfers:
    """Serving and fetching. As `cellbus.Transfers`."""

    def __init__(self, bus: Link) -> None:
        self._bus = bus

    async def serve(
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
        """Serves a file (by `pathlib.Path`), bytes or tensors to the cells `to`, or to all cells of this job."""
        out, media = _transfers.source(what)
        asked = _asking.serve(out, to, channel, topic, lifetime, content_type or media, headers)
        served = Served(self._bus, await self._bus._start(asked))
        served.reference = await served._items.__anext__()
        return served

    async def fetch(
        self,
        reference: bytes | memoryview,
        *,
        size_max: int | None = None,
        patience: float | None = None,
        progress: OnProgress = None,
    ) -> Fetched:
        """Fetches what a reference stands for; the payload is mapped memory, verified and read-only."""
        pending = await self._bus._start(_asking.fetch(reference, size_max, patience))
        bar = _transfers.Bar(progress, "fetching")
        try:
            async for item in self._bus._items(pending):
                if isinstance(item, Progress):
                    bar.show(item)
        finally:
            bar.close()
        return cast(Fetched, await pending.result())
