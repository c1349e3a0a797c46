"""Finding the cell: bootstraps are read once, and a secret is only sent where nobody else can listen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from fake_cell import SECRET, FakeCell
from support import vectors

import cellbus
from cellbus import BootstrapError, UnsafePlaceError, _bootstrap
from cellbus._bootstrap import VARIABLE


def test_c_02_a_bootstrap_is_read_once_and_emptied(cell: FakeCell) -> None:
    copy = os.dup(int(os.environ[VARIABLE]))
    with cellbus.connect():
        assert VARIABLE not in os.environ
        assert os.fstat(copy).st_size == 0
        open_files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        assert sum("memfd:bootstrap" in name for name in open_files) == 1
        with pytest.raises(BootstrapError, match="has connected before"):
            cellbus.connect()
    os.environ[VARIABLE] = str(copy)
    with pytest.raises(BootstrapError, match="read before"):
        cellbus.connect()
    assert cell.secrets == [SECRET]


def test_a_bootstrap_may_be_a_pipe(make_cell: Callable[..., FakeCell]) -> None:
    cell = make_cell()
    os.close(int(os.environ[VARIABLE]))
    reader, writer = os.pipe()
    os.write(writer, msgpack.packb([1, str(cell.path), SECRET]))
    os.close(writer)
    os.environ[VARIABLE] = str(reader)
    with cellbus.connect() as bus:
        assert bus.request("echo", "x", b"hi").payload == b"hi"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x93\x01",
        msgpack.packb([2, "/s", SECRET]),
        msgpack.packb([1, "/s", SECRET[:31]]),
        msgpack.packb([1, "/s", SECRET.hex()]),
        msgpack.packb([1, "/s", SECRET, None]),
        msgpack.packb([1, "/s", SECRET]) + b"\0",
        msgpack.packb([True, "/s", SECRET]),
        bytes(257),
    ],
)
def test_a_damaged_bootstrap_is_refused_and_not_shown(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("bootstrap")
    os.write(fd, raw)
    monkeypatch.setenv(VARIABLE, str(fd))
    with pytest.raises(BootstrapError) as caught:
        cellbus.connect()
    assert SECRET.hex() not in str(caught.value)
    assert repr(SECRET) not in str(caught.value)


@pytest.mark.parametrize("text", ["", "-1", "1e3", "99999999999", "٣", "987654"])
def test_a_variable_that_names_no_descriptor_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(BootstrapError):
        cellbus.connect()


def _wide_directory(cell: FakeCell) -> None:
    cell.directory.chmod(0o750)


def _wide_socket(cell: FakeCell) -> None:
    cell.path.chmod(0o660)


def _link(cell: FakeCell) -> None:
    real = cell.directory / "real"
    cell.path.rename(real)
    cell.path.symlink_to(real)


def _linked_directory(cell: FakeCell) -> None:
    real = cell.directory.with_name("real")
    cell.directory.rename(real)
    cell.directory.symlink_to(real)


def _file(cell: FakeCell) -> None:
    cell.path.unlink()
    cell.path.write_bytes(b"")
    cell.path.chmod(0o600)


def _nothing(cell: FakeCell) -> None:
    cell.path.unlink()


@pytest.mark.parametrize("spoil", [_wide_directory, _wide_socket, _link, _linked_directory, _file, _nothing])
def test_c_01_a_socket_that_others_can_reach_gets_no_secret(cell: FakeCell, spoil: Callable[[FakeCell], None]) -> None:
    spoil(cell)
    with pytest.raises(UnsafePlaceError) as caught:
        cellbus.connect()
    assert "`" in str(caught.value)
    assert cell.secrets == []


@pytest.mark.parametrize("path", ["relative/s", "/" + "x" * 100, "\0abstract"])
def test_c_01_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(UnsafePlaceError, match="absolute path"):
        _bootstrap.check_place(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_c_01_a_listener_of_another_user_gets_no_secret(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir(mode=0o700)
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o600)\n"
        "os.setuid(65534); s.listen(1); print('ready', flush=True)\n"
        "c, _ = s.accept(); print(len(c.recv(100)), flush=True)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(directory / "s")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(UnsafePlaceError, match="user 65534 listens"):
        _bootstrap.open_socket(_bootstrap.Bootstrap(str(directory / "s"), SECRET), 5)
    assert other.stdout.readline() == "0\n"
    other.wait(10)


def test_a_wrong_secret_is_refused_with_the_one_code(cell: FakeCell) -> None:
    fd = os.memfd_create("bootstrap")
    os.write(fd, msgpack.packb([1, str(cell.path), bytes(32)]))
    os.environ[VARIABLE] = str(fd)
    with pytest.raises(cellbus.RefusedError) as caught:
        cellbus.connect()
    assert caught.value.status is cellbus.Status.UNAUTHENTICATED


def test_nobody_who_answers_is_not_waited_for_longer_than_said(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "s"))
    (directory / "s").chmod(0o600)
    listener.listen(1)
    fd = os.memfd_create("bootstrap")
    os.write(fd, msgpack.packb([1, str(directory / "s"), SECRET]))
    os.environ[VARIABLE] = str(fd)
    with pytest.raises(TimeoutError):
        cellbus.connect(timeout=0.1)
    listener.close()


def rendezvous(cell: FakeCell, **changes: object) -> Path:
    fields = [1, str(cell.path), SECRET, "site-1.job-7", "job-7", 1 << 62]
    for index, value in changes.items():
        fields[int(index[1:])] = value
    directory = cell.directory.with_name("meet")
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / "job-7"
    path.write_bytes(msgpack.packb(fields))
    path.chmod(0o600)
    return path


def test_c_11_a_rendezvous_file_is_used_once(cell: FakeCell) -> None:
    path = rendezvous(cell)
    with cellbus.connect(rendezvous=path) as bus:
        assert bus.request("echo", "x", b"hi").payload == b"hi"
    assert not path.exists()
    with pytest.raises(UnsafePlaceError):
        cellbus.connect(rendezvous=path)


def test_c_11_an_attached_process_knows_its_job_as_a_launched_one_does(
    cell: FakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELLBUS_SERVER_CELL")
    for name in ("CELLBUS_SITES", "CELLBUS_JOB", "CELLBUS_ATTEMPT", "CELLBUS_RUN", "CELLBUS_CELL"):
        monkeypatch.setenv(name, "of another job")
    with cellbus.connect(rendezvous=rendezvous(cell)) as bus:
        # Without `to`: the server's cell of this job.
        assert bus.request("echo", "x", b"hi").payload == b"hi"
    assert (os.environ["CELLBUS_SITES"], os.environ["CELLBUS_ATTEMPT"]) == ("site-1.job-7", "2")
    assert "CELLBUS_JOB" not in os.environ, "what this job does not say is not left from another"


def test_c_11_a_cell_that_knows_no_job_is_talked_to_all_the_same(cell: FakeCell) -> None:
    cell.surroundings = None
    with cellbus.connect(rendezvous=rendezvous(cell)) as bus:
        assert bus.request("echo", "x", b"hi", to="server.job-7").payload == b"hi"


def test_c_11_an_answer_that_is_none_ends_the_connection(cell: FakeCell) -> None:
    cell.surroundings = b"[1"
    with pytest.raises(cellbus.CellbusError, match="no object"):
        cellbus.connect(rendezvous=rendezvous(cell))


def test_c_11_a_golden_rendezvous_file_is_read(tmp_path: Path) -> None:
    for case in vectors("good"):
        said, data = case.values
        if said["direction"] != "rendezvous":
            continue
        directory = tmp_path / "d"
        directory.mkdir(mode=0o700)
        (directory / "r").write_bytes(data)
        (directory / "r").chmod(0o600)
        fields = said["header"]
        found = _bootstrap.from_rendezvous(directory / "r", fields[5] - 1)
        assert found == (fields[1], bytes.fromhex(fields[2]["hex"]))
        break
    else:
        pytest.fail("no vector of a rendezvous file")


def test_c_11_a_rendezvous_file_that_others_can_have_made_is_refused(cell: FakeCell) -> None:
    path = rendezvous(cell)
    path.chmod(0o640)
    with pytest.raises(UnsafePlaceError, match="mode 0640"):
        cellbus.connect(rendezvous=path)
    path = rendezvous(cell)
    path.parent.chmod(0o755)
    with pytest.raises(UnsafePlaceError, match="mode 0755"):
        cellbus.connect(rendezvous=path)
    path.parent.chmod(0o700)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(UnsafePlaceError):
        cellbus.connect(rendezvous=link)
    os.link(path, path.with_name("second"))
    with pytest.raises(UnsafePlaceError, match="2 names"):
        cellbus.connect(rendezvous=path)
    os.mkfifo(path.with_name("fifo"), 0o600)
    with pytest.raises(UnsafePlaceError, match="regular file"):
        cellbus.connect(rendezvous=path.with_name("fifo"))
    assert cell.secrets == []


def test_c_11_an_expired_or_damaged_rendezvous_file_is_refused(cell: FakeCell) -> None:
    path = rendezvous(cell, f5=1)
    with pytest.raises(BootstrapError, match="expired"):
        cellbus.connect(rendezvous=path)
    assert not path.exists()
    for changes in ({"f0": 2}, {"f2": b"short"}, {"f3": None}, {"f5": None}):
        with pytest.raises(BootstrapError):
            cellbus.connect(rendezvous=rendezvous(cell, **changes))
    assert cell.secrets == []


def test_the_secret_is_kept_nowhere(cell: FakeCell) -> None:
    import gc

    with cellbus.connect() as bus:
        bus.request("echo", "x")
        gc.collect()
        held = [found for found in gc.get_objects() if type(found) is _bootstrap.Bootstrap]
        assert held == []
        assert threading.active_count() >= 1
