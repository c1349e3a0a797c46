"""The asyncio shell: the same names as the blocking one, to be awaited.

```python
async with await cellbus.aio.connect() as bus:
    reply = await bus.request("task", "fetch")
```

All of it belongs to the event loop that `connect` ran in.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from cellbus import _asking, _bootstrap, _transfers
from cellbus._asking import Asked, HandleRefused, Handlers, find_handler
from cellbus._core import Call, Core, Incoming, Kind
from cellbus._frames import ToCell, write_frame
from cellbus._transfers import OnProgress
from cellbus._wire import BACKLOG_MAX, Entry, Wire
from cellbus.errors import CellbusError, Disconnected, ProtocolError, UnknownError
from cellbus.message import (
    Event,
    EventKind,
    Fetched,
    Flags,
    Options,
    Origin,
    Outcome,
    Part,
    Progress,
    Reply,
    Settled,
)
from cellbus.payload import Outgoing, Payload
from cellbus.status import Status

__all__ = ["Bus", "Message", "Pending", "Served", "Serving", "Transfers", "connect"]

T = TypeVar("T")
Handler = Callable[["Message"], Any]
_READS = 16
"""Reads after which other tasks get their turn."""


class Pending(Generic[T]):
    """Something that was asked and whose end can be awaited."""

    def __init__(self, bus: Bus, call: Call, until: float | None) -> None:
        self._bus = bus
        self._call = call
        self._until = until

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._call.is_done

    async def result(self, timeout: float | None = None) -> T:
        """Waits for the end, at most `timeout` seconds.

        Raises `TimeoutError` after that, and the call goes on; `StatusError` where it ended without an answer.
        Being cancelled cancels the call.
        """
        call = self._call
        try:
            await self._bus._wait(call, lambda: call.is_done, self._until, timeout)
        except (UnknownError, asyncio.CancelledError):
            self.cancel()
            raise
        if call.error is not None:
            raise call.error
        return cast(T, call.end)

    def __await__(self) -> Any:
        return self.result().__await__()

    def cancel(self) -> None:
        """Says that nobody waits any longer. What was asked may have been done."""
        call = self._call
        if not call.is_done:
            self._bus._cancel(call)
            call.is_abandoned = True
            call.finish(error=UnknownError(Status.DEADLINE, None, "cancelled"))


class Message:
    """A message for a handler. As `cellbus.Message`; what answers is to be awaited."""

    def __init__(self, bus: Bus, incoming: Incoming) -> None:
        self._bus = bus
        self._incoming = incoming
        self._is_deferred = False
        self._cancelled = asyncio.Event()
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
        self.deadline: float | None = time.monotonic() + incoming.budget_ms / 1000 if incoming.expects_reply else None
        """Until when somebody waits, in seconds on the monotonic clock."""
        if incoming.is_cancelled:
            self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any longer. A handler that is a coroutine is cancelled then."""
        return self._cancelled.is_set()

    async def wait_cancelled(self) -> None:
        """Waits until nobody waits any longer."""
        await self._cancelled.wait()

    def tensors(self) -> Any:
        """The payload as named tensors, without a copy. Raises `TensorError`."""
        return Reply(self.payload).tensors()

    def defer(self) -> Message:
        """Takes over answering: the return value of the handler is ignored. Gives this message."""
        self._is_deferred = True
        return self

    async def part(self, payload: Payload, *, content_type: str | None = None) -> None:
        """Sends one of several replies, where the asker takes several; the last is `reply`."""
        if self._incoming.is_answered:
            raise CellbusError("the message has been answered")
        head, out = _asking.answer(self._bus._core, self._incoming, payload, content_type, True)
        await self._bus._say(head, out)

    async def reply(self, payload: Payload = None, *, content_type: str | None = None) -> bool:
        """Answers. `False` where it was answered before or nobody can be told."""
        head, out = _asking.answer(self._bus._core, self._incoming, payload, content_type, False)
        return await self._answer(head, out)

    async def refuse(self, status: Status = Status.FORBIDDEN, text: str = "") -> bool:
        """Says that the work was certainly not done."""
        return await self._answer(*_asking.fail(self._incoming, _asking.refusal(status), text))

    async def fail(self, text: str) -> bool:
        """Says that the work was done and has failed."""
        return await self._answer(*_asking.fail(self._incoming, Status.HANDLER_FAILED, text))

    async def _answer(self, head: bytes, out: Outgoing | None) -> bool:
        if not self._bus._core.answered(self._incoming):
            return False
        await self._bus._say(head, out)
        return True

    def __del__(self) -> None:
        if not self._incoming.is_answered:
            self._bus._abandon(self._incoming)

    async def _run(self, handler: Handler) -> None:
        _asking.deadline.set(self.deadline)
        known = weakref.ref(self)

        def on_cancel() -> None:
            message = known()
            if message is not None:
                message._on_cancel()

        self._incoming.on_cancel = on_cancel
        if self._incoming.is_cancelled:
            self._on_cancel()
        try:
            if inspect.iscoroutinefunction(handler):
                task = asyncio.ensure_future(handler(self))
                self._task: asyncio.Future[Any] = task
                result = await task
            else:
                result = await asyncio.to_thread(handler, self)
            if not self._is_deferred:
                await self.reply(result)
        except asyncio.CancelledError:
            await self._answer(*_asking.fail(self._incoming, Status.HANDLER_GONE))
        except Exception as error:
            await self._answer(*_asking.failure(self._incoming, error))
        finally:
            self.__dict__.pop("_task", None)
            if not self._is_deferred:
                self._incoming.on_cancel = None

    def _on_cancel(self) -> None:
        self._cancelled.set()
        task = self.__dict__.get("_task")
        if task is not None:
            task.cancel()


class Serving:
    """Messages that are handled until this is closed; `async with` and `with` close it."""

    def __init__(self, bus: Bus, selector: tuple[str | None, str | None]) -> None:
        self._bus = bus
        self.selector = selector
        """Channel and topic; `None` stands for all."""

    def close(self) -> None:
        """Handles no more. Messages that come are refused with `NO_HANDLER`."""
        self._bus._handlers.pop(self.selector, None)

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Serving:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Bus:
    """What a process can say through its cell, and hear. As `cellbus.Bus`, to be awaited."""

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

    @property
    def cell(self) -> str:
        """The full name of the own cell, such as `site-1.job-7`."""
        return self._core.cell

    @property
    def job(self) -> str | None:
        """The job of the own cell."""
        return self._core.job

    @property
    def attempt(self) -> int | None:
        """Which attempt of the job this is, from 1."""
        return self._core.attempt

    @property
    def role(self) -> str | None:
        """What the launcher calls this process."""
        return self._core.role

    @property
    def site(self) -> str:
        """The name of the site: the cell's without the job."""
        return self.cell.removesuffix(f".{self.job}") if self.job else self.cell

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return self._core.failure is None

    @property
    def limits(self) -> Any:
        """What this connection may have: a named tuple, in bytes, counts and milliseconds."""
        return self._core.limits

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
        found = json.loads(bytes((await self.request("job", "parameters", to=self.cell)).payload))
        if not isinstance(found, dict):
            raise CellbusError("the parameters of the job are no object")
        return found

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
        if failure is not None and "goodbye" not in failure.detail and "this process" not in failure.detail:
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
            self._fail(Disconnected("this process has closed the connection"))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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


class Served:
    """Something that is served. As `cellbus.Served`."""

    def __init__(self, bus: Bus, pending: Pending[Any]) -> None:
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

    def __init__(self, bus: Bus) -> None:
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


async def connect(*, rendezvous: str | os.PathLike[str] | None = None, timeout: float = 10.0, workers: int = 64) -> Bus:
    """Connects to the cell that has launched this process, or to one that left a rendezvous file.

    `timeout` is for connecting, in seconds; `workers` is how many handlers run at once. Raises as
    `cellbus.connect`.
    """
    loop = asyncio.get_running_loop()
    if rendezvous is not None:
        bootstrap = _bootstrap.from_rendezvous(rendezvous)
    else:
        bootstrap = _bootstrap.from_environment()
    wire, core = await loop.run_in_executor(None, _greet, bootstrap, timeout)
    bus = Bus(wire, core, loop, max(1, workers))
    bus._attach()
    return bus


def _greet(bootstrap: _bootstrap.Bootstrap, timeout: float) -> tuple[Wire, Core]:
    core = Core()
    wire = Wire(_bootstrap.open_socket(bootstrap, timeout), core)
    try:
        wire.greet(core, bootstrap.secret)
    except BaseException:
        wire.close()
        raise
    return wire, core
