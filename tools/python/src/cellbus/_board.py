"""Who has which task, in which attempt, and whose result counts. No I/O, no clock, no numbers of models."""

from __future__ import annotations

from dataclasses import dataclass, field

from cellbus._taskwire import Offer, Report, Submit, Verdict

_REMEMBERED = 16


@dataclass
class Seat:
    """One site at one task."""

    worker: bytes
    attempt: int = 1
    accepted: int | None = None
    """The attempt whose result counts."""
    done: float = 0.0
    text: str | None = None


@dataclass
class Work:
    """A task that sites work at."""

    number: int
    name: str
    round: int | None
    rounds: int | None
    content_type: str | None
    seats: dict[str, Seat] = field(default_factory=dict)

    @property
    def accepted(self) -> list[str]:
        """Sites whose result counts."""
        return [site for site, seat in self.seats.items() if seat.accepted is not None]


class Board:
    """The tasks of one server, one after the other."""

    def __init__(self) -> None:
        self.current: Work | None = None
        self.is_over = False
        self._numbers = 0
        self._past: dict[int, Work] = {}

    def open(self, name: str, number: int | None, total: int | None, content_type: str | None) -> Work:
        """Begins a task for every site; the one before it is over."""
        self.close()
        self._numbers += 1
        self.current = Work(self._numbers, name, number, total, content_type)
        return self.current

    def close(self) -> None:
        """Ends the task: results that come now are late."""
        work = self.current
        if work is not None:
            self._past[work.number] = work
            self._past.pop(work.number - _REMEMBERED, None)
        self.current = None

    def end(self) -> None:
        """Ends the work: there will be no more tasks."""
        self.close()
        self.is_over = True

    def fetch(self, site: str, worker: bytes) -> Offer | None:
        """What a site has to do now; `None` where there is nothing yet, or no more (`is_over`)."""
        work = self.current
        if work is None:
            return None
        seat = work.seats.get(site)
        if seat is None:
            seat = work.seats[site] = Seat(worker)
        elif seat.accepted is not None:
            return None
        elif seat.worker != worker:
            seat.worker = worker
            seat.attempt += 1
            seat.done, seat.text = 0.0, None
        return Offer(work.number, seat.attempt, work.name, work.round, work.rounds, work.content_type)

    def judge(self, site: str, result: Submit | Report) -> Verdict:
        """Whether a result can count. `ACCEPTED` means: it can; say so with `accept` when it does."""
        work = self.current
        is_open = work is not None and work.number == result.task
        if not is_open:
            work = self._past.get(result.task)
        if work is None:
            was_given = 1 <= result.task <= self._numbers
            return Verdict.LATE if was_given else Verdict.STALE
        seat = work.seats.get(site)
        if seat is None or seat.worker != result.worker or seat.attempt != result.attempt:
            return Verdict.STALE
        if seat.accepted is not None:
            return Verdict.REPEATED
        return Verdict.ACCEPTED if is_open else Verdict.LATE

    def accept(self, site: str, result: Submit) -> None:
        """Counts a result that `judge` has found to be able to."""
        if self.current is not None:
            seat = self.current.seats[site]
            seat.accepted, seat.done = result.attempt, 1.0

    def progress(self, site: str, report: Report) -> bool:
        """Notes how far a site is; says whether that is about its present attempt."""
        work = self.current
        seat = None if work is None or report.task != work.number else work.seats.get(site)
        if seat is None or seat.attempt != report.attempt or seat.worker != report.worker:
            return False
        if seat.accepted is None:
            seat.done, seat.text = report.done, report.text
        return True
