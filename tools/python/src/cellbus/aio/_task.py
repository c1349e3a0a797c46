"""The trainer's side of federated work, to be awaited: `async for task in cellbus.aio.tasks(bus)`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

from cellbus import _taskwire as wire
from cellbus._taskwire import CHANNEL, CONTENT_TYPE, TaskError, Verdict
from cellbus.aio._bus import Bus
from cellbus.errors import Disconnected, StatusError
from cellbus.payload import Payload
from cellbus.task import JOB_CHANNEL, PROGRESS, Given, next_pause, passes

__all__ = ["Task", "tasks"]

T = TypeVar("T")


class Task(Given):
    """Something to do, and how to hand in what came of it. As `cellbus.Task`; what hands in is to be awaited."""

    def __init__(self, bus: Bus, worker: bytes, offer: wire.Offer, body: memoryview, patience: float) -> None:
        super().__init__(worker, offer, body)
        self._bus = bus
        self._patience = patience

    async def submit(
        self,
        result: Payload = None,
        weight: float | None = None,
        metrics: Mapping[str, float] | None = None,
        *,
        content_type: str | None = None,
    ) -> Verdict:
        """Hands in the result. As `cellbus.Task.submit`."""
        message = self._result(result, weight, metrics, content_type)
        reply = await _persist(
            lambda: self._bus.request(CHANNEL, "submit", message, content_type=CONTENT_TYPE), self._patience
        )
        verdict = self._settle(reply.payload)
        await self._tell(1.0, None)
        return verdict

    async def progress(self, done: float, text: str | None = None) -> None:
        """Says how far it is, from 0 to 1. As `cellbus.Task.progress`."""
        await self._tell(done, text)
        try:
            await self._bus.publish(CHANNEL, "progress", self._report(done, text), content_type=CONTENT_TYPE)
        except Disconnected:
            raise
        except StatusError:
            return

    async def _tell(self, done: float, text: str | None) -> None:
        try:
            await self._bus.publish(JOB_CHANNEL, PROGRESS, self._word(done, text), to=self._bus.cell)
        except Disconnected:
            raise
        except StatusError:
            return


async def tasks(bus: Bus, *, wait: float = 20.0, patience: float = 120.0) -> AsyncIterator[Task]:
    """Yields what the server gives this site to do, until the work is over. As `cellbus.tasks`."""
    worker = os.urandom(16)
    question = wire.fetch(worker, int(wait * 1000))
    last: Task | None = None
    while True:
        reply = await _persist(
            lambda: bus.request(CHANNEL, "fetch", question, budget=wait + 10, content_type=CONTENT_TYPE), patience
        )
        header, body = wire.split(reply.payload)
        found = wire.read_offer(header)
        if found is False:
            return
        if not isinstance(found, wire.Offer):
            continue
        if last is not None and last.verdict is None and (last.id, last.attempt) == (found.task, found.attempt):
            raise TaskError(f"task {found.task} ({found.name}) was left without submit(), so it comes again")
        last = Task(bus, worker, found, body.toreadonly(), patience)
        await last._tell(0.0, None)
        yield last


async def _persist(ask: Callable[[], Awaitable[T]], patience: float) -> T:
    until = time.monotonic() + patience
    pause = 0.05
    while True:
        try:
            return await ask()
        except StatusError as error:
            if not passes(error) or time.monotonic() + pause > until:
                raise
        await asyncio.sleep(pause)
        pause = next_pause(pause)
