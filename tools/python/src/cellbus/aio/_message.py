"""What was asked and what is to be answered, to be awaited."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from cellbus import _asking
from cellbus._about import Received
from cellbus._core import Call, Incoming
from cellbus.errors import CellbusError, UnknownError
from cellbus.payload import Outgoing, Payload
from cellbus.status import Status

if TYPE_CHECKING:
    from cellbus.aio._link import Link

__all__ = ["Handler", "Message", "Pending", "Serving"]

T = TypeVar("T")
Handler = Callable[["Message"], Any]


class Pending(Generic[T]):
    """Something that was asked and whose end can be awaited."""

    def __init__(self, bus: Link, call: Call, until: float | None) -> None:
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


class Message(Received):
    """A message for a handler. As `cellbus.Message`; what answers is to be awaited."""

    def __init__(self, bus: Link, incoming: Incoming) -> None:
        self._bus = bus
        super().__init__(incoming)
        self._cancelled = asyncio.Event()
        if incoming.is_cancelled:
            self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any longer. A handler that is a coroutine is cancelled then."""
        return self._cancelled.is_set()

    async def wait_cancelled(self) -> None:
        """Waits until nobody waits any longer."""
        await self._cancelled.wait()

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
        _asking.trace.set(self.trace)
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

    def __init__(self, bus: Link, selector: tuple[str | None, str | None]) -> None:
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
