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
