"""The fixture with real cells; skipped where there is no binary."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cellbus.errors import CellbusError
from cellbus.testing import Program, Rule, Topology, write_topology


def test_cells_of_a_real_topology_are_there_and_answer(cellbus_topology: Callable[..., Topology]) -> None:
    topology = cellbus_topology(
        sites=["site-1", "site-2"], relay="relay-a", allow=[Rule("site-*", "server", "ops", ["report"])]
    )
    assert sorted(topology.cells()) == ["relay-a", "relay-a.site-1", "relay-a.site-2", "server"]
    assert topology.ping("relay-a.site-2")
    assert not topology.ping("site-9")
    with pytest.raises(CellbusError):
        topology.query("explain", "--from", "site-9", "--to", "server", "ops/report")


def test_a_topology_file_says_what_it_was_asked_for() -> None:
    tomllib = pytest.importorskip("tomllib")
    text = write_topology(
        ["site-1"],
        "relay-a",
        [Rule("*", "server", "a")],
        [Program("train", ["python3", 'a"b'], parameters={"n": "integer"})],
    )
    read = tomllib.loads(text)
    assert [cell["name"] for cell in read["cell"]] == ["server", "relay-a", "site-1"]
    assert read["cell"][2]["parent"] == "relay-a"
    assert read["allow"] == [{"from": "*", "to": "server", "channel": "a", "topics": ["*"]}]
    assert read["program"] == [
        {"name": "train", "cells": ["*"], "argv": ["python3", 'a"b'], "parameters": {"n": "integer"}}
    ]
