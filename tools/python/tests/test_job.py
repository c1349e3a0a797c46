"""Whole jobs in real cells; skipped where there is no binary, or one without `cellbus job run`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cellbus.testing import Program, Topology

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"

pytest.importorskip("numpy")


def has_jobs(binary: str) -> bool:
    found = subprocess.run([binary, "job", "run", "--help"], capture_output=True, check=False)
    return found.returncode == 0


@pytest.mark.timeout(200)
def test_everything_that_job_code_can_do_works_between_real_cells(cellbus_topology: Callable[..., Topology]) -> None:
    programs = [
        Program("python-server", [sys.executable, "server.py", "{sites}"], ["server"], {"sites": "integer"}, (), True),
        Program("python-site", [sys.executable, "site.py"], ["site-*"], custom_code=True),
    ]
    topology = cellbus_topology(sites=["site-1", "site-2"], relay="relay-a", programs=programs)
    if not has_jobs(topology.binary):
        pytest.skip("this binary runs no jobs")
    done = topology.run("job", "run", str(HERE / "jobs/interop"), timeout=150)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{topology.log()}"
    assert done.stdout.count("done") == 2, done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", ["digits-sklearn", "digits-cnn"])
def test_an_example_runs_as_a_job_of_real_cells(cellbus_topology: Callable[..., Topology], example: str) -> None:
    pytest.importorskip("torch" if example == "digits-cnn" else "sklearn")
    topology = cellbus_topology(sites=["site-1"])
    if not has_jobs(topology.binary):
        pytest.skip("this binary runs no jobs")
    topology.close()
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "run.py"), example], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert '"federated"' in done.stdout
