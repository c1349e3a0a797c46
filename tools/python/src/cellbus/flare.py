"""The functions that trainers written for NVFLARE's Client API call, on top of `cellbus.tasks`.

```python
import cellbus.flare as flare        # was: import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    ...
    flare.send(flare.FLModel(params=new_weights, metrics={"accuracy": accuracy}))
```

One process of a site talks to the server: with several ranks it is rank 0, and the others get what it gives them.
Parameters are numpy arrays, or torch tensors where the server's model has them (`init(params_format=...)` decides
otherwise). They travel as named tensors: nothing is executed by reading them.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from cellbus import tensors
from cellbus._bus import Bus
from cellbus.errors import CellbusError, Disconnected, StatusError, TensorError
from cellbus.task import Task, default_bus, tasks

__all__ = [
    "AnalyticsDataType",
    "FLModel",
    "MetaKey",
    "ParamsType",
    "SummaryWriter",
    "clear",
    "evaluate",
    "get_config",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "receive",
    "send",
    "shutdown",
    "system_info",
    "train",
]

F = TypeVar("F", bound=Callable[..., Any])
_LOG_CHANNEL, _LOG_TOPIC = "metrics", "log"
_META_KEY, _FORMAT_KEY, _TYPE_KEY = "meta", "format", "params_type"
_logger = logging.getLogger("cellbus.flare")


class ParamsType(str, Enum):
    """What parameters are."""

    FULL = "FULL"
    """All of the model."""
    DIFF = "DIFF"
    """What has to be added to the model that was received."""


class MetaKey:
    """Names of entries of `FLModel.meta` that mean something."""

    NUM_STEPS_CURRENT_ROUND = "NUM_STEPS_CURRENT_ROUND"
    """How much was done: the weight of a result."""
    JOB_ID = "job_id"
    SITE_NAME = "site_name"
    CURRENT_ROUND = "current_round"
    TOTAL_ROUNDS = "total_rounds"


class AnalyticsDataType(Enum):
    """What a logged value is."""

    SCALAR = "SCALAR"
    SCALARS = "SCALARS"
    TEXT = "TEXT"
    IMAGE = "IMAGE"
    PARAMETER = "PARAMETER"
    METRIC = "METRIC"
    METRICS = "METRICS"


class FLModel:
    """A model, or what was learned: parameters by name, metrics, and what is known about them."""

    def __init__(
        self,
        params_type: ParamsType | str | None = None,
        params: Any = None,
        optimizer_params: Any = None,
        metrics: Mapping[str, Any] | None = None,
        start_round: int | None = 0,
        current_round: int | None = None,
        total_rounds: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """`params` are arrays or tensors by name; without `params_type` they are all of the model (`FULL`)."""
        if params_type is None:
            kind = None if params is None else ParamsType.FULL
        else:
            kind = ParamsType(params_type)
            if params is None:
                raise ValueError(f"params are needed where params_type is {kind.value}")
        self.params_type = kind
        self.params = params
        self.optimizer_params = optimizer_params
        self.metrics = None if metrics is None else dict(metrics)
        self.start_round = start_round
        self.current_round = current_round
        self.total_rounds = total_rounds
        self.meta: dict[str, Any] = dict(meta or {})

    def __repr__(self) -> str:
        names = list(self.params) if isinstance(self.params, Mapping) else self.params is not None
        return (
            f"FLModel(params_type={self.params_type}, params={names}, metrics={self.metrics}, "
            f"current_round={self.current_round}, total_rounds={self.total_rounds})"
        )


class _State:
    """The one connection of this process."""

    def __init__(self, bus: Bus | None, rank: str, params_format: str | None) -> None:
        self.bus = bus
        self.rank = rank
        self.params_format = params_format
        self.queue: Iterator[Task] | None = None if bus is None else tasks(bus)
        self.task: Task | None = None
        self.model: FLModel | None = None
        self.is_sent = False
        self.is_over = False
        self.metrics: dict[str, Any] | None = None

    def next(self) -> Task | None:
        """The present task; fetches the next one where the present one is done."""
        if self.is_over or self.queue is None:
            return None
        if self.task is None or self.is_sent:
            self.task, self.model = next(self.queue, None), None
            self.is_sent = False
            self.is_over = self.task is None
        return self.task


_state: _State | None = None


def init(
    rank: str | int | None = None,
    config_file: str | None = None,
    *,
    bus: Bus | None = None,
    params_format: str | None = None,
) -> None:
    """Connects to the job cell; once per process, a second time does nothing.

    `rank` is that of this process where there are several (`RANK` in the environment, else 0): only rank 0 connects.
    `config_file` is taken and ignored: the launcher says all there is to know. `params_format` is `"numpy"` or
    `"torch"`; without it parameters are what the server's model has.
    """
    global _state
    if _state is not None:
        _logger.warning("init() was called before")
        return
    if config_file is not None:
        _logger.info("the configuration file is not needed and not read")
    if params_format not in (None, "numpy", "torch"):
        raise ValueError(f"params_format {params_format!r} is neither 'numpy' nor 'torch'")
    own = str(os.environ.get("RANK", "0") if rank is None else rank)
    _state = _State((bus or default_bus()) if own == "0" else None, own, params_format)


def receive(timeout: float | None = None) -> FLModel | None:
    """The model of the present task, waiting for one; `None` where there will be no more, and at ranks but 0.

    The same until `send`. `timeout` is taken for compatibility: waiting ends with the work.
    """
    state = _need()
    task = state.next()
    if task is None:
        return None
    if state.model is None:
        state.model = _read(task, state)
    return state.model


def send(model: FLModel, clear_cache: bool = True) -> None:
    """Hands in what was learned: the weight is `meta["NUM_STEPS_CURRENT_ROUND"]`, else 1.

    Raises `cellbus.task.ResultRejected` with the server's reason. With `clear_cache=False` the same model stays.
    """
    state = _need()
    if state.bus is None:
        return
    if not isinstance(model, FLModel):
        raise TypeError("send() takes an FLModel")
    task = state.task
    if task is None or state.is_sent:
        raise RuntimeError("there is nothing to answer: receive() a model first")
    metrics = dict(state.metrics or {}) | dict(model.metrics or {})
    task.submit(_packed(model), _weight(model), _numbers(metrics))
    state.metrics = None
    state.is_sent = True
    if clear_cache:
        state.model = None


def is_running() -> bool:
    """Whether there is something to do; waits until that is known."""
    state = _need()
    if state.bus is None:
        raise RuntimeError(f"rank {state.rank} has no connection: hear from rank 0 whether there is more to do")
    return state.next() is not None


def is_train() -> bool:
    """Whether the present task is training."""
    return _task_name() == "train"


def is_evaluate() -> bool:
    """Whether the present task is evaluation."""
    return _task_name() in ("evaluate", "validate")


def is_submit_model() -> bool:
    """Whether the present task is handing in a model."""
    return _task_name() == "submit_model"


def get_task_name() -> str:
    """The name of the present task: `train`, `validate`, `submit_model` …"""
    return _task_name()


def get_job_id() -> str:
    """The job of this process."""
    bus = _need().bus
    return (bus.job or "") if bus is not None else os.environ.get("CELLBUS_JOB", "")


def get_site_name() -> str:
    """The name of this site, such as `site-1`."""
    bus = _need().bus
    if bus is not None:
        return bus.site
    cell, job = os.environ.get("CELLBUS_CELL", ""), os.environ.get("CELLBUS_JOB", "")
    return cell.removesuffix(f".{job}") if job else cell


def system_info() -> dict[str, str]:
    """Job and site, by the names `job_id` and `site_name`."""
    return {MetaKey.JOB_ID: get_job_id(), MetaKey.SITE_NAME: get_site_name()}


def get_config() -> dict[str, Any]:
    """What is known about this process: job, site, attempt and role."""
    bus = _need().bus
    more = {} if bus is None else {"attempt": bus.attempt, "role": bus.role}
    return {**system_info(), **more}


def log(key: str, value: Any, data_type: AnalyticsDataType = AnalyticsDataType.SCALAR, **more: Any) -> None:
    """Tells the server a value, as JSON on `metrics/log`. What cannot be told is not told."""
    state = _need()
    if state.bus is None:
        return
    task = state.task
    record = {"key": key, "value": _plain(value), "type": data_type.value, "site": state.bus.site}
    if task is not None:
        record |= {"task": task.id, "round": task.round}
    record |= {name: _plain(item) for name, item in more.items()}
    try:
        state.bus.publish(_LOG_CHANNEL, _LOG_TOPIC, json.dumps(record), content_type="application/json")
    except Disconnected:
        raise
    except StatusError as error:
        _logger.debug("a value was not logged: %s", error)


def clear() -> None:
    """Forgets the model that was received; `receive` gives it anew."""
    _need().model = None


def shutdown() -> None:
    """Says goodbye to the cell. `init` may follow, in a process that was attached anew."""
    global _state
    state, _state = _state, None
    if state is not None and state.bus is not None:
        state.bus.close()


def train(function: F) -> F:
    """A function that gets the received model first and gives an `FLModel`, which is handed in."""

    @functools.wraps(function)
    def wrapper(*args: Any, **named: Any) -> Any:
        result = function(receive(), *args, **named)
        if not isinstance(result, FLModel):
            raise TypeError(f"{function.__name__}() has to give an FLModel")
        send(result)
        return result

    return wrapper  # type: ignore[return-value]


def evaluate(function: F) -> F:
    """A function that gets the received model first and gives metrics: a number or numbers by name.

    They are handed in at once where the task is evaluation, else with the result of training.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **named: Any) -> Any:
        result = function(receive(), *args, **named)
        metrics = dict(result) if isinstance(result, Mapping) else {"metric": float(result)}
        if is_evaluate():
            send(FLModel(metrics=metrics))
        else:
            _need().metrics = metrics
        return result

    return wrapper  # type: ignore[return-value]


class SummaryWriter:
    """Logs as the writers of tensorboard do."""

    def add_scalar(self, tag: str, scalar: float, global_step: int | None = None, **more: Any) -> None:
        """Logs a number."""
        log(tag, scalar, AnalyticsDataType.SCALAR, global_step=global_step, **more)

    def add_scalars(self, tag: str, scalars: Mapping[str, float], global_step: int | None = None, **more: Any) -> None:
        """Logs numbers by name."""
        log(tag, dict(scalars), AnalyticsDataType.SCALARS, global_step=global_step, **more)


def _need() -> _State:
    if _state is None:
        raise RuntimeError("call init() first")
    return _state


def _task_name() -> str:
    state = _need()
    task = state.next()
    if task is None:
        raise RuntimeError("there is no task: the work is over")
    return task.name


def _read(task: Task, state: _State) -> FLModel:
    params: Any = None
    meta: dict[str, Any] = {}
    kind: str | None = None
    if task.payload:
        found = task.tensors()
        is_torch = (state.params_format or _FORMATS.get(found.metadata.get(_FORMAT_KEY, ""), "numpy")) == "torch"
        params = {name: value.clone() for name, value in found.state_dict().items()} if is_torch else found.copy()
        kind = found.metadata.get(_TYPE_KEY, ParamsType.FULL.value)
        try:
            meta = json.loads(found.metadata.get(_META_KEY, "{}"))
        except ValueError:
            raise CellbusError("the meta of the received model is no JSON") from None
    meta |= {MetaKey.CURRENT_ROUND: task.round, MetaKey.TOTAL_ROUNDS: task.rounds}
    return FLModel(kind, params, current_round=task.round, total_rounds=task.rounds, meta=meta | system_info())


_FORMATS = {"pt": "torch", "np": "numpy"}


def _packed(model: FLModel) -> tensors.Packed:
    if model.optimizer_params is not None:
        raise ValueError("optimizer_params are not sent: put what the server needs into params")
    params = {} if model.params is None else model.params
    if not isinstance(params, Mapping):
        raise TypeError("params have to be arrays by name")
    metadata = {_TYPE_KEY: (model.params_type or ParamsType.FULL).value}
    own = {key: value for key, value in model.meta.items() if isinstance(value, (str, int, float, bool))}
    if own:
        metadata[_META_KEY] = json.dumps(own)
    return tensors.Packed({str(name): _array(name, value) for name, value in params.items()}, metadata)


def _array(name: object, value: Any) -> Any:
    if isinstance(value, (bool, int, float, list, tuple)):
        array = tensors.numpy().asarray(value)
        if array.dtype.kind not in "fiub":
            raise TensorError(f"tensor `{name}`: {type(value).__name__} is not of numbers")
        return array
    return value


def _weight(model: FLModel) -> float | None:
    found = model.meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND)
    return None if found is None else float(found)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    out = {}
    for name, value in metrics.items():
        try:
            out[str(name)] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"metric `{name}` is no number") from None
    return out


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)
