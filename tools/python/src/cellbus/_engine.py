"""The blocking shell's engine: who reads, who waits, and how nobody waits for the wrong thing.

Whoever waits for an answer reads the socket himself, and wakes others whose answers he finds. A thread of its own
reads only where messages or heartbeats may come without anybody waiting. Who writes and cannot go on reads
as well, so that two sides that both write never stand still.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from cellbus import _asking
from cellbus._asking import Asked
from cellbus._bootstrap import Bootstrap, open_socket
from cellbus._core import Call, Core, Incoming, Kind
from cellbus._frames import write_frame, write_request
from cellbus._shapes import ToCell
from cellbus._wire import BACKLOG_MAX, DONTWAIT, Entry, Wire
from cellbus.errors import CellbusError, Disconnected, ProtocolError, UnknownError
from cellbus.status import Status

_REQUEST = Kind.REQUEST
_TICK = 1.0
"""Seconds after which somebody who reads looks at the clock."""


class Engine:
    """One connection, for any number of threads."""

    def __init__(self, wire: Wire, core: Core) -> None:
        self.core = core
        self.wire = wire
        self.on_message: Callable[[Incoming], None] | None = None
        self.lock = threading.Lock()
        """Over the core and everything that is written."""
        self._reading = threading.Lock()
        self._followers: deque[threading.Event] = deque()
        self._gates: deque[Call] = deque()
        self._orphans: deque[Incoming] = deque()
        self._pump: threading.Thread | None = None
        self._drainer: threading.Thread | None = None
        self._pid = os.getpid()
        self._poll_in = select.poll()
        self._poll_in.register(wire.stream, select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(wire.stream, select.POLLIN | select.POLLOUT)

    @classmethod
    def connect(cls, bootstrap: Bootstrap, timeout: float) -> Engine:
        """Connects and greets. Raises `UnsafePlaceError`, `RefusedError`, `ProtocolError`, `OSError`."""
        stream = open_socket(bootstrap, timeout)
        core = Core()
        wire = Wire(stream, core)
        try:
            wire.greet(core, bootstrap.secret)
            stream.settimeout(None)
            ticks = struct.pack("ll", int(_TICK), int(_TICK % 1 * 1_000_000))
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, ticks)
        except BaseException:
            wire.close()
            raise
        engine = cls(wire, core)
        # What came with WELCOME; from here on whoever reads has `_reading`.
        engine.take_frames()
        if core.heartbeat_ms is not None:
            engine.start_pump()
        return engine

    def start_pump(self) -> None:
        """Reads from now on also when nobody waits for an answer."""
        with self.lock:
            if self._pump is not None:
                return
            self._pump = threading.Thread(target=self._run_pump, name="cellbus-reader", daemon=True)
        self._pump.start()

    def _start_drainer(self) -> None:
        """Lets a thread finish what waits to leave: a frame that has begun must not stand still."""
        with self.lock:
            if self._drainer is not None or not self.wire.outbox or self.core.failure is not None:
                return
            self._drainer = threading.Thread(target=self._run_drainer, name="cellbus-writer", daemon=True)
        self._drainer.start()

    def _run_drainer(self) -> None:
        while True:
            with self.lock:
                outbox = self.wire.outbox
                if not outbox or self.core.failure is not None:
                    self._drainer = None
                    return
                entry = outbox[-1]
            self._drain(entry, None)

    def ask(self, asked: Asked) -> Call:
        """Sends what is asked, after waiting until the limits allow it."""
        call = asked.call
        if os.getpid() != self._pid:
            raise CellbusError("the connection belongs to the process that this one was forked from")
        until = None if asked.patience is None else time.monotonic() + asked.patience
        while True:
            with self.lock:
                if self.core.failure is None and not self.core.has_room(call.size, call.attached):
                    gate = Call(Kind.REQUEST)
                    self._gates.append(gate)
                else:
                    entry = self._send_call(asked)
                    break
            try:
                self.wait(gate, lambda gate=gate: gate.is_done, until)  # type: ignore[misc]
            except BaseException:
                with self.lock:
                    if gate in self._gates:
                        self._gates.remove(gate)
                    self._open_gates()
                raise
        if entry is not None:
            self._drain(entry, until)
        return call

    def ask_small(self, to: str, channel: str, topic: str, content_type: str | None, payload: bytes) -> Call | None:
        """Sends a request with a few bytes and nothing extraordinary; `None` where that has to wait."""
        core = self.core
        size = len(payload)
        if os.getpid() != self._pid:
            return None
        with self.lock:
            if core.failure is not None or self.wire.outbox or not core.has_room(size, 0):
                return None
            call = Call(_REQUEST, size)
            number = core.begin(call)
            try:
                frame = write_request(number, to, channel, topic, None, content_type, size, payload)
            except BaseException:
                core.withdraw(call)
                raise
            try:
                entry = self.wire.send_small(frame)
            except OSError as error:
                self._fail(error)
                return call
        if entry is not None:
            self._drain(entry, None)
        return call

    def wait_small(self, call: Call) -> None:
        """Waits for the end of a call that has the budget of the connection."""
        until = time.monotonic() + self.core.limits.budget_ms / 1000 + _asking.GRACE
        if not self._reading.acquire(blocking=False):
            self.wait(call, lambda: call.is_done, until)
            return
        try:
            while not call.is_done:
                self._read(until)
        finally:
            self._stop_reading()

    def _send_call(self, asked: Asked) -> Entry | None:
        number = self.core.begin(asked.call)
        try:
            head = asked.frame(number)
        except BaseException:
            self.core.withdraw(asked.call)
            raise
        return self._write(head, asked.out)

    def say(self, head: bytes, out: object = None) -> None:
        """Sends a frame that is no question."""
        with self.lock:
            if self.core.failure is not None:
                return
            entry = self._write(head, out)
        if entry is not None:
            self._drain(entry, None)

    def _write(self, head: bytes, out: object) -> Entry | None:
        try:
            return self.wire.send(head, out)  # type: ignore[arg-type]
        except OSError as error:
            self._fail(error)
            return None

    def abandon(self, message: Incoming) -> None:
        """Says that nobody is left who could answer a message. Called by the collector, so it never waits."""
        if os.getpid() != self._pid:
            return
        self._orphans.append(message)
        if self.lock.acquire(blocking=False):
            try:
                self._refuse_orphans()
            finally:
                self.lock.release()

    def _refuse_orphans(self) -> None:
        while self._orphans:
            message = self._orphans.popleft()
            if self.core.answered(message):
                self._write(_asking.fail(message, Status.HANDLER_GONE)[0], None)

    def cancel(self, call: Call) -> None:
        """Says that nobody waits for a call any longer."""
        with self.lock:
            if call.is_done or call.number not in self.core.calls or self.core.failure is not None:
                return
            entry = self._write(_asking.cancel(call), None)
        if entry is not None and self._pump is None:
            self._start_drainer()

    def wait(self, call: Call, is_ready: Callable[[], bool], until: float | None = None) -> None:
        """Waits until something has happened to a call, and reads meanwhile.

        Raises `UnknownError` with `DEADLINE` at `until`, seconds on the monotonic clock.
        """
        while not is_ready():
            if self._reading.acquire(blocking=False):
                try:
                    while not is_ready():
                        self._read(until)
                finally:
                    self._stop_reading()
                return
            self._follow(call, is_ready, until)

    def _follow(self, call: Call, is_ready: Callable[[], bool], until: float | None) -> None:
        with self.lock:
            event = call.event
            if event is None:
                event = call.event = threading.Event()
                call.wake = event.set
            event.clear()
            self._followers.append(event)
        try:
            if is_ready():
                return
            if self._reading.acquire(blocking=False):
                self._stop_reading(but=event)
                return
            event.wait(None if until is None else max(0.0, until - time.monotonic()))
            if not is_ready():
                self._check_time(until)
        finally:
            with self.lock:
                if event in self._followers:
                    self._followers.remove(event)
                if event.is_set() and not self._reading.locked() and self._followers:
                    self._followers[0].set()

    def _stop_reading(self, but: threading.Event | None = None) -> None:
        self._reading.release()
        if self.wire.outbox and self._pump is None:
            self._start_drainer()
        if not self._followers:
            return
        with self.lock:
            for event in self._followers:
                if event is not but:
                    event.set()
                    return

    def _check_time(self, until: float | None) -> None:
        if until is not None and time.monotonic() >= until:
            raise UnknownError(Status.DEADLINE, None, "nothing was heard of the own cell")

    def _read(self, until: float | None) -> None:
        """Reads once and takes what came. Only by whoever holds `_reading`."""
        wire = self.wire
        try:
            if wire.outbox:
                self._poll_once(until)
                return
            if until is not None:
                left = until - time.monotonic()
                if left < _TICK and not self._poll_in.poll(max(0.0, left * 1000)):
                    self._check_time(until)
                    return
            try:
                is_open = wire.read()
            except BlockingIOError:
                if self._orphans:
                    with self.lock:
                        self._refuse_orphans()
                self._check_time(until)
                return
            if not is_open:
                self._end()
                return
        except (OSError, ValueError, ProtocolError) as error:
            self._break(error)
            return
        self.take_frames()

    def _poll_once(self, until: float | None) -> None:
        wire = self.wire
        is_full = len(wire.outbox) > BACKLOG_MAX
        waiting = self._poll_out() if is_full else self._poll_both
        left = _TICK if until is None else min(_TICK, until - time.monotonic())
        found = 0
        for _, mask in waiting.poll(max(0.0, left * 1000)):
            found |= mask
        if found & select.POLLOUT:
            with self.lock:
                wire.flush()
        if found & ~select.POLLOUT and not is_full:
            try:
                if not wire.read(DONTWAIT):
                    self._end()
                    return
            except BlockingIOError:
                return
            self.take_frames()
        self._check_time(until)

    def _poll_out(self) -> select.poll:
        poll = select.poll()
        poll.register(self.wire.stream, select.POLLOUT)
        return poll

    def take_frames(self) -> None:
        """Takes every frame that is complete."""
        core, wire = self.core, self.wire
        messages = None
        try:
            while core.failure is None:
                frame = wire.next()
                if frame is None:
                    break
                with self.lock:
                    message = core.take(frame)
                    if core.freed:
                        core.freed = False
                        self._open_gates()
                    while core.replies:
                        wire.send(core.replies.popleft())
                    if self._orphans:
                        self._refuse_orphans()
                if message is not None:
                    if messages is None:
                        messages = []
                    messages.append(message)
                if wire.decoder.is_drained:
                    break
        except (OSError, ValueError, ProtocolError) as error:
            self._break(error)
        if messages is not None and self.on_message is not None:
            for message in messages:
                self.on_message(message)

    def _open_gates(self) -> None:
        if self._gates:
            self._gates.popleft().finish()

    def _end(self) -> None:
        try:
            self.wire.decoder.end()
        except ProtocolError as error:
            self._break(error)
            return
        self._break(Disconnected("the cell closed the connection without a goodbye"))

    def _break(self, error: BaseException) -> None:
        with self.lock:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self.core.failure is None:
            reason = error if isinstance(error, Disconnected) else self.wire.fail(error, self.core)
            self.core.close(reason)
        while self._gates:
            self._gates.popleft().finish()
        self.wire.outbox.clear()
        for event in self._followers:
            event.set()

    def _drain(self, entry: Entry, until: float | None) -> None:
        """Waits until a frame has left; reads meanwhile, or lets another read."""
        poll = self._poll_out()
        while not entry.is_sent and self.core.failure is None:
            if self._reading.acquire(blocking=False):
                try:
                    while not entry.is_sent and self.core.failure is None:
                        self._read(until)
                finally:
                    self._stop_reading()
                return
            left = 0.25 if until is None else max(0.0, min(0.25, until - time.monotonic()))
            poll.poll(left * 1000)
            self._check_time(until)
            with self.lock:
                try:
                    self.wire.flush()
                except OSError as error:
                    self._fail(error)

    def _run_pump(self) -> None:
        with self._reading:
            while self.core.failure is None:
                self._read(None)

    def wait_for_end(self, until: float | None = None) -> None:
        """Waits until the connection has ended."""
        try:
            self.wait(Call(Kind.REQUEST), lambda: self.core.failure is not None, until)
        except UnknownError:
            return

    def close(self) -> None:
        """Says goodbye and ends everything. In a fork of the process that connected: lets go of it, silently."""
        if os.getpid() != self._pid:
            self.wire.stream.close()
            return
        with self.lock:
            if self.core.failure is None:
                try:
                    self.wire.send(write_frame(ToCell.BYE, (None,)))
                except (OSError, CellbusError):
                    pass
                self._fail(Disconnected("this process has closed the connection", is_goodbye=True))
        try:
            self.wire.stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self._pump is not None and self._pump is not threading.current_thread():
            self._pump.join(2 * _TICK)
        with self._reading:
            self.wire.close()
