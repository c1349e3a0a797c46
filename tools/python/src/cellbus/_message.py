"""What was asked and what is to be answered, for code that waits; and the threads that handlers run in."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from cellbus import _asking
from cellbus._about import Received
from cellbus._core import Call, Incoming
from cellbus._engine import Engine
from cellbus.errors import CellbusError, UnknownError
from cellbus.payload import Payload
from cellbus.status import Status

__all__ = ["Handler", "Message", "Pending", "Pool"]

T = TypeVar("T")
Handler = Callable[["Message"], Any]


class Pending(Generic[T]):
    """Something that was asked and whose end can be waited for."""

    def __init__(self, engine: Engine, call: Call, until: float | None) -> None:
        self._engine = engine
        self._call = call
        self._until = until

    @property
    def is_done(self) -> bool:
        """Whether it has ended. Looks, and does not read the socket."""
        return self._call.is_done

    def result(self, timeout: float | None = None) -> T:
        """Waits for the end, at most `timeout` seconds.

        Raises `TimeoutError` after that, and the call goes on; `StatusError` where it ended without an answer.
        """
        call = self._call
        until = self._until
        if timeout is not None:
            soon = time.monotonic() + timeout
            until = soon if until is None else min(soon, until)
        try:
            self._engine.wait(call, lambda: call.is_done, until)
        except UnknownError:
            if timeout is not None and (self._until is None or time.monotonic() < self._until):
                raise TimeoutError(f"no answer within {timeout} s") from None
            self.cancel()
            raise
        except BaseException:
            self.cancel()
            raise
        if call.error is not None:
            raise call.error
        return cast(T, call.end)

    def cancel(self) -> None:
        """Says that nobody waits any longer. What was asked may have been done."""
        call = self._call
        if not call.is_done:
            self._engine.cancel(call)
            call.is_abandoned = True
            call.finish(error=UnknownError(Status.DEADLINE, None, "cancelled"))


class Message(Received):
    """A message for a handler.

    Its handler's return value is the reply: anything that can be sent, or a `Reply`. What it raises is reported
    to the asker: `RefusedError(Status.FORBIDDEN)` as it is, anything else as failure with its text.
    """

    def __init__(self, engine: Engine, incoming: Incoming) -> None:
        self._engine = engine
        super().__init__(incoming)
        self._cancelled = threading.Event()
        incoming.on_cancel = self._cancelled.set
        if incoming.is_cancelled:
            self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any longer. An answer is still needed, for nobody."""
        return self._cancelled.is_set()

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Waits until nobody waits any longer, at most `timeout` seconds; says whether that is so."""
        return self._cancelled.wait(timeout)

    def part(self, payload: Payload, *, content_type: str | None = None) -> None:
        """Sends one of several replies, where the asker takes several; the last is `reply`."""
        if self._incoming.is_answered:
            raise CellbusError("the message has been answered")
        head, out = _asking.answer(self._engine.core, self._incoming, payload, content_type, True)
        self._engine.say(head, out)

    def reply(self, payload: Payload = None, *, content_type: str | None = None) -> bool:
        """Answers. `False` where it was answered before or nobody can be told."""
        head, out = _asking.answer(self._engine.core, self._incoming, payload, content_type, False)
        return self._answer(head, out)

    def refuse(self, status: Status = Status.FORBIDDEN, text: str = "") -> bool:
        """Says that the work was certainly not done."""
        return self._answer(*_asking.fail(self._incoming, _asking.refusal(status), text))

    def fail(self, text: str) -> bool:
        """Says that the work was done and has failed."""
        return self._answer(*_asking.fail(self._incoming, Status.HANDLER_FAILED, text))

    def _answer(self, head: bytes, out: object) -> bool:
        with self._engine.lock:
            if not self._engine.core.answered(self._incoming):
                return False
        self._engine.say(head, out)
        return True

    def __del__(self) -> None:
        if not self._incoming.is_answered:
            self._engine.abandon(self._incoming)

    def run(self, handler: Handler) -> None:
        """Calls a handler and answers with what it gives."""
        token, traced = _asking.deadline.set(self.deadline), _asking.trace.set(self.trace)
        try:
            result = handler(self)
            if not self._is_deferred:
                self.reply(result)
        except Exception as error:
            self._answer(*_asking.failure(self._incoming, error))
        except BaseException as error:
            self._answer(*_asking.failure(self._incoming, error))
            raise
        finally:
            _asking.deadline.reset(token)
            _asking.trace.reset(traced)


class Pool:
    """At most so many threads, which end with the process."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._work: queue.SimpleQueue[tuple[Message, Handler] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()

    def submit(self, message: Message, handler: Handler) -> None:
        self._work.put((message, handler))
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if len(self._threads) < self._size:
                name = f"cellbus-handler-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                self._idle.release()
                work = self._work.get()
            if work is None:
                return
            message, handler = work
            try:
                message.run(handler)
            finally:
                del message, handler, work

    def stop(self) -> None:
        for _ in self._threads:
            self._work.put(None)
