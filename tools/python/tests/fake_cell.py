"""A small cell that speaks the local socket, written from its document and without a line of the client."""

from __future__ import annotations

import array
import fcntl
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

NAME = "site-1.job-7"
SECRET = bytes(range(32))
LIMITS = [1 << 20, 256, 16 << 20, 64, 16 << 20, 256, 30_000, 4 << 30, 8 << 30]
SEALS = 0x1 | 0x2 | 0x4 | 0x8


class Frame:
    def __init__(self, kind: int, fields: list[Any], payload: bytes, fd: int | None) -> None:
        self.kind, self.fields, self.payload, self.fd = kind, fields, payload, fd


class FakeCell:
    """Listens in a directory of its own, takes one connection and answers by what is in `on`.

    `on[kind]` is called with the frame. What is asked and not ended is counted, and must stay within the limits.
    """

    def __init__(
        self,
        directory: Path,
        limits: list[int] | None = None,
        heartbeat: int | None = None,
        name: str = NAME,
        hub: dict[str, FakeCell] | None = None,
    ) -> None:
        self.limits = limits or LIMITS
        self.name = name
        self.hub = hub
        self.delivering = threading.Lock()
        self.published: list[Frame] = []
        self.heartbeat = heartbeat
        self.directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        self.path = directory / "s"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.path.chmod(0o600)
        self.listener.listen(1)
        self.stream: socket.socket | None = None
        self.frames: list[Frame] = []
        self.seen = threading.Condition()
        self.outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.secrets: list[bytes] = []
        self.is_mute = False
        self.surroundings: bytes | None = b'{"server_cell": "server.job-7", "sites": ["site-1.job-7"], "attempt": 2}'
        self.outstanding: dict[int, int] = {}
        self.most = 0
        self.most_bytes = 0
        self.breach: str | None = None
        self.next_delivery = 1
        self.waiting: dict[int, Callable[[Frame], None]] = {}
        self.handlers: list[tuple[Any, Any]] = []
        self.cancelled: dict[int, threading.Event] = {}
        self.errors: list[BaseException] = []
        self.on: dict[int, Callable[[Frame], None]] = {
            0x02: self.request,
            0x03: self.publish,
            0x04: self.handle,
            0x05: self.delivered,
            0x06: self.delivered,
            0x07: self.delivered,
            0x08: self.multicast,
            0x09: self.events,
            0x0A: self.serve,
            0x0B: self.fetch,
            0x10: self.cancel,
            0x11: lambda frame: self.send(0x92, frame.fields),
        }
        if hub is not None:
            hub[name] = self
        self.threads = [threading.Thread(target=self.run, daemon=True)]
        self.threads[0].start()

    def bootstrap(self) -> int:
        """A descriptor as a launcher hands it over."""
        fd = os.memfd_create("bootstrap")
        os.write(fd, msgpack.packb([1, str(self.path), SECRET]))
        return fd

    def close(self) -> None:
        self.listener.close()
        if self.stream is not None:
            try:
                self.stream.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.outgoing.put(None)
        for thread in self.threads:
            thread.join(5)
        if self.stream is not None:
            self.stream.close()

    def run(self) -> None:
        try:
            self.stream, _ = self.listener.accept()
            writer = threading.Thread(target=self.write, daemon=True)
            self.threads.append(writer)
            writer.start()
            self.read()
        except OSError:
            pass
        except BaseException as error:
            self.errors.append(error)
            raise

    def read(self) -> None:
        assert self.stream is not None
        data = bytearray()
        fds: list[int] = []
        while True:
            more, ancillary, _, _ = self.stream.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            for _, _, raw in ancillary:
                found = array.array("i")
                found.frombytes(raw)
                fds += found
            if not more:
                break
            data += more
            while len(data) >= 7:
                kind, header, payload = struct.unpack(">BHI", data[:7])
                total = 7 + header + payload
                if len(data) < total:
                    break
                fields = msgpack.unpackb(bytes(data[7 : 7 + header]))
                attached = {0x02: 6, 0x03: 5, 0x05: 2, 0x07: 2, 0x08: 7, 0x0A: 6}.get(kind)
                fd = None
                if attached is not None and fields[attached] is not None:
                    assert payload == 0
                    fd = fds.pop(0)
                    assert os.fstat(fd).st_size == fields[attached]
                    if kind != 0x0A:
                        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
                frame = Frame(kind, fields, bytes(data[7 + header : total]), fd)
                del data[:total]
                self.take(frame)
            assert len(fds) <= (1 if data else 0)

    def take(self, frame: Frame) -> None:
        if frame.kind == 0x01:
            self.secrets.append(frame.fields[2])
            if frame.fields[2] != SECRET:
                self.send(0x82, [71])
                self.outgoing.put(None)
                return
            self.send(0x81, [1, self.name, "job-7", 2, "trainer", self.heartbeat, self.limits])
            if self.heartbeat is not None:
                # As a real cell does: the first sign of life is asked for at once.
                self.send(0x91, [1])
        if frame.kind in (0x02, 0x03, 0x04, 0x08, 0x09, 0x0A, 0x0B):
            self.outstanding[frame.fields[0]] = len(frame.payload)
            self.most = max(self.most, len(self.outstanding))
            self.most_bytes = max(self.most_bytes, sum(self.outstanding.values()))
            if self.most > self.limits[1] or self.most_bytes > self.limits[2]:
                self.breach = "the limits were exceeded"
        with self.seen:
            self.frames.append(frame)
            self.seen.notify_all()
        if not self.is_mute and frame.kind in self.on:
            self.on[frame.kind](frame)

    def wait_for(self, kind: int, count: int = 1) -> list[Frame]:
        with self.seen:
            assert self.seen.wait_for(lambda: sum(f.kind == kind for f in self.frames) >= count, 20)
            return [frame for frame in self.frames if frame.kind == kind]

    def send(self, kind: int, fields: list[Any], payload: bytes = b"", fd: int | None = None) -> None:
        header = msgpack.packb(fields)
        self.outgoing.put((struct.pack(">BHI", kind, len(header), len(payload)) + header + payload, fd))

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        self.outgoing.put((data, fds))

    def end(self, kind: int, fields: list[Any], payload: bytes = b"", fd: int | None = None) -> None:
        self.outstanding.pop(fields[0], None)
        self.send(kind, fields, payload, fd)

    def write(self) -> None:
        assert self.stream is not None
        try:
            while (item := self.outgoing.get()) is not None:
                data, fd = item
                if fd is None:
                    self.stream.sendall(data)
                else:
                    fds = fd if isinstance(fd, list) else [fd]
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                    sent = self.stream.sendmsg([data], rights)
                    for each in fds:
                        os.close(each)
                    self.stream.sendall(data[sent:])
            self.stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def publish(self, frame: Frame) -> None:
        self.published.append(frame)
        self.end(0x85, [frame.fields[0]])
        _, to, channel, topic, _, _, _ = frame.fields
        if self.hub is not None and to in self.hub and (channel, topic) in self.hub[to].handlers:
            self.hub[to].deliver(channel, topic, frame.payload, lambda _: None, 0, frame.fd, origin=self.name)

    def route(self, frame: Frame) -> None:
        """What a bus does: hands the request to the cell that it is for, and its answer back."""
        number, to, channel, topic, budget, *_ = frame.fields
        assert self.hub is not None
        other = self.hub.get(to)
        if other is None or (channel, topic) not in other.handlers:
            self.end(0x84, [number, 3 if other else 1, self.name])
            return
        other.deliver(
            channel,
            topic,
            frame.payload,
            lambda answer: self.back(number, answer),
            budget or 30_000,
            frame.fd,
            origin=self.name,
        )

    def request(self, frame: Frame) -> None:
        if self.hub is not None:
            self.route(frame)
            return
        number, to, channel, topic, budget, media, attached, options = frame.fields
        if (channel, topic, to) == ("job", "parameters", self.name):
            self.end(0x83, [number, "application/json", None], b'{"rounds": 5}')
        elif (channel, topic, to) == ("job", "surroundings", self.name):
            if self.surroundings is None:
                self.end(0x84, [number, 3, self.name], b"")
            else:
                self.end(0x83, [number, "application/json", None], self.surroundings)
        elif channel == "echo":
            if options is not None and options[0] & 32:
                for index in range(int(topic)):
                    self.send(0x88, [number, to, media, None], b"%d" % index)
                self.end(0x8A, [number])
            else:
                self.end(0x83, [number, media, attached], frame.payload, frame.fd)
        elif channel == "status":
            self.end(0x84, [number, int(topic), "server"], frame.payload)
        elif channel == "back":
            self.deliver(
                "echo",
                topic,
                frame.payload,
                lambda answer: self.back(number, answer),
                budget or 30_000,
                frame.fd,
            )
        elif channel == "slow":
            self.cancelled[number] = threading.Event()

    def back(self, number: int, answer: Frame) -> None:
        if answer.kind == 0x05:
            self.end(0x83, [number, *answer.fields[1:]], answer.payload, answer.fd)
        elif answer.kind == 0x06:
            self.end(0x84, [number, answer.fields[1], "server.job-7"], answer.payload)

    def deliver(
        self,
        channel: str,
        topic: str,
        payload: bytes,
        then: Callable[[Frame], None],
        budget: int = 30_000,
        fd: int | None = None,
        *,
        origin: str = "server.job-7",
        trace: bytes | None = None,
    ) -> int:
        with self.delivering:
            number = self.next_delivery
            self.next_delivery += 1
            self.waiting[number] = then
            size = None if fd is None else os.fstat(fd).st_size
            who = [origin, "job", "hq", "job-7"]
            traced = [] if trace is None else [trace]
            self.send(0x87, [number, who, channel, topic, budget, budget > 0, None, size, b"h", *traced], payload, fd)
        return number

    def delivered(self, frame: Frame) -> None:
        if frame.kind == 0x07:
            self.waiting[frame.fields[0]](frame)
        else:
            self.waiting.pop(frame.fields[0])(frame)

    def handle(self, frame: Frame) -> None:
        number, channel, topic, _ = frame.fields
        taken = channel == "taken"
        self.handlers.append((channel, topic))
        self.end(0x86, [number, 1 if taken else 0])

    def multicast(self, frame: Frame) -> None:
        number, cells, _, _, is_publish, _, media, _, options = frame.fields
        if is_publish and not (options and options[0] & 8):
            self.end(0x85, [number])
            return
        for cell in cells or ["site-1", "site-2"]:
            if cell == "site-9":
                self.send(0x89, [number, cell, 1, "server"], b"")
            else:
                self.send(0x88, [number, cell, media, None], b"" if is_publish else frame.payload)
        self.end(0x8A, [number])

    def events(self, frame: Frame) -> None:
        self.send(0x8B, [frame.fields[0], 0, "site-2", 0])
        self.send(0x8B, [frame.fields[0], 6, "site-2.job-7", 0], b"exit 1")
        self.send(0x8B, [frame.fields[0], 7, None, 3])

    def serve(self, frame: Frame) -> None:
        number, cells = frame.fields[0], frame.fields[1]
        assert frame.fd is not None
        size = frame.fields[6]
        self.send(0x8C, [number], b"reference")
        self.stored = os.pread(frame.fd, size, 0)
        os.close(frame.fd)
        for cell in cells or ["site-2.job-7"]:
            self.send(0x8D, [number, cell, size // 2, size])
            self.send(0x8E, [number, cell, 1, 148] if cell == "site-9" else [number, cell, 0, None])
        self.end(0x8A, [number])

    def fetch(self, frame: Frame) -> None:
        number = frame.fields[0]
        if frame.payload == b"unknown":
            self.end(0x84, [number, 147, "server"])
            return
        content = b"x" * 300_000 if frame.payload != b"empty" else b""
        self.send(0x8D, [number, None, len(content) // 2, len(content)])
        self.end(0x8F, [number, "text/plain", len(content), b"hh", bytes(32)], b"", sealed(content))

    def cancel(self, frame: Frame) -> None:
        number = frame.fields[0]
        if number in self.cancelled:
            self.cancelled.pop(number).set()
            self.end(0x84, [number, 17, NAME])
        elif number in self.outstanding:
            self.end(0x8A, [number])


def sealed(content: bytes, seals: int = SEALS) -> int:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, content)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
