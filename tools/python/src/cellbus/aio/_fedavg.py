"""The server's side of federated averaging, to be awaited: the same rounds, in a thread beside the event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, cast

from cellbus import _bus, _message, fedavg
from cellbus.aio._bus import Bus
from cellbus.aio._message import Message, Serving
from cellbus.payload import Payload
from cellbus.status import Status

__all__ = ["FedAvg"]

Rounded = Callable[[fedavg.Round, Mapping[str, Any]], Any]
Progressed = Callable[[str, int, float, "str | None"], Any]


class FedAvg:
    """Federated averaging. As `cellbus.FedAvg`; `run` is to be awaited.

    ```python
    averaging = cellbus.aio.FedAvg({"w": np.zeros((64, 10))}, rounds=5)
    model = await averaging.run(bus)
    ```

    The sums are made in a thread, so that the event loop goes on. `on_round` and `on_progress` may be coroutine
    functions, which are awaited on the loop; others are called in the thread.
    """

    def __init__(
        self,
        initial: Mapping[str, Any],
        *,
        rounds: int,
        sites: Iterable[str] | None = None,
        quorum: int | None = None,
        grace: float = 0.0,
        round_timeout: float | None = 3600.0,
        name: str = "train",
        metadata: Mapping[str, str] | None = None,
        on_round: Rounded | None = None,
        on_progress: Progressed | None = None,
    ) -> None:
        """The arguments are those of `cellbus.FedAvg`."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rounds = fedavg.FedAvg(
            initial,
            rounds=rounds,
            sites=sites,
            quorum=quorum,
            grace=grace,
            round_timeout=round_timeout,
            name=name,
            metadata=metadata,
            on_round=self._on_loop(on_round),
            on_progress=self._on_loop(on_progress),
        )

    @property
    def model(self) -> dict[str, Any]:
        """The present model, as numpy arrays."""
        return self._rounds.model

    @property
    def history(self) -> list[fedavg.Round]:
        """What each round has brought."""
        return self._rounds.history

    @property
    def sites(self) -> list[str]:
        """The sites that take part; empty where all may."""
        return self._rounds.sites

    @property
    def quorum(self) -> int:
        """How many results a round needs."""
        return self._rounds.quorum

    async def run(self, bus: Bus, *, farewell: float = 10.0) -> dict[str, Any]:
        """Does all rounds and gives the model. As `cellbus.FedAvg.run`; being cancelled ends the work."""
        self._loop = asyncio.get_running_loop()
        bridge = _Bridge(bus, self._loop)
        thread = ThreadPoolExecutor(1, "cellbus-fedavg")
        waits = cast(_bus.Bus, bridge)
        running = self._loop.run_in_executor(thread, lambda: self._rounds.run(waits, farewell=farewell))
        thread.shutdown(wait=False)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            bridge.is_given_up = True
            # It looks once a second; until then it still answers.
            await asyncio.wait([running])
            raise

    def _on_loop(self, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        if function is None or not inspect.iscoroutinefunction(function):
            return function
        awaited = function

        def call(*arguments: Any) -> None:
            assert self._loop is not None, "it is called by run()"
            asyncio.run_coroutine_threadsafe(awaited(*arguments), self._loop).result()

        return call


class _Bridge:
    """What the rounds need of a blocking bus, from one that is awaited."""

    def __init__(self, bus: Bus, loop: asyncio.AbstractEventLoop) -> None:
        self._bus = bus
        self._loop = loop
        self.is_given_up = False

    @property
    def job(self) -> str | None:
        return self._bus.job

    @property
    def is_open(self) -> bool:
        return self._bus.is_open and not self.is_given_up

    def serve(self, channel: str, topic: str, handler: _message.Handler, *, concurrency: int) -> _Served:
        loop = self._loop

        def handle(message: Message) -> Any:
            return handler(cast(_message.Message, _Waiting(message, loop)))

        asked = self._bus._serve((channel, topic), handle, concurrency)
        return _Served(asyncio.run_coroutine_threadsafe(asked, loop).result(), loop)


class _Served(AbstractContextManager["_Served"]):
    """Messages that are handled until this is left."""

    def __init__(self, serving: Serving, loop: asyncio.AbstractEventLoop) -> None:
        self._serving = serving
        self._loop = loop

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.close)


class _Waiting:
    """A message whose answers are waited for, outside of the event loop."""

    def __init__(self, message: Message, loop: asyncio.AbstractEventLoop) -> None:
        self._message = message
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def defer(self) -> _Waiting:
        self._message.defer()
        return self

    def reply(self, payload: Payload = None, *, content_type: str | None = None) -> bool:
        answer = self._message.reply(payload, content_type=content_type)
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()

    def refuse(self, status: Status = Status.FORBIDDEN, text: str = "") -> bool:
        return asyncio.run_coroutine_threadsafe(self._message.refuse(status, text), self._loop).result()
