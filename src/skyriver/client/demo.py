"""`skyriver demo`: the whole road on data it makes, through the same commands and API that a user has.

Every claim it prints is measured in the run; when one is not true, it says so and ends with a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from skyriver.client import demo_burst, show, version_page
from skyriver.client.api import Client
from skyriver.client.appfile import load_app, pack
from skyriver.client.cli import deploy_request
from skyriver.client.loading import GivenFile, load_files
from skyriver.client.rows import read_rows
from skyriver.client.screen import Screen
from skyriver.client.sending import Sent
from skyriver.core.contract import Resource
from skyriver.core.errors import Conflict, Internal, SkyriverError

if TYPE_CHECKING:
    from skyriver.client.shell import Machine

STREAM, MODEL = "payments", "fraud"
PRICES = "aws-fargate"
RATE = 1_000
"""Events a second."""
BATCH = 10
LABEL_BATCH = 200
SENDERS = 4
PUBLISHED = {"auc": (0.862, 0.879), "average_precision": (0.639, 0.694), "card_precision_100": (0.273, 0.305)}
"""The handbook's own results on its data: XGBoost as first tried, and the best of all its models and searches."""


Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    home: Path | None
    scale: str
    keep: bool
    seed: int
    port: int | None
    as_json: bool


@dataclass
class Walk:
    """What the steps share, and what they found."""

    screen: Screen
    machine: Machine
    options: Options
    home: Path
    folder: Path
    client: Client
    seconds: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, number: int, title: str, command: str = "") -> Iterator[None]:
        typed = f"   [dim]$ {command}[/]" if command else ""
        self.screen.say(f"\n[bold cyan]{number:>2}[/] [bold]{title}[/]{typed}")
        start = time.perf_counter()
        yield
        self.seconds[title] = time.perf_counter() - start

    def tell(self, text: str) -> None:
        self.screen.say(f"   {text}")

    def check(self, holds: bool, text: str) -> None:
        """A claim: printed as it is, and kept if it does not hold."""
        self.screen.say(f"   [green]✓[/] {text}" if holds else f"   [bold red]✗ {text}[/]")
        if not holds:
            self.failures.append(text)


def run_demo(machine: Machine, options: Options) -> None:
    """Raises Internal (DEMO_FAILED) naming what did not hold."""
    screen = Screen(as_json=options.as_json)
    if options.home is not None and options.home.exists() and any(options.home.iterdir()):
        raise Conflict(
            f"{options.home} is not empty.", code="HOME_NOT_EMPTY", next_action="The demo needs a fresh home."
        )
    home = options.home or Path(tempfile.mkdtemp(prefix="skyriver-demo-"))
    begun = time.perf_counter()
    walk: Walk | None = None
    try:
        with screen.progress() as bars:
            bars.tell("starting a cloud of its own", 0, 0)
            address = machine.up(home, options.port or _free_port(), screen.say)
        screen.say(f"A cloud of its own runs at {address.url}, in {home}")
        with Client(address.url, address.token) as client:
            walk = Walk(screen, machine, options, home, home / "demo", client)
            walk.seconds["Start the cloud"] = time.perf_counter() - begun
            _walk(walk)
            total = time.perf_counter() - begun
            _summary(walk, total)
    finally:
        if not options.keep:
            machine.down(home, screen.say)
            if options.home is None:
                shutil.rmtree(home, ignore_errors=True)
    if walk is not None and walk.failures:
        raise Internal(f"It did not hold that: {'; '.join(walk.failures)}.", code="DEMO_FAILED")


def _walk(walk: Walk) -> None:
    shutil.copytree(walk.machine.examples() / "risk", walk.folder, ignore=shutil.ignore_patterns("__pycache__"))
    _make_data(walk)
    _deploy(walk)
    _load(walk)
    _train(walk)
    _predict(walk)
    _burst(walk)
    _decide(walk)
    _prove(walk)
    _one_again(walk)
    _swap_and_roll_back(walk)


def _make_data(walk: Walk) -> None:
    with walk.step(1, "Make data", f"python simulate.py --scale {walk.options.scale} --out data"):
        command = [sys.executable, "simulate.py", "--scale", walk.options.scale, "--seed", str(walk.options.seed)]
        with walk.screen.progress() as bars:
            bars.tell("simulating payments", 0, 0)
            done = subprocess.run(
                [*command, "--out", "data"], cwd=walk.folder, capture_output=True, text=True, check=False, timeout=600
            )
        if done.returncode:
            raise Internal(f"The simulator failed: {done.stderr[-500:]}")
        for line in done.stdout.splitlines():
            walk.tell(line)


def _deploy(walk: Walk) -> None:
    with walk.step(2, "Deploy the application", "skyriver deploy risk.py"):
        path = walk.folder / "risk.py"
        app = load_app(path)
        bundle = pack(path)
        body = deploy_request(walk.client, app.spec, bundle, path)
        done = walk.client.deploy(app.name, body)
        created = [f"{line['kind']} {line['name']}" for line in done["plan"] if line["action"] == "create"]
        walk.tell(f"created {', '.join(created)}")


def _load(walk: Walk) -> None:
    with walk.step(3, "Prepare", f"skyriver table load {STREAM} data/payments.parquet"):
        with walk.screen.progress() as bars:
            report = load_files(walk.client, STREAM, [GivenFile(walk.folder / "data" / "payments.parquet")], bars)
        walk.found["load"] = report
        if not walk.options.as_json:
            show.loaded(walk.screen, STREAM, report)


def _train(walk: Walk) -> None:
    with walk.step(4, "Train, compress, gate, release", f"skyriver run {MODEL}"):
        version = _run(walk, {})
        metrics = version["spec"]["metrics"]
        walk.found |= {"version": version["name"], "metrics": metrics, "candidates": version["spec"]["candidates"]}
        if not walk.options.as_json:
            version_page.version(walk.screen, version)
        walk.check(
            metrics["onnx_max_difference"] <= 1e-5,
            f"the ONNX model equals the trained one within {metrics['onnx_max_difference']:.1e} on the test rows",
        )


def _run(walk: Walk, params: Mapping[str, Any]) -> Resource:
    operation = walk.client.act("train", MODEL, params=params)
    with walk.screen.progress() as bars:
        done = walk.client.wait(operation, told=bars.follow())
    created = next(r for r in done["status"]["created"] if r.startswith("version/"))
    return walk.client.get("versions", created.partition("/")[2])


def _predict(walk: Walk) -> None:
    with walk.step(5, "Predict", f"skyriver predict {MODEL} amount=250 night=1 ..."):
        names = [f["name"] for f in walk.client.get("models", MODEL)["spec"]["features"]["features"]]
        row = {name: 250.0 if name == "amount" else 1.0 for name in names}
        plain = walk.client.predict(MODEL, row)
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, len(names)], "data": list(row.values())}
        protocol = walk.client.infer(MODEL, {"inputs": [tensor]})
        walk.tell(f"plain named fields       -> {json.dumps(plain)}")
        walk.tell(f"Open Inference Protocol  -> {json.dumps(protocol)}")
        walk.found["prediction"] = {"plain": plain, "protocol": protocol}
        same = abs(plain["score"] - protocol["outputs"][0]["data"][0]) < 1e-6
        walk.check(same, "both give the same score")


def _decide(walk: Walk) -> None:
    events = read_rows(walk.folder / "data" / "stream.parquet")
    with walk.step(
        7, f"Decide: {len(events):,} events at {RATE:,} a second", f"skyriver send {STREAM} data/stream.parquet"
    ):
        labels = read_rows(walk.folder / "data" / "stream_labels.parquet")
        sent = _send_open_loop(walk, events, labels)
        normal, held = sent.latencies()
        p50, p99, longest = _quantile(normal, 0.5), _quantile(normal, 0.99), _quantile(held, 1.0)
        walk.tell(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms from send to decision, {len(normal):,} events")
        if held:
            walk.tell(f"{len(held):,} events were held up by the kill, the longest for {longest / 1e3:.2f} s")
        else:
            walk.tell("no event could be told apart as held up by the kill: this machine is busy")
        walk.tell(f"{sent.total.labels:,} labels of earlier events became known meanwhile, and were sent")
        walk.tell("decisions: " + ", ".join(f"{d} {n:,}" for d, n in sorted(sent.total.decisions.items())))
        walk.check(not sent.errors, f"no event was refused or lost on the way{_first(sent.errors)}")
        answers = sum(sent.total.decisions.values())
        walk.check(answers == len(events), f"{answers:,} of {len(events):,} events were answered with a decision")
        walk.found["stream"] = {
            "events": len(events),
            "p50_ms": p50,
            "p99_ms": p99,
            "held_up_events": len(held),
            "held_up_seconds": longest / 1e3 if held else 0.0,
            "decisions": dict(sent.total.decisions),
            "statuses": dict(sent.total.statuses),
        }


def _first(errors: Sequence[str]) -> str:
    return f" ({errors[0]})" if errors else ""


class _Sending:
    """What the senders share. An event's latency counts from the moment its request was due."""

    def __init__(self) -> None:
        self.total = Sent()
        self.answered: list[tuple[float, float, int]] = []
        """(due, answered, events) of each request."""
        self.errors: list[str] = []
        self.lock = threading.Lock()
        self.killed_at = float("inf")

    def take(self, answer: Mapping[str, Any], due: float, now: float, events: int) -> None:
        with self.lock:
            self.total.add(answer)
            self.errors += [str(r["message"]) for r in answer["rejected"]]
            self.answered.append((due, now, events))

    def take_labels(self, answer: Mapping[str, Any]) -> None:
        with self.lock:
            self.total.add_labels(answer)
            self.errors += [str(r["message"]) for r in answer["rejected"]]

    def latencies(self) -> tuple[list[float], list[float]]:
        """Milliseconds of every event, ascending: (in normal running, held up by the kill). Held up is what was due
        from the kill until a request was answered at the usual speed again."""
        usual = 5 * _quantile(sorted(now - due for due, now, _ in self.answered), 0.5)
        again = min((due for due, now, _ in self.answered if due > self.killed_at and now - due < usual), default=0.0)
        normal: list[float] = []
        held: list[float] = []
        for due, now, events in self.answered:
            # A request that was under way when the worker died was due shortly before.
            hit = due >= again or now < self.killed_at
            (normal if hit else held).extend([(now - due) * 1e3] * events)
        return sorted(normal), sorted(held)


def _send_open_loop(walk: Walk, events: Rows, labels: Rows) -> _Sending:
    """Batches of ten leave when they are due, whether those before were answered or not; labels in proportion. Half-way
    the worker dies."""
    shared = _Sending()
    queue: SimpleQueue[tuple[float, Rows, Rows] | None] = SimpleQueue()
    threads = [threading.Thread(target=_sender, args=(walk, queue, shared)) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    killed, sent = False, 0
    try:
        with walk.screen.progress() as bars:
            for first in range(0, len(events), BATCH):
                due = start + (first + BATCH) / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                known = min(len(labels), (first + BATCH) * len(labels) // len(events))
                told = labels[sent:known] if known - sent >= LABEL_BATCH or first + BATCH >= len(events) else ()
                sent += len(told)
                queue.put((due, events[first : first + BATCH], told))
                bars.tell("sending events", first + BATCH, len(events))
                if not killed and first * 2 >= len(events):
                    killed = True
                    _kill_worker(walk)
                    shared.killed_at = time.perf_counter()
    finally:
        for _ in threads:
            queue.put(None)
        for thread in threads:
            thread.join(timeout=120)
    return shared


def _sender(walk: Walk, queue: SimpleQueue[Any], shared: _Sending) -> None:
    with Client(walk.client.url, _token(walk)) as client:
        while True:
            try:
                item = queue.get(timeout=120)
            except Empty:
                return
            if item is None:
                return
            due, batch, labels = item
            try:
                answer = client.send(STREAM, batch, wait=True)
                shared.take(answer, due, time.perf_counter(), len(batch))
                if labels:
                    shared.take_labels(client.send_labels(STREAM, labels))
            except SkyriverError as error:
                with shared.lock:
                    shared.errors.append(str(error))


def _token(walk: Walk) -> str:
    return walk.machine.address(walk.home).token


def _kill_worker(walk: Walk) -> None:
    worker = next(p for p in walk.client.processes() if p["kind"] == "worker")
    os.kill(worker["pid"], signal.SIGKILL)
    walk.tell(f"[yellow]kill -9[/] of the stream's worker, pid {worker['pid']}, in full run")


def _prove(walk: Walk) -> None:
    with walk.step(8, "Prove", f"skyriver stream verify {STREAM}"):
        with walk.screen.progress() as bars:
            done = walk.client.wait(walk.client.act("verify", STREAM), told=bars.follow())
        report = done["status"]["result"]["verify"]
        walk.found["verify"] = report
        walk.check(
            report["events"] == walk.found["stream"]["events"] and not report["undecided"],
            f"{report['events']:,} events are in the log, {report['undecided']} without a decision: nothing lost",
        )
        walk.check(not report["decided_twice"], f"{report['decided_twice']} were decided twice")
        equal = report["compared"] > 0 and not report["different"]
        walk.check(equal, f"{report['compared']:,} rows of feature values equal the backfill, bit for bit")


def _swap_and_roll_back(walk: Walk) -> None:
    with walk.step(10, "Swap and roll back under load", f"skyriver run {MODEL}; skyriver rollback {MODEL}"):
        names = [f["name"] for f in walk.client.get("models", MODEL)["spec"]["features"]["features"]]
        with _Load(walk, dict.fromkeys(names, 1.0)) as load:
            second = _run(walk, {"seed": 1, "trees": 60})
            load.settle()
            swapped = set(load.versions)
            walk.client.wait(walk.client.act("rollback", MODEL))
            load.settle()
        champion = walk.client.get("models", MODEL)["status"]["aliases"]["champion"]
        walk.tell(f"{second['name']} took over from {walk.found['version']}, then {MODEL}:{champion} was taken back")
        walk.check(len(swapped) == 2, f"versions that answered, in turn: {', '.join(map(str, load.versions))}")
        walk.check(f"{MODEL}:{champion}" == walk.found["version"], "the version from before serves again")
        walk.check(
            not load.errors, f"{load.answered:,} requests ran meanwhile, {len(load.errors)} failed{_first(load.errors)}"
        )
        walk.found["swap"] = {"requests": load.answered, "failed": len(load.errors)}


def _burst(walk: Walk) -> None:
    """One replica becomes two; priced by a list, for here nothing costs anything. It is one again by `_one_again`."""
    with walk.step(6, "A burst of requests: one replica becomes two", f"skyriver explain {MODEL}"):
        (walk.home / "prices.toml").write_text(f'list = "{PRICES}"\n')
        features = len(walk.client.get("models", MODEL)["spec"]["features"]["features"])
        burst = demo_burst.burst_of(walk.client, _token(walk), MODEL, features)
        alone_s = burst.alone()
        latency_ms = max(10, round(demo_burst.TIMES * alone_s * 1e3))
        declared = demo_burst.declaration(latency_ms)
        path = walk.folder / "risk.py"
        before = "    compress=sr.Compress(max_loss=0.005),\n"
        path.write_text(path.read_text().replace(before, f"{before}    {declared},\n"))
        walk.client.deploy("risk", deploy_request(walk.client, load_app(path).spec, pack(path), path))
        walk.tell(f"a request of {demo_burst.ROWS:,} rows takes {alone_s * 1e3:.0f} ms alone; declared: {declared}")
        demo_burst.wait_for_first_look(walk.client, MODEL)
        begun = time.perf_counter()
        with burst:
            more = demo_burst.wait_for_replicas(walk.client, MODEL, 2)
            two = time.perf_counter()
            time.sleep(2.0)
        end = time.perf_counter()
        latency_s = latency_ms / 1e3
        walk.check(
            more["from"] == 1, f"1 -> 2 replicas serve {two - begun:.1f} s after it began. {demo_burst.told(more)}"
        )
        walk.tell(demo_burst.lateness(burst, latency_s, begun, two, end))
        walk.tell(f"priced by the list {PRICES} of {walk.home / 'prices.toml'}; without one nothing costs anything")
        failed = sum(status != 200 for _, _, status in burst.answers)
        walk.check(not failed, f"{len(burst.answers):,} requests of {demo_burst.ROWS:,} rows, {failed} failed")
        walk.found["burst"] = {"more": more, "requests": len(burst.answers), "failed": failed}


def _one_again(walk: Walk) -> None:
    with walk.step(9, "One replica again", f"skyriver service history {MODEL}"):
        fewer = demo_burst.wait_for_replicas(walk.client, MODEL, 1)
        walk.check(fewer["from"] == 2, f"2 -> 1 replicas. {demo_burst.told(fewer)}")
        walk.found["burst"]["fewer"] = fewer


class _Load:
    """Requests without pause from one client, as long as the block lasts."""

    def __init__(self, walk: Walk, row: Mapping[str, float]) -> None:
        self._walk = walk
        self._row = row
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.versions: list[int] = []
        self.errors: list[str] = []

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def settle(self, seconds: float = 0.3) -> None:
        """Lets some requests meet what is new."""
        before = self.answered
        deadline = time.monotonic() + 10
        while self.answered < before + 50 and time.monotonic() < deadline:
            time.sleep(seconds / 10)

    def _run(self) -> None:
        with Client(self._walk.client.url, _token(self._walk)) as client:
            while not self._stop.is_set():
                try:
                    version = int(client.predict(MODEL, self._row)["version"])
                except SkyriverError as error:
                    self.errors.append(str(error))
                else:
                    self.answered += 1
                    if not self.versions or self.versions[-1] != version:
                        self.versions.append(version)
                self._stop.wait(0.01)  # it leaves the cores to the training


def _summary(walk: Walk, total: float) -> None:
    document = {
        "seconds": {**walk.seconds, "total": total},
        "scale": walk.options.scale,
        **walk.found,
        "failures": walk.failures,
        "home": str(walk.home) if walk.options.keep else None,
    }
    walk.screen.data(document, lambda: _show_summary(walk, total))


def _show_summary(walk: Walk, total: float) -> None:
    screen = walk.screen
    screen.say("")
    longest = max(walk.seconds.values())
    rows = [(t, f"{s:5.1f} s", "█" * round(20 * s / longest)) for t, s in walk.seconds.items()]
    screen.table(f"Where the {total:.0f} s went", ("step", "time", ""), rows)
    metrics = walk.found["metrics"]
    compared: list[Sequence[object]] = [
        (name, f"{metrics[name]:.3f}", f"{first:.3f}", f"{best:.3f}") for name, (first, best) in PUBLISHED.items()
    ]
    screen.out.print()
    title = "The model beside the handbook's published results on its own data"
    screen.table(title, ("metric on the last 7 days", "here", "XGBoost", "best of all"), compared)
    screen.out.print()
    home = f" --home {walk.home}" if walk.options.keep else ""
    if walk.options.keep:
        screen.say(f"The cloud still runs. [bold]skyriver{home} ps[/] shows it, [bold]skyriver{home} down[/] ends it.")
    else:
        screen.say("Your own: [bold]skyriver init risk[/], [bold]skyriver up[/], [bold]skyriver deploy risk/risk.py[/]")


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
