"""The asyncio shell: the same names as the blocking one, to be awaited.

```python
async with await cellbus.aio.connect() as bus:
    reply = await bus.request("task", "fetch")
```

All of it belongs to the event loop that `connect` ran in.
"""

from __future__ import annotations

import asyncio
import os

from cellbus import _around, _bootstrap
from cellbus._core import Core
from cellbus._wire import Wire
from cellbus.aio._bus import Bus
from cellbus.aio._fedavg import FedAvg
from cellbus.aio._message import Message, Pending, Serving
from cellbus.aio._task import Task, tasks
from cellbus.aio._transfers import Served, Transfers
from cellbus.errors import RefusedError
from cellbus.status import Status

__all__ = ["Bus", "FedAvg", "Message", "Pending", "Served", "Serving", "Task", "Transfers", "connect", "tasks"]


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
    if rendezvous is None:
        return bus
    try:
        told = await bus.request(_around.CHANNEL, _around.TOPIC, to=bus.cell, budget=timeout)
        _around.take(told.payload)
    except RefusedError as refused:
        # A cell that is of no job has nothing to say about one.
        if refused.status is not Status.NO_HANDLER:
            await bus.close()
            raise
    except BaseException:
        await bus.close()
        raise
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
