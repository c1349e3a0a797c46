"""Runs an example on this machine: a server, a relay and three sites, then `cellbus job run`.

    python run.py digits-sklearn
    python run.py digits-cnn

Needs the command `cellbus` (`CELLBUS_BIN` or `PATH`), this package and what the example imports in this interpreter.
Each site reads its rows itself, from a file that the topology names; a job carries code and no data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from cellbus.testing import Program, Topology, find_binary, write_topology

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "cells/data/digits.csv"


def programs(data: Path) -> list[Program]:
    """What the cells let jobs run: code of the job itself, with this interpreter."""
    server = [sys.executable, "server.py", "--data", str(data), "--rounds", "{rounds}"]
    trainer = [sys.executable, "trainer.py", "--data", str(data)]
    return [
        Program("python-server", server, ["server"], {"rounds": "integer"}, custom_code=True),
        Program("python-trainer", trainer, ["site-*"], custom_code=True),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", choices=sorted(path.parent.name for path in HERE.glob("*/job.toml")))
    parser.add_argument("--data", type=Path, default=DATA, help="the file with the digits")
    options = parser.parse_args()
    binary = find_binary()
    if binary is None:
        print("no `cellbus`: set CELLBUS_BIN, or put it into PATH", file=sys.stderr)
        return 4
    text = write_topology(["site-1", "site-2", "site-3"], "relay-a", programs=programs(options.data.resolve()))
    with tempfile.TemporaryDirectory() as directory:
        topology = Topology(binary, Path(directory), text)
        try:
            topology.wait_ready(5)
            command = [binary, "job", "run", str(HERE / options.example), "--state", str(topology.state)]
            return subprocess.run(command, check=False).returncode
        finally:
            topology.close()


if __name__ == "__main__":
    sys.exit(main())
