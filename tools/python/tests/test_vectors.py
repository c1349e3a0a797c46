"""The golden vectors, with both implementations of msgpack."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support import ROOT, vectors

from cellbus import _bootstrap, _frames, _msgpack
from cellbus._core import Call, Core, Kind
from cellbus._frames import Decoder, write_frame
from cellbus._shapes import TO_CELL, TO_JOB, ToCell, ToJob
from cellbus.errors import ProtocolError
from cellbus.status import Status

LIMITS = [1 << 20, 256, 16 << 20, 64, 16 << 20, 256, 30_000, 4 << 30, 8 << 30]


@pytest.fixture(params=["msgpack", "fallback"], autouse=True)
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "fallback":
        monkeypatch.setattr(_msgpack, "pack", _msgpack.pack_fallback)
        monkeypatch.setattr(_msgpack, "unpack", _msgpack.unpack_fallback)
    elif _msgpack.IMPLEMENTATION != "msgpack":
        pytest.skip("msgpack is not installed")


def value(found: Any) -> Any:
    """A field as a vector's text says it."""
    if isinstance(found, dict):
        return bytes.fromhex(found["hex"])
    return [value(item) for item in found] if isinstance(found, list) else found


def feed(decoder: Decoder, data: bytes, step: int) -> list[_frames.Frame]:
    frames = []
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        while piece:
            buffer = decoder.buffer()
            taken = piece[: len(buffer)]
            buffer[: len(taken)] = taken
            decoder.received(len(taken))
            piece = piece[len(taken) :]
            while (frame := decoder.next()) is not None:
                frames.append(frame)
    return frames


def decoder_for(direction: str) -> Decoder:
    decoder = Decoder(TO_CELL if direction == "to_cell" else TO_JOB, lambda _, size: memoryview(bytes(size)))
    decoder.payload_max = 1 << 20
    decoder.attachment_max = 1 << 62
    return decoder


GOOD = vectors("good")
FRAMES = [case for case in GOOD if "frame" in case.values[0]]


@pytest.mark.parametrize(("said", "data"), FRAMES)
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_golden_frame_is_read_and_written_with_the_same_bytes(said: Any, data: bytes, step: int) -> None:
    decoder = decoder_for(said["direction"])
    names: Any = ToCell if said["direction"] == "to_cell" else ToJob
    shapes = TO_CELL if said["direction"] == "to_cell" else TO_JOB
    kind = names[said["frame"]]
    fields = value(said["header"])
    attached = shapes[kind].attached
    if attached is not None and fields[attached] is not None:
        decoder.descriptors.append(99)
        decoder._attach = lambda fd, size: memoryview(b"attached")
    frames = feed(decoder, data, step)
    assert len(frames) == 1
    payload = bytes.fromhex(said["payload_hex"])
    assert (frames[0].kind, frames[0].fields) == (kind, fields)
    if not decoder.descriptors and attached is not None and fields[attached] is not None:
        assert bytes(frames[0].payload) == b"attached"
    else:
        assert bytes(frames[0].payload) == payload
    assert write_frame(kind, fields, len(payload)) + payload == data
    if kind is ToCell.REQUEST and names is ToCell and fields[6] is None and fields[7] is None:
        number, to, channel, topic, budget, media = fields[:6]
        fast = _frames.write_request(number, to, channel, topic, budget, media, len(payload))
        assert fast + payload == data


def test_a_golden_bootstrap_is_read() -> None:
    for case in GOOD:
        said, data = case.values
        if said["direction"] == "bootstrap":
            _, path, secret = value(said["header"])
            assert _bootstrap.parse(data) == (path, secret)
            assert secret.hex() not in repr(_bootstrap.parse(data))


class Judge:
    """A cell's view of a connection: in which order frames may come from a job."""

    def __init__(self, is_open: bool) -> None:
        self.is_open = is_open
        self.last = 0

    def take(self, frame: _frames.Frame) -> None:
        if not self.is_open:
            if frame.kind != ToCell.HELLO:
                raise ProtocolError(Status.NO_HELLO, "")
            self.is_open = True
            return
        if frame.kind == ToCell.HELLO:
            raise ProtocolError(Status.BAD_FRAME, "")
        if frame.kind in _ASKING:
            if frame.fields[0] <= self.last:
                raise ProtocolError(Status.STALE_ID, "")
            self.last = frame.fields[0]
        if frame.kind in (ToCell.DELIVER_REPLY, ToCell.DELIVER_FAIL, ToCell.DELIVER_PART):
            raise ProtocolError(Status.REPLY_UNSOLICITED, "")


_ASKING = (
    *(ToCell.REQUEST, ToCell.PUBLISH, ToCell.HANDLE, ToCell.MULTICAST, ToCell.EVENTS, ToCell.SERVE),
    ToCell.FETCH,
)


@pytest.mark.parametrize(("said", "data"), vectors("bad"))
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_bad_stream_gives_its_code(said: Any, data: bytes, step: int) -> None:
    is_open = said["state"] == "open"
    is_job = said["direction"] == "to_job"
    decoder = Decoder(TO_JOB if is_job else TO_CELL, lambda _, size: memoryview(bytes(size)))
    core = Core()
    if is_open:
        decoder.payload_max, decoder.attachment_max = LIMITS[0], LIMITS[7]
        core.limits = core.limits._make(LIMITS)
        core.is_open = True
    judge = Judge(is_open)

    def run() -> None:
        for at in range(0, len(data), step):
            for frame in feed(decoder, data[at : at + step], step):
                if not is_job:
                    judge.take(frame)
                elif core.is_open:
                    core.take(frame)
                else:
                    core.greet(frame, decoder)
        decoder.end()

    with pytest.raises(ProtocolError) as caught:
        run()
    assert caught.value.status.name == said["code"]


def test_statuses_are_those_of_the_protocol() -> None:
    listed = {}
    for line in (ROOT / "docs/PROTOCOL.md").read_text().splitlines():
        cells = [cell.strip(" `") for cell in line.split("|")]
        if len(cells) == 6 and cells[1].isdigit() and cells[3] in ("refused", "unknown", "failed"):
            listed[cells[2]] = (int(cells[1]), cells[3])
    assert len(listed) > 50
    assert {status.name: (int(status), status.kind.value) for status in Status} == listed


def random_value(source: random.Random, depth: int) -> Any:
    kinds = ["int", "text", "bytes", "nil", "bool", "float", *(["list", "map"] if depth else [])]
    kind = source.choice(kinds)
    if kind == "int":
        return source.choice([1, -1]) * source.getrandbits(source.choice([3, 7, 8, 15, 16, 31, 32, 62, 63]))
    if kind == "text":
        return "".join(source.choice("aé→😀\0") for _ in range(source.choice([0, 3, 31, 32, 255, 300])))
    if kind == "bytes":
        return source.randbytes(source.choice([0, 1, 31, 255, 256, 65_536]))
    if kind == "float":
        return source.choice([0.0, -1.5, 1e300, float("inf"), source.random()])
    if kind == "list":
        return [random_value(source, depth - 1) for _ in range(source.choice([0, 2, 15, 16]))]
    if kind == "map":
        return {f"k{index}": random_value(source, depth - 1) for index in range(source.choice([0, 2, 15, 16]))}
    return None if kind == "nil" else source.random() < 0.5


def test_both_implementations_write_the_same_bytes_and_read_each_other() -> None:
    package = pytest.importorskip("msgpack")
    source = random.Random(7)
    for _ in range(400):
        sample = random_value(source, 2)
        raw = package.packb(sample)
        assert _msgpack.pack_fallback(sample) == raw
        assert _msgpack.unpack_fallback(raw) == sample == package.unpackb(raw)


def test_no_bytes_make_the_fallback_do_anything_but_read_or_refuse() -> None:
    source = random.Random(11)
    for _ in range(20_000):
        raw = bytearray(_msgpack.pack_fallback([1, "text", b"bytes", None, [True, {"k": 2.5}]]))
        for _ in range(source.randrange(1, 4)):
            raw[source.randrange(len(raw))] = source.getrandbits(8)
        try:
            _msgpack.unpack_fallback(raw[: source.randrange(1, len(raw) + 1)])
        except ValueError:
            pass


@pytest.mark.parametrize("data", [b"\x91" * 200, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc7\x01\x01a"])
def test_a_bomb_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|deep|format|Unpack|ext|recursion|exceeds|max_|Stack"):
        _msgpack.unpack_fallback(data)


def test_frames_survive_every_way_of_cutting_them() -> None:
    source = random.Random(3)
    sent = []
    stream = b""
    for number in range(1, 60):
        payload = source.randbytes(source.choice([0, 1, 64, 4_000, 65_530, 65_536, 200_000]))
        sent.append((number, payload))
        stream += write_frame(ToJob.REPLY, (number, "a/b", None), len(payload)) + payload
    for _ in range(5):
        decoder = decoder_for("to_job")
        found = []
        at = 0
        while at < len(stream):
            step = source.choice([1, 6, 8, 100, 70_000, 300_000])
            found += feed(decoder, stream[at : at + step], step)
            at += step
        assert [(frame.fields[0], bytes(frame.payload)) for frame in found] == sent
        decoder.end()


def test_random_streams_end_with_a_code_and_nothing_else() -> None:
    source = random.Random(5)
    good = [data for said, data in (case.values for case in FRAMES) if said["direction"] == "to_job"]
    for _ in range(3_000):
        raw = bytearray(b"".join(source.choice(good) for _ in range(3)))
        for _ in range(source.randrange(1, 5)):
            raw[source.randrange(len(raw))] = source.getrandbits(8)
        core = Core()
        core.limits = core.limits._make(LIMITS)
        decoder = decoder_for("to_job")
        decoder._attach = None
        for kind in Kind:
            core.begin(Call(kind))
        try:
            for frame in feed(decoder, bytes(raw), 1 << 16):
                core.take(frame)
        except ProtocolError:
            continue


def test_limits_are_checked_before_anything_is_kept() -> None:
    decoder = decoder_for("to_job")
    decoder.payload_max = 1_000
    with pytest.raises(ProtocolError) as caught:
        feed(decoder, _frames.PREFIX.pack(ToJob.REPLY, 3, 0xFFFF_FFFF), 7)
    assert caught.value.status is Status.TOO_LARGE
    assert decoder._large is None
