"""The home under power cuts: its settings, a secret, the gateway's table, and what processes tell of themselves."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from powercut.part import Say, Told, most, need, right
from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.processes.runs import Run, RunFiles
from skyriver.core.errors import Unavailable
from skyriver.core.resources import RouteTable
from skyriver.trust.secretfile import read_secret, write_secret
from skyriver.wiring import cloud, watched
from skyriver.wiring.home import Home
from skyriver.wiring.process import write_atomically


class HomePart:
    """What is written as number n follows from n. The gateway is away: `apply` then says that the table is on disk."""

    name = "home"

    def work(self, root: Path, luck: random.Random, say: Say) -> None:
        for n in range(40):
            self._write(self._open(root), n, luck.randrange(3), say)

    def check(self, root: Path, told: Told, say: Say) -> None:
        home = self._open(root)
        numbers = [words[-1] for words in told if words[0] == "begin"]
        for word, shown in (("settings", self._settings), ("secret", self._secret), ("table", self._table)):
            n = shown(home)
            need(n >= most(told, word, -1), f"{word} {most(told, word, -1)} was acknowledged, {n} is there")
            right(n == -1 or n in numbers, f"{word} {n} was never written")
        after = 1 + max(numbers, default=-1)
        right(not cloud._control_ready(home), "a control plane is taken to run")
        right(all(part == watched.PartState() for part in watched.read_parts(home).values()), "a part has ended")
        right(all(run == _run(run.pid) for run in RunFiles(home.run).all()), "a run file is not what was written")
        for which, shown in enumerate((self._settings, self._secret, self._table)):
            self._write(home, after, which, say)
            need(shown(self._open(root)) == after, "what was written after the cut is not there")

    def _open(self, root: Path) -> Home:
        home = Home(root / "share" / "skyriver")
        home.make()
        return home

    def _write(self, home: Home, n: int, which: int, say: Say) -> None:
        say("begin", n)
        # These need not survive; what is left of them must be in nobody's way.
        write_atomically(home.control_run, json.dumps({"pid": n, "start_time": n, "boot": _text(n)}).encode())
        write_atomically(home.supervisor_run, json.dumps({"parts": {}, "more": _text(n)}).encode())
        RunFiles(home.run).record(_run(n))
        if which == 0:
            home.write_settings({"n": n, "more": _text(n)})
            say("settings", n)
        elif which == 1:
            write_secret(home.root / "keys" / "token", _text(n).encode())
            say("secret", n)
        else:
            with suppress(Unavailable):
                self._gateway(home).apply(_table(n))
                raise AssertionError("a gateway runs here")
            say("table", n)

    def _gateway(self, home: Home) -> HaproxyGateway:
        return HaproxyGateway(home.gateway, port=1, control_socket=home.root / "control.sock")

    def _settings(self, home: Home) -> int:
        found = home.settings()
        n = int(found.get("n", -1))
        right(not found or found == {"n": n, "more": _text(n)}, "the settings are not what was written")
        return n

    def _secret(self, home: Home) -> int:
        path = home.root / "keys" / "token"
        if not path.exists():
            return -1
        text = read_secret(path).decode()
        n = int(text.split(".")[0] or -1)
        right(text == _text(n), "the secret is not what was written")
        return n

    def _table(self, home: Home) -> int:
        table, _ = self._gateway(home)._read()
        n = int(table.tokens[0][1].removeprefix("t")) if table.tokens else -1
        right(not table.tokens or table == _table(n), "the gateway's table is not what was written")
        return n


def _run(n: int) -> Run:
    return Run("acme.worker.a", "worker", "acme", False, n, n, "boot", _text(n), "", "", "", float(n))


def _text(n: int) -> str:
    return f"{n}." * (n * 211 % 900 + 1)


def _table(n: int) -> RouteTable:
    return RouteTable(
        tokens=tuple((sha256(f"{n}.{place}".encode()).hexdigest(), f"t{n}") for place in range(n % 30 + 1))
    )
