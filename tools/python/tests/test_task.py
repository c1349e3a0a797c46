"""Federated work: the wire form, whose result counts, rounds over several cells, and trainers in NVFLARE's style."""

from __future__ import annotations

import json
import math
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from fake_cell import FakeCell

import cellbus
from cellbus import CheckFailed, FedAvg, Verdict, WeightedMean, _bootstrap, finite_check, flare
from cellbus import _taskwire as wire
from cellbus._board import Board
from cellbus._taskwire import TaskError

np = pytest.importorskip("numpy")
W1, W2 = bytes(16), bytes(range(16))


def raw(header: Any, body: bytes = b"") -> bytes:
    packed = msgpack.packb(header)
    return struct.pack(">I", len(packed)) + packed + body


def framed(message: wire.Framed) -> bytes:
    return b"".join(message.outgoing().buffers)


def test_messages_are_as_agreed() -> None:
    offer = wire.Offer(7, 2, "train", 0, 5, "text/plain")
    submit = wire.Submit(W1, 7, 2, 3.5, {"loss": 0.25}, None)
    report = wire.Report(W1, 7, 2, 0.5, "half")
    assert framed(wire.fetch(W1, 20_000)) == raw([1, W1, 20_000])
    assert framed(wire.nothing()) == raw([1, 0])
    assert framed(wire.offer(offer, b"body")) == raw([1, 1, 7, 2, "train", 0, 5, "text/plain"], b"body")
    assert framed(wire.over()) == raw([1, 2])
    assert framed(wire.submit(submit, b"body")) == raw([1, W1, 7, 2, 3.5, {"loss": 0.25}, None], b"body")
    assert framed(wire.verdict(Verdict.STALE)) == raw([1, 3])
    assert framed(wire.verdict(Verdict.REJECTED, "why")) == raw([1, 4, "why"])
    assert framed(wire.report(report)) == raw([1, W1, 7, 2, 0.5, "half"])
    header, body = wire.split(framed(wire.offer(offer, b"body")))
    assert (wire.read_offer(header), bytes(body)) == (offer, b"body")
    assert wire.read_submit(wire.split(framed(wire.submit(submit, b"")))[0]) == submit
    assert wire.read_report(wire.split(framed(wire.report(report)))[0]) == report
    assert wire.read_fetch([W1, 5]) == wire.Fetch(W1, 5)
    assert wire.read_verdict([4, "why"]) == (Verdict.REJECTED, "why")


def test_tensors_behind_a_header_are_aligned() -> None:
    out = wire.offer(wire.Offer(7, 2, "train", 0, 5, None), {"w": np.ones(3)}).outgoing()
    assert len(out.buffers[0]) % 64 == 0


@pytest.mark.parametrize(
    ("read", "header"),
    [
        (wire.read_fetch, [b"short", 1]),
        (wire.read_fetch, [W1, -1]),
        (wire.read_fetch, [W1, 1, 1]),
        (wire.read_offer, []),
        (wire.read_offer, [3]),
        (wire.read_offer, [True, 1, 1, "n", None, None, None]),
        (wire.read_offer, [1, -1, 1, "n", None, None, None]),
        (wire.read_offer, [1, 1, 1, "n" * 129, None, None, None]),
        (wire.read_offer, [1, 1, 1, "n", None, None, "a\n"]),
        (wire.read_submit, [W1, 1, 1, "1", {}, None]),
        (wire.read_submit, [W1, 1, 1, 1.0, {1: 1.0}, None]),
        (wire.read_submit, [W1, 1, 1, 1.0, {"a": "b"}, None]),
        (wire.read_submit, [W1, 1, 1, 1.0, [], None]),
        (wire.read_submit, [W1, 1, 1, 1.0, {f"{i}": 1.0 for i in range(257)}, None]),
        (wire.read_verdict, [5]),
        (wire.read_verdict, [4]),
        (wire.read_report, [W1, 1, 1, math.nan, None]),
        (wire.read_report, [W1, 1, 1, 1.5, None]),
    ],
)
def test_what_is_no_message_about_tasks_is_refused(read: Callable[[Any], Any], header: Any) -> None:
    with pytest.raises(TaskError):
        read(header)


@pytest.mark.parametrize(
    "payload", [b"", b"\0\0\0", struct.pack(">I", 10) + b"x", raw({}), raw([2, 0]), raw([]), b"\0\0\0\1\xc1"]
)
def test_what_has_no_header_is_refused(payload: bytes) -> None:
    with pytest.raises(TaskError):
        wire.split(payload)


def result(task: int, attempt: int, worker: bytes = W1) -> wire.Submit:
    return wire.Submit(worker, task, attempt, 1.0, {}, None)


def test_c_09_a_result_counts_once_and_a_late_result_of_an_old_attempt_never() -> None:
    board = Board()
    assert board.fetch("a", W1) is None
    work = board.open("train", 0, 2, None)
    first = board.fetch("a", W1)
    assert first is not None
    assert (first.task, first.attempt) == (1, 1)
    assert board.fetch("a", W1) == first, "an answer that was lost is given again"
    second = board.fetch("a", W2)
    assert second is not None
    assert second.attempt == 2
    assert board.judge("a", result(1, 1)) is Verdict.STALE
    assert board.judge("a", result(1, 2, W1)) is Verdict.STALE, "of a worker that it was not given to"
    assert board.judge("a", result(1, 2, W2)) is Verdict.ACCEPTED
    assert work.accepted == []
    board.accept("a", result(1, 2, W2))
    assert board.judge("a", result(1, 2, W2)) is Verdict.REPEATED
    assert board.judge("a", result(1, 1)) is Verdict.STALE
    assert board.fetch("a", W2) is None
    assert work.accepted == ["a"]
    assert board.judge("b", result(1, 1)) is Verdict.STALE, "never given to this site"
    assert board.judge("a", result(1, 3, W2)) is Verdict.STALE, "never began"
    assert board.judge("a", result(9, 1)) is Verdict.STALE, "never given to anybody"
    board.fetch("b", W1)
    board.open("train", 1, 2, None)
    assert board.judge("b", result(1, 1)) is Verdict.LATE
    assert board.judge("a", result(1, 2, W2)) is Verdict.REPEATED
    assert not board.progress("b", wire.Report(W1, 1, 1, 0.5, None))
    assert board.fetch("b", W1).task == 2  # type: ignore[union-attr]
    assert board.progress("b", wire.Report(W1, 2, 1, 0.5, "half"))
    board.end()
    assert board.is_over
    assert board.fetch("a", W1) is None


MODEL = {"w": np.zeros((2, 2), "f4"), "steps": np.zeros((), "i8")}


def like(**changes: Any) -> dict[str, Any]:
    return {"w": np.ones((2, 2), "f4"), "steps": np.array(3)} | changes


@pytest.mark.parametrize(
    ("found", "weight", "said"),
    [
        (like(w=np.full((2, 2), np.nan, "f4")), 1.0, "site-1: tensor `w` holds NaN or infinity"),
        (like(w=np.full((2, 2), -np.inf, "f4")), 1.0, "site-1: tensor `w` holds NaN or infinity"),
        (like(), -1.0, "site-1: weight -1.0"),
        (like(), 0.0, "site-1: weight 0.0"),
        (like(steps=np.array(1 << 54)), 1.0, "site-1: tensor `steps` holds integers beyond 2^53"),
        (like(w=np.ones((2, 2), "?")), 1.0, "site-1: tensor `w` cannot be checked"),
        (like(), math.nan, "site-1: weight nan"),
        (like(), math.inf, "site-1: weight inf"),
        (like(w=np.ones((2, 3), "f4")), 1.0, "site-1: tensor `w` is float32 of shape (2, 3)"),
        (like(w=np.ones((2, 2), "f8")), 1.0, "site-1: tensor `w` is float64"),
        (like(more=np.ones(1)), 1.0, "site-1: tensor `more` is not in the model"),
        ({"w": np.ones((2, 2), "f4")}, 1.0, "site-1: tensor `steps` is missing"),
        (like(w=np.array([["a", "b"], ["c", "d"]])), 1.0, "site-1: tensor `w` cannot be checked"),
        (like(w=[1, 2]), 1.0, "site-1: tensor `w` cannot be checked"),
        (like(w=np.ones((2, 2), "c8")), 1.0, "site-1: tensor `w` cannot be checked"),
    ],
)
def test_s0_16_what_cannot_be_averaged_is_refused_with_site_and_tensor(
    found: dict[str, Any], weight: float, said: str
) -> None:
    with pytest.raises(CheckFailed) as caught:
        finite_check(found, weight, site="site-1", like=MODEL)
    assert said in str(caught.value)


def test_s0_17_what_numpy_cannot_look_at_is_refused_and_not_passed() -> None:
    torch = pytest.importorskip("torch")
    half = cellbus.tensors.read(cellbus.Packed({"w": torch.full((2,), math.nan, dtype=torch.bfloat16)}).tobytes())
    with pytest.raises(CheckFailed, match="site-1: tensor `w` cannot be checked"):
        finite_check(half, 1.0, site="site-1")


def test_values_that_would_overflow_the_sum_are_refused() -> None:
    with pytest.raises(CheckFailed, match="too large"):
        finite_check({"w": np.array([1e306])}, 1e6)
    finite_check({"w": np.array([3e38], "f4")}, 1e9)


def test_the_mean_is_the_weighted_mean_of_everything() -> None:
    source = np.random.default_rng(1)
    sites = [{"w": source.standard_normal((300, 1_001)).astype("f4"), "n": np.array(i, "i8")} for i in range(5)]
    weights = [1.0, 2.5, 0.5, 100.0, 3.0]
    mean = WeightedMean(sites[0])
    for found, weight in zip(sites, weights, strict=True):
        mean.add(found, weight)
    got = mean.mean()
    expected = sum(w * s["w"].astype("f8") for s, w in zip(sites, weights, strict=True)) / sum(weights)
    assert np.allclose(got["w"], expected, rtol=1e-6)
    assert (got["w"].dtype, got["n"].dtype, int(got["n"])) == (np.float32, np.int64, 3)
    assert (mean.weight, mean.count) == (107.0, 5)
    with pytest.raises(CheckFailed, match="zero"):
        WeightedMean(sites[0]).mean()


class Net:
    """Job cells of one job, connected to each other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hub: dict[str, FakeCell] = {}
        self.buses: list[cellbus.Bus] = []

    def bus(self, name: str) -> cellbus.Bus:
        cell = FakeCell(self.directory / str(len(self.buses)), name=name, hub=self.hub)
        os.environ[_bootstrap.VARIABLE] = str(cell.bootstrap())
        bus = cellbus.connect()
        self.buses.append(bus)
        return bus


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    monkeypatch.setenv("CELLBUS_SERVER_CELL", "server.job-7")
    net = Net(tmp_path)
    yield net
    for bus in net.buses:
        bus.close()
    for cell in net.hub.values():
        cell.close()
        assert not cell.errors


def start(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


def finish(*started: tuple[threading.Thread, list[Any]]) -> list[Any]:
    for thread, _ in started:
        thread.join(60)
        assert not thread.is_alive()
    for _, found in started:
        if isinstance(found[0], BaseException):
            raise found[0]
    return [found[0] for _, found in started]


def trainer(bus: cellbus.Bus, step: float, weight: float, size: int) -> Callable[[], int]:
    def work() -> int:
        count = 0
        for task in cellbus.tasks(bus):
            assert (task.name, task.rounds, task.attempt) == ("train", 3, 1)
            task.progress(0.5, "half")
            weights = task.tensors()["w"]
            assert weights.shape == (size,)
            assert task.submit({"w": weights + step}, weight, {"loss": step}) is Verdict.ACCEPTED
            count += 1
        return count

    return work


@pytest.mark.parametrize("size", [3, 200_000])
def test_rounds_over_three_sites_give_the_weighted_mean(net: Net, size: int) -> None:
    server = net.bus("server.job-7")
    seen: list[tuple[str, float]] = []
    averaging = FedAvg(
        {"w": np.zeros(size)},
        rounds=3,
        sites=["site-1", "site-2", "site-3"],
        on_progress=lambda cell, number, done, text: seen.append((cell, done)),
    )
    names = ["site-1.job-7", "site-2.job-7", "relay-a.site-3.job-7"]
    trainers = [start(trainer(net.bus(name), i + 1.0, i + 1.0, size)) for i, name in enumerate(names)]
    model = finish(start(lambda: averaging.run(server)), *trainers)[0]
    assert np.allclose(model["w"], 3 * 14 / 6)
    assert finish(*trainers) == [3, 3, 3]
    assert [sorted(each.sites) for each in averaging.history] == [sorted(names)] * 3
    assert averaging.history[0].metrics["loss"] == pytest.approx(14 / 6)
    assert averaging.history[0].weight == 6.0
    assert len(seen) == 9


def test_who_asks_hears_what_a_result_would_meet(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1"])
    met: list[list[Any]] = []

    def work() -> None:
        for task in cellbus.tasks(site):
            for number in (task.id, task.id + 1):
                said = wire.report(wire.Report(task._worker, number, task.attempt, 0.5, None))
                met.append(wire.split(site.request("task", "progress", said).payload)[0])
            task.submit({"w": np.ones(2)})
            said = wire.report(wire.Report(task._worker, task.id, task.attempt, 1.0, None))
            met.append(wire.split(site.request("task", "progress", said).payload)[0])

    finish(start(lambda: averaging.run(server)), start(work))
    assert met == [[Verdict.ACCEPTED], [Verdict.STALE], [Verdict.REPEATED]]


def test_a_trainer_tells_its_own_cell_how_far_it_is(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    told: list[dict[str, Any]] = []
    averaging = FedAvg({"w": np.zeros(2)}, rounds=3, sites=["site-1"])
    running = start(lambda: averaging.run(server))
    with site.serve("job", "progress", lambda message: told.append(json.loads(bytes(message.payload)))):
        trained = start(trainer(site, 1.0, 1.0, 2))
        finish(running, trained)
        until = time.monotonic() + 20
        while len(told) < 9 and time.monotonic() < until:
            time.sleep(0.01)
    begun = {"task": "train", "round": 0, "rounds": 3, "done": 0.0}
    assert told[:3] == [begun, begun | {"done": 0.5, "text": "half"}, begun | {"done": 1.0}]
    assert [word["round"] for word in told] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_quorum_goes_on_without_a_straggler_whose_result_is_late(net: Net) -> None:
    server, fast, slow = net.bus("server.job-7"), net.bus("site-1.job-7"), net.bus("site-2.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=2, sites=["site-1", "site-2"], quorum=1, grace=0.05)
    running = start(lambda: averaging.run(server))
    straggler = next(cellbus.tasks(slow))
    verdicts = [task.submit({"w": np.ones(2)}, 1) for task in cellbus.tasks(fast)]
    assert verdicts == [Verdict.ACCEPTED] * 2
    assert straggler.submit({"w": np.full(2, 100.0)}, 1) is Verdict.LATE
    assert list(cellbus.tasks(slow)) == []
    assert finish(running)[0]["w"].tolist() == [1.0, 1.0]


def test_a_restarted_trainer_takes_over_and_the_old_one_is_stale(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1"])
    running = start(lambda: averaging.run(server))
    old = next(cellbus.tasks(site))
    new = next(cellbus.tasks(site))
    assert (old.attempt, new.attempt) == (1, 2)
    with pytest.raises(cellbus.StaleAttempt):
        old.submit({"w": np.full(2, 100.0)})
    assert new.submit({"w": np.ones(2)}) is Verdict.ACCEPTED
    assert new.submit({"w": np.ones(2)}) is Verdict.REPEATED
    assert list(cellbus.tasks(site)) == []
    assert finish(running)[0]["w"].tolist() == [1.0, 1.0]


def test_a_result_that_cannot_be_used_is_rejected_with_the_reason_and_counts_for_nothing(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1"])
    running = start(lambda: averaging.run(server))
    for task in cellbus.tasks(site):
        for wrong, weight, said in [
            ({"w": np.array([1.0, np.nan])}, 1.0, "site-1.job-7: tensor `w` holds NaN"),
            ({"w": np.ones(2)}, math.inf, "site-1.job-7: weight inf"),
            ({"v": np.ones(2)}, 1.0, "site-1.job-7: tensor `v`"),
            (b"nothing", 1.0, "site-1.job-7: no tensors"),
            (cellbus.Packed({"w": np.ones(2)}, {"params_type": "X"}), 1.0, "params_type"),
        ]:
            with pytest.raises(cellbus.ResultRejected) as caught:
                task.submit(wrong, weight)  # type: ignore[arg-type]
            assert said in str(caught.value)
        task.submit({"w": np.ones(2)}, 2)
    assert finish(running)[0]["w"].tolist() == [1.0, 1.0]
    assert averaging.history[0].weight == 2.0
    assert "params_type" in averaging.history[0].rejected["site-1.job-7"]


def test_a_round_without_a_quorum_ends_the_work_and_says_why(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1", "site-2"], round_timeout=600)
    running = start(lambda: averaging.run(server, farewell=0.1))
    task = next(cellbus.tasks(site))
    with pytest.raises(cellbus.ResultRejected):
        task.submit({"w": np.full(2, np.nan)})
    assert task.verdict is Verdict.REJECTED
    averaging._timeout = 0.0
    with pytest.raises(cellbus.QuorumMissed, match=r"0 of 2 results .* NaN"):
        finish(running)


def test_a_cell_that_does_not_take_part_gets_nothing(net: Net) -> None:
    server, other = net.bus("server.job-7"), net.bus("site-9.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1"])
    running = start(lambda: averaging.run(server, farewell=0.1))
    while ("task", "fetch") not in net.hub["server.job-7"].handlers:
        time.sleep(0.005)
    with pytest.raises(cellbus.RefusedError) as caught:
        next(cellbus.tasks(other))
    assert caught.value.status is cellbus.Status.FORBIDDEN
    with pytest.raises(cellbus.RefusedError) as damaged:
        other.request("task", "fetch", b"damaged")
    assert damaged.value.status is cellbus.Status.FORBIDDEN
    site = net.bus("site-1.job-7")
    with pytest.raises(cellbus.RefusedError) as damaged:
        site.request("task", "fetch", b"damaged")
    assert damaged.value.status is cellbus.Status.BAD_HEADER
    for task in cellbus.tasks(site):
        task.submit({"w": np.ones(2)})
    finish(running)


def test_a_task_left_without_a_result_is_not_given_for_ever(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=1, sites=["site-1"], round_timeout=600)
    running = start(lambda: averaging.run(server, farewell=0.1))
    with pytest.raises(TaskError, match="without submit"):
        for _ in cellbus.tasks(site):
            pass
    averaging._timeout = 0.0
    with pytest.raises(cellbus.QuorumMissed):
        finish(running)


def test_a_trainer_that_is_there_first_waits_for_its_server(net: Net) -> None:
    site = net.bus("site-1.job-7")
    training = start(lambda: [task.submit({"w": np.ones(2)}) for task in cellbus.tasks(site)])
    server = net.bus("server.job-7")
    averaging = FedAvg({"w": np.zeros(2)}, rounds=2, sites=["site-1"])
    assert finish(start(lambda: averaging.run(server)), training)[1] == [Verdict.ACCEPTED] * 2


@pytest.fixture
def no_flare() -> Iterator[None]:
    yield
    flare._state = None


@pytest.mark.usefixtures("no_flare")
def test_a_trainer_in_the_style_of_nvflare_runs(net: Net) -> None:
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    logged: list[bytes] = []
    server.serve("metrics", "log", lambda message: logged.append(bytes(message.payload)))
    averaging = FedAvg({"w": np.zeros((2, 3), "f4")}, rounds=2, sites=["site-1"], metadata={"meta": '{"lr": 0.5}'})
    running = start(lambda: averaging.run(server))

    flare.init(bus=site)
    assert flare.system_info() == {"job_id": "job-7", "site_name": "site-1"}
    assert (flare.get_job_id(), flare.get_site_name(), flare.get_config()["attempt"]) == ("job-7", "site-1", 2)
    rounds = []
    while flare.is_running():
        input_model = flare.receive()
        assert input_model is not None
        assert flare.receive() is input_model
        assert flare.is_train()
        assert not flare.is_evaluate()
        assert not flare.is_submit_model()
        assert flare.get_task_name() == "train"
        assert input_model.params_type is flare.ParamsType.FULL
        assert input_model.meta["lr"] == 0.5
        rounds.append((input_model.current_round, input_model.total_rounds))
        input_model.params["w"] += 1.5
        flare.log("loss", 0.25, flare.AnalyticsDataType.SCALAR, global_step=1)
        output_model = flare.FLModel(
            params=input_model.params,
            metrics={"accuracy": np.float32(0.5)},
            meta={flare.MetaKey.NUM_STEPS_CURRENT_ROUND: 4},
        )
        flare.send(output_model)
    assert flare.receive() is None
    model = finish(running)[0]
    assert rounds == [(0, 2), (1, 2)]
    assert model["w"].tolist() == [[3.0] * 3] * 2
    assert averaging.history[1].metrics == {"accuracy": 0.5}
    assert averaging.history[1].weight == 4.0
    while len(logged) < 2:
        time.sleep(0.005)
    assert b'"loss"' in logged[0]
    assert b'"global_step": 1' in logged[0]


@pytest.mark.usefixtures("no_flare")
def test_a_torch_trainer_with_decorators_and_differences_runs(net: Net) -> None:
    torch = pytest.importorskip("torch")
    server, site = net.bus("server.job-7"), net.bus("site-1.job-7")
    network = torch.nn.Linear(2, 1)
    before = network.weight.detach().clone()
    averaging = FedAvg(network.state_dict(), rounds=2, sites=["site-1"])
    running = start(lambda: averaging.run(server))

    @flare.evaluate
    def evaluate(input_model: flare.FLModel) -> float:
        return 0.75

    @flare.train
    def train(input_model: flare.FLModel, step: float) -> flare.FLModel:
        own = torch.nn.Linear(2, 1)
        own.load_state_dict(input_model.params)
        diff = {name: torch.full_like(tensor, step) for name, tensor in own.state_dict().items()}
        return flare.FLModel(params_type=flare.ParamsType.DIFF, params=diff)

    flare.init(rank=0, bus=site)
    while flare.is_running():
        evaluate()
        train(0.5)
    model = finish(running)[0]
    assert torch.allclose(model["weight"], before + 1.0)
    assert averaging.history[0].metrics == {"metric": 0.75}
    network.load_state_dict(model)


@pytest.mark.usefixtures("no_flare")
def test_other_ranks_have_no_connection() -> None:
    flare.init(rank=1)
    assert flare.receive() is None
    flare.send(flare.FLModel(params={}))
    with pytest.raises(RuntimeError, match="rank 1"):
        flare.is_running()


@pytest.mark.usefixtures("no_flare")
def test_mistakes_of_a_trainer_are_said_clearly(net: Net) -> None:
    with pytest.raises(RuntimeError, match=r"init\(\)"):
        flare.receive()
    with pytest.raises(ValueError, match="params are needed"):
        flare.FLModel(params_type="FULL")
    with pytest.raises(ValueError, match="HALF"):
        flare.FLModel(params_type="HALF", params={})
    flare.init(bus=net.bus("site-1.job-7"))
    with pytest.raises(RuntimeError, match="nothing to answer"):
        flare.send(flare.FLModel(params={}))


def test_an_asyncio_trainer_does_the_same(net: Net) -> None:
    import asyncio

    import cellbus.aio

    server = net.bus("server.job-7")
    cell = FakeCell(net.directory / "aio", name="site-1.job-7", hub=net.hub)
    averaging = FedAvg({"w": np.zeros(2)}, rounds=2, sites=["site-1"])
    running = start(lambda: averaging.run(server))

    async def train() -> list[Verdict]:
        os.environ[_bootstrap.VARIABLE] = str(cell.bootstrap())
        found = []
        async with await cellbus.aio.connect() as bus:
            async for task in cellbus.aio.tasks(bus):
                await task.progress(0.5)
                with pytest.raises(cellbus.ResultRejected):
                    await task.submit({"w": np.full(2, np.nan)})
                found.append(await task.submit({"w": task.tensors()["w"] + 1.0}, 2))
        return found

    assert asyncio.run(train()) == [Verdict.ACCEPTED] * 2
    assert finish(running)[0]["w"].tolist() == [2.0, 2.0]
