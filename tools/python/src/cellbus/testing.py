"""A plugin of pytest: real cells for tests of job code.

The fixture `cellbus_topology` starts a topology with the binary `cellbus` and ends it behind the test:

```python
def test_my_sites_are_there(cellbus_topology):
    topology = cellbus_topology(sites=["site-1", "site-2"], relay="relay-a")
    assert topology.ping("relay-a.site-1")
```

The binary is `CELLBUS_BIN`, or the first `cellbus` in `PATH`; without one the test is skipped, or fails where
`CELLBUS_REQUIRE_BIN` is set.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cellbus.errors import CellbusError

__all__ = ["BINARY", "REQUIRE", "Program", "Rule", "Topology", "cellbus_topology", "find_binary", "write_topology"]

BINARY = "CELLBUS_BIN"
"""Variable with the path of the command."""
REQUIRE = "CELLBUS_REQUIRE_BIN"
"""Variable that makes a missing command an error."""
_READY = 60.0
_STOP = 20.0


@dataclass(frozen=True)
class Rule:
    """Who may say what to whom, as `[[allow]]` of a topology file."""

    sender: str
    """A pattern: `site-*`, `*`, `kind:client` …"""
    receiver: str
    channel: str
    topics: Sequence[str] = ("*",)


@dataclass(frozen=True)
class Program:
    """What jobs may run at some cells, as `[[program]]` of a topology file."""

    name: str
    argv: Sequence[str]
    cells: Sequence[str] = ("*",)
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Kinds (`integer`, `number`, `boolean`, `word`, `text`) by name; `{name}` in `argv` stands for the value."""
    environment: Sequence[str] = ()
    custom_code: bool = False
    """Whether a job may bring files."""
    attach: bool = False
    """Whether somebody else starts it, with `cellbus job attach`; `argv` is empty then."""


class Topology:
    """Cells that run until `close`."""

    def __init__(self, binary: str, directory: Path, text: str) -> None:
        self.binary = binary
        """The command."""
        self.file = directory / "topology.toml"
        """The topology file, a real one."""
        self.state = directory / "state"
        """The state directory."""
        self.file.write_text(text)
        self._errors = (directory / "stderr.log").open("w+b")
        self._ready = threading.Event()
        self._seen: list[dict[str, Any]] = []
        self._process = subprocess.Popen(  # noqa: S603 - the binary under test
            [binary, "up", str(self.file), "--state", str(self.state), "-o", "jsonl"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self, cells: int) -> None:
        """Waits until so many cells are ready. Raises `CellbusError` with the log where they are not."""
        self._cells = cells
        self._check()
        if not self._ready.wait(_READY) or self._count() < cells:
            self.close()
            raise CellbusError(f"the cells of {self.file} did not become ready:\n{self.log()}")

    def run(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs `cellbus` with these arguments, about these cells: `run("status", "-o", "json")`."""
        where = () if "--state" in arguments or "--topology" in arguments else ("--state", str(self.state))
        return subprocess.run(  # noqa: S603 - the binary under test
            [self.binary, *arguments, *where],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def query(self, *arguments: str, timeout: float = 60.0) -> Any:
        """As `run`, and gives the `data` of its answer. Raises `CellbusError` where that is an error."""
        done = self.run(*arguments, "-o", "json", timeout=timeout)
        try:
            envelope = json.loads(done.stdout)
        except ValueError:
            raise CellbusError(f"`cellbus {' '.join(arguments)}` said: {done.stdout}{done.stderr}") from None
        if envelope.get("status") != "ok":
            raise CellbusError(f"`cellbus {' '.join(arguments)}`: {envelope.get('message')}")
        return envelope.get("data")

    def cells(self) -> list[str]:
        """The full names of all cells that are registered."""
        return [cell["name"] for cell in self.query("cells")]

    def ping(self, cell: str) -> bool:
        """Whether a cell answers."""
        return self.run("ping", cell, "-o", "json").returncode == 0

    def log(self) -> str:
        """What the cells have written to stderr."""
        return Path(self._errors.name).read_text(errors="replace")

    def close(self) -> None:
        """Asks the cells to stop, and ends them where they do not. Again is allowed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._reader.join(_STOP)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    _cells = 1 << 30

    def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        for line in stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._seen.append(event)
                self._check()
        self._ready.set()

    def _count(self) -> int:
        return sum(event.get("event") == "ready" for event in list(self._seen))

    def _check(self) -> None:
        if self._count() >= self._cells:
            self._ready.set()


def find_binary() -> str | None:
    """The command `cellbus`: `CELLBUS_BIN`, or the first in `PATH`."""
    named = os.environ.get(BINARY)
    if named:
        return str(Path(named).resolve())
    return shutil.which("cellbus")


def write_topology(
    sites: Sequence[str],
    relay: str | None = None,
    allow: Sequence[Rule] = (),
    programs: Sequence[Program] = (),
    project: str = "test",
) -> str:
    """The text of a topology file: a server, sites, and a relay between them if it has a name."""
    parts = [f"[project]\nname = {_text(project)}\ndev = true\n"]
    parts.append('[[cell]]\nname = "server"\nkind = "server"\nlisten = "127.0.0.1:0"\n')
    parent = "server"
    if relay is not None:
        parts.append(f'[[cell]]\nname = {_text(relay)}\nkind = "relay"\nparent = "server"\nlisten = "127.0.0.1:0"\n')
        parent = relay
    parts += [f'[[cell]]\nname = {_text(site)}\nkind = "client"\nparent = {_text(parent)}\n' for site in sites]
    for rule in allow:
        parts.append(
            f"[[allow]]\nfrom = {_text(rule.sender)}\nto = {_text(rule.receiver)}\n"
            f"channel = {_text(rule.channel)}\ntopics = {_list(rule.topics)}\n"
        )
    for program in programs:
        lines = [
            "[[program]]",
            f"name = {_text(program.name)}",
            f"cells = {_list(program.cells)}",
            "attach = true" if program.attach else f"argv = {_list(program.argv)}",
        ]
        if program.environment:
            lines.append(f"environment = {_list(program.environment)}")
        if program.custom_code:
            lines.append("custom_code = true")
        if program.parameters:
            pairs = ", ".join(f"{_text(name)} = {_text(kind)}" for name, kind in program.parameters.items())
            lines.append(f"parameters = {{ {pairs} }}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _text(value: str) -> str:
    return json.dumps(value)


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(map(_text, values)) + "]"


@pytest.fixture
def cellbus_topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Topology]]:
    """Starts cells: `cellbus_topology(sites=["site-1"], relay=None, allow=[Rule(...)], programs=[Program(...)])`.

    Gives a `Topology` whose cells are all ready. They end behind the test.
    """
    binary = find_binary()
    if binary is None:
        reason = f"no `cellbus`: set {BINARY}, or put it into PATH"
        if os.environ.get(REQUIRE):
            pytest.fail(reason)
        pytest.skip(reason)
    running: list[Topology] = []

    def start(
        sites: Sequence[str] = ("site-1", "site-2"),
        relay: str | None = None,
        allow: Sequence[Rule] = (),
        programs: Sequence[Program] = (),
    ) -> Topology:
        text = write_topology(sites, relay, allow, programs)
        topology = Topology(binary, tmp_path_factory.mktemp("cellbus"), text)
        running.append(topology)
        topology.wait_ready(1 + len(sites) + (relay is not None))
        return topology

    yield start
    for topology in running:
        topology.close()
