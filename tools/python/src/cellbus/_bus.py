"""The blocking shell: a bus for code that waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, cast, overload

from cellbus import _around, _asking, _bootstrap
from cellbus._about import About, parameters_of
from cellbus._asking import Asked, HandleRefused, Handlers, find_handler
from cellbus._core import Call, Core, Incoming
from cellbus._engine import Engine
from cellbus._message import Handler, Message, Pending, Pool
from cellbus._transfers import Transfers
from cellbus.errors import RefusedError
from cellbus.message import Event, EventKind, Flags, Options, Outcome, Part, Reply
from cellbus.payload import Payload
from cellbus.status import Status

__all__ = ["Bus", "Message", "Pending", "Serving", "connect"]

_SMALL = 16_384


class Serving(AbstractContextManager["Serving"]):
    """Messages that are handled until this is closed; `with` closes it."""

    def __init__(self, bus: Bus, selector: tuple[str | None, str | None]) -> None:
        self._bus = bus
        self.selector = selector
        """Channel and topic; `None` stands for all."""

    def close(self) -> None:
        """Handles no more. Messages that come are refused with `NO_HANDLER`."""
        self._bus._stop_serving(self.selector)

    def __exit__(self, *_: object) -> None:
        self.close()


class Bus(About, AbstractContextManager["Bus"]):
    """What a process can say through its cell, and hear. All threads may use it.

    Operations that wait raise `RefusedError` where the work was certainly not done, `UnknownError` where nobody
    knows, `FailedError` where it has failed. Where limits of the connection are reached they wait.
    """

    def __init__(self, engine: Engine, workers: int) -> None:
        self._engine = engine
        self._pool = Pool(workers)
        self._handlers: Handlers = {}
        self._asked_for: dict[tuple[str | None, str | None], Outcome] = {}
        self._serving = threading.Lock()
        engine.on_message = self._dispatch

    def _known(self) -> Core:
        return self._engine.core

    @property
    def transfers(self) -> Transfers:
        """Payloads of any size, under references."""
        return Transfers(self)

    def request(
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
        """Asks one cell and waits for its answer.

        `to` is the cell; without it the server's cell of this job. `budget` is in seconds; without it what the
        connection grants. Payloads above 256 KiB are passed as memory and not copied through the socket.
        """
        if type(payload) is bytes and len(payload) <= _SMALL and options is None and budget is None:
            reply = self._request_small(channel, topic, payload, to, content_type)
            if reply is not None:
                return reply
        return self.start(
            channel, topic, payload, to=to, budget=budget, content_type=content_type, options=options
        ).result()

    def _request_small(
        self, channel: str, topic: str, payload: bytes, to: str | None, content_type: str | None
    ) -> Reply | None:
        if _asking.deadline.get() is not None or _asking.trace.get() is not None:
            return None
        engine = self._engine
        call = engine.ask_small(
            to if to is not None else _asking.destination(to), channel, topic, content_type, payload
        )
        if call is None:
            return None
        try:
            engine.wait_small(call)
        except BaseException:
            Pending(engine, call, None).cancel()
            raise
        if call.error is not None:
            raise call.error
        return cast(Reply, call.end)

    def start(
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
        core = self._engine.core
        return self._start(_asking.request(core, to, channel, topic, payload, budget, content_type, options))

    def stream(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        to: str | None = None,
        budget: float | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> Iterator[Part]:
        """Asks one cell that gives several answers; yields them as they come. Leaving the loop cancels."""
        core = self._engine.core
        asked = _asking.request(core, to, channel, topic, payload, budget, content_type, options, many=True)
        return self._items(self._start(asked))

    def parameters(self) -> dict[str, Any]:
        """The arguments of the job for this program, as its `job.toml` says."""
        return parameters_of(self.request("job", "parameters", to=self.cell))

    def publish(
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
        core = self._engine.core
        self._start(_asking.publish(core, to, channel, topic, payload, content_type, options)).result()

    def broadcast(
        self,
        channel: str,
        topic: str,
        payload: Payload = None,
        *,
        cells: Sequence[str] | None = None,
        budget: float | None = None,
        content_type: str | None = None,
        options: Options | None = None,
    ) -> Iterator[Part]:
        """Asks many cells at once and yields an answer, or why there is none, for each as they come.

        Without `cells` all that are registered below the own cell are asked. The payload crosses each link once.
        """
        core = self._engine.core
        asked = _asking.multicast(core, cells, channel, topic, payload, False, budget, content_type, options)
        return self._items(self._start(asked))

    def tell(
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
        core = self._engine.core
        asked = _asking.multicast(core, cells, channel, topic, payload, True, None, content_type, options)
        pending = self._start(asked)
        if options is not None and Flags.RECEIPT in options.flags:
            return list(self._items(pending))
        pending.result()
        return []

    def events(self) -> Iterator[Event]:
        """Yields what happens to the cell's links, to cells below it and to jobs, from now on."""
        for item in self._items(self._start(_asking.events()), lambda call: call.missed):
            if isinstance(item, int):
                yield Event(EventKind.MISSED, None, item, "")
            else:
                yield item

    @overload
    def serve(
        self, channel: str | None = None, topic: str | None = None, *, concurrency: int | None = None
    ) -> Callable[[Handler], Handler]: ...

    @overload
    def serve(
        self, channel: str | None, topic: str | None, handler: Handler, *, concurrency: int | None = None
    ) -> Serving: ...

    def serve(
        self,
        channel: str | None = None,
        topic: str | None = None,
        handler: Handler | None = None,
        *,
        concurrency: int | None = None,
    ) -> Any:
        """Handles messages of a channel and topic, of a channel, or all: as decorator, or with a handler.

        ```python
        @bus.serve("model", "score")
        def score(message: cellbus.Message) -> bytes: ...

        with bus.serve("model", "score", score): ...
        ```

        Handlers run in threads, at most `workers` of `connect` at once, and of one sender and channel at most
        `concurrency` (one). Raises `HandleRefused` where somebody else handles them.
        """
        selector = (channel, topic)
        if handler is None:

            def decorate(function: Handler) -> Handler:
                self._serve(selector, function, concurrency)
                return function

            return decorate
        return self._serve(selector, handler, concurrency)

    def serve_forever(self) -> None:
        """Waits until the connection ends; handlers do their work meanwhile. Raises `Disconnected` at a bad end."""
        self._engine.wait_for_end()
        failure = self._engine.core.failure
        if failure is not None and not failure.is_goodbye:
            raise failure

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Waits until the connection has ended, at most `timeout` seconds; says whether it has."""
        self._engine.wait_for_end(None if timeout is None else time.monotonic() + timeout)
        return not self.is_open

    def close(self) -> None:
        """Says goodbye. What is outstanding ends with `Disconnected`. Again is allowed."""
        self._pool.stop()
        self._engine.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.close()
        return False

    def _start(self, asked: Asked) -> Pending[Any]:
        until = None if asked.patience is None else time.monotonic() + asked.patience
        return Pending(self._engine, self._engine.ask(asked), until)

    def _items(self, pending: Pending[Any], missed: Callable[[Call], int] | None = None) -> Iterator[Any]:
        call, engine = pending._call, self._engine
        try:
            while True:
                engine.wait(call, lambda: call.is_done or bool(call.items), pending._until)
                if missed is not None and call.missed:
                    count, call.missed = missed(call), 0
                    yield count
                if call.items:
                    yield call.items.popleft()
                    continue
                if call.error is not None:
                    raise call.error
                return
        finally:
            pending.cancel()

    def _serve(self, selector: tuple[str | None, str | None], handler: Handler, concurrency: int | None) -> Serving:
        with self._serving:
            if selector in self._handlers:
                raise HandleRefused(Outcome.TAKEN, _selector_text(selector))
            self._handlers[selector] = handler
            self._engine.start_pump()
            if selector not in self._asked_for:
                try:
                    outcome = self._start(_asking.handle(*selector, concurrency)).result()
                    if outcome is not Outcome.REGISTERED:
                        raise HandleRefused(outcome, _selector_text(selector))
                except BaseException:
                    del self._handlers[selector]
                    raise
                self._asked_for[selector] = outcome
        return Serving(self, selector)

    def _stop_serving(self, selector: tuple[str | None, str | None]) -> None:
        self._handlers.pop(selector, None)

    def _dispatch(self, incoming: Incoming) -> None:
        handler = find_handler(self._handlers, incoming.channel, incoming.topic)
        message = Message(self._engine, incoming)
        if handler is None:
            handler = _no_handler
        self._pool.submit(message, handler)


def _no_handler(message: Message) -> None:
    message.refuse(Status.NO_HANDLER)


def _selector_text(selector: tuple[str | None, str | None]) -> str:
    channel, topic = selector
    return "every channel" if channel is None else f"{channel}/{topic or '*'}"


def connect(
    *,
    rendezvous: str | os.PathLike[str] | None = None,
    timeout: float = 10.0,
    workers: int = 8,
) -> Bus:
    """Connects to the cell that has launched this process, or to one that left a rendezvous file.

    `timeout` is for connecting, in seconds; `workers` is how many handlers run at once. A process that connects by
    a rendezvous file gets the `CELLBUS_` variables of the job into its environment, as one that was launched has them.

    Raises `BootstrapError` where this process was not launched as job code or has connected before,
    `UnsafePlaceError` where others could reach the socket, `RefusedError` where the cell refuses, `OSError`.
    """
    if rendezvous is None:
        return Bus(Engine.connect(_bootstrap.from_environment(), timeout), max(1, workers))
    bus = Bus(Engine.connect(_bootstrap.from_rendezvous(rendezvous), timeout), max(1, workers))
    try:
        told = bus.request(_around.CHANNEL, _around.TOPIC, to=bus.cell, budget=timeout)
        _around.take(told.payload)
    except RefusedError as refused:
        # A cell that is of no job has nothing to say about one.
        if refused.status is not Status.NO_HANDLER:
            bus.close()
            raise
    except BaseException:
        bus.close()
        raise
    return bus
