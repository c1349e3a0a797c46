"""What the tests of the package share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
VECTORS = Path(os.environ.get("CELLBUS_VECTORS", ROOT / "tests/vectors/local"))


def vectors(kind: str) -> list[Any]:
    """The golden vectors of a kind, as parameters: what is said of them, and their bytes."""
    found = sorted((VECTORS / kind).glob("*.json"))
    assert found, f"no vectors in {VECTORS}"
    return [
        pytest.param(json.loads(path.read_text()), path.with_suffix(".bin").read_bytes(), id=path.stem)
        for path in found
    ]
