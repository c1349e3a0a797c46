"""The server's side of federated averaging: rounds, quorum, stragglers, and a weighted mean that grows."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cellbus import _memfd, tensors
from cellbus import _taskwire as wire
from cellbus._board import Board, Work
from cellbus._bus import Bus
from cellbus._message import Message
from cellbus._taskwire import CHANNEL, CONTENT_TYPE, TaskError, Verdict
from cellbus.averaging import CheckFailed, WeightedMean, finite_check
from cellbus.errors import CellbusError, RefusedError, TensorError
from cellbus.message import Reply
from cellbus.payload import Outgoing
from cellbus.status import Status
from cellbus.task import default_bus

__all__ = ["CheckFailed", "FedAvg", "QuorumMissed", "Round", "WeightedMean", "finite_check"]

SITES_VARIABLE = "CELLBUS_SITES"
PARAMS_TYPE = "params_type"
FORMAT = "format"


class QuorumMissed(CellbusError):  # noqa: N818 - what has happened
    """Too few sites have handed in a result in time."""


@dataclass
class Round:
    """What a round has brought."""

    number: int
    """From 0."""
    sites: list[str]
    """Cells whose results count, in the order in which they came."""
    weight: float
    """The sum of their weights."""
    metrics: dict[str, float]
    """Weighted means of the metrics that they have reported, of finite values only."""
    by_site: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metrics by cell."""
    rejected: dict[str, str] = field(default_factory=dict)
    """The last reason for which a result of a cell was rejected."""
    seconds: float = 0.0


class _Model:
    """The model of a round: packed once, handed to every site from the same memory."""

    content_type: str | None = tensors.CONTENT_TYPE

    def __init__(self, packed: tensors.Packed) -> None:
        self._packed = packed
        self._files: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def outgoing(self, prefix: bytes = b"") -> Outgoing:
        if self._packed.size <= _memfd.THRESHOLD:
            return self._packed.outgoing(prefix)
        with self._lock:
            fd = self._files.get(prefix)
            if fd is None:
                whole = self._packed.outgoing(prefix)
                fd = _memfd.write_sealed(whole.buffers)
                if len(self._files) >= 4:
                    os.close(self._files.pop(next(iter(self._files))))
                self._files[prefix] = fd
            own = os.dup(fd)
        out = Outgoing((), tensors.CONTENT_TYPE, fd=own, size=os.fstat(own).st_size)
        out.is_own = True
        return out

    def close(self) -> None:
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])


@dataclass
class _Waiting:
    message: Message
    site: str
    worker: bytes
    until: float


class FedAvg:
    """Federated averaging: gives a model to the sites, averages what they hand in, and does so again.

    ```python
    averaging = cellbus.FedAvg({"w": np.zeros((64, 10))}, rounds=5)
    model = averaging.run()
    ```
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
        on_round: Callable[[Round, Mapping[str, Any]], None] | None = None,
        on_progress: Callable[[str, int, float, str | None], None] | None = None,
    ) -> None:
        """`initial` are numpy arrays or torch tensors by name; what is averaged has their shapes and dtypes.

        `sites` are the sites that take part, by base name, full name or job cell (without it, those that the
        launcher names in `CELLBUS_SITES`, else `quorum` is needed and every cell of the job may take part).
        `quorum` is how many results a round needs at least, all sites if not given; when it is reached the round
        waits `grace` seconds for the others. A round that has no quorum after `round_timeout` seconds ends the work
        with `QuorumMissed`.

        `on_round(round, model)` is called after each round, `on_progress(cell, round, done, text)` when a
        site says how far it is (0 to 1).
        """
        if rounds < 1:
            raise ValueError("at least one round is needed")
        self._is_torch = any(type(value).__module__.startswith("torch") for value in initial.values())
        packed = tensors.read(tensors.Packed(initial).tobytes())
        finite_check(packed, 1.0, site="the initial model")
        self.model: dict[str, Any] = packed.copy()
        """The present model, as numpy arrays."""
        self.history: list[Round] = []
        """What each round has brought."""
        self.rounds = rounds
        named = os.environ.get(SITES_VARIABLE, "").split(",") if sites is None else list(sites)
        self.sites = sorted({site.strip() for site in named if site.strip()})
        """The sites that take part; empty where all may."""
        if quorum is None and not self.sites:
            raise ValueError(f"`sites` or `quorum` is needed: {SITES_VARIABLE} is not set")
        self.quorum = len(self.sites) if quorum is None else quorum
        """How many results a round needs."""
        if self.quorum < 1 or (self.sites and self.quorum > len(self.sites)):
            raise ValueError(f"a quorum of {self.quorum} of {len(self.sites)} sites")
        self._grace = grace
        self._timeout = round_timeout
        self._name = name
        self._metadata = dict(metadata or {}) | {FORMAT: "pt" if self._is_torch else "np"}
        self._on_round = on_round
        self._on_progress = on_progress
        self._board = Board()
        self._changed = threading.Condition()
        self._adding = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._told: set[str] = set()
        self._fetched: set[str] = set()
        self._model: _Model | None = None
        self._mean: WeightedMean | None = None
        self._kind: str | None = None
        self._round: Round | None = None
        self._weights: dict[str, float] = {}
        self._job: str | None = None

    def run(self, bus: Bus | None = None, *, farewell: float = 10.0) -> dict[str, Any]:
        """Does all rounds and gives the model: numpy arrays, or torch tensors where the initial model had them.

        `farewell` is how many seconds it waits at the end for sites to hear that the work is over.
        """
        connected = default_bus() if bus is None else bus
        self._job = connected.job
        fetching = connected.serve(CHANNEL, "fetch", self._fetch, concurrency=16)
        submitting = connected.serve(CHANNEL, "submit", self._submit, concurrency=16)
        telling = connected.serve(CHANNEL, "progress", self._progress, concurrency=16)
        with fetching, submitting, telling:
            try:
                for number in range(self.rounds):
                    self._run_round(number, connected)
            finally:
                self._end(farewell)
        if not self._is_torch:
            return self.model
        import torch

        return {name: torch.from_numpy(array) for name, array in self.model.items()}

    def _run_round(self, number: int, bus: Bus) -> None:
        began = time.monotonic()
        with self._changed:
            self._mean = WeightedMean(self.model)
            self._kind = None
            self._weights = {}
            self._round = Round(number, [], 0.0, {})
            self._model = _Model(tensors.Packed(self.model, self._metadata))
            work = self._board.open(self._name, number, self.rounds, tensors.CONTENT_TYPE)
            self._offer_all()
            self._await_results(work, began, bus)
            self._board.close()
            rounded, mean, model = self._round, self._mean, self._model
        with self._adding:  # a result that was accepted is added before its mean is taken
            self.model = mean.mean(self.model if self._kind == "DIFF" else None)
        model.close()
        rounded.weight, rounded.seconds = mean.weight, time.monotonic() - began
        rounded.metrics = self._mean_metrics(rounded)
        self.history.append(rounded)
        if self._on_round is not None:
            self._on_round(rounded, self.model)

    def _await_results(self, work: Work, began: float, bus: Bus) -> None:
        """Waits until the round has what it needs; answers questions that wait too long meanwhile."""
        everybody = len(self.sites) if self.sites else self.quorum
        met: float | None = None
        while True:
            count = len(work.accepted)
            now = time.monotonic()
            if count >= self.quorum and met is None:
                met = now
            if count >= everybody or (met is not None and now >= met + self._grace):
                return
            if met is None and self._timeout is not None and now >= began + self._timeout:
                missing = f"{count} of {self.quorum} results after {self._timeout} s of round {work.round}"
                rejected = self._round.rejected if self._round else {}
                reasons = "".join(f"; {text}" for text in rejected.values())
                raise QuorumMissed(missing + reasons)
            if not bus.is_open:
                raise CellbusError("the connection to the cell has ended")
            ends = [began + self._timeout] if self._timeout is not None and met is None else []
            ends += [met + self._grace] if met is not None else []
            ends += [waiting.until for waiting in self._waiting] + [now + 1.0]
            self._changed.wait(max(0.0, min(ends) - now))
            self._send_off(time.monotonic())

    def _end(self, farewell: float) -> None:
        until = time.monotonic() + farewell
        with self._changed:
            self._board.end()
            for waiting in self._waiting:
                self._tell_over(waiting.message, waiting.site)
            self._waiting.clear()
            while self._fetched - self._told and time.monotonic() < until:
                self._changed.wait(max(0.0, until - time.monotonic()))
        if self._model is not None:
            self._model.close()

    def _site(self, message: Message) -> str:
        origin = message.origin
        site = origin.cell.removesuffix(f".{origin.job}") if origin.job else origin.cell
        names = {origin.cell, site, site.rpartition(".")[2]}
        takes_part = not self.sites or not names.isdisjoint(self.sites)
        if origin.job != self._job or not takes_part:
            raise RefusedError(Status.FORBIDDEN, None, f"{origin.cell} does not take part")
        return origin.cell

    def _fetch(self, message: Message) -> Reply | None:
        site = self._site(message)
        question = _read(wire.read_fetch, message)
        left = 30.0 if message.deadline is None else message.deadline - time.monotonic()
        wait = max(0.0, min(question.wait_ms / 1000, left - 1.0))
        message.defer()
        with self._changed:
            self._fetched.add(site)
            for older in [each for each in self._waiting if each.worker == question.worker and each.site == site]:
                self._waiting.remove(older)
                _answer(older.message, wire.nothing())
            waiting = _Waiting(message, site, question.worker, time.monotonic() + wait)
            if not self._offer(waiting):
                self._waiting.append(waiting)
                self._changed.notify_all()
        return None

    def _offer(self, waiting: _Waiting) -> bool:
        """Answers a question if there is an answer."""
        if self._board.is_over:
            self._tell_over(waiting.message, waiting.site)
            return True
        found = self._board.fetch(waiting.site, waiting.worker)
        if found is None or self._model is None:
            return False
        _answer(waiting.message, wire.offer(found, self._model))
        return True

    def _offer_all(self) -> None:
        self._waiting = [waiting for waiting in self._waiting if not self._offer(waiting)]

    def _send_off(self, now: float) -> None:
        late = [waiting for waiting in self._waiting if waiting.until <= now or waiting.message.is_cancelled]
        for waiting in late:
            self._waiting.remove(waiting)
            _answer(waiting.message, wire.nothing())

    def _tell_over(self, message: Message, site: str) -> None:
        _answer(message, wire.over())
        self._told.add(site)
        self._changed.notify_all()

    def _submit(self, message: Message) -> None:
        site = self._site(message)
        header, body = _split(message)
        try:
            result = wire.read_submit(header)
        except TaskError as error:
            raise RefusedError(Status.BAD_HEADER, None, str(error)) from None
        what, text = self._take(site, result, body)
        message.defer()
        _answer(message, wire.verdict(what, text))

    def _take(self, site: str, result: wire.Submit, body: memoryview) -> tuple[Verdict, str]:
        with self._changed:
            verdict = self._board.judge(site, result)
        if verdict is not Verdict.ACCEPTED:
            return verdict, ""
        weight = 1.0 if result.weight is None else result.weight
        try:
            found = tensors.read(body)
            finite_check(found, weight, site=site, like=self.model)
        except (CheckFailed, TensorError) as error:
            text = str(error) if isinstance(error, CheckFailed) else f"{site}: {error}"
            return self._reject(site, text)
        kind = found.metadata.get(PARAMS_TYPE, "FULL")
        if kind not in ("FULL", "DIFF"):
            return self._reject(site, f"{site}: params_type {kind!r:.40} is unknown")
        with self._adding:
            with self._changed:
                verdict = self._board.judge(site, result)
                if verdict is not Verdict.ACCEPTED:
                    return verdict, ""
                mean, rounded = self._mean, self._round
                if mean is None or rounded is None:
                    return Verdict.LATE, ""
                if self._kind not in (None, kind):
                    return self._reject(site, f"{site}: {kind} where other sites have handed in {self._kind}")
                self._kind = kind
                self._board.accept(site, result)
                rounded.sites.append(site)
                rounded.by_site[site] = result.metrics
                self._weights[site] = weight
                self._changed.notify_all()
            mean.add(found, weight)
        return Verdict.ACCEPTED, ""

    def _reject(self, site: str, text: str) -> tuple[Verdict, str]:
        if self._round is not None:
            self._round.rejected[site] = text
        return Verdict.REJECTED, text

    def _mean_metrics(self, rounded: Round) -> dict[str, float]:
        sums: dict[str, tuple[float, float]] = {}
        for site, metrics in rounded.by_site.items():
            weight = self._weights.get(site, 1.0)
            for name, value in metrics.items():
                if math.isfinite(value):
                    total, weights = sums.get(name, (0.0, 0.0))
                    sums[name] = (total + weight * value, weights + weight)
        return {name: total / weights for name, (total, weights) in sums.items() if weights > 0}

    def _progress(self, message: Message) -> None:
        site = self._site(message)
        report = _read(wire.read_report, message)
        with self._changed:
            is_current = self._board.progress(site, report)
            outlook = self._board.judge(site, report)
            number = self._round.number if self._round is not None else 0
        if is_current and self._on_progress is not None:
            self._on_progress(site, number, report.done, report.text)
        # Who asks hears what a result would meet that came now.
        message.defer()
        _answer(message, wire.verdict(outlook))


def _split(message: Message) -> tuple[list[Any], memoryview]:
    try:
        return wire.split(message.payload)
    except TaskError as error:
        raise RefusedError(Status.BAD_HEADER, None, str(error)) from None


def _read(read: Callable[[list[Any]], Any], message: Message) -> Any:
    header, _ = _split(message)
    try:
        return read(header)
    except TaskError as error:
        raise RefusedError(Status.BAD_HEADER, None, str(error)) from None


def _answer(message: Message, framed: wire.Framed) -> None:
    message.reply(framed, content_type=CONTENT_TYPE)
