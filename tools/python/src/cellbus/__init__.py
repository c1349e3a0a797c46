"""Job code on a cellbus: messages, tensors without copies, and federated tasks.

```python
with cellbus.connect() as bus:
    work = bus.request("task", "fetch")
```

`cellbus.aio` has the same names for asyncio. `cellbus.tasks` and `cellbus.FedAvg` are for federated training,
`cellbus.flare` is for trainers that were written for another framework's client functions.
"""

from __future__ import annotations

from cellbus import tensors
from cellbus._asking import HandleRefused
from cellbus._bootstrap import Bootstrap
from cellbus._bus import Bus, Serving, connect
from cellbus._core import Limits
from cellbus._message import Message, Pending
from cellbus._transfers import Served, Transfers
from cellbus.averaging import CheckFailed, WeightedMean, finite_check
from cellbus.errors import (
    BootstrapError,
    CellbusError,
    Disconnected,
    FailedError,
    ProtocolError,
    RefusedError,
    StatusError,
    TensorError,
    UnknownError,
    UnsafePlaceError,
)
from cellbus.fedavg import FedAvg, QuorumMissed, Round
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
    SettledEnd,
)
from cellbus.payload import Payload
from cellbus.status import Status, StatusClass
from cellbus.task import ResultRejected, StaleAttempt, Task, TaskError, Verdict, tasks
from cellbus.tensors import Arena, Packed, Tensors

__version__ = "0.1.0"

__all__ = [
    "Arena",
    "Bootstrap",
    "BootstrapError",
    "Bus",
    "CellbusError",
    "CheckFailed",
    "Disconnected",
    "Event",
    "EventKind",
    "FailedError",
    "FedAvg",
    "Fetched",
    "Flags",
    "HandleRefused",
    "Limits",
    "Message",
    "Options",
    "Origin",
    "Outcome",
    "Packed",
    "Part",
    "Payload",
    "Pending",
    "Progress",
    "ProtocolError",
    "QuorumMissed",
    "RefusedError",
    "Reply",
    "ResultRejected",
    "Round",
    "Served",
    "Serving",
    "Settled",
    "SettledEnd",
    "StaleAttempt",
    "Status",
    "StatusClass",
    "StatusError",
    "Task",
    "TaskError",
    "TensorError",
    "Tensors",
    "Transfers",
    "UnknownError",
    "UnsafePlaceError",
    "Verdict",
    "WeightedMean",
    "connect",
    "finite_check",
    "tasks",
    "tensors",
]
