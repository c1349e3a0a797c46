"""One connection in an event loop: reading, writing, waiting."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from cellbus import _asking
from cellbus._asking import Asked, HandleRefused, Handlers, find_handler
from cellbus._core import Call, Core, Incoming, Kind
from cellbus._wire import BACKLOG_MAX, Entry, Wire
from cellbus.aio._message import Handler, Message, Pending, Serving
from cellbus.errors import Disconnected, ProtocolError, UnknownError
from cellbus.message import Outcome
from cellbus.payload import Outgoing
from cellbus.status import Status

_READS = 16
"""Reads after which other tasks get their turn."""


class Link:
    """What is below the operations of a bus."""

    def __init__(self, wire: Wire, core: Core, loop: asyncio.AbstractEventLoop, workers: int) -> None:
        self._wire = wire
        self._core = core
        self._loop = loop
        self._gates: deque[Call] = deque()
        self._drained: deque[tuple[Entry, asyncio.Future[None]]] = deque()
        self._handlers: Handlers = {}
        self._asked_for: set[tuple[str | None, str | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(workers)
        self._ended = asyncio.Event()
        self._is_writing = False
        self._is_reading = False

    def _attach(self) -> None:
        self._wire.stream.setblocking(False)
        self._loop.add_reader(self._wire.stream, self._readable)
        self._is_reading = True
        self._take_frames()

    async def _start(self, asked: Asked) -> Pending[Any]:
        call = asked.call
        until = None if asked.patience is None else time.monotonic() + asked.patience
        while self._core.failure is None and not self._core.has_room(call.size, call.attached):
            gate = Call(Kind.REQUEST)
            self._gates.append(gate)
            try:
                await self._wait(gate, lambda gate=gate: gate.is_done, until)  # type: ignore[misc]
            except BaseException:
                if gate in self._gates:
                    self._gates.remove(gate)
                else:
                    self._open_gates()
                raise
        number = self._core.begin(call)
        try:
            head = asked.frame(number)
        except BaseException:
            self._core.withdraw(call)
            raise
        await self._say(head, asked.out)
        return Pending(self, call, until)

    async def _say(self, head: bytes, out: Outgoing | None = None) -> None:
        entry = self._write(head, out)
        if entry is not None and not entry.is_sent:
            future = self._loop.create_future()
            self._drained.append((entry, future))
            await future

    def _write(self, head: bytes, out: Outgoing | None) -> Entry | None:
        if self._core.failure is not None:
            return None
        try:
            entry = self._wire.send(head, out)
        except OSError as error:
            self._fail(error)
            return None
        self._watch()
        return entry

    def _watch(self) -> None:
        """Looks for room to write while something waits, and reads only while not too much does."""
        if self._core.failure is not None:
            return
        waits = bool(self._wire.outbox)
        if waits and not self._is_writing:
            self._loop.add_writer(self._wire.stream, self._writable)
        elif not waits and self._is_writing:
            self._loop.remove_writer(self._wire.stream)
        self._is_writing = waits
        reads = len(self._wire.outbox) <= BACKLOG_MAX
        if reads and not self._is_reading:
            self._loop.add_reader(self._wire.stream, self._readable)
        elif not reads and self._is_reading:
            self._loop.remove_reader(self._wire.stream)
        self._is_reading = reads

    def _writable(self) -> None:
        try:
            self._wire.flush()
        except OSError as error:
            self._fail(error)
            return
        for entry, future in list(self._drained):
            if entry.is_sent:
                self._drained.remove((entry, future))
                if not future.done():
                    future.set_result(None)
        self._watch()

    def _readable(self) -> None:
        try:
            for _ in range(_READS):
                if not self._wire.read():
                    self._wire.decoder.end()
                    self._fail(Disconnected("the cell closed the connection without a goodbye"))
                    return
                self._take_frames()
                if self._core.failure is not None:
                    return
        except BlockingIOError:
            pass
        except (OSError, ValueError, ProtocolError) as error:
            self._fail(error)
            return
        self._watch()

    def _take_frames(self) -> None:
        core, wire = self._core, self._wire
        try:
            while core.failure is None:
                frame = wire.next()
                if frame is None:
                    break
                incoming = core.take(frame)
                if incoming is not None:
                    self._dispatch(incoming)
                if core.freed:
                    core.freed = False
                    self._open_gates()
                while core.replies:
                    wire.send(core.replies.popleft())
            if core.failure is not None:
                self._fail(core.failure)
        except (OSError, ValueError, ProtocolError) as error:
            self._fail(error)

    def _dispatch(self, incoming: Incoming) -> None:
        handler = find_handler(self._handlers, incoming.channel, incoming.topic)
        if handler is None:
            incoming.is_answered = self._core.answered(incoming)
            self._write(*_asking.fail(incoming, Status.NO_HANDLER))
            return
        task = self._loop.create_task(self._handle(Message(self, incoming), handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, message: Message, handler: Handler) -> None:
        async with self._slots:
            await message._run(handler)

    def _abandon(self, incoming: Incoming) -> None:
        def refuse() -> None:
            if self._core.answered(incoming):
                self._write(*_asking.fail(incoming, Status.HANDLER_GONE))

        try:
            self._loop.call_soon_threadsafe(refuse)
        except RuntimeError:
            return

    def _cancel(self, call: Call) -> None:
        if call.number in self._core.calls:
            self._write(_asking.cancel(call), None)

    def _open_gates(self) -> None:
        if self._gates:
            self._gates.popleft().finish()

    def _fail(self, error: BaseException) -> None:
        core = self._core
        if core.failure is None:
            core.close(error if isinstance(error, Disconnected) else self._wire.fail(error, core))
        if self._ended.is_set():
            return
        self._ended.set()
        self._loop.remove_reader(self._wire.stream)
        self._loop.remove_writer(self._wire.stream)
        self._wire.close()
        while self._gates:
            self._gates.popleft().finish()
        while self._drained:
            _, future = self._drained.popleft()
            if not future.done():
                future.set_result(None)

    async def _wait(
        self, call: Call, is_ready: Callable[[], bool], until: float | None, timeout: float | None = None
    ) -> None:
        while not is_ready():
            future = self._loop.create_future()

            def wake(future: asyncio.Future[None] = future) -> None:
                if not future.done():
                    future.set_result(None)

            call.wake = wake
            left = None if until is None else until - time.monotonic()
            is_short = timeout is not None and (left is None or timeout < left)
            try:
                await asyncio.wait_for(future, timeout if is_short else left)
            except (asyncio.TimeoutError, TimeoutError):
                if is_short:
                    raise TimeoutError(f"no answer within {timeout} s") from None
                raise UnknownError(Status.DEADLINE, None, "nothing was heard of the own cell") from None

    async def _items(self, pending: Pending[Any]) -> AsyncIterator[Any]:
        call = pending._call
        try:
            while True:
                await self._wait(call, lambda: call.is_done or bool(call.items), pending._until)
                if call.items:
                    yield call.items.popleft()
                    continue
                if call.error is not None:
                    raise call.error
                return
        finally:
            pending.cancel()

    async def _serve(
        self, selector: tuple[str | None, str | None], handler: Handler, concurrency: int | None
    ) -> Serving:
        channel, topic = selector
        name = "every channel" if channel is None else f"{channel}/{topic or '*'}"
        if selector in self._handlers:
            raise HandleRefused(Outcome.TAKEN, name)
        self._handlers[selector] = handler
        if selector not in self._asked_for:
            try:
                outcome = await (await self._start(_asking.handle(channel, topic, concurrency))).result()
                if outcome is not Outcome.REGISTERED:
                    raise HandleRefused(outcome, name)
            except BaseException:
                del self._handlers[selector]
                raise
            self._asked_for.add(selector)
        return Serving(self, selector)
