"""What a process that was launched finds in its environment, for one that was attached."""

from __future__ import annotations

import json
import os

from cellbus.errors import CellbusError

CHANNEL = "job"
TOPIC = "surroundings"
"""Asked of the own cell, these answer with a JSON object."""

_VARIABLES = {
    "job": "CELLBUS_JOB",
    "attempt": "CELLBUS_ATTEMPT",
    "run": "CELLBUS_RUN",
    "cell": "CELLBUS_CELL",
    "server_cell": "CELLBUS_SERVER_CELL",
    "sites": "CELLBUS_SITES",
}


def take(raw: bytes | bytearray | memoryview) -> None:
    """Puts what the own cell says of the job into the environment of this process.

    What it does not say is removed there: it would be of another job. Raises `CellbusError` where `raw` is no answer.
    """
    try:
        found = json.loads(bytes(raw))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CellbusError("what the cell says of its job is no object")
    for key, variable in _VARIABLES.items():
        value = found.get(key)
        if isinstance(value, list):
            value = ",".join(str(name) for name in value)
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = str(value)
