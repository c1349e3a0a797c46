"""Names, checked once: cells, channels, topics, segments, content types."""

from __future__ import annotations

import re
from functools import lru_cache

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CHANNEL = re.compile(r"[a-z0-9_.-]{1,64}")
_CONTENT_TYPE = re.compile(r"[\x20-\x7e]{1,128}")

KINDS = frozenset({"server", "relay", "client", "admin", "job"})
"""Kinds of cells, as in their certificates."""


def is_segment(text: str) -> bool:
    """Whether `text` is one segment: a project, an organisation, a job."""
    return _SEGMENT.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def is_cell(text: str) -> bool:
    """Whether `text` is a cell's full name: 1 to 8 segments, none twice, at most 255 bytes."""
    parts = text.split(".")
    if len(text) > 255 or len(parts) > 8 or len(set(parts)) != len(parts):
        return False
    return all(is_segment(part) for part in parts)


@lru_cache(maxsize=1024)
def is_channel(text: str) -> bool:
    """Whether `text` is a channel or a topic: 1 to 64 of `a-z`, `0-9`, `_`, `.` and `-`."""
    return _CHANNEL.fullmatch(text) is not None


@lru_cache(maxsize=256)
def is_content_type(text: str) -> bool:
    """Whether `text` is 1 to 128 bytes of printable ASCII."""
    return _CONTENT_TYPE.fullmatch(text) is not None
