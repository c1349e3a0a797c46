"""Whole jobs in real cells; skipped where there is no binary, or one without `cellbus job run`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cellbus.testing import REQUIRE, Program, Topology, find_binary

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"

pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def binary() -> str:
    """The command; it has to be one that runs jobs."""
    found = find_binary()
    if found is None:
        reason = "no `cellbus`: set CELLBUS_BIN, or put it into PATH"
    elif subprocess.run([found, "job", "run", "--help"], capture_output=True, check=False).returncode != 0:
        reason = "this `cellbus` runs no jobs"
    else:
        return found
    if os.environ.get(REQUIRE):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.timeout(200)
def test_everything_that_job_code_can_do_works_between_real_cells(cellbus_topology: Callable[..., Topology]) -> None:
    programs = [
        Program("python-server", [sys.executable, "server.py", "{sites}"], ["server"], {"sites": "integer"}, (), True),
        Program("python-site", [sys.executable, "site.py"], ["site-*"], custom_code=True),
    ]
    topology = cellbus_topology(sites=["site-1", "site-2"], relay="relay-a", programs=programs)
    done = topology.run("job", "run", str(HERE / "jobs/interop"), timeout=150)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{topology.log()}"
    assert done.stdout.count("done") == 2, done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", ["digits-sklearn", "digits-cnn"])
def test_an_example_runs_as_a_job_of_real_cells(example: str) -> None:
    pytest.importorskip("torch" if example == "digits-cnn" else "sklearn")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run.py"), example], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert '"federated"' in done.stdout
