"""What the watching measures of this machine."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from skyriver.core.resources import ProcessStatus
from skyriver.wiring.home import Home
from skyriver.wiring.measuring import FailureLog, Measuring, memory
from skyriver.wiring.watched import first_bytes

LINE = (
    '{{"time":"1800000000000000","accepted":1,"id":"a","tenant":"t","of":"t/model/{of}","asks":"","method":"POST",'
    '"status":{status},"code":"-","bytes_in":1,"bytes_out":1,"receive_ms":1,"queue_ms":1,"connect_ms":1,'
    '"answer_ms":1,"total_ms":1,"server":"{server}","end":"--"}}\n'
)


def lines(*statuses: int, of: str = "risk", server: str = "<NOSRV>") -> str:
    return "".join(LINE.format(of=of, status=status, server=server) for status in statuses)


def test_failures_are_counted_once_over_half_lines_and_new_files(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = FailureLog(path)
    assert log.read() == {}, "there is none yet"
    path.write_text(lines(500, 503))
    assert log.read() == {}, "what was before is not now"
    with path.open("a") as file:
        file.write(lines(200, 503, 504, 429) + lines(500, 501, 503, server="risk-1-1:a"))
        file.write("<not ours>\n" + lines(503, of="other")[:-20])
    assert log.read() == {("t", "model/risk"): 2}
    with path.open("a") as file:
        file.write(lines(503, of="other")[-20:])
    assert log.read() == {("t", "model/other"): 1}
    assert log.read() == {}
    path.rename(tmp_path / "access.log.1")
    path.write_text(lines(502, server="risk-1-1:a"))
    assert log.read() == {("t", "model/risk"): 1}, "it ended before it answered"


def test_who_only_looks_whether_it_is_ready_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = FailureLog(path)
    path.touch()
    log.read()
    path.write_text(lines(503).replace('"POST"', '"GET"') + lines(503, of="other"))
    assert log.read() == {("t", "model/other"): 1}


def test_what_a_server_counts_itself_reached_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log, unserved = FailureLog(path), FailureLog(path)
    path.touch()
    assert log.of_models() == ({}, {})
    assert unserved.read() == {}
    given_up = lines(504, server="risk-1-1:a").replace('"--"', '"sH"')
    gone = lines(503, server="risk-1-1:a").replace('"--"', '"SC"')
    of_servers = lines(429, 502, 503, server="risk-1-1:a")
    path.write_text(lines(503, 429, 200, 429) + of_servers + given_up + gone)
    assert log.of_models() == ({"t/risk": 3}, {"t/risk": 2})
    assert unserved.read() == {("t", "model/risk"): 4}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "h")
    made.make()
    return made


def test_disk_memory_and_a_write_that_is_on_the_disk(home: Home) -> None:
    measuring = Measuring(home)
    machine = measuring.measure({})
    assert 0 < machine.disk_used < machine.disk_total
    assert 0 < machine.memory_used < machine.memory_total
    assert 0 < machine.disk_write_s < 60
    assert machine.disk_problem == ""
    (home.logs / ".probe").unlink()
    (home.logs / ".probe").mkdir()
    assert measuring.measure({}).disk_problem == "Is a directory"
    measuring.close()
    used, total = memory()
    assert 0 < used < total


def test_a_process_that_lives_and_says_nothing(home: Home, tmp_path: Path) -> None:
    """One that has told something new since the last look is at work."""
    paths = {name: str(tmp_path / name) for name in ("well", "hung", "busy")}
    listening = {name: socket.socket(socket.AF_UNIX) for name in paths}
    for name, each in listening.items():
        each.bind(paths[name])
        each.listen(4)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening["well"].accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 503 Busy\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    assert first_bytes(paths["well"], "/livez").startswith(b"HTTP/1.1 503"), "whatever it says"
    assert first_bytes(str(tmp_path / "nobody"), "/livez") == b""

    def seen(busy: int) -> dict[str, ProcessStatus]:
        reports = {name: {"ready": True, "events": busy if name == "busy" else 0} for name in paths}
        known = {n: ProcessStatus(n, True, pid=1, socket=paths[n], report=r) for n, r in reports.items()}
        return {**known, "starts": ProcessStatus("starts", True, pid=2, socket="none", report={})}

    measuring = Measuring(home)
    assert measuring.measure(seen(1)).unanswered == frozenset(), "it takes two looks"
    assert measuring.measure(seen(2)).unanswered == {"hung"}
    measuring.close()
    for each in listening.values():
        each.close()
