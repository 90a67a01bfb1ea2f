"""What became of each request, as JSON lines in files that are bounded: written by HAProxy, carried here, looked up.

HAProxy formats a line into a ring in its memory, which costs a request no system call and never waits: a ring that is
full loses its oldest lines. It hands the ring over a Unix socket to `Receiver`, which takes what has come every
twentieth of a second and appends it. So a receiver that is away and a full or slow disk keep no request waiting;
lines are lost then, and a log tells how many could not be written. A line holds nothing of what was sent: no path but
the name of what is asked, no query, no header but the id.

    LOGS/access.log             the newest
    LOGS/access.log.1 .. .7     the ones before
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from skyriver.adapters.processes.identity import readable
from skyriver.control.request_log import RequestQuery
from skyriver.core.contract_requests import RequestLine

Recorded = Literal["all", "errors", "off"]
SOCKET = "access.sock"
"""In the gateway's directory."""
FILE = "access.log"
FILE_BYTES = 32 * 1024 * 1024
FILES = 8
RING_BYTES = 1024 * 1024
LINE_BYTES = 1024
EVERY_SECONDS = 0.05
"""Between two looks while lines come: many lines at once cost little more than one."""
WAIT_SECONDS = 1.0
TIMES = ("receive_ms", "queue_ms", "connect_ms", "answer_ms", "total_ms")

FORMAT = (
    '{"time":"%[var(txn.arrived)]","accepted":%Ts.%ms,"id":"%[var(txn.id)]","tenant":"%[var(txn.tenant)]"'
    ',"of":"%[var(txn.key),bytes(0,200),json(utf8s)]","asks":"%[var(txn.asks),bytes(0,64),json(utf8s)]"'
    ',"method":"%HM","status":%ST,"code":"%[var(txn.code)]","bytes_in":%U,"bytes_out":%B'
    ',"receive_ms":%TR,"queue_ms":%Tw,"connect_ms":%Tc,"answer_ms":%Tr,"total_ms":%Ta'
    ',"server":"%s","end":"%ts"}'
)
"""HAProxy's log-format. What is missing is written as -, a time that was not reached as -1. `of` is the key by which
the route was looked up. Of the path there is one part: of a stream's requests what they are (`events`, never the id
that may follow), of the control plane's the kind of thing."""

log = logging.getLogger("skyriver.access")


class AccessLog:
    """The files. One writer; `find` may be called by any process."""

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES, files: int = FILES) -> None:
        self._folder = folder
        self._most = file_bytes
        self._files = files
        self._descriptor: int | None = None
        self._size = 0
        self.lost = 0
        """Lines in a row that could not be written."""

    def write(self, lines: bytes) -> None:
        """Appends whole lines, or loses them: never raises OSError."""
        try:
            self._append(lines)
        except OSError as error:
            self.close()
            if not self.lost:
                log.warning("requests are not recorded: %s", error)
            self.lost += lines.count(b"\n")
            return
        if self.lost:
            log.warning("requests are recorded again; %d were not", self.lost)
            self.lost = 0

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def find(self, query: RequestQuery) -> list[RequestLine]:
        found: list[RequestLine] = []
        for data in self._read(query.since):
            if query.id and query.id.encode() not in data:
                continue
            for text in reversed(data.split(b"\n")):
                if query.id and query.id.encode() not in text:
                    continue
                line = line_of(text)
                if line is not None and query.fits(line):
                    found.append(line)
                    if len(found) == query.limit:
                        return found
        return found

    def _append(self, lines: bytes) -> None:
        if self._descriptor is None or not os.fstat(self._descriptor).st_nlink:  # somebody removed it
            self._open()
        elif self._size + len(lines) > self._most:
            self._set_aside()
            self._open()
        assert self._descriptor is not None
        written = os.write(self._descriptor, lines)
        if written < len(lines):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _open(self) -> None:
        self.close()
        self._descriptor = os.open(self._path(0), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":  # a writer was cut off
            self._size += os.write(self._descriptor, b"\n")

    def _set_aside(self) -> None:
        for number in reversed(range(self._files - 1)):
            with contextlib.suppress(FileNotFoundError):
                self._path(number).replace(self._path(number + 1))

    def _path(self, number: int) -> Path:
        return self._folder / (FILE if number == 0 else f"{FILE}.{number}")

    def _read(self, since: float) -> Iterator[bytes]:
        """What each file holds, the newest first."""
        for number in range(self._files):
            try:
                path = self._path(number)
                if path.stat().st_mtime < since:
                    return
                yield path.read_bytes()
            except OSError:
                continue


def line_of(text: bytes) -> RequestLine | None:
    """None for what HAProxy says of itself, and for a line that was cut off."""
    if not text.startswith(b"{"):
        return None
    try:
        return _told(msgspec.json.decode(text))
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _told(line: dict[str, Any]) -> RequestLine:
    line |= {name: "" for name, value in line.items() if value in ("-", "<NOSRV>", "<BADREQ>")}
    line |= {name: None for name in TIMES if line[name] < 0}
    accepted = line.pop("accepted")  # the connection was, maybe long before
    line["time"] = int(line["time"]) / 1e6 if line["time"] else accepted
    line["server"] = line["server"].partition(":")[0]
    line["of"] = line["of"].partition("/")[2] or ("control" if line["asks"] else "")
    if line["of"].startswith("model/"):
        line["asks"] = "predict" if line["method"] == "POST" else "look"
    return line  # type: ignore[return-value]  # HAProxy writes it so


class Receiver:
    """Takes the lines of all HAProxy that start from `directory`, and gives them to `log`."""

    def __init__(self, directory: Path, log: AccessLog) -> None:
        self._directory = directory
        self._log = log
        self._open: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}

    def run(self, stopped: Callable[[float], bool]) -> None:
        """Until `stopped(seconds)`, which waits so long, is true. Raises OSError where it cannot listen."""
        with self._listen() as listener:
            try:
                while not stopped(EVERY_SECONDS):
                    ready = readable(WAIT_SECONDS, listener.fileno(), *self._open)
                    for descriptor in ready:
                        if descriptor == listener.fileno():
                            self._accept(listener)
                        else:
                            self._take(descriptor)
            finally:
                for connection in self._open.values():
                    connection.close()
                self._log.close()

    def _listen(self) -> socket.socket:
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        try:
            path = f"/proc/self/fd/{directory}/{SOCKET}"  # short wherever the directory lies
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(path)
                Path(path).chmod(0o600)
                listener.listen(64)
            except OSError:
                listener.close()
                raise
        finally:
            os.close(directory)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(False)
        self._open[connection.fileno()] = connection
        self._rest[connection.fileno()] = b""

    def _take(self, descriptor: int) -> None:
        pieces = [self._rest[descriptor]]
        try:
            while piece := self._open[descriptor].recv(1 << 18):
                pieces.append(piece)
                if len(pieces) > 16:  # others wait too
                    break
            else:
                self._forget(descriptor)
        except BlockingIOError:
            pass
        except OSError:
            self._forget(descriptor)
        lines, _, rest = b"".join(pieces).rpartition(b"\n")
        if descriptor in self._rest:
            self._rest[descriptor] = rest if len(rest) <= LINE_BYTES else b""
        if lines:
            self._log.write(lines + b"\n")

    def _forget(self, descriptor: int) -> None:
        self._open.pop(descriptor).close()
        del self._rest[descriptor]
