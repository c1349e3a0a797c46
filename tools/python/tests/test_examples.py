"""The examples, each part a process of its own; the cells between them are the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cell import FakeCell
from support import ROOT

PACKAGE = Path(__file__).resolve().parents[1]
DATA = ROOT / "cells/data/digits.csv"
JOBS = sorted(path.parent for path in (PACKAGE / "examples").glob("*/job.toml"))


def launch(cell: FakeCell, program: str, code: Path, *arguments: str) -> subprocess.Popen[str]:
    """As a job cell does: the bootstrap as a descriptor, plain variables, and the code's own directory."""
    fd = cell.bootstrap()
    told = {
        "CELLBUS_BOOTSTRAP_FD": str(fd),
        "CELLBUS_JOB": "job-7",
        "CELLBUS_CELL": cell.name,
        "CELLBUS_SERVER_CELL": "server.job-7",
        "CELLBUS_SITES": "relay-a.site-1.job-7,relay-a.site-2.job-7,site-3.job-7",
    }
    started = subprocess.Popen(
        [sys.executable, program, "--data", str(DATA), *arguments],
        cwd=code,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE / "src"), "PYTHONDONTWRITEBYTECODE": "1", **told},
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(fd)
    return started


@pytest.mark.timeout(300)
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_an_example_reaches_the_accuracy_of_training_in_one_place(job: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch" if job.name == "digits-cnn" else "sklearn")
    hub: dict[str, FakeCell] = {}
    names = ["server.job-7", "relay-a.site-1.job-7", "relay-a.site-2.job-7", "site-3.job-7"]
    cells = [FakeCell(tmp_path / str(index), name=name, hub=hub) for index, name in enumerate(names)]
    server = launch(cells[0], "server.py", job / "code", "--rounds", "6")
    trainers = [launch(cell, "trainer.py", job / "code") for cell in cells[1:]]
    try:
        for trainer in trainers:
            output, _ = trainer.communicate(timeout=240)
            assert trainer.returncode == 0, output
        said, _ = server.communicate(timeout=60)
        assert server.returncode == 0, said
    finally:
        for process in (server, *trainers):
            process.kill()
            process.wait()
        for cell in cells:
            cell.close()
    found = json.loads(said.splitlines()[-1])
    assert found["central"] > 0.9
    assert found["federated"] >= found["central"] - 0.02


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_file_names_what_is_there(job: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    read = tomllib.loads((job / "job.toml").read_text())
    assert read["job"]["name"] == job.name
    code = job / read["files"]["directory"]
    assert {path.name for path in code.iterdir() if path.suffix == ".py"} >= {"server.py", "trainer.py", "digits.py"}
