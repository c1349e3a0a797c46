"""Named tensors: there and back without copies, and everything that must be refused."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

import cellbus
from cellbus import Arena, Packed, TensorError, _memfd, tensors

np = pytest.importorskip("numpy")


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), begin: Any = 0, end: Any = 4) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_every_dtype_comes_back() -> None:
    dtypes = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8", "c8"]
    sent = {f"t-{dtype}": np.arange(6).reshape(2, 3).astype(dtype) for dtype in dtypes}
    sent |= {"nothing": np.zeros((0, 4)), "one": np.float32(1.5), "turned": np.arange(6).reshape(2, 3).T}
    sent["big-endian"] = np.arange(3, dtype=">i4")
    found = tensors.read(Packed(sent, {"round": "3"}).tobytes())
    assert found.metadata == {"round": "3"}
    assert list(found) == list(sent)
    for name, array in sent.items():
        assert np.array_equal(found[name], array), name
        assert found[name].shape == array.shape
        assert not found[name].flags.writeable


def test_arrays_are_not_copied_on_either_way() -> None:
    array = np.zeros(100_000)
    out = Packed({"w": array}).outgoing()
    assert np.shares_memory(np.frombuffer(out.buffers[1]), array)
    payload = Packed({"w": array}).tobytes()
    assert np.shares_memory(tensors.read(payload)["w"], np.frombuffer(payload, "u1"))


@pytest.mark.parametrize("prefix", [b"", b"x", bytes(63), bytes(1_000)])
def test_data_begins_aligned_whatever_is_in_front_of_it(prefix: bytes) -> None:
    for count in range(1, 20):
        out = Packed({"w" * count: np.zeros(3)}).outgoing(prefix)
        assert len(out.buffers[0]) % tensors.ALIGNMENT == 0
        assert bytes(out.buffers[0][: len(prefix)]) == prefix


def test_safetensors_reads_what_is_written_and_the_other_way_round() -> None:
    library = pytest.importorskip("safetensors.numpy")
    sent = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3, dtype="u1"), "c": np.float16([1, 2])}
    for name, array in library.load(Packed(sent).tobytes()).items():
        assert np.array_equal(array, sent[name])
    found = tensors.read(library.save(sent))
    assert all(np.array_equal(found[name], sent[name]) for name in sent)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "shorter than 8"),
        (raw({}, length=1 << 63), "header of"),
        (raw({}, length=3), "header of"),
        (raw(b"[]"), "no JSON object"),
        (raw(b" {}"), "no JSON object"),
        (raw(b"{" * 100_000), "no JSON"),
        (raw(b'{"a":' * 100_000), "no JSON"),
        (raw(b"\xff\xfe"), "no JSON object"),
        (raw(b'{"a":"\xff"}'), "no JSON"),
        (raw(b'{"a":NaN}'), "NaN"),
        (raw(b'{"a":1,"a":2}'), "twice"),
        (raw({"w": 1}), "`w`: exactly"),
        (raw({"w": {"dtype": "F32", "shape": [1]}}), "`w`: exactly"),
        (raw({"w": entry() | {"pickle": 1}}, bytes(4)), "`w`: exactly"),
        (raw({"w": entry("O")}, bytes(4)), "`w`: dtype 'O' is unknown"),
        (raw({"w": entry(["F32"])}, bytes(4)), "`w`: dtype"),
        (raw({"w": entry(shape=[-1])}, bytes(4)), "`w`: shape"),
        (raw({"w": entry(shape=[1.0])}, bytes(4)), "`w`: shape"),
        (raw({"w": entry(shape=[True])}, bytes(4)), "`w`: shape"),
        (raw({"w": entry(shape=[1] * 33)}, bytes(4)), "`w`: shape"),
        (raw({"w": entry(shape=[1 << 47, 1 << 47, 0])}, bytes(4)), "`w`: F32 of shape"),
        (raw({"w": entry(shape=[1 << 62])}, bytes(4)), "`w`: shape"),
        (raw({"w": entry(shape=[2])}, bytes(4)), "has 8 bytes, not 4"),
        (raw({"w": entry(begin=4, end=0)}, bytes(4)), "`w`: data_offsets"),
        (raw({"w": entry(begin=0, end="4")}, bytes(4)), "`w`: data_offsets"),
        (raw({"w": entry(begin=4, end=8)}, bytes(4)), "`w`: ends at byte 8 of 4"),
        (raw({"w": entry(begin=4, end=8)}, bytes(8)), "`w`: begins 4 bytes behind"),
        (raw({"v": entry(), "w": entry(begin=2, end=6)}, bytes(6)), "`w`: overlaps"),
        (raw({"v": entry(), "w": entry()}, bytes(4)), "overlaps"),
        (raw({"w": entry()}, bytes(5)), "1 bytes behind the last"),
        (raw({}, b"x"), "1 bytes behind the last"),
        (raw({"": entry()}, bytes(4)), "no name"),
        (raw({"w" * 257: entry()}, bytes(4)), "no name"),
        (raw({"__metadata__": {"a": 1}}), "metadata `'a'`"),
        (raw({"__metadata__": []}), "metadata"),
    ],
)
def test_what_is_not_exactly_named_tensors_is_refused_with_the_reason(payload: bytes, said: str) -> None:
    with pytest.raises(TensorError) as caught:
        tensors.read(payload)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_too_many_tensors_are_refused() -> None:
    with pytest.raises(TensorError, match="65537 tensors"):
        tensors.read(raw({f"{index}": entry(shape=[0], end=0) for index in range(65_537)}))


def test_no_bytes_make_reading_do_anything_but_read_or_refuse() -> None:
    source = random.Random(4)
    good = Packed({"a": np.arange(6.0), "b": np.arange(4, dtype="u1")}, {"k": "v"}).tobytes()
    for _ in range(5_000):
        bad = bytearray(good)
        for _ in range(source.randrange(1, 4)):
            bad[source.randrange(len(bad))] = source.getrandbits(8)
        try:
            found = tensors.read(bad[: source.randrange(len(bad) + 1)])
        except TensorError:
            continue
        for name in found:
            assert found[name].nbytes == len(found.raw(name))


def test_what_is_no_tensor_is_refused_by_name() -> None:
    for wrong in [
        {"w": object()},
        {"w": [1, 2]},
        {"w": np.array(["a"])},
        {"w": np.array([object()])},
        {"w": "x"},
    ]:
        with pytest.raises(TensorError, match="`w`"):
            Packed(wrong)
    with pytest.raises(TensorError, match="no name"):
        Packed({"": np.zeros(1)})
    with pytest.raises(TensorError, match="metadata"):
        Packed({}, {"k": 1})  # type: ignore[dict-item]


def test_an_arena_is_handed_over_as_it_lies_and_stays_usable() -> None:
    arena = Arena({"w": ((1_000, 100), "f4"), "flag": ((3,), "?"), "n": ((), "i8")})
    arena["w"][:] = 2.0
    arena["n"][...] = 5
    out = arena.outgoing()
    assert out.fd is not None
    assert not out.buffers
    found = tensors.read(_memfd.map_sealed(out.fd, out.size))
    arena["w"][:] = 9.0
    assert (found["w"] == 2.0).all()
    assert (arena["w"] == 9.0).all()
    assert found["n"] == 5
    assert all(found.raw(name).nbytes == arena[name].nbytes for name in arena)
    again = arena.outgoing(b"prefix")
    assert again.fd is None
    assert bytes(again.buffers[0][:6]) == b"prefix"
    assert (tensors.read(b"".join(again.buffers)[6:])["w"] == 2.0).all()


def test_a_small_arena_goes_through_the_socket() -> None:
    arena = Arena({"w": ((3,), "f8")})
    arena["w"][:] = [1, 2, 3]
    assert arena.outgoing().fd is None
    assert tensors.read(b"".join(arena.outgoing().buffers))["w"].tolist() == [1, 2, 3]


def test_a_sealed_file_cannot_be_changed_by_anybody() -> None:
    fd = _memfd.write_sealed([memoryview(b"abc"), memoryview(b""), memoryview(b"def")])
    import os

    for change in (
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, 1),
        lambda: os.ftruncate(fd, 100),
    ):
        with pytest.raises(PermissionError):
            change()
    assert bytes(_memfd.receive(fd, 6)) == b"abcdef"


def test_a_file_of_many_buffers_has_all_of_them() -> None:
    parts = [memoryview(bytes([index % 256]) * (index % 7)) for index in range(3_000)]
    fd = _memfd.write_sealed(parts)
    assert bytes(_memfd.receive(fd, sum(map(len, parts)))) == b"".join(parts)


def test_torch_tensors_go_and_come_without_copies() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(4, 3)
    sent = dict(module.state_dict()) | {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.empty(0, 2),
    }
    sent["scalar"] = torch.tensor(7)
    found = tensors.read(Packed(sent).tobytes())
    assert found.dtype("half") == "BF16"
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, sent[name]), name
        assert tensor.dtype == sent[name].dtype
    with pytest.raises(TensorError, match="`half`: numpy has no BF16"):
        found["half"]
    other = torch.nn.Linear(4, 3)
    other.load_state_dict({name: found.torch(name) for name in module.state_dict()})
    assert torch.equal(other.weight, module.weight)
    assert Packed({"w": torch.zeros(3, requires_grad=True)}).size == 12
    with pytest.raises(TensorError, match="`w`"):
        Packed({"w": torch.zeros(3, device="meta")})
    with pytest.raises(TensorError, match="`w`"):
        Packed({"w": torch.zeros(3).to_sparse()})


def test_nothing_in_the_package_can_execute_what_it_reads() -> None:
    words = (
        "pickle",
        "marshal",
        "shelve",
        "eval(",
        "exec(",
        "torch.load",
        "allow_pickle",
        "__import__",
        "joblib",
    )
    for path in Path(cellbus.__file__).parent.rglob("*.py"):
        text = path.read_text()
        for word in words:
            assert word not in text, f"{path.name} names {word}"
