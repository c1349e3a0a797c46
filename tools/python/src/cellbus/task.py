"""The trainer's side of federated work.

```python
for task in cellbus.tasks():
    weights = task.tensors()
    ...
    task.submit(new_weights, weight=number_of_samples, metrics={"loss": loss})
```
"""

from __future__ import annotations

import atexit
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from cellbus import _taskwire as wire
from cellbus import tensors as _tensors
from cellbus._bus import Bus, connect
from cellbus._taskwire import CHANNEL, CONTENT_TYPE, TaskError, Verdict
from cellbus.errors import CellbusError, Disconnected, RefusedError, StatusError
from cellbus.payload import Payload, outgoing
from cellbus.status import Status, StatusClass

__all__ = ["ResultRejected", "StaleAttempt", "Task", "TaskError", "Verdict", "default_bus", "tasks"]

T = TypeVar("T")
JOB_CHANNEL = "job"
PROGRESS = "progress"
"""On which the own job cell hears how far its program is."""
_PASSING = frozenset(
    {
        *(Status.NO_ROUTE, Status.NO_HANDLER, Status.PEER_UNKNOWN, Status.EXPIRED_IN_QUEUE, Status.OVERLOADED),
        *(Status.SLOW_CONSUMER, Status.RATE_LIMIT, Status.DRAINING),
    }
)


class ResultRejected(CellbusError):  # noqa: N818 - what has happened
    """The server cannot use a result; the text says which tensor and why."""


class StaleAttempt(CellbusError):  # noqa: N818 - what has happened
    """Another process of this site has taken the task over. Stop working at it."""


class Given:
    """Something to do, as it was given."""

    def __init__(self, worker: bytes, offer: wire.Offer, body: memoryview) -> None:
        self._worker = worker
        self.id: int = offer.task
        """The number of the task at the server."""
        self.attempt: int = offer.attempt
        """Which attempt of this site it is, from 1."""
        self.name: str = offer.name
        """What is to be done: `train` …"""
        self.round: int | None = offer.round
        """Which round of training, from 0."""
        self.rounds: int | None = offer.rounds
        """How many rounds there are."""
        self.content_type: str | None = offer.content_type
        """Media type of the payload."""
        self.payload: memoryview = body
        """What it works with: usually named tensors. Read-only."""
        self.verdict: Verdict | None = None
        """What became of its result."""

    def tensors(self) -> _tensors.Tensors:
        """The payload as named tensors, without a copy and read-only. Raises `TensorError`."""
        return _tensors.read(self.payload)

    def _result(
        self, result: Payload, weight: float | None, metrics: Mapping[str, float] | None, content_type: str | None
    ) -> wire.Framed:
        media = content_type or outgoing(result).content_type
        numbers = {str(key): float(value) for key, value in (metrics or {}).items()}
        counted = None if weight is None else float(weight)
        return wire.submit(wire.Submit(self._worker, self.id, self.attempt, counted, numbers, media), result)

    def _settle(self, payload: bytes | memoryview) -> Verdict:
        header, _ = wire.split(payload)
        self.verdict, text = wire.read_verdict(header)
        if self.verdict is Verdict.REJECTED:
            raise ResultRejected(text)
        if self.verdict is Verdict.STALE:
            raise StaleAttempt(f"task {self.id}, attempt {self.attempt}: another attempt has taken over")
        return self.verdict

    def _word(self, done: float, text: str | None) -> bytes:
        """What the own job cell is told, for those who look at the job."""
        told = {"task": self.name, "round": self.round, "rounds": self.rounds, "done": _share(done), "text": text}
        return json.dumps({key: value for key, value in told.items() if value is not None}).encode()

    def _report(self, done: float, text: str | None) -> wire.Framed:
        return wire.report(wire.Report(self._worker, self.id, self.attempt, _share(done), text))


class Task(Given):
    """Something to do, and how to hand in what came of it."""

    def __init__(self, bus: Bus, worker: bytes, offer: wire.Offer, body: memoryview, patience: float) -> None:
        super().__init__(worker, offer, body)
        self._bus = bus
        self._patience = patience

    def submit(
        self,
        result: Payload = None,
        weight: float | None = None,
        metrics: Mapping[str, float] | None = None,
        *,
        content_type: str | None = None,
    ) -> Verdict:
        """Hands in the result: named tensors or bytes, its weight (samples, steps …), and metrics by name.

        What got lost is sent again; the server counts it once. Gives `ACCEPTED`, or `LATE` where the task is
        over. Raises `ResultRejected` with the server's reason, `StaleAttempt`, and `StatusError` where the server
        cannot be reached for as long as the patience lasts.
        """
        message = self._result(result, weight, metrics, content_type)
        reply = _persist(
            lambda: self._bus.request(CHANNEL, "submit", message, content_type=CONTENT_TYPE), self._patience
        )
        verdict = self._settle(reply.payload)
        self._tell(1.0, None)
        return verdict

    def progress(self, done: float, text: str | None = None) -> None:
        """Says how far it is, from 0 to 1: to the server, and to those who look at the job (`cellbus job show`).

        What cannot be told is not told.
        """
        self._tell(done, text)
        try:
            self._bus.publish(CHANNEL, "progress", self._report(done, text), content_type=CONTENT_TYPE)
        except Disconnected:
            raise
        except StatusError:
            return

    def _tell(self, done: float, text: str | None) -> None:
        try:
            self._bus.publish(JOB_CHANNEL, PROGRESS, self._word(done, text), to=self._bus.cell)
        except Disconnected:
            raise
        except StatusError:
            return


def _share(done: float) -> float:
    return min(1.0, max(0.0, float(done)))


def tasks(bus: Bus | None = None, *, wait: float = 20.0, patience: float = 120.0) -> Iterator[Task]:
    """Yields what the server gives this site to do, until the work is over.

    Without a `bus` the process connects once, and says goodbye when it ends. `wait` is how many seconds one
    question may take where there is nothing to do; `patience` for how many the server may be out of reach.
    """
    connected = default_bus() if bus is None else bus
    worker = os.urandom(16)
    last: Task | None = None
    while True:
        task = fetch(connected, worker, wait, patience)
        if task is None:
            return
        if last is not None and last.verdict is None and (last.id, last.attempt) == (task.id, task.attempt):
            raise TaskError(f"task {task.id} ({task.name}) was left without submit(), so it comes again")
        last = task
        yield task


def fetch(bus: Bus, worker: bytes, wait: float, patience: float) -> Task | None:
    """Waits for the next task; `None` where there will be no more."""
    question = wire.fetch(worker, int(wait * 1000))
    while True:
        reply = _persist(
            lambda: bus.request(CHANNEL, "fetch", question, budget=wait + 10, content_type=CONTENT_TYPE), patience
        )
        header, body = wire.split(reply.payload)
        found = wire.read_offer(header)
        if found is False:
            return None
        if isinstance(found, wire.Offer):
            task = Task(bus, worker, found, body.toreadonly(), patience)
            task._tell(0.0, None)
            return task


def passes(error: StatusError) -> bool:
    """Whether asking again may help."""
    if isinstance(error, Disconnected) or (isinstance(error, RefusedError) and error.by is None):
        return False
    return error.kind is StatusClass.UNKNOWN or error.status in _PASSING


def next_pause(pause: float) -> float:
    """How many seconds to wait before the time after the next, spread so that not all ask at once."""
    return min(2.0, pause * random.uniform(1.5, 2.5))  # noqa: S311 - spreads load, keeps no secret


def _persist(ask: Callable[[], T], patience: float) -> T:
    """Asks until there is an answer, an error that stays, or no more patience."""
    until = time.monotonic() + patience
    pause = 0.05
    while True:
        try:
            return ask()
        except StatusError as error:
            if not passes(error) or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = next_pause(pause)


_default: Bus | None = None
_default_lock = threading.Lock()


def default_bus() -> Bus:
    """The bus of this process, connected at the first call and closed when the process ends."""
    global _default
    with _default_lock:
        if _default is None or not _default.is_open:
            _default = connect()
            atexit.register(_default.close)
        return _default
