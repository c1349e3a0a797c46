"""The blocking shell, against a cell that speaks the protocol by itself."""

from __future__ import annotations

import gc
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from fake_cell import LIMITS, NAME, FakeCell, sealed

import cellbus
from cellbus import Status


def test_a_request_is_answered(bus: cellbus.Bus, cell: FakeCell) -> None:
    reply = bus.request("echo", "x", b"hello", content_type="text/plain")
    assert (reply.payload, reply.content_type, reply.text()) == (b"hello", "text/plain", "hello")
    assert cell.wait_for(0x02)[0].fields == [1, "server.job-7", "echo", "x", None, "text/plain", None, None]
    assert (bus.cell, bus.job, bus.site, bus.attempt, bus.role) == (NAME, "job-7", "site-1", 2, "trainer")


def test_the_arguments_of_the_job_are_asked_of_the_own_cell(bus: cellbus.Bus) -> None:
    assert bus.parameters() == {"rounds": 5}


def test_payloads_of_every_size_come_back(bus: cellbus.Bus) -> None:
    for size in [0, 1, 64, 16_384, 16_385, 65_500, 65_536, 200_000, 262_144, 262_145, 3_000_000]:
        content = os.urandom(size)
        assert bytes(bus.request("echo", "x", content).payload) == content


def test_what_is_large_is_attached_and_arrives_read_only(bus: cellbus.Bus, cell: FakeCell) -> None:
    reply = bus.request("echo", "x", bytearray(262_145))
    assert isinstance(reply.payload, memoryview)
    assert reply.payload.readonly
    frame = cell.wait_for(0x02)[0]
    assert frame.fields[6] == 262_145
    assert frame.payload == b""


def test_options_and_budget_are_as_on_the_wire(bus: cellbus.Bus, cell: FakeCell) -> None:
    options = cellbus.Options(
        flags=cellbus.Flags.SEALED | cellbus.Flags.BULK, retry=(0.1, 2), trace=bytes(25), headers=b"hh"
    )
    bus.request("echo", "x", "text", to="server", budget=1.5, options=options)
    assert cell.wait_for(0x02)[0].fields[1:] == [
        *("server", "echo", "x", 1500, None, None),
        [20, [100, 2000], bytes(25), b"hh"],
    ]


@pytest.mark.parametrize(
    ("status", "error", "may_have_been_done"),
    [
        (Status.TOPIC_DENIED, cellbus.RefusedError, False),
        (Status.DEADLINE, cellbus.UnknownError, True),
        (Status.HANDLER_FAILED, cellbus.FailedError, True),
    ],
)
def test_an_error_says_status_cell_and_whether_it_may_have_been_done(
    bus: cellbus.Bus, status: Status, error: type[cellbus.StatusError], may_have_been_done: bool
) -> None:
    with pytest.raises(error) as caught:
        bus.request("status", str(int(status)), b"because")
    assert (caught.value.status, caught.value.by, caught.value.detail) == (status, "server", "because")
    assert caught.value.may_have_been_done is may_have_been_done


def test_a_publish_returns_when_it_was_taken(bus: cellbus.Bus, cell: FakeCell) -> None:
    bus.publish("metrics", "loss", b"1")
    assert cell.wait_for(0x03)[0].payload == b"1"


def test_many_threads_ask_at_once_and_each_gets_its_own(bus: cellbus.Bus) -> None:
    wrong = []

    def ask(name: int) -> None:
        for index in range(200):
            payload = b"%d-%d" % (name, index)
            if bus.request("echo", "x", payload).payload != payload:
                wrong.append(payload)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


def test_answers_that_nobody_waits_for_yet_are_kept(bus: cellbus.Bus) -> None:
    pending = [bus.start("echo", "x", b"%d" % index) for index in range(100)]
    assert [each.result().payload for each in reversed(pending)] == [b"%d" % i for i in range(99, -1, -1)]


def test_s_36_who_asks_too_much_waits_and_never_exceeds_the_limits(
    make_cell: Callable[..., FakeCell],
) -> None:
    cell = make_cell(limits=[1 << 20, 4, 100_000, *LIMITS[3:]])
    with cellbus.connect() as bus:
        threads = [
            threading.Thread(target=lambda: [bus.request("echo", "x", bytes(40_000)) for _ in range(30)])
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert cell.breach is None
    assert cell.most_bytes <= 80_000
    assert len(cell.wait_for(0x02, 360)) == 360


def test_a_request_beyond_the_limits_waits_until_another_has_ended(
    make_cell: Callable[..., FakeCell],
) -> None:
    cell = make_cell(limits=[1 << 20, 2, *LIMITS[2:]])
    with cellbus.connect() as bus:
        first = [bus.start("slow", "x"), bus.start("slow", "x")]
        third: list[cellbus.Reply] = []
        thread = threading.Thread(target=lambda: third.append(bus.request("echo", "x", b"third")))
        thread.start()
        while not bus._engine._gates:
            time.sleep(0.001)
        assert len(cell.wait_for(0x02, 2)) == 2
        cell.end(0x83, [1, None, None], b"first")
        thread.join(20)
        assert third[0].payload == b"third"
        assert first[0].result().payload == b"first"
        first[1].cancel()


def test_what_can_never_fit_is_refused_here(make_cell: Callable[..., FakeCell]) -> None:
    cell = make_cell(limits=[*LIMITS[:7], 300_000, 300_000])
    with cellbus.connect() as bus:
        with pytest.raises(cellbus.RefusedError) as caught:
            bus.request("echo", "x", bytes(400_000))
        assert caught.value.status is Status.TOO_LARGE
        assert bus.request("echo", "x", b"still there").payload == b"still there"
    assert len(cell.wait_for(0x02)) == 1


def test_two_sides_that_both_write_do_not_stand_still(bus: cellbus.Bus, cell: FakeCell) -> None:
    release = threading.Event()
    ask = cell.on[0x02]

    def hold(frame: object) -> None:
        release.wait(10)
        ask(frame)  # type: ignore[arg-type]

    cell.on[0x02] = hold
    for token in range(20_000):
        cell.send(0x91, [token])
    pending: list[cellbus.Pending[cellbus.Reply]] = []
    thread = threading.Thread(target=lambda: pending.extend(bus.start("echo", "x", bytes(200_000)) for _ in range(40)))
    thread.start()
    release.set()
    thread.join(30)
    assert not thread.is_alive()
    assert [len(each.result().payload) for each in pending] == [200_000] * 40
    cell.wait_for(0x12, 20_000)


def test_a_ping_is_answered(bus: cellbus.Bus, cell: FakeCell) -> None:
    cell.send(0x91, [70_000])
    bus.request("echo", "x")
    assert cell.wait_for(0x12)[0].fields == [70_000]


def test_a_heartbeat_is_answered_while_the_work_holds_up_its_thread(
    make_cell: Callable[..., FakeCell],
) -> None:
    cell = make_cell(heartbeat=100)
    with cellbus.connect():
        cell.send(0x91, [5])
        assert [frame.fields for frame in cell.wait_for(0x12, 2)] == [[1], [5]]


def test_a_ping_that_comes_with_the_welcome_is_taken_once(make_cell: Callable[..., FakeCell]) -> None:
    for _ in range(20):
        cell = make_cell(heartbeat=10_000)
        with cellbus.connect() as bus:
            assert bus.request("echo", "x", b"hi").payload == b"hi"
            assert bus.is_open
        assert [frame.fields for frame in cell.wait_for(0x12)] == [[1]]


def test_cancelling_tells_the_cell_and_ends_at_once(bus: cellbus.Bus, cell: FakeCell) -> None:
    pending = bus.start("slow", "x")
    pending.cancel()
    with pytest.raises(cellbus.UnknownError):
        pending.result()
    assert cell.wait_for(0x10)[0].fields == [1]
    assert bus.request("echo", "x", b"on").payload == b"on"
    assert not bus._engine.core.calls


def test_a_timeout_of_waiting_does_not_end_the_call(bus: cellbus.Bus, cell: FakeCell) -> None:
    pending = bus.start("slow", "x")
    with pytest.raises(TimeoutError):
        pending.result(timeout=0.05)
    assert not pending.is_done
    cell.end(0x83, [1, None, None], b"late")
    assert pending.result().payload == b"late"


def test_a_cell_that_is_gone_ends_everything_as_unknown(bus: cellbus.Bus, cell: FakeCell) -> None:
    pending = bus.start("slow", "x")
    cell.wait_for(0x02)
    cell.outgoing.put(None)
    with pytest.raises(cellbus.Disconnected) as caught:
        pending.result()
    assert caught.value.may_have_been_done
    with pytest.raises(cellbus.RefusedError):
        bus.request("echo", "x")
    assert not bus.is_open


def test_a_goodbye_with_a_status_is_told(bus: cellbus.Bus, cell: FakeCell) -> None:
    pending = bus.start("slow", "x")
    cell.send(0x9F, [28])
    with pytest.raises(cellbus.Disconnected) as caught:
        pending.result()
    assert caught.value.status is Status.DRAINING


def test_closing_says_goodbye(cell: FakeCell) -> None:
    with cellbus.connect() as bus:
        pending = bus.start("slow", "x")
    assert cell.wait_for(0x1F)[0].fields == [None]
    with pytest.raises(cellbus.Disconnected):
        pending.result()
    bus.close()


def test_a_cell_that_breaks_the_protocol_is_told_so(bus: cellbus.Bus, cell: FakeCell) -> None:
    pending = bus.start("slow", "x")
    cell.raw(struct.pack(">BHI", 0x83, 3, 0) + msgpack.packb([7, None]))
    with pytest.raises(cellbus.Disconnected) as caught:
        pending.result()
    assert caught.value.status is Status.BAD_HEADER
    assert cell.wait_for(0x1F)[0].fields == [97]


def _descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("flaw", ["unsealed", "short", "no memory file", "missing", "unasked", "too many"])
def test_a_descriptor_that_is_not_what_it_must_be_ends_the_connection_and_leaks_nothing(
    cell: FakeCell, flaw: str, tmp_path: Path
) -> None:
    before = _descriptors()
    bus = cellbus.connect()
    pending = bus.start("slow", "x")
    cell.wait_for(0x02)
    head = msgpack.packb([1, None, 300_000])
    frame = struct.pack(">BHI", 0x83, len(head), 0) + head
    if flaw == "unsealed":
        cell.raw(frame, [sealed(bytes(300_000), 0)])
    elif flaw == "short":
        cell.raw(frame, [sealed(bytes(299_999))])
    elif flaw == "no memory file":
        (tmp_path / "file").write_bytes(bytes(300_000))
        cell.raw(frame, [os.open(tmp_path / "file", os.O_RDONLY)])
    elif flaw == "missing":
        cell.raw(frame)
    elif flaw == "unasked":
        head = msgpack.packb([9])
        cell.raw(struct.pack(">BHI", 0x92, 1 + 1, 0) + head, [sealed(b"x")])
    else:
        cell.raw(frame, [sealed(bytes(300_000)) for _ in range(40)])
    with pytest.raises(cellbus.Disconnected) as caught:
        pending.result()
    assert caught.value.status is Status.BAD_FRAME
    assert cell.wait_for(0x1F)[0].fields == [96]
    bus.close()
    del pending, bus
    cell.close()
    deadline = time.monotonic() + 10
    while _descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _descriptors() <= before


def test_a_handler_answers(bus: cellbus.Bus, cell: FakeCell) -> None:
    seen: list[cellbus.Message] = []

    @bus.serve("echo")
    def double(message: cellbus.Message) -> bytes:
        seen.append(message)
        return bytes(message.payload) * 2

    assert bus.request("back", "x", b"ab").payload == b"abab"
    assert seen[0].origin == cellbus.Origin("server.job-7", "job", "hq", "job-7")
    assert (seen[0].channel, seen[0].topic, seen[0].headers) == ("echo", "x", b"h")
    assert bytes(bus.request("back", "x", bytes(1_000_000)).payload) == bytes(2_000_000)


def test_the_most_specific_handler_is_called_and_none_is_refused(bus: cellbus.Bus) -> None:
    with (
        bus.serve("echo", "x", lambda message: b"exact"),
        bus.serve("echo", None, lambda message: b"channel"),
    ):
        assert bus.request("back", "x").payload == b"exact"
        assert bus.request("back", "y").payload == b"channel"
    with pytest.raises(cellbus.RefusedError) as caught:
        bus.request("back", "x")
    assert caught.value.status is Status.NO_HANDLER
    with bus.serve("echo", "x", lambda message: b"again"):
        assert bus.request("back", "x").payload == b"again"


def test_what_somebody_else_handles_is_an_error(bus: cellbus.Bus) -> None:
    with pytest.raises(cellbus.HandleRefused) as caught:
        bus.serve("taken", "x", lambda message: None)
    assert caught.value.outcome is cellbus.Outcome.TAKEN


def test_a_handler_that_raises_is_reported_with_its_class(bus: cellbus.Bus) -> None:
    def fail(message: cellbus.Message) -> None:
        if message.topic == "refuse":
            raise cellbus.RefusedError(Status.FORBIDDEN)
        raise KeyError("no such round")

    with bus.serve("echo", None, fail):
        with pytest.raises(cellbus.FailedError, match="KeyError: 'no such round'"):
            bus.request("back", "x")
        with pytest.raises(cellbus.RefusedError) as caught:
            bus.request("back", "refuse")
    assert caught.value.status is Status.FORBIDDEN


def test_an_answer_can_be_given_later_once_by_anybody(bus: cellbus.Bus) -> None:
    kept: list[cellbus.Message] = []
    with bus.serve("echo", None, lambda message: kept.append(message.defer())):
        pending = bus.start("back", "x")
        while not kept:
            with pytest.raises(TimeoutError):
                pending.result(timeout=0.01)
        assert kept[0].reply(b"later")
        assert not kept[0].reply(b"twice")
        assert pending.result().payload == b"later"


def test_a_message_that_is_forgotten_is_answered_as_gone(bus: cellbus.Bus) -> None:
    with (
        bus.serve("echo", None, lambda message: message.defer() and None),
        pytest.raises(cellbus.UnknownError) as caught,
    ):
        bus.request("back", "x", budget=5)
    assert caught.value.status is Status.HANDLER_GONE


def test_a_handler_hears_that_nobody_waits_any_longer(bus: cellbus.Bus, cell: FakeCell) -> None:
    heard = threading.Event()

    def wait(message: cellbus.Message) -> None:
        if message.wait_cancelled(20) and message.is_cancelled:
            heard.set()

    with bus.serve("echo", None, wait):
        answers: list[object] = []
        number = cell.deliver("echo", "x", b"", answers.append)
        cell.send(0x90, [number])
        assert heard.wait(20)
        cell.wait_for(0x05)
        assert answers


def test_a_handler_may_ask_within_the_budget_of_its_asker(bus: cellbus.Bus, cell: FakeCell) -> None:
    def ask(message: cellbus.Message) -> bytes:
        return bytes(bus.request("echo", "inner", b"deep").payload)

    with bus.serve("echo", "x", ask):
        assert bus.request("back", "x", budget=3).payload == b"deep"
    inner = next(frame for frame in cell.wait_for(0x02, 2) if frame.fields[3] == "inner")
    assert 0 < inner.fields[4] <= 3_000


def test_what_a_handler_sends_belongs_to_the_trace_of_its_message(bus: cellbus.Bus, cell: FakeCell) -> None:
    trace, other = bytes(range(25)), bytes(25)
    seen: list[bytes | None] = []

    def ask(message: cellbus.Message) -> None:
        seen.append(message.trace)
        bus.request("echo", "inner", b"deep")
        bus.publish("echo", "inner")
        bus.request("echo", "inner", options=cellbus.Options(trace=other))

    with bus.serve("echo", "x", ask):
        for given in (trace, None):
            cell.deliver("echo", "x", b"", lambda frame: None, trace=given)
        cell.wait_for(0x05, 2)
    bus.request("echo", "inner")
    assert set(seen) == {trace, None}
    asked = [frame.fields[7] for frame in cell.wait_for(0x02, 5)]
    assert sorted(asked, key=str) == sorted(
        [[0, None, trace, b""], [0, None, other, b""], [0, None, other, b""], None, None], key=str
    )
    published = [frame.fields[6] for frame in cell.wait_for(0x03, 2)]
    assert sorted(published, key=str) == sorted([[0, None, trace, b""], None], key=str)


def test_at_most_so_many_handlers_run_at_once(cell: FakeCell) -> None:
    running = most = 0
    lock = threading.Lock()
    barrier = threading.Barrier(3)

    def count(message: cellbus.Message) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(20)
        with lock:
            running -= 1

    with cellbus.connect(workers=3) as bus, bus.serve("echo", None, count):
        for pending in [bus.start("back", "x") for _ in range(12)]:
            pending.result()
    assert most == 3


def test_several_answers_come_one_by_one(bus: cellbus.Bus) -> None:
    assert [bytes(part.payload) for part in bus.stream("echo", "3")] == [b"0", b"1", b"2"]


def test_several_answers_are_given_one_by_one(bus: cellbus.Bus, cell: FakeCell) -> None:
    def count(message: cellbus.Message) -> bytes:
        message.part(b"1")
        message.part(b"2")
        return b"3"

    with bus.serve("echo", None, count):
        answers: list[bytes] = []
        cell.deliver("echo", "x", b"", lambda frame: answers.append(frame.payload))
        cell.wait_for(0x05)
    assert answers == [b"1", b"2", b"3"]


def test_a_broadcast_has_an_outcome_for_each_cell(bus: cellbus.Bus) -> None:
    parts = {part.cell: part for part in bus.broadcast("echo", "x", b"hi", cells=["site-2", "site-9"])}
    assert parts["site-2"].payload == b"hi"
    assert parts["site-9"].error is not None
    assert parts["site-9"].error.status is Status.NO_ROUTE
    assert [part.cell for part in bus.broadcast("echo", "x")] == ["site-1", "site-2"]
    assert bus.tell("echo", "x", b"hi") == []
    told = bus.tell("echo", "x", b"hi", options=cellbus.Options(flags=cellbus.Flags.RECEIPT))
    assert [part.cell for part in told] == ["site-1", "site-2"]
    with pytest.raises(TypeError):
        bus.broadcast("echo", "x", cells="site-2")


def test_events_come_until_nobody_looks(bus: cellbus.Bus, cell: FakeCell) -> None:
    events = bus.events()
    assert next(events) == cellbus.Event(cellbus.EventKind.LINK_UP, "site-2", 0, "")
    assert next(events).detail == "exit 1"
    assert next(events).missed == 3
    events.close()  # type: ignore[attr-defined]
    assert cell.wait_for(0x10)[0].fields == [1]


def test_a_file_is_served_and_its_receivers_settle(bus: cellbus.Bus, cell: FakeCell, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"m" * 5_000)
    steps: list[cellbus.Progress] = []
    with bus.transfers.serve(path, "model", "weights", to=["site-2", "site-9"], lifetime=60) as served:
        assert served.reference == b"reference"
        ends = served.wait(progress=steps.append)
    assert cell.stored == b"m" * 5_000
    assert ends["site-2"].end is cellbus.SettledEnd.STORED
    assert (ends["site-9"].end, ends["site-9"].status) == (cellbus.SettledEnd.FAILED, Status.TRANSFER_STALLED)
    assert (steps[0].done, steps[0].total) == (2_500, 5_000)
    with bus.transfers.serve(b"small", "model", "weights") as served:
        assert served.wait()
    assert cell.stored == b"small"


def test_a_reference_is_fetched_with_progress(bus: cellbus.Bus) -> None:
    steps: list[cellbus.Progress] = []
    fetched = bus.transfers.fetch(b"reference", progress=steps.append)
    assert bytes(fetched.payload) == b"x" * 300_000
    assert (fetched.content_type, fetched.headers, fetched.digest) == ("text/plain", b"hh", bytes(32))
    assert steps == [cellbus.Progress(None, 150_000, 300_000)]
    assert bytes(bus.transfers.fetch(b"empty", progress=True).payload) == b""
    with pytest.raises(cellbus.RefusedError) as caught:
        bus.transfers.fetch(b"unknown")
    assert caught.value.status is Status.TRANSFER_UNKNOWN


def test_named_tensors_are_a_payload(bus: cellbus.Bus) -> None:
    np = pytest.importorskip("numpy")
    weights = {"w": np.arange(12, dtype="f4").reshape(3, 4), "b": np.float64(2.5)}
    reply = bus.request("echo", "x", weights)
    assert reply.content_type == "application/vnd.safetensors"
    assert np.array_equal(reply.tensors()["w"], weights["w"])
    large = {"w": np.random.default_rng(1).standard_normal((500, 500))}
    received = bus.request("echo", "x", large).tensors()
    assert np.array_equal(received["w"], large["w"])
    assert not received["w"].flags.writeable


def test_nothing_is_left_behind_by_many_attachments(cell: FakeCell) -> None:
    with cellbus.connect() as bus, bus.serve("echo", None, lambda message: bytes(message.payload)):
        bus.request("echo", "x", bytes(300_000))
        bus.request("back", "x", bytes(300_000))
        before = _descriptors()
        for _ in range(50):
            bus.request("echo", "x", bytes(300_000))
            bus.request("back", "x", bytes(300_000))
        assert _descriptors() <= before + 2
        assert not bus._engine.core.calls
        assert bus._engine.core._attached == 0


def test_a_fork_does_not_speak_for_its_parent(bus: cellbus.Bus, cell: FakeCell) -> None:
    child = os.fork()
    if child == 0:
        try:
            bus.request("echo", "x", b"child")
        except cellbus.CellbusError:
            bus.close()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bus.request("echo", "x", b"parent").payload == b"parent"
    assert [frame.payload for frame in cell.wait_for(0x02)] == [b"parent"]


def test_serving_for_ever_ends_with_the_connection(make_cell: Callable[..., FakeCell]) -> None:
    cell = make_cell()
    with cellbus.connect() as bus:
        cell.send(0x9F, [None])
        bus.serve_forever()
        assert not bus.is_open
    cell = make_cell()
    with cellbus.connect() as bus:
        cell.outgoing.put(None)
        with pytest.raises(cellbus.Disconnected, match="without a goodbye"):
            bus.serve_forever()
