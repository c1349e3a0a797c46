"""msgpack: the `msgpack` package where it is installed, else the part of it that this package needs.

Both write the same bytes: the shortest format for every number and length, floats as 64 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

__all__ = ["IMPLEMENTATION", "MAX_DEPTH", "pack", "unpack"]

MAX_DEPTH = 32
"""How deeply arrays and maps may be nested in what the fallback reads."""

Value = Any
"""`None`, bool, int, float, str, bytes, list, or dict with str keys."""


def pack_fallback(value: Value) -> bytes:
    """Writes one value.

    Raises `ValueError` for a number beyond 64 bits, `TypeError` for any other type.
    """
    out = bytearray()
    _write(value, out, 0)
    return bytes(out)


def unpack_fallback(data: bytes | bytearray | memoryview) -> Value:
    """Reads one value that takes all of `data`.

    Raises `ValueError` for anything else: a value cut short, bytes after it, text that is not UTF-8, an ext
    type, keys that are no text, nesting deeper than `MAX_DEPTH`. Lengths are believed only as far as there
    are bytes.
    """
    data = bytes(data)
    try:
        value, end = _read(data, 0, 0)
    except (IndexError, struct.error) as error:
        raise ValueError("value is cut short") from error
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes after the value")
    return value


def _length(out: bytearray, length: int, fix: tuple[int, int] | None, codes: tuple[int, ...]) -> None:
    if fix is not None and length <= fix[1]:
        out.append(fix[0] | length)
    elif len(codes) == 3 and length <= 0xFF:
        out += struct.pack(">BB", codes[0], length)
    elif length <= 0xFFFF:
        out += struct.pack(">BH", codes[-2], length)
    elif length <= 0xFFFF_FFFF:
        out += struct.pack(">BI", codes[-1], length)
    else:
        raise ValueError("longer than 4 GiB")


def _write(value: Value, out: bytearray, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    kind = type(value)
    if value is None:
        out.append(0xC0)
    elif kind is bool:
        out.append(0xC3 if value else 0xC2)
    elif kind is int:
        _write_int(value, out)
    elif kind is float:
        out += struct.pack(">Bd", 0xCB, value)
    elif kind is str:
        raw = value.encode()
        _length(out, len(raw), (0xA0, 31), (0xD9, 0xDA, 0xDB))
        out += raw
    elif kind in (bytes, bytearray, memoryview):
        raw = bytes(value)
        _length(out, len(raw), None, (0xC4, 0xC5, 0xC6))
        out += raw
    elif kind in (list, tuple):
        _length(out, len(value), (0x90, 15), (0xDC, 0xDD))
        for item in value:
            _write(item, out, depth + 1)
    elif kind is dict:
        _length(out, len(value), (0x80, 15), (0xDE, 0xDF))
        for key, item in value.items():
            _write(key, out, depth + 1)
            _write(item, out, depth + 1)
    else:
        raise TypeError(f"msgpack has no {kind.__name__}")


_INTS = ((0xFF, ">BB", 0xCC), (0xFFFF, ">BH", 0xCD), (0xFFFF_FFFF, ">BI", 0xCE), (2**64 - 1, ">BQ", 0xCF))
_NEGATIVE = (
    (-(2**7), ">Bb", 0xD0),
    (-(2**15), ">Bh", 0xD1),
    (-(2**31), ">Bi", 0xD2),
    (-(2**63), ">Bq", 0xD3),
)


def _write_int(value: int, out: bytearray) -> None:
    if 0 <= value <= 0x7F:
        out.append(value)
        return
    if -32 <= value < 0:
        out += struct.pack(">b", value)
        return
    for limit, form, code in _INTS if value >= 0 else _NEGATIVE:
        if value <= limit if value >= 0 else value >= limit:
            out += struct.pack(form, code, value)
            return
    raise ValueError("a number beyond 64 bits")


_NUMBERS = {
    0xCA: (">f", 4),
    0xCB: (">d", 8),
    0xCC: (">B", 1),
    0xCD: (">H", 2),
    0xCE: (">I", 4),
    0xCF: (">Q", 8),
    0xD0: (">b", 1),
    0xD1: (">h", 2),
    0xD2: (">i", 4),
    0xD3: (">q", 8),
}
_WIDTHS = (">B", ">H", ">I")
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    code = data[at]
    at += 1
    if code <= 0x7F:
        return code, at
    if code >= 0xE0:
        return code - 0x100, at
    if code <= 0x8F:
        return _read_map(data, at, code & 0x0F, depth)
    if code <= 0x9F:
        return _read_array(data, at, code & 0x0F, depth)
    if code <= 0xBF:
        return _slice(data, at, code & 0x1F).decode(), at + (code & 0x1F)
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    if code in _NUMBERS:
        form, width = _NUMBERS[code]
        return struct.unpack_from(form, data, at)[0], at + width
    if 0xC4 <= code <= 0xC6 or 0xD9 <= code <= 0xDB:
        form = _WIDTHS[code - (0xC4 if code <= 0xC6 else 0xD9)]
        length = struct.unpack_from(form, data, at)[0]
        at += struct.calcsize(form)
        raw = _slice(data, at, length)
        return (raw if code <= 0xC6 else raw.decode()), at + length
    if 0xDC <= code <= 0xDF:
        form = ">H" if code in (0xDC, 0xDE) else ">I"
        length = struct.unpack_from(form, data, at)[0]
        at += struct.calcsize(form)
        return (_read_array if code <= 0xDD else _read_map)(data, at, length, depth)
    raise ValueError(f"format {code:#04x} is not used")


def _slice(data: bytes, at: int, length: int) -> bytes:
    if length > len(data) - at:
        raise ValueError("value is cut short")
    return data[at : at + length]


def _check(data: bytes, at: int, length: int, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValueError("nested too deeply")
    if length > len(data) - at:
        raise ValueError("value is cut short")


def _read_array(data: bytes, at: int, length: int, depth: int) -> tuple[Value, int]:
    _check(data, at, length, depth)
    items = []
    for _ in range(length):
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return items, at


def _read_map(data: bytes, at: int, length: int, depth: int) -> tuple[Value, int]:
    _check(data, at, length, depth)
    items: dict[str, Value] = {}
    for _ in range(length):
        key, at = _read(data, at, depth + 1)
        if type(key) is not str:
            raise ValueError("a key that is no text")
        items[key], at = _read(data, at, depth + 1)
    return items, at


pack: Callable[[Value], bytes]
unpack: Callable[[bytes | bytearray | memoryview], Value]

try:
    import msgpack as _package
except ImportError:
    IMPLEMENTATION = "fallback"
    pack = pack_fallback
    unpack = unpack_fallback
else:
    IMPLEMENTATION = "msgpack"
    pack = _package.packb

    def unpack(data: bytes | bytearray | memoryview) -> Value:
        """Reads one value that takes all of `data`; `ValueError` for anything else."""
        try:
            return _package.unpackb(data)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from error
