"""Fixtures: a cell that is not the real one, and a bus that is connected to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cell import FakeCell

import cellbus
from cellbus import _bootstrap


@pytest.fixture
def make_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeCell]]:
    cells: list[FakeCell] = []
    monkeypatch.setenv("CELLBUS_SERVER_CELL", "server.job-7")

    def make(**settings: Any) -> FakeCell:
        cell = FakeCell(tmp_path / f"c{len(cells)}", **settings)
        cells.append(cell)
        monkeypatch.setenv(_bootstrap.VARIABLE, str(cell.bootstrap()))
        return cell

    yield make
    os.environ.pop(_bootstrap.VARIABLE, None)
    for cell in cells:
        cell.close()
    for cell in cells:
        assert not cell.errors, cell.errors
        assert cell.breach is None, cell.breach


@pytest.fixture
def cell(make_cell: Callable[..., FakeCell]) -> FakeCell:
    return make_cell()


@pytest.fixture
def bus(cell: FakeCell) -> Iterator[cellbus.Bus]:
    with cellbus.connect() as bus:
        yield bus
