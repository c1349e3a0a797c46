"""The operations of a bus, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, overload

from cellbus import _asking
from cellbus._about import About, parameters_of
from cellbus._core import Core
from cellbus._frames import write_frame
from cellbus._shapes import ToCell
from cellbus.aio._link import Link
from cellbus.aio._message import Handler, Pending, Serving
from cellbus.aio._transfers import Transfers
from cellbus.errors import Disconnected
from cellbus.message import Event, EventKind, Flags, Options, Part, Reply
from cellbus.payload import Payload

__all__ = ["Bus"]


class Bus(About, Link):
    """What a process can say through its cell, and hear. As `cellbus.Bus`, to be awaited."""

    def _known(self) -> Core:
        return self._core

    @property
    def transfers(self) -> Transfers:
        """Payloads of any size, under references."""
        return Transfers(self)

    async def request(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        to: str | None = None,
        budget: float | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> Reply:
        """Asks one cell and waits for its answer. As `cellbus.Bus.request`."""
        pending = await self.start(
            channel, topic, payload, to=to, budget=budget, content_type=content_type, options=options
        )
        return await pending.result()

    async def start(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        to: str | None = None,
        budget: float | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> Pending[Reply]:
        """As `request`, without waiting for the answer."""
        core = self._core
        return await self._start(_asking.request(core, to, channel, topic, payload, budget, content_type, options))

    async def stream(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        to: str | None = None,
        budget: float | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> AsyncIterator[Part]:
        """Asks one cell that gives several answers; yields them as they come."""
        core = self._core
        asked = _asking.request(core, to, channel, topic, payload, budget, content_type, options, many=True)
        async for item in self._items(await self._start(asked)):
            yield item

    async def parameters(self) -> dict[str, Any]:
        """The arguments of the job for this program, as its `job.toml` says."""
        return parameters_of(await self.request("job", "parameters", to=self.cell))

    async def publish(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        to: str | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> None:
        """Tells one cell something. Returns when the own cell has taken it; with `Flags.RECEIPT`, the other."""
        asked = _asking.publish(self._core, to, channel, topic, payload, content_type, options)
        await (await self._start(asked)).result()

    async def broadcast(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        cells: Sequence[str] | None = None,
        budget: float | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> AsyncIterator[Part]:
        """Asks many cells at once and yields an answer, or why there is none, for each as they come."""
        asked = _asking.multicast(self._core, cells, channel, topic, payload, False, budget, content_type, options)
        async for item in self._items(await self._start(asked)):
            yield item

    async def tell(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        cells: Sequence[str] | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> list[Part]:
        """Tells many cells something. With `Flags.RECEIPT` gives what became of it at each of them."""
        asked = _asking.multicast(self._core, cells, channel, topic, payload, True, None, content_type, options)
        pending = await self._start(asked)
        if options is not None and Flags.RECEIPT in options.flags:
            return [item async for item in self._items(pending)]
        await pending.result()
        return []

    async def events(self) -> AsyncIterator[Event]:
        """Yields what happens to the cell's links, to cells below it and to jobs, from now on."""
        pending = await self._start(_asking.events())
        call = pending._call
        async for item in self._items(pending):
            if call.missed:
                count, call.missed = call.missed, 0
                yield Event(EventKind.MISSED, None, count, "")
            yield item

    @overload
    def serve(
        self, channel: str | None = None, topic: str | None = None, *, concurrency: int | None = None
    ) -> Callable[[Handler], Any]: ...

    @overload
    def serve(
        self, channel: str | None, topic: str | None, handler: Handler, *, concurrency: int | None = None
    ) -> Any: ...

    def serve(
        self,
        channel: str | None = None,
        topic: str | None = None,
        handler: Handler | None = None,
        *,
        concurrency: int | None = None,
    ) -> Any:
        """Handles messages: `await bus.serve("model", "score", score)`, or as decorator.

        Coroutine functions run as tasks, at most `workers` of `connect` at once; others run in threads. As
        decorator, the function is replaced by a task that ends when the cell has agreed.
        """
        selector = (channel, topic)
        if handler is None:

            def decorate(function: Handler) -> asyncio.Task[Serving]:
                return self._loop.create_task(self._serve(selector, function, concurrency))

            return decorate
        return self._serve(selector, handler, concurrency)

    async def serve_forever(self) -> None:
        """Waits until the connection ends. Raises `Disconnected` at a bad end."""
        await self._ended.wait()
        failure = self._core.failure
        if failure is not None and not failure.is_goodbye:
            raise failure

    async def wait_closed(self, timeout: float | None = None) -> bool:
        """Waits until the connection has ended, at most `timeout` seconds; says whether it has."""
        try:
            await asyncio.wait_for(self._ended.wait(), timeout)
        except (asyncio.TimeoutError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Says goodbye. What is outstanding ends with `Disconnected`. Again is allowed."""
        if self._core.failure is None:
            try:
                self._wire.send(write_frame(ToCell.BYE, (None,)))
            except OSError:
                pass
            self._fail(Disconnected("this process has closed the connection", is_goodbye=True))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
