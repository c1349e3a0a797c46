"""A site's program: asks for everything, by every operation, and ends with 1 where an answer is not the right one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

import cellbus
from cellbus import Flags, Options, Status


def refused(ask: object) -> cellbus.StatusError:
    try:
        ask()  # type: ignore[operator]
    except cellbus.StatusError as error:
        return error
    raise AssertionError("was not refused")


def wait_for_server(bus: cellbus.Bus) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            bus.request("echo", "x", b"")
            return
        except cellbus.RefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main() -> None:
    server = os.environ["CELLBUS_SERVER_CELL"]
    with cellbus.connect() as bus:
        assert bus.cell == os.environ["CELLBUS_CELL"]
        assert bus.job == os.environ["CELLBUS_JOB"]
        wait_for_server(bus)
        for size in (0, 1, 64, 65_536, 262_144, 262_145, 1 << 20, (1 << 20) + 1, 20_000_000):
            content = os.urandom(size)
            reply = bus.request("echo", "x", content, content_type="text/plain")
            assert (bytes(reply.payload) == content, reply.content_type) == (True, "text/plain"), size
        print("payloads", flush=True)
        weights = {"w": np.random.default_rng(1).standard_normal((1_000, 1_000)), "b": np.arange(3)}
        found = bus.request("echo", "x", weights).tensors()
        assert all(np.array_equal(found[name], weights[name]) for name in weights)
        arena = cellbus.Arena({"w": ((1_000, 500), "f4")})
        arena["w"][:] = 2.5
        assert (bus.request("echo", "x", arena).tensors()["w"] == 2.5).all()
        print("tensors", flush=True)
        failed = refused(lambda: bus.request("echo", "fail"))
        assert isinstance(failed, cellbus.FailedError), failed
        assert (failed.by, failed.detail) == (server, "KeyError: 'no such round'"), failed
        assert refused(lambda: bus.request("echo", "refuse")).status is Status.FORBIDDEN
        assert refused(lambda: bus.request("nobody", "x")).status is Status.NO_HANDLER
        assert refused(lambda: bus.request("cell", "quit")).status is Status.FORBIDDEN
        assert not refused(lambda: bus.request("echo", "x", to="No Cell")).may_have_been_done
        late = refused(lambda: bus.request("echo", "late", budget=0.2))
        assert (late.status, late.may_have_been_done) == (Status.DEADLINE, True), late
        print("errors", flush=True)
        assert bus.request("echo", "later").payload == b"later"
        pending = bus.start("echo", "wait", budget=60)
        assert bus.request("echo", "has-begun").payload == b"yes"
        pending.cancel()
        assert bus.request("echo", "was-cancelled").payload == b"yes"
        assert [bytes(part.payload) for part in bus.stream("echo", "parts")] == [b"0", b"1", b"2", b"3"]
        assert bus.request("echo", "headers", options=Options(headers=b"hh")).payload == b"hh"
        assert bus.request("echo", "who").text() == f"{bus.cell} job {bus.job}"
        many = [bus.start("echo", "x", b"%d" % index) for index in range(500)]
        assert [bytes(each.result().payload) for each in many] == [b"%d" % index for index in range(500)]
        print("operations", flush=True)
        parts = {part.cell: part for part in bus.broadcast("echo", "x", b"hi", cells=[server])}
        assert bytes(parts[server].payload) == b"hi", parts
        receipt = Options(flags=Flags.RECEIPT)
        assert [part.error for part in bus.tell("echo", "x", b"hi", cells=[server], options=receipt)] == [None]
        bus.publish("echo", "x", b"hi", options=receipt)
        print("broadcast", flush=True)
        Path("model.bin").write_bytes(b"m" * 5_000_000)
        with bus.transfers.serve(Path("model.bin"), "echo", "model", to=[server], headers=b"hh") as served:
            answer = bus.request("echo", "fetch", served.reference, budget=60)
            assert answer.payload == b"5000000 hh", answer
            ends = served.wait()
        assert ends[server].end is cellbus.SettledEnd.STORED, ends
        print("transfers", flush=True)
        with bus.serve("own", "x", lambda message: b"here"):
            assert bus.request("own", "x", to=bus.cell).payload == b"here"
        bus.publish("end", "done", options=receipt)
        print("done", flush=True)


if __name__ == "__main__":
    main()
