"""HAProxy's admin socket: one command a connection, answers as text, every wait bounded."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from skyriver.adapters.haproxy.config import ANSWERS, CERTIFICATE, LAST, SERVER_REQUESTS, map_text, server_line
from skyriver.adapters.haproxy.layout import Place, Seen
from skyriver.control.outliers import TRIAL, Answered
from skyriver.core.errors import Internal, SkyriverError, Unavailable
from skyriver.core.resources import Server

ANSWER_SECONDS = 10.0
_ANSWERED = re.compile(r"key=(\S+) .*gpc0=(\d+) gpc1=(\d+)")
PAYLOAD_BYTES = 12_000
"""Of one command; HAProxy takes what fits into one buffer of 16,384."""


def admin_socket(number: int) -> str:
    """The name of its admin socket, in the gateway's directory."""
    return "admin.sock" if number == 1 else f"admin-{number}.sock"


class Admin:
    """Speaks to HAProxy number `number` of those in `directory`. Raises Unavailable (GATEWAY_AWAY) when it does
    not answer and Internal (GATEWAY_REFUSED) when it does not do what it is told."""

    def __init__(self, directory: Path, number: int = 1, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._directory = directory
        self._socket = admin_socket(number)
        self._seconds = answer_seconds

    def pid(self) -> int:
        for line in self._ask("show info").splitlines():
            name, _, value = line.partition(": ")
            if name == "Pid":
                return int(value)
        raise Internal("The gateway does not tell its pid.", code="GATEWAY_REFUSED")

    def servers(self) -> dict[Place, Seen]:
        return {
            Place(row["pxname"], row["svname"]): Seen(row["status"], int(row["scur"]) + int(row["qcur"]))
            for row in self._stat()
        }

    def queued(self) -> dict[str, int]:
        """Requests that wait for any server of a slot, by the slot."""
        return {row["pxname"]: int(row["qcur"]) for row in self._stat("2")}

    def _stat(self, types: str = "4") -> Iterator[dict[str, str]]:
        """Of servers (4) or of slots (2)."""
        rows = csv.DictReader(self._ask(f"show stat -1 {types} -1").lstrip("# ").splitlines())
        return (row for row in rows if row["pxname"].startswith("slot_"))

    def answered(self) -> dict[Place, Answered]:
        """Of the servers that are up."""
        rows = map(_ANSWERED.search, self._ask(f"show table {ANSWERS}").splitlines())
        taken = {row[1]: (int(row[2]), int(row[3])) for row in rows if row}
        found: dict[Place, Answered] = {}
        for row in self._stat():
            at = Place(row["pxname"], row["svname"])
            if not row["status"].startswith(("MAINT", "DOWN")):
                answers, microseconds = taken.get(str(at), (0, 0))
                waiting = int(row["scur"]) + int(row["qcur"])
                found[at] = Answered(answers, microseconds, int(row["hrsp_5xx"]), waiting, int(row["weight"]))
        return found

    def sent(self) -> dict[Place, int]:
        """Bytes of answers, since it knows the server."""
        return {Place(row["pxname"], row["svname"]): int(row["bout"]) for row in self._stat()}

    def weigh(self, at: Place, weight: int) -> None:
        """A server that left meanwhile is nobody's business."""
        if weight:
            self._ask(f"set maxconn server {at} {1 if weight <= TRIAL else SERVER_REQUESTS}")
        self._ask(f"set server {at} weight {weight}")
        self._ask(f"del map {LAST} {at.slot}")
        if not weight:
            self._ask(f"add map {LAST} {at.slot} {at.server}")

    def add(self, at: Place, server: Server) -> None:
        """Adds a server and lets it take requests at once; a failed check takes it out."""
        self._tell(f"add server {at} {server_line(at, server)}", "New server registered.")
        self.revive(at)

    def revive(self, at: Place) -> None:
        """Takes a retired server back, or one whose adding was cut off half-way."""
        self._tell(f"enable health {at}")
        self._tell(f"enable server {at}")

    def retire(self, at: Place) -> None:
        """No new requests; those under way go on to their end."""
        self._tell(f"set server {at} state maint")

    def remove(self, at: Place) -> bool:
        """Forgets a retired server; False while it still has requests or idle connections."""
        answer = self._ask(f"del server {at}")
        if answer == "Server deleted." or answer == "No such server.":
            return True
        if "still has connections" in answer:
            return False
        raise _refused("del server", answer)

    def certify(self, pem: str) -> None:
        """From now on new connections get this certificate; those that are open go on."""
        answer = self._ask(f"set ssl cert {CERTIFICATE} <<\n{pem}")
        if "ransaction" not in answer:
            raise _refused("set ssl cert", answer)
        answer = self._ask(f"commit ssl cert {CERTIFICATE}")
        if "Success" not in answer:
            raise _refused("commit ssl cert", answer)

    def settle(self) -> None:
        """Returns when every request that had chosen its slot before the call has its server: HAProxy stops all its
        threads for a moment to delete a server, also for one that does not exist."""
        self._ask("del server slot_000/none")

    def read_map(self, name: str) -> dict[str, str]:
        rows = (line.split(" ") for line in self._ask(f"show map {name}").splitlines() if line)
        return {key: value for _, key, value in rows}

    def write_map(self, name: str, entries: Mapping[str, str]) -> None:
        """Replaces the whole map at once: a request sees the old entries or the new ones."""
        answer = self._ask(f"prepare map {name}")
        version = answer.removeprefix("New version created: ")
        if not version.isdigit():
            raise _refused("prepare map", answer)
        try:
            for payload in _chunks(map_text(entries)):
                self._tell(f"add map @{version} {name} <<\n{payload}")
            self._tell(f"commit map @{version} {name}")
        except SkyriverError:
            with contextlib.suppress(Unavailable):
                self._ask(f"clear map @{version} {name}")  # else HAProxy keeps what it was told of it
            raise

    def _tell(self, command: str, expected: str = "") -> None:
        answer = self._ask(command)
        if answer != expected:
            raise _refused(command.partition("\n")[0], answer)

    def _ask(self, command: str) -> str:
        # Through the directory's descriptor the path is short wherever the directory lies (108 bytes at most).
        deadline = time.monotonic() + self._seconds
        try:
            directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(self._seconds)
                    connection.connect(f"/proc/self/fd/{directory}/{self._socket}")
                    connection.sendall(command.encode() + b"\n")
                    return b"".join(_read(connection, deadline)).decode().strip()
            finally:
                os.close(directory)
        except OSError as error:
            raise Unavailable(
                f"The gateway does not answer on its admin socket: {error}.",
                code="GATEWAY_AWAY",
                next_action="`skyriver up` starts it again.",
            ) from error


def _read(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(1 << 16)
        if not data:
            return
        yield data


def _chunks(text: str) -> Iterator[str]:
    """Pieces of whole lines, each small enough for one command."""
    start = 0
    while start < len(text):
        end = len(text) if len(text) - start <= PAYLOAD_BYTES else text.rindex("\n", start, start + PAYLOAD_BYTES) + 1
        yield text[start:end]
        start = end


def _refused(command: str, answer: str) -> Internal:
    return Internal(f"The gateway refused `{command}`: {answer}", code="GATEWAY_REFUSED")
