"""The asyncio shell, against the same cell as the blocking one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cell import LIMITS, FakeCell

import cellbus
import cellbus.aio
from cellbus import Status


def run(main: Callable[[cellbus.aio.Bus], Awaitable[Any]], **settings: Any) -> Any:
    async def connected() -> Any:
        async with await cellbus.aio.connect(**settings) as bus:
            return await asyncio.wait_for(main(bus), 60)

    return asyncio.run(connected())


def test_payloads_of_every_size_come_back(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        assert bus.cell == "site-1.job-7"
        assert await bus.parameters() == {"rounds": 5}
        for size in [0, 1, 64, 16_385, 65_536, 262_144, 262_145, 3_000_000]:
            content = os.urandom(size)
            assert bytes((await bus.request("echo", "x", content)).payload) == content

    run(main)


def test_many_tasks_ask_at_once_within_the_limits(make_cell: Callable[..., FakeCell]) -> None:
    cell = make_cell(limits=[1 << 20, 4, 100_000, *LIMITS[3:]])

    async def main(bus: cellbus.aio.Bus) -> None:
        async def ask(index: int) -> bool:
            payload = b"%d" % index + bytes(30_000)
            return bytes((await bus.request("echo", "x", payload)).payload) == payload

        assert all(await asyncio.gather(*(ask(index) for index in range(300))))
        await bus.publish("metrics", "loss", b"1")

    run(main)
    assert cell.breach is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.TOPIC_DENIED, cellbus.RefusedError),
        (Status.DEADLINE, cellbus.UnknownError),
        (Status.HANDLER_FAILED, cellbus.FailedError),
    ],
)
def test_errors_have_their_class(cell: FakeCell, status: Status, error: type[Exception]) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        with pytest.raises(error):
            await bus.request("status", str(int(status)))

    run(main)


def test_cancelling_a_task_cancels_what_it_asked(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        task = asyncio.create_task(bus.request("slow", "x"))
        while not cell.cancelled:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await bus.request("echo", "x", b"on")).payload == b"on"
        assert not bus._core.calls

    run(main)
    assert len(cell.wait_for(0x10)) == 1


def test_a_timeout_of_waiting_does_not_end_the_call(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        pending = await bus.start("slow", "x")
        with pytest.raises(TimeoutError):
            await pending.result(timeout=0.02)
        cell.end(0x83, [1, None, None], b"late")
        assert (await pending).payload == b"late"

    run(main)


def test_two_sides_that_both_write_do_not_stand_still(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        for token in range(20_000):
            cell.send(0x91, [token])
        replies = await asyncio.gather(*(bus.request("echo", "x", bytes(200_000)) for _ in range(40)))
        assert all(len(reply.payload) == 200_000 for reply in replies)

    run(main)


def test_handlers_answer_fail_refuse_and_are_cancelled(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        begun, stopped = asyncio.Event(), asyncio.Event()

        async def echo(message: cellbus.aio.Message) -> Any:
            if message.topic == "fail":
                raise KeyError("nothing")
            if message.topic == "refuse":
                raise cellbus.RefusedError(Status.FORBIDDEN)
            if message.topic == "later":
                asyncio.get_running_loop().create_task(message.defer().reply(b"later"))
                return b"ignored"
            if message.topic == "ask":
                return (await bus.request("echo", "inner", b"deep")).payload
            if message.topic == "gone":
                message.defer()
                return None
            if message.topic == "wait":
                begun.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    stopped.set()
            return bytes(message.payload) * 2

        async with await bus.serve("echo", None, echo):
            assert (await bus.request("back", "x", b"ab")).payload == b"abab"
            assert (await bus.request("back", "later")).payload == b"later"
            assert (await bus.request("back", "ask", budget=5)).payload == b"deep"
            with pytest.raises(cellbus.FailedError, match="KeyError: 'nothing'"):
                await bus.request("back", "fail")
            with pytest.raises(cellbus.RefusedError):
                await bus.request("back", "refuse")
            with pytest.raises(cellbus.UnknownError) as caught:
                await bus.request("back", "gone")
            assert caught.value.status is Status.HANDLER_GONE
            number = cell.deliver("echo", "wait", b"", lambda answer: None)
            await begun.wait()
            cell.send(0x90, [number])
            await stopped.wait()
        with pytest.raises(cellbus.RefusedError) as refused:
            await bus.request("back", "x")
        assert refused.value.status is Status.NO_HANDLER
        with pytest.raises(cellbus.HandleRefused):
            await bus.serve("taken", "x", echo)

    run(main)


def test_a_plain_function_handles_in_a_thread(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        serving = await bus.serve("echo", "x")(lambda message: bytes(message.payload) + b"!")
        assert (await bus.request("back", "x", b"a")).payload == b"a!"
        serving.close()

    run(main)


def test_streams_broadcasts_events_and_transfers(cell: FakeCell, tmp_path: Path) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        assert [bytes(part.payload) async for part in bus.stream("echo", "3")] == [b"0", b"1", b"2"]
        parts = {part.cell: part async for part in bus.broadcast("echo", "x", b"hi", cells=["site-2", "site-9"])}
        assert parts["site-2"].payload == b"hi"
        assert parts["site-9"].error is not None
        assert await bus.tell("echo", "x") == []
        receipt = cellbus.Options(flags=cellbus.Flags.RECEIPT)
        assert len(await bus.tell("echo", "x", options=receipt)) == 2
        events = bus.events()
        assert (await events.__anext__()).cell == "site-2"
        await events.aclose()  # type: ignore[attr-defined]
        (tmp_path / "f").write_bytes(b"m" * 5_000)
        steps: list[cellbus.Progress] = []
        async with await bus.transfers.serve(tmp_path / "f", "model", "weights") as served:
            assert served.reference == b"reference"
            assert (await served.wait(progress=steps.append))["site-2.job-7"].end is cellbus.SettledEnd.STORED
        assert steps
        fetched = await bus.transfers.fetch(b"reference")
        assert len(fetched.payload) == 300_000

    run(main)


def test_a_cell_that_is_gone_ends_everything(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        pending = await bus.start("slow", "x")
        cell.outgoing.put(None)
        with pytest.raises(cellbus.Disconnected):
            await pending
        with pytest.raises(cellbus.RefusedError):
            await bus.request("echo", "x")
        assert await bus.wait_closed(5)

    run(main)


def test_a_cell_that_breaks_the_protocol_is_told_so(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        pending = await bus.start("slow", "x")
        cell.raw(b"\x7f" * 7)
        with pytest.raises(cellbus.Disconnected) as caught:
            await pending
        assert caught.value.status is Status.BAD_FRAME

    run(main)
    assert cell.wait_for(0x1F)[0].fields == [96]


def test_closing_ends_handlers_and_says_goodbye(cell: FakeCell) -> None:
    async def main(bus: cellbus.aio.Bus) -> None:
        entered = asyncio.Event()

        async def wait(message: cellbus.aio.Message) -> None:
            entered.set()
            await asyncio.sleep(60)

        await bus.serve("echo", None, wait)
        cell.deliver("echo", "x", b"", lambda answer: None)
        await entered.wait()

    run(main)
    assert cell.wait_for(0x1F)[0].fields == [None]


def test_what_a_handler_sends_belongs_to_the_trace_of_its_message(cell: FakeCell) -> None:
    trace = bytes(range(25))

    async def main(bus: cellbus.aio.Bus) -> None:
        async def ask(message: cellbus.aio.Message) -> None:
            assert message.trace == trace
            await bus.request("echo", "inner", b"deep")

        async with await bus.serve("echo", "x", ask):
            cell.deliver("echo", "x", b"", lambda answer: None, trace=trace)
            while not (asked := [frame for frame in cell.frames if frame.kind == 0x02]):
                await asyncio.sleep(0.01)
            assert asked[0].fields[7] == [0, None, trace, b""]

    run(main)


def test_federated_averaging_beside_an_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np = pytest.importorskip("numpy")
    monkeypatch.setenv("CELLBUS_SERVER_CELL", "server.job-7")
    hub: dict[str, FakeCell] = {}
    cells = [
        FakeCell(tmp_path / str(index), name=name, hub=hub)
        for index, name in enumerate(["server.job-7", "site-1.job-7", "site-2.job-7"])
    ]

    async def connect(cell: FakeCell) -> cellbus.aio.Bus:
        monkeypatch.setenv("CELLBUS_BOOTSTRAP_FD", str(cell.bootstrap()))
        return await cellbus.aio.connect()

    async def train(bus: cellbus.aio.Bus, step: float) -> int:
        count = 0
        async for task in cellbus.aio.tasks(bus):
            await task.progress(0.5, "half")
            await task.submit({"w": task.tensors()["w"] + step}, weight=step)
            count += 1
        return count

    async def main() -> None:
        server, *sites = [await connect(cell) for cell in cells]
        rounds: list[int] = []
        ticks = 0

        async def on_round(rounded: cellbus.Round, model: object) -> None:
            assert asyncio.get_running_loop() is loop
            rounds.append(rounded.number)

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        loop = asyncio.get_running_loop()
        ticking = loop.create_task(tick())
        averaging = cellbus.aio.FedAvg({"w": np.zeros(2)}, rounds=3, sites=["site-1", "site-2"], on_round=on_round)
        done = await asyncio.gather(averaging.run(server), train(sites[0], 1.0), train(sites[1], 3.0))
        assert done[0]["w"].tolist() == [7.5, 7.5]
        assert (done[1:], rounds, averaging.history[2].weight) == ([3, 3], [0, 1, 2], 4.0)
        assert ticks > 0

        # Being cancelled ends the work, and nobody is answered any more.
        waiting = loop.create_task(
            cellbus.aio.FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1"]).run(server, farewell=0.0)
        )
        while ("task", "fetch") not in hub["server.job-7"].handlers:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        ticking.cancel()
        for bus in (server, *sites):
            await bus.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    for cell in cells:
        cell.close()
        assert not cell.errors
