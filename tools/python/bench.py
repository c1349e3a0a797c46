"""Figures of the Python client: round trips beside a bare Python socket, and handing over an array.

    python bench.py [--seconds 2] [--json]

The other side is a process of its own that answers every frame with the least work that is possible, so that what
is measured is this client. Exits with 1 where a figure is missed.
"""

from __future__ import annotations

import argparse
import array
import json
import mmap
import os
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

import cellbus
from cellbus import _bootstrap, _msgpack, tensors

SIZE = 64
HAND_OVER = 512 << 20


def echo_bare(stream: socket.socket) -> None:
    buffer = bytearray(65_536)
    while count := stream.recv_into(buffer):
        stream.sendall(memoryview(buffer)[:count])


def echo_frames(stream: socket.socket) -> None:
    """Answers HELLO, then turns each REQUEST into a REPLY: `[id, nil, nil]` and the last 64 bytes."""
    stream.recv(65_536)
    limits = [1 << 20, 256, 16 << 20, 64, 16 << 20, 256, 30_000, 4 << 30, 8 << 30]
    welcome = _msgpack.pack([1, "site-1.job-7", "job-7", 1, None, None, limits])
    stream.sendall(struct.pack(">BHI", 0x81, len(welcome), 0) + welcome)
    widths = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
    while data := stream.recv(65_536):
        end = 8 + widths.get(data[8], 1)
        number = data[8:end]
        head = b"\x83" + (3 + len(number)).to_bytes(2, "big") + b"\x00\x00\x00\x40\x93"
        stream.sendall(head + number + b"\xc0\xc0" + data[-SIZE:])


def take_array(stream: socket.socket) -> None:
    """Maps what is handed over, looks at both ends of it, and answers REPLY `[1, nil, nil]`."""
    stream.recv(65_536)
    limits = [1 << 20, 256, 16 << 20, 64, 16 << 20, 256, 30_000, 4 << 30, 8 << 30]
    welcome = _msgpack.pack([1, "site-1.job-7", "job-7", 1, None, None, limits])
    stream.sendall(struct.pack(">BHI", 0x81, len(welcome), 0) + welcome)
    number = 0
    while True:
        data, ancillary, _, _ = stream.recvmsg(65_536, 64)
        if not data:
            return
        fds = array.array("i", ancillary[0][2])
        size = os.fstat(fds[0]).st_size
        view = mmap.mmap(fds[0], size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        number += 1
        answer = _msgpack.pack([number, None, None])
        os.close(fds[0])
        assert view[0] + view[size - 1] >= 0
        view.close()
        stream.sendall(struct.pack(">BHI", 0x83, len(answer), 0) + answer)


def beside(directory: Path, run: object) -> Path:
    """Listens in a process of its own."""
    path = directory / f"s{len(list(directory.iterdir()))}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(1)
    if os.fork() == 0:
        stream, _ = listener.accept()
        try:
            run(stream)  # type: ignore[operator]
        finally:
            os._exit(0)
    listener.close()
    return path


def connect(path: Path) -> cellbus.Bus:
    fd = os.memfd_create("bootstrap")
    os.write(fd, _msgpack.pack([1, str(path), bytes(32)]))
    os.environ[_bootstrap.VARIABLE] = str(fd)
    return cellbus.connect()


def rate(step: object, seconds: float) -> float:
    for _ in range(500):
        step()  # type: ignore[operator]
    count = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(100):
            step()  # type: ignore[operator]
        count += 100
    return count / took


def round_trips(directory: Path, seconds: float) -> tuple[float, float]:
    payload = bytes(SIZE)
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(beside(directory, echo_bare)))
    buffer = bytearray(SIZE)

    def bare_step() -> None:
        stream.sendall(payload)
        stream.recv_into(buffer)

    with connect(beside(directory, echo_frames)) as bus:

        def step() -> None:
            bus.request("task", "fetch", payload, to="server.job-7")

        bare = ours = 0.0
        for _ in range(4):
            bare = max(bare, rate(bare_step, seconds / 4))
            ours = max(ours, rate(step, seconds / 4))
    stream.close()
    return bare, ours


def hand_over(directory: Path) -> tuple[float, float, float]:
    """Seconds to hand over 512 MiB that lie in an arena; to seal it before; to send an ordinary array."""
    import numpy as np

    with connect(beside(directory, take_array)) as bus:
        best = seal = copied = float("inf")
        for _ in range(3):
            arena = tensors.Arena({"w": ((HAND_OVER // 4,), "float32")})
            arena["w"][:] = 1.5
            began = time.perf_counter()
            arena.seal()
            seal = min(seal, time.perf_counter() - began)
            began = time.perf_counter()
            bus.request("task", "submit", arena, to="server.job-7")
            best = min(best, time.perf_counter() - began)
            del arena
        ordinary = np.ones(HAND_OVER // 4, "f4")
        began = time.perf_counter()
        bus.request("task", "submit", {"w": ordinary}, to="server.job-7")
        copied = time.perf_counter() - began
    return best, seal, copied


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bare, ours = round_trips(directory, options.seconds)
        handed, seal, copied = hand_over(directory)
    figures = {
        "msgpack": _msgpack.IMPLEMENTATION,
        "bare_round_trips_per_s": round(bare),
        "round_trips_per_s": round(ours),
        "ratio": round(ours / bare, 3),
        "hand_over_512_mib_ms": round(handed * 1e3, 3),
        "seal_512_mib_ms": round(seal * 1e3, 3),
        "ordinary_array_512_mib_ms": round(copied * 1e3, 3),
    }
    is_met = (ours >= 15_000 or ours / bare >= 0.6) and handed < 0.005
    if options.json:
        print(json.dumps(figures | {"met": is_met}))
    else:
        for name, figure in figures.items():
            print(f"{name:>28}  {figure}")
        print("met" if is_met else "MISSED: 15,000 round trips/s or a ratio of 0.6, and 5 ms")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
