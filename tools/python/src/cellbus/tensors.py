"""Named tensors as bytes and back, in the form of safetensors, without copies and without executing anything.

The form is 8 bytes of header length (little endian), a JSON object `{name: {dtype, shape, data_offsets}}`, then the
data, row by row, little endian. Offsets are in bytes from the begin of the data. `__metadata__` maps texts to texts.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cellbus import _memfd
from cellbus.errors import TensorError
from cellbus.payload import Outgoing

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CONTENT_TYPE", "Arena", "Packed", "Tensors", "read"]

CONTENT_TYPE = "application/vnd.safetensors"
"""The media type of named tensors."""
ALIGNMENT = 64
"""Bytes; the data begins at a multiple of it, counted from the begin of the payload."""
HEADER_MAX = 16 * 1024 * 1024
"""Bytes of the JSON header that are read."""
TENSORS_MAX = 65_536
"""Tensors in one payload."""
NAME_MAX = 256
"""Bytes of a tensor's name."""
DIMENSIONS_MAX = 32
_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")

SIZES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4},
    **{"U64": 8, "I64": 8, "F64": 8, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1},
}
"""Bytes of one element, by dtype."""
_NUMPY = {
    **{"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4"},
    **{"I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8"},
}
_FROM_NUMPY = {code.lstrip("<"): name for name, code in _NUMPY.items()} | {"b1": "BOOL"}
_TORCH = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16"},
    **{
        "BF16": "bfloat16",
        "U32": "uint32",
        "I32": "int32",
        "F32": "float32",
        "U64": "uint64",
        "I64": "int64",
    },
    **{"F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
_FROM_TORCH = {name: code for code, name in _TORCH.items()}


class Entry:
    """Where one tensor lies, and what it is."""

    __slots__ = ("begin", "dtype", "end", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> None:
        self.dtype = dtype
        """As in the header: `F32`, `I64`, `BF16` …"""
        self.shape = shape
        """Elements in each dimension, outermost first; empty for a single value."""
        self.begin = begin
        """Bytes from the begin of the data."""
        self.end = end


class Packed:
    """Named tensors that are ready to leave. Arrays that lie row by row are not copied.

    Changing an array before the message has left changes the message; above 256 KiB the bytes are taken over
    when the message is sent.
    """

    content_type: str | None = CONTENT_TYPE

    def __init__(self, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
        """Takes numpy arrays, numpy scalars and torch tensors (of the CPU) by name.

        Raises `TensorError` for names that are not 1 to 256 bytes of text, and for what is no tensor.
        """
        if len(tensors) > TENSORS_MAX:
            raise TensorError(f"{len(tensors)} tensors, the limit is {TENSORS_MAX}")
        self._metadata = check_metadata(metadata)
        self._entries: dict[str, Entry] = {}
        self._buffers: list[memoryview] = []
        self._keep: list[Any] = []
        at = 0
        for name, tensor in tensors.items():
            check_name(name)
            dtype, shape, buffer, owner = _bytes_of(name, tensor)
            self._entries[name] = Entry(dtype, shape, at, at + buffer.nbytes)
            self._buffers.append(buffer)
            self._keep.append(owner)
            at += buffer.nbytes
        self.size = at
        """Bytes of the data, without the header."""

    def outgoing(self, prefix: bytes = b"") -> Outgoing:
        """All of it behind `prefix`; the data begins at a multiple of `ALIGNMENT` bytes."""
        head = write_header(self._entries, self._metadata, len(prefix))
        return Outgoing((memoryview(prefix + head), *self._buffers), CONTENT_TYPE, keep=self)

    def tobytes(self) -> bytes:
        """All of it in one piece."""
        return b"".join(self.outgoing().buffers)


class Arena(Mapping[str, Any]):
    """Named numpy arrays in memory that can be passed on as it is: handing over gigabytes takes no copy.

    `Arena({"w": ((1024, 1024), "float32")})` gives zeros; fill `arena["w"]` and send the arena. Once it was sent its
    content is fixed: arrays can still be written to, but that is then this process's own copy, and the arena
    still sends what it was at first.
    """

    content_type: str | None = CONTENT_TYPE
    _ROOM = 8_192

    def __init__(
        self, layout: Mapping[str, tuple[Iterable[int], Any]], metadata: Mapping[str, str] | None = None
    ) -> None:
        """`layout` gives shape (elements per dimension) and dtype of every array."""
        np = numpy()
        self._metadata = check_metadata(metadata)
        self._entries: dict[str, Entry] = {}
        at = 0
        kinds: dict[str, Any] = {}
        for name, (shape, dtype) in layout.items():
            check_name(name)
            kinds[name] = np.dtype(dtype)
            dims = tuple(int(length) for length in shape)
            size = math.prod(dims) * kinds[name].itemsize
            self._entries[name] = Entry(_numpy_dtype(name, kinds[name]), dims, at, at + size)
            at += size
        self._order()
        head = len(write_header(self._entries, self._metadata, 0))
        self._begin = (head + self._ROOM + 4095) // 4096 * 4096
        self.size = max((entry.end for entry in self._entries.values()), default=0)
        """Bytes of the data, without the header."""
        self._region = _memfd.Region(self._begin + self.size)
        self._prefix: bytes | None = None
        self._arrays: dict[str, Any] = {}
        for name, entry in self._entries.items():
            begin = self._begin + entry.begin
            part = self._region.view[begin : self._begin + entry.end]
            self._arrays[name] = np.frombuffer(part, kinds[name]).reshape(entry.shape)

    def _order(self) -> None:
        """Data has no gaps in this form: larger elements go first, so that all are aligned."""
        at = 0
        for name in sorted(self._entries, key=lambda name: -SIZES[self._entries[name].dtype]):
            entry = self._entries[name]
            entry.begin, entry.end = at, at + entry.end - entry.begin
            at = entry.end
        order = sorted(self._entries, key=lambda name: self._entries[name].begin)
        self._entries = {name: self._entries[name] for name in order}

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def seal(self, prefix: bytes = b"") -> None:
        """Fixes the content now, so that sending it takes no time: 512 MiB need about 20 ms of unmapping.

        Without it the first sending does that. Sending is without a copy only behind this `prefix`.
        """
        if not self._region.is_sealed:
            front = prefix + write_header(self._entries, self._metadata, len(prefix), self._begin)
            self._region.view[: len(front)] = front
            self._prefix = prefix
            self._region.seal()

    def outgoing(self, prefix: bytes = b"") -> Outgoing:
        """All of it behind `prefix`, in place. The second time `prefix` has to be the same for that."""
        if self._begin + self.size > _memfd.THRESHOLD:
            self.seal(prefix)
        if not self._region.is_sealed:
            data = self._region.view[self._begin :]
        elif prefix == self._prefix:
            return Outgoing((), CONTENT_TYPE, fd=self._region.seal(), size=self._region.size, keep=self)
        else:
            data = _memfd.map_sealed(self._region.seal(), self._region.size)[self._begin :]
        front = prefix + write_header(self._entries, self._metadata, len(prefix), self._begin)
        return Outgoing((memoryview(front), data), CONTENT_TYPE, keep=self)


class Tensors(Mapping[str, "np.ndarray[Any, Any]"]):
    """Named tensors over the bytes that were received; nothing is copied. Arrays are read-only.

    `tensors["w"]` is a numpy array, `tensors.torch("w")` a torch tensor over the same memory.
    """

    content_type: str | None = CONTENT_TYPE

    def __init__(self, data: memoryview, entries: dict[str, Entry], metadata: dict[str, str]) -> None:
        self._data = data
        self._entries = entries
        self.metadata = metadata
        """The texts that came with them."""

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        entry = self._entries[name]
        code = _NUMPY.get(entry.dtype)
        if code is None:
            raise TensorError(f"tensor `{name}`: numpy has no {entry.dtype}; use torch() or raw()")
        module = numpy()
        array: np.ndarray[Any, Any] = module.frombuffer(self.raw(name), module.dtype(code)).reshape(entry.shape)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def raw(self, name: str) -> memoryview:
        """The bytes of one tensor."""
        entry = self._entries[name]
        return self._data[entry.begin : entry.end]

    def dtype(self, name: str) -> str:
        """The dtype as in the header: `F32`, `I64`, `BF16` …"""
        return self._entries[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Elements in each dimension, outermost first."""
        return self._entries[name].shape

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self._data.nbytes

    def outgoing(self, prefix: bytes = b"") -> Outgoing:
        """All of it behind `prefix`, to be passed on."""
        head = write_header(self._entries, self.metadata, len(prefix))
        return Outgoing((memoryview(prefix + head), self._data), CONTENT_TYPE, keep=self)

    def torch(self, name: str) -> Any:
        """One tensor as a torch tensor over the same memory. It must not be written to."""
        import warnings

        import torch

        entry = self._entries[name]
        dtype = getattr(torch, _TORCH[entry.dtype], None)
        if dtype is None:
            raise TensorError(f"tensor `{name}`: this torch has no {entry.dtype}")
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        raw = self.raw(name)
        address_is_odd = SIZES[entry.dtype] > 1 and _address(raw) % SIZES[entry.dtype]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if address_is_odd:
                return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(entry.shape)
            return torch.frombuffer(raw, dtype=dtype).reshape(entry.shape)

    def state_dict(self) -> dict[str, Any]:
        """All of them as torch tensors, for `module.load_state_dict`, which copies them."""
        return {name: self.torch(name) for name in self._entries}

    def copy(self) -> dict[str, np.ndarray[Any, Any]]:
        """All of them as numpy arrays of their own, writable."""
        return {name: self[name].copy() for name in self._entries}


def read(payload: bytes | bytearray | memoryview) -> Tensors:
    """Reads named tensors without copying them.

    Raises `TensorError`, which names the tensor, for everything that is not exactly of the form: a header that is
    cut short, too large or no such object, unknown dtypes, shapes that do not fit their bytes, data that
    overlaps, has gaps or ends elsewhere than the payload.
    """
    view = memoryview(payload).cast("B").toreadonly()
    if view.nbytes < 8:
        raise TensorError("no tensors: shorter than 8 bytes")
    length = _LENGTH.unpack_from(view)[0]
    if length > min(HEADER_MAX, view.nbytes - 8):
        raise TensorError(f"header of {length} bytes, there are {view.nbytes - 8} and the limit is {HEADER_MAX}")
    raw = bytes(view[8 : 8 + length])
    if not raw.startswith(b"{"):
        raise TensorError("header is no JSON object")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TensorError(f"header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise TensorError("header is no JSON object")
    data = view[8 + length :]
    metadata = check_metadata(header.pop(_METADATA, None))
    if len(header) > TENSORS_MAX:
        raise TensorError(f"{len(header)} tensors, the limit is {TENSORS_MAX}")
    entries = {name: _read_entry(name, value) for name, value in header.items()}
    _check_layout(entries, data.nbytes)
    return Tensors(data, entries, metadata)


def write_header(
    entries: Mapping[str, Entry], metadata: Mapping[str, str], before: int, begin: int | None = None
) -> bytes:
    """The header, padded with blanks so that the data begins aligned, `before` bytes being in front of it.

    With `begin` the data begins exactly there.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    for name, entry in entries.items():
        header[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    if len(raw) > HEADER_MAX:
        raise TensorError(f"header of {len(raw)} bytes, the limit is {HEADER_MAX}")
    end = before + 8 + len(raw)
    padding = -end % ALIGNMENT if begin is None else begin - end
    if padding < 0:
        raise TensorError("no room in front of the data")
    return _LENGTH.pack(len(raw) + padding) + raw + b" " * padding


def check_name(name: object) -> None:
    """Raises `TensorError` unless `name` can be that of a tensor."""
    if not isinstance(name, str) or not 0 < len(name.encode()) <= NAME_MAX or name == _METADATA:
        raise TensorError(f"`{name!r:.80}` is no name of a tensor: 1 to {NAME_MAX} bytes of text")


def check_metadata(metadata: object) -> dict[str, str]:
    """The texts that go with tensors. Raises `TensorError` unless they are texts by text."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TensorError("metadata is no mapping")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TensorError(f"metadata `{key!r:.80}` is no text")
    return dict(metadata)


def numpy() -> Any:
    """The module numpy. Raises `TensorError` where it is not installed."""
    try:
        import numpy
    except ImportError:
        raise TensorError("numpy is not installed: `pip install cellbus[numpy]`") from None
    return numpy


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _read_entry(name: str, value: Any) -> Entry:
    check_name(name)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise TensorError(f"tensor `{name}`: exactly dtype, shape and data_offsets are needed")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise TensorError(f"tensor `{name}`: dtype {dtype!r:.40} is unknown")
    if not _is_numbers(shape) or len(shape) > DIMENSIONS_MAX:
        raise TensorError(f"tensor `{name}`: shape is no list of at most {DIMENSIONS_MAX} lengths")
    if not _is_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TensorError(f"tensor `{name}`: data_offsets are no begin and end")
    size = SIZES[dtype] * math.prod(shape)
    if size != offsets[1] - offsets[0]:
        raise TensorError(
            f"tensor `{name}`: {dtype} of shape {shape!r:.80} has {size} bytes, not {offsets[1] - offsets[0]}"
        )
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _check_layout(entries: dict[str, Entry], size: int) -> None:
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > size:
            raise TensorError(f"tensor `{name}`: ends at byte {entry.end} of {size}")
        if entry.begin < at:
            raise TensorError(f"tensor `{name}`: overlaps the one before it")
        if entry.begin > at:
            raise TensorError(f"tensor `{name}`: begins {entry.begin - at} bytes behind the one before it")
        at = entry.end
    if at != size:
        raise TensorError(f"{size - at} bytes behind the last tensor")


def _address(raw: memoryview) -> int:
    return int(numpy().frombuffer(raw, "u1").__array_interface__["data"][0])


def _bytes_of(name: str, tensor: Any) -> tuple[str, tuple[int, ...], memoryview, Any]:
    """dtype, shape, bytes, and what keeps the bytes alive."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        return _bytes_of_torch(name, tensor, torch)
    np = numpy()
    if not isinstance(tensor, (np.ndarray, np.generic)):
        raise TensorError(f"tensor `{name}`: {type(tensor).__name__} is neither a numpy array nor a torch tensor")
    dtype = _numpy_dtype(name, tensor.dtype)
    array = np.asarray(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")
    return dtype, tuple(array.shape), _cast(array.reshape(-1).view("u1")), array


def _bytes_of_torch(name: str, tensor: Any, torch: Any) -> tuple[str, tuple[int, ...], memoryview, Any]:
    dtype = _FROM_TORCH.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.layout is not torch.strided:
        raise TensorError(f"tensor `{name}`: {tensor.dtype} of layout {tensor.layout} cannot be sent")
    if tensor.device.type == "meta":
        raise TensorError(f"tensor `{name}`: has no data")
    held = tensor.detach().to("cpu").contiguous()
    array = held.reshape(-1).view(torch.uint8).numpy() if held.numel() else numpy().empty(0, "u1")
    return dtype, tuple(held.shape), _cast(array), held


def _cast(array: Any) -> memoryview:
    return memoryview(array).cast("B") if array.size else memoryview(b"")


def _numpy_dtype(name: str, dtype: Any) -> str:
    found = _FROM_NUMPY.get(dtype.newbyteorder("<").str.lstrip("<|"))
    if found is None:
        raise TensorError(f"tensor `{name}`: dtype {dtype} cannot be sent")
    return found
