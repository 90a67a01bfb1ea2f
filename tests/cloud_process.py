"""A whole cloud as a user has it: the `skyriver` command, what it prints, and the gateway's port."""

from __future__ import annotations

import atexit
import contextlib
import csv
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import typer
from free_ports import free_port
from warm_command import COMMAND, STARTED, WarmCommand

from skyriver.client import cli
from skyriver.core.errors import SkyriverError
from skyriver.wiring.ending import down
from skyriver.wiring.home import Home

DEADLINE = 300.0
"""A machine that does much else takes many times as long as one that does not; nobody waits who need not."""
HISTORY = 4_000
CUSTOMERS = 200
START = 1_735_689_600
"""2025-01-01T00:00:00Z; the history is 40 days from then."""
DAYS = 40

SHOP = """\
import skyriver as sr

app = sr.App("shop")


class Order(sr.Event):
    order: int
    at: sr.Time
    customer: int
    amount: float | None = sr.field(ge=0, le=100_000)


orders = app.stream("orders", Order, id="order", time="at", key="customer", disorder="1h")
returned = app.labels("returned", of=orders, delay="2d")

habits = app.features("habits", orders, {
    "amount": orders.amount,
    "orders_7d": sr.count(by="customer", over="7d"),
    "mean_7d": sr.mean("amount", by="customer", over="7d"),
    "returned_14d": sr.mean(returned, by="customer", over="14d"),
})


@app.train(habits, label=returned, test="7d")
def fit(data: sr.TrainingData) -> object:
    import lightgbm

    settings = {"objective": "binary", "num_leaves": 7, "min_data_in_leaf": 20, "num_threads": 1, "verbose": -1}
    return lightgbm.train(settings | {"seed": data.seed}, lightgbm.Dataset(data.x, data.y), data.params.get("trees", 5))


model = app.model("comes_back", fit, gate=sr.Gate(auc=">= 0.6"), serve=sr.Service(replicas=2))
app.decide(orders, model, {"call": "score >= 0.25"}, otherwise="ship")
"""

ROW = {"amount": 80.0, "orders_7d": 3, "mean_7d": 40.0, "returned_14d": 0.5}
"""What is known of one order when it is to be predicted."""


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@cache
def history() -> tuple[dict[str, Any], ...]:
    """4,000 orders of 200 customers in 40 days; some customers send much back, above all what was dear."""
    luck = random.Random(1)
    careless = {c for c in range(CUSTOMERS) if luck.random() < 0.2}
    rows = []
    for number in range(1, HISTORY + 1):
        customer, amount = luck.randrange(CUSTOMERS), round(luck.expovariate(1 / 50) + 1, 2)
        share = 0.6 if customer in careless and amount > 30 else 0.05
        at = iso(START + DAYS * 86_400 * number // HISTORY)
        rows.append(
            {"order": number, "at": at, "customer": customer, "amount": amount, "returned": int(luck.random() < share)}
        )
    return tuple(rows)


def live(first: int, count: int) -> list[dict[str, Any]]:
    """Orders after the history, a second apart; `first` counts from 0."""
    luck = random.Random(first)
    after = START + DAYS * 86_400 + 1
    return [
        {
            "order": 100_000 + n,
            "at": iso(after + n),
            "customer": n % CUSTOMERS,
            "amount": round(luck.expovariate(1 / 50) + 1, 2),
        }
        for n in range(first, first + count)
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pl.DataFrame(list(rows)).write_parquet(path)
    return path


@cache
def commands() -> dict[str, frozenset[str]]:
    """The commands there are, and the verbs of each that is a noun."""
    root: Any = typer.main.get_command(cli.app)
    return {name: frozenset(getattr(command, "commands", {})) for name, command in root.commands.items()}


def unknown_commands(text: str) -> list[str]:
    """What `text` quotes as a command of ours and is none. Names that are filled in later ({...}) may be anything."""
    wrong = []
    for quoted in re.findall(r"`skyriver ([^`]+)`", text):
        words = quoted.split()
        verbs = commands().get(words[0])
        if words[0].startswith(("{", "--")):
            continue
        if verbs is None or (verbs and (len(words) < 2 or words[1] not in verbs)):
            wrong.append(quoted)
    return wrong


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def succeeded(self) -> Ended:
        assert self.code == 0, self.err or self.out
        return self

    def refused(self, code: str, exit_code: int, *words: str) -> Ended:
        """One clear error: its code, where or what (`words`), what to do, and no more."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        errors = [n for n, line in enumerate(lines) if line.startswith("error ")]
        assert len(errors) == 1, self.err
        shown = "\n".join(lines[errors[0] :])
        assert shown.split()[1] == code, self.err
        for word in words:
            assert word in shown, (word, self.err)
        assert "\n  → " in shown, f"nothing is said of what to do: {self.err}"
        assert unknown_commands(shown) == []
        assert self.code == exit_code
        return self

    def problem(self, code: str, exit_code: int) -> dict[str, Any]:
        """One problem document, and nothing else."""
        assert self.out == ""
        found: dict[str, Any] = json.loads(self.err)
        assert found["type"] == f"urn:skyriver:error:{code.lower()}"
        assert (found["code"], self.code) == (code, exit_code)
        assert found["title"]
        assert found["detail"]
        assert found["next_action"]
        assert 400 <= found["status"] < 600
        assert unknown_commands(found["next_action"]) == []
        return found


def _environment() -> dict[str, str]:
    """Without settings of whoever runs the tests. Where there is a proxy, it is of no use on the way to this machine
    itself: none answers at this one."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SKYRIVER_", "COLUMNS"))}
    return environment | dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")


def run_command(*arguments: object, cwd: Path | None = None, given: str | None = None) -> Ended:
    """`skyriver ARGUMENTS` without a terminal."""
    environment = _environment()
    argv = [str(COMMAND), *(str(a) for a in arguments)]
    if STARTED.isdisjoint(argv[1:4]):
        done = warm().run(argv, cwd=cwd, env=environment, given=given, timeout=2 * DEADLINE)
    else:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=environment,
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
            check=False,
        )
    return Ended(done.returncode, done.stdout, done.stderr)


@cache
def warm() -> WarmCommand:
    """What this process forks commands from."""
    warm = WarmCommand(_environment())
    atexit.register(warm.close)
    return warm


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE, *, every: float = 0.05) -> Any:
    """What `condition` gives, once it is true. It is looked at each `every` seconds at first, and less often the longer
    it takes: looks are work too, on the processors of what is waited for."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds:
        if found := condition():
            return found
        time.sleep(max(every, min(0.3, waited / 20)))
    raise AssertionError(f"{what}: not within {seconds:g} s")


def kill(pid: int) -> None:
    """kill -9, and it is dead when this returns: before that it may still take a request and never answer it."""
    os.kill(pid, signal.SIGKILL)

    def dead() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z" and threads == 1  # the last thread to go closes its files

    wait_for(dead, f"{pid} is dead")


@dataclass
class Cloud:
    """A cloud of its own, in a home with a short path: a socket's path has at most 107 bytes."""

    folder: Path
    """For the files of the tests, the application among them."""
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="road-")))
    port: int = field(default_factory=free_port)
    sent: int = 0
    kernels: Path | None = None
    """Compiled features that it shares with others."""

    def __post_init__(self) -> None:
        (self.folder / "shop.py").write_text(SHOP)
        if self.kernels is not None:
            (self.home / "cache").mkdir(mode=0o700)
            (self.home / "cache" / "kernels").symlink_to(self.kernels)

    @property
    def app(self) -> Path:
        return self.folder / "shop.py"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text()

    def command(self, *arguments: object, given: str | None = None) -> Ended:
        return run_command("--home", self.home, *arguments, cwd=self.folder, given=given)

    def json(self, *arguments: object) -> Any:
        return self.command(*arguments, "--json").succeeded().json

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, kind: str = "application/json"
    ) -> tuple[int, Any]:
        """(status, what the body says) of one request through the gateway."""
        with self.connected(token) as ask:
            return ask(method, path, body, kind)

    @contextlib.contextmanager
    def connected(self, token: str | None = None) -> Iterator[Callable[..., tuple[int, Any]]]:
        """The same over one connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}

        def ask(method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers | {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

        try:
            yield ask
        finally:
            connection.close()

    def rows(self, kinds: str) -> list[dict[str, Any]]:
        """All of a kind, or the processes, as the API tells them."""
        status, answer = self.ask("GET", f"/api/v1/tenants/default/{kinds}")
        assert status == 200, answer
        found: list[dict[str, Any]] = answer["items"]
        return found

    def processes(self) -> dict[str, int]:
        """Name -> pid of the streams' workers and the services' replicas that live."""
        return {p["name"]: p["pid"] for p in self.rows("processes") if p["alive"] and p["kind"] != "job"}

    def wait_ready(self) -> None:
        """Until every stream and worker is READY, and every service and replica of a model that has a version."""
        wait_for(self._all_ready, "everything READY")

    def _all_ready(self) -> bool:
        services = [s for s in self.rows("services") if s["reason"] != "NO_VERSION"]
        processes = [p for p in self.rows("processes") if p["kind"] != "job"]
        rows = [*self.rows("streams"), *services, *processes]
        return all(r["state"] == "READY" for r in rows)

    def next_orders(self, count: int) -> list[dict[str, Any]]:
        """Orders that were not sent yet."""
        orders = live(self.sent, count)
        self.sent += count
        return orders

    def control_pid(self) -> int:
        return int(json.loads((self.home / "run" / "control.json").read_bytes())["pid"])

    def supervisor_pid(self) -> int:
        return int(json.loads((self.home / "run" / "supervisor.json").read_bytes())["pid"])

    def gateway_pid(self) -> int:
        return int(json.loads((self.home / "gateway" / "haproxy.json").read_bytes())["pid"])

    def living(self) -> dict[int, str]:
        """Every process of this home, by pid: all of them work in a directory of it."""
        found = {}
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # ended since, or another user's
                if process.name.isdecimal() and (process / "cwd").readlink().is_relative_to(self.home):
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def sockets(self) -> list[Path]:
        return [path for path in self.home.rglob("*") if path.is_socket()]

    def close(self) -> None:
        """Ends it, whatever state a test left it in. Nobody looks at it any more: nothing is waited for."""
        while living := self.living():  # more than once: they start each other again
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(SkyriverError, OSError):
            down(Home.at(self.home))  # the groups that held them
        shutil.rmtree(self.home, ignore_errors=True)
