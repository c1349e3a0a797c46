"""Whole jobs in real cells; skipped where there is no binary, or one without `cellbus job run`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cellbus.errors import CellbusError
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


@pytest.mark.timeout(200)
def test_c_11_a_trainer_that_somebody_else_starts_takes_part(
    cellbus_topology: Callable[..., Topology], tmp_path: Path
) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    programs = [
        Program("server", [sys.executable, str(tmp_path / "server.py")], ["server"]),
        Program("notebook", [], ["site-*"], attach=True),
    ]
    topology = cellbus_topology(sites=["site-1"], programs=programs)
    described = '[job]\nname = "book"\n[server]\nprogram = "server"\n[site]\nprogram = "notebook"\n'
    (tmp_path / "job.toml").write_text(described)
    command = [topology.binary, "job", "run", str(tmp_path), "--state", str(topology.state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        try:
            meeting = attach(topology)
            # As a person does, in a process that no cell knows.
            trainer = subprocess.run(
                [sys.executable, "-c", TRAINER, meeting], capture_output=True, text=True, timeout=100, check=False
            )
            assert trainer.returncode == 0, f"{trainer.stderr}\n{topology.log()}"
            said, _ = job.communicate(timeout=60)
        finally:
            job.kill()
    assert job.returncode == 0, f"{said}\n{topology.log()}"
    assert "from site-1: 41" in said


def attach(topology: Topology) -> str:
    """Asks until the part waits, and gives the rendezvous file."""
    until = time.monotonic() + 60
    while True:
        try:
            return str(topology.query("job", "attach", "book", "--at", "site-1")["file"])
        except CellbusError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


SERVER = """
import cellbus, threading
done = threading.Event()
with cellbus.connect() as bus:
    @bus.serve("figures", "take")
    def take(message):
        print("from site-1:", message.payload.decode(), flush=True)
        done.set()
        return b"thanks"
    assert done.wait(90)
"""

TRAINER = """
import cellbus, os, sys
assert "CELLBUS_BOOTSTRAP_FD" not in os.environ
with cellbus.connect(rendezvous=sys.argv[1]) as bus:
    assert bus.site == "site-1", bus.site
    assert bus.request("figures", "take", b"41").payload == b"thanks"
"""
