"""The command line by itself: its commands, how they end, and what it makes of answers. No cloud is needed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import typer
from cloud_process import COMMAND, commands, run_command, unknown_commands
from rich.console import Console

import skyriver as sr
from skyriver.client import cli, patience, shell, show, top
from skyriver.client.calling import call, named_first, with_output
from skyriver.client.follow import LogReader, follow
from skyriver.client.patience import Patience
from skyriver.client.rows import read_rows
from skyriver.client.screen import Bars, Screen, show_error
from skyriver.client.sending import Sent, send_rows
from skyriver.core import errors
from skyriver.core.errors import InvalidInput, JobFailed, NotFound, SkyriverError, Unavailable

SOURCE = Path(cli.__file__).parents[1]
ALL = [[name] for name, verbs in commands().items() if not verbs]
ALL += [[name, verb] for name, verbs in commands().items() for verb in sorted(verbs)]
WHOLE: Any = typer.main.get_command(cli.app)
HEAVY = ("polars", "httpx", "numpy", "numba", "lightgbm", "onnxruntime", "fastapi", "sqlalchemy", "deltalake")


# The commands there are


def test_help_comes_at_once() -> None:
    """Beside the library that makes it, in turn: how fast the machine is just now is in both. The library alone is so
    quick that the luckiest of its runs says little."""
    ours, bare = [], []
    for _ in range(7):
        ours.append(cpu_seconds([str(COMMAND), "--help"]))
        bare.append(cpu_seconds([sys.executable, "-c", "import typer.rich_utils"]))
    assert min(ours) < 2.4 * median(bare)


def cpu_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
sys.argv = ["skyriver", "--help"]
from skyriver.wiring.command import main
try:
    main()
except SystemExit as ended:
    assert ended.code == 0, ended.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("deploy", "run", "predict", "send", "rollback", "explain", "stream"):
        assert f" {name} " in done.stdout


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_tells_what_it_does_and_speaks_json(command: list[str]) -> None:
    root: Any = typer.main.get_command(cli.app)
    found = root.commands[command[0]]
    found = found.commands[command[1]] if len(command) > 1 else found
    assert found.help
    options = {option for parameter in found.params for option in parameter.opts}
    assert command == ["init"] or "--json" in options


def test_nouns_have_the_same_verbs() -> None:
    nouns = {name: verbs for name, verbs in commands().items() if verbs}
    assert set(nouns) >= {"app", "model", "version", "service", "stream", "job", "table"}
    assert {name for name, verbs in nouns.items() if not verbs >= {"list", "get"}} == {"decide"}, (
        "which is a verb itself"
    )


def test_every_command_that_a_message_names_exists() -> None:
    wrong = {path.name: unknown_commands(path.read_text()) for path in SOURCE.rglob("*.py")}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["ps"], ["ps"]),
        (["ps", "-o", "json"], ["ps", "--json"]),
        (["-o", "json", "ps"], ["--json", "ps"]),
        (["ps", "--output", "json"], ["ps", "--json"]),
        (["ps", "--output=json"], ["ps", "--json"]),
        (["ps", "-o", "text"], ["ps"]),
        (["predict", "m", "--", "-o", "json"], ["predict", "m", "--", "-o", "json"]),
    ],
)
def test_the_forms_of_json_output(given: list[str], meant: list[str]) -> None:
    assert with_output(given) == meant


@pytest.mark.parametrize("given", [["ps", "-o", "yaml"], ["ps", "-o"], ["ps", "--output="]])
def test_another_output_is_refused(given: list[str]) -> None:
    with pytest.raises(InvalidInput, match="-o json") as refused:
        with_output(given)
    assert refused.value.code == "USAGE"


@pytest.mark.parametrize("name", commands())
def test_what_is_named_first_is_made_ready_alone_and_is_the_same(name: str) -> None:
    alone: Any = typer.main.get_command(named_first(cli.app, ["--home", "ps", name, "list"]))
    assert list(alone.commands) == [name]
    assert shape(alone)["parameters"] == shape(WHOLE)["parameters"]
    assert shape(alone.commands[name]) == shape(WHOLE.commands[name])


def shape(command: Any) -> dict[str, Any]:
    """All of a command but its functions."""
    parts = {name: shape(part) for name, part in getattr(command, "commands", {}).items()}
    parameters = [(p.name, p.opts, p.required, p.nargs, p.default) for p in command.params]
    return {"parameters": parameters, "help": command.help, "parts": parts}


@pytest.mark.parametrize("given", [[], ["job-list"], ["--help"], ["--version", "ps"], ["--home", "ps"], ["-h", "job"]])
def test_all_commands_are_there_where_none_is_named_first(given: list[str]) -> None:
    assert named_first(cli.app, given) is cli.app


# An example to start from


def test_init_writes_an_example_and_nothing_over_another(tmp_path: Path) -> None:
    written = run_command("init", cwd=tmp_path).succeeded()
    assert "skyriver up" in written.err
    assert {p.name for p in (tmp_path / "risk").iterdir()} >= {"risk.py", "simulate.py", "README.md"}
    run_command("init", cwd=tmp_path).refused("EXISTS", 6, "risk", "not empty", "skyriver init risk FOLDER")
    (tmp_path / "mine").mkdir()
    run_command("init", "diagnosis", "mine", cwd=tmp_path).succeeded()
    assert (tmp_path / "mine" / "biopsies.csv").is_file()
    (tmp_path / "file").touch()
    run_command("init", "risk", "file", cwd=tmp_path).refused("EXISTS", 6, "not a folder")
    run_command("init", "tulips", cwd=tmp_path).refused("NOT_FOUND", 3, "'tulips'", "diagnosis, keras_sample, risk")
    assert not (tmp_path / "tulips").exists()
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize("example", ["risk", "diagnosis"])
def test_what_init_writes_passes_its_own_test(example: str, tmp_path: Path) -> None:
    run_command("init", example, cwd=tmp_path).succeeded()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / example, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# How commands end


def ending(raised: BaseException | None, *more: str) -> int:
    """The exit code of a command that raises this."""
    app = typer.Typer()

    @app.command()
    def command(as_json: shell.Json = False) -> None:
        if raised is not None:
            raise raised

    return call(app, list(more))


ENDINGS: dict[type[SkyriverError], int] = {
    errors.InvalidInput: 2,
    errors.NotFound: 3,
    errors.NotAllowed: 4,
    errors.Unauthenticated: 4,
    errors.QuotaExceeded: 5,
    errors.Conflict: 6,
    errors.Unavailable: 7,
    errors.JobFailed: 100,
    errors.Corrupt: 1,
    errors.Internal: 1,
}


@pytest.mark.parametrize("kind", ENDINGS, ids=lambda kind: kind.__name__)
def test_exit_codes(kind: type[SkyriverError], capsys: pytest.CaptureFixture[str]) -> None:
    error = kind("It is wrong.", where="file:3", next_action="Do this.")
    assert ending(error) == ENDINGS[kind]
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error {kind.default_code} file:3\n  It is wrong.\n  → Do this.\n")
    assert ending(error, "--json") == ENDINGS[kind]
    out, err = capsys.readouterr()
    assert (out, json.loads(err)) == ("", error.to_problem())


def test_other_endings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ending(None) == 0
    assert ending(typer.Exit(2)) == 2
    assert ending(KeyboardInterrupt()) == 130
    assert ending(Unavailable("It goes on.", code="NOT_FINISHED")) == 101
    capsys.readouterr()
    missing = PermissionError(13, "Permission denied", str(tmp_path))
    assert ending(missing) == 2
    assert capsys.readouterr().err.startswith(f"error FILE_ERROR {tmp_path}\n  Permission denied.\n  → ")
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not dressed up
        ending(ZeroDivisionError())


def test_ctrl_c_ends_the_waiting_and_not_the_work() -> None:
    class Waiting:
        def wait(self, operation: str, *, timeout: float, told: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(Unavailable) as interrupted:
        shell.wait(Waiting(), "fraud-run-3", Bars(None, Screen(as_json=False)))  # type: ignore[arg-type]
    assert interrupted.value.code == "NOT_FINISHED"
    assert "`skyriver explain fraud-run-3`" in interrupted.value.next_action


def test_many_details_are_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    details = tuple({"index": n, "message": f"amount is {n}.", "reason": "OUT_OF_RANGE"} for n in range(14))
    show_error(InvalidInput("All are wrong.", code="ALL_REJECTED", details=details), as_json=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "  - row 1: amount is 0. (OUT_OF_RANGE)"
    assert lines[12:] == ["  - and 4 more"]


# Sending


class Stream:
    """Refuses negative numbers; a batch of nothing else is a problem. Away for row 100 and later."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def send(self, stream: str, rows: Sequence[dict[str, int]], *, wait: bool) -> dict[str, Any]:
        if rows[0]["n"] >= 100:
            raise Unavailable("It is away.", next_action="Wait.")
        rejected = [{"index": i, "message": f"n is {r['n']}"} for i, r in enumerate(rows) if r["n"] < 0]
        if len(rejected) == len(rows):
            raise InvalidInput("None can be taken.", code="ALL_REJECTED", where="n", details=tuple(rejected))
        good = [r["n"] for r in rows if r["n"] >= 0]
        self.taken += good
        decisions = [{"decision": "ship", "status": "decided"} for _ in good]
        return {"accepted": len(good), "duplicates": 0, "rejected": rejected, "decisions": decisions}


def numbers(*values: int) -> list[dict[str, int]]:
    return [{"n": n} for n in values]


def test_bad_rows_do_not_keep_back_the_others() -> None:
    stream: Any = Stream()
    sent = send_rows(stream, "s", numbers(1, -2, -3, -4, 5, 6), batch=2)
    assert stream.taken == [1, 5, 6]
    assert (sent.accepted, dict(sent.decisions)) == (3, {"ship": 3})
    assert [r["index"] for r in sent.rejected] == [1, 2, 3]


def test_a_rate_is_kept_within_a_batch() -> None:
    class Counting(Stream):
        batches = 0

        def send(self, stream: str, rows: Sequence[dict[str, int]], *, wait: bool) -> dict[str, Any]:
            self.batches += 1
            return super().send(stream, rows, wait=wait)

    stream: Any = Counting()
    sent = send_rows(stream, "s", numbers(*range(60)), rate=200, batch=100)
    assert (stream.batches, sent.accepted) == (3, 60)
    assert sent.seconds >= 0.2


def test_only_bad_rows_are_an_error() -> None:
    stream: Any = Stream()
    with pytest.raises(InvalidInput, match="None of 3 rows can be taken; the first: n is -1") as refused:
        send_rows(stream, "s", numbers(-1, -2, -3), batch=2)
    assert refused.value.code == "ALL_REJECTED"
    assert [d["index"] for d in refused.value.details] == [0, 1, 2]


class Starting(Stream):
    """Nothing answers for the first few times; its row is in `state`."""

    def __init__(self, state: str) -> None:
        super().__init__()
        self._state = state
        self.asked = 0

    def get(self, kinds: str, name: str) -> dict[str, str]:
        return {"state": self._state}

    def send(self, stream: str, rows: Sequence[dict[str, int]], *, wait: bool) -> dict[str, Any]:
        self.asked += 1
        if self.asked < 4:
            raise Unavailable("Nothing is up.", code="NO_CAPACITY")
        return super().send(stream, rows, wait=wait)


def test_a_stream_that_starts_is_waited_for() -> None:
    stream: Any = Starting("STARTING")
    assert send_rows(stream, "s", numbers(1, 2)).accepted == 2
    lost: Any = Starting("DEGRADED")
    with pytest.raises(Unavailable):
        send_rows(lost, "s", numbers(1, 2))
    assert lost.asked == 1


def test_a_name_that_is_near_is_told() -> None:
    class Unknown(Stream):
        def list(self, kinds: str) -> list[dict[str, str]]:
            return [{"name": "cardpay"}, {"name": "trips"}]

        def send(self, stream: str, rows: Sequence[dict[str, int]], *, wait: bool) -> dict[str, Any]:
            raise NotFound("There is no route.", code="UNKNOWN_ROUTE")

    stream: Any = Unknown()
    with pytest.raises(NotFound, match=r"There is no stream 'cardpy'\. Did you mean cardpay\?"):
        send_rows(stream, "cardpy", numbers(1))
    with pytest.raises(NotFound, match="`skyriver stream list`"):
        send_rows(stream, "x", numbers(1))
    with pytest.raises(NotFound, match="There is no route"):  # it is there, and starts or goes
        send_rows(stream, "trips", numbers(1))


def test_an_error_on_the_way_tells_how_far_it_came() -> None:
    stream: Any = Stream()
    with pytest.raises(Unavailable, match="The first 2 of 4 rows were sent") as away:
        send_rows(stream, "s", numbers(1, 2, 100, 101), batch=2)
    assert away.value.next_action.startswith("Wait. ")
    with pytest.raises(Unavailable) as at_once:
        send_rows(stream, "s", numbers(100, 101), batch=2)
    assert at_once.value.next_action == "Wait."


class Showing(Screen):
    """What is printed, as text."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self.out = Console(file=io.StringIO(), width=120)
        self.err = self.out

    @property
    def text(self) -> str:
        file = self.out.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


def test_events_without_decisions_are_kept_and_no_failure() -> None:
    sent = Sent(accepted=3)
    answer = {"accepted": 3, "duplicates": 0, "rejected": []}
    sent.add({**answer, "decisions": [{"decision": "", "status": "fallback", "reason": "NO_DECISIONS"}] * 3})
    screen = Showing()
    show.sent(screen, sent)
    assert "events taken in" in screen.text
    assert "3 are kept; the application declares no decisions" in screen.text
    assert "fallback" not in screen.text


def test_what_had_no_score_is_told() -> None:
    sent = Sent()
    states = ["late", "late", "failed", "decided", "fallback"]
    answer = {"accepted": 5, "duplicates": 0, "rejected": []}
    sent.add({**answer, "decisions": [{"decision": "ship", "status": s, "reason": s.upper()} for s in states]})
    screen = Showing()
    show.sent(screen, sent)
    assert "2 were late: decided without a score (LATE)" in screen.text
    assert "1 without a score, for the model failed" in screen.text
    assert "1 by the fallback" in screen.text
    assert "cheaper" not in screen.text


def test_what_was_shed_is_told_apart_from_other_fallbacks() -> None:
    sent = Sent()
    decisions = [
        {"decision": "ship", "status": "fallback", "reason": reason} for reason in ("SHED", "SHED", "NO_MODEL")
    ]
    sent.add({"accepted": 3, "duplicates": 0, "rejected": [], "decisions": decisions})
    screen = Showing()
    show.sent(screen, sent)
    assert "2 by the fallback, for more came than could be decided within the declared latency (SHED)" in screen.text
    assert "1 by the fallback, not by a model" in screen.text


def test_what_the_cheaper_version_scored_is_not_told_as_the_fallbacks() -> None:
    sent = Sent()
    reasons = ["CHEAPER", "CHEAPER", "SHED"]
    answer = {"accepted": 3, "duplicates": 0, "rejected": []}
    sent.add({**answer, "decisions": [{"decision": "ship", "status": "fallback", "reason": r} for r in reasons]})
    screen = Showing()
    show.sent(screen, sent)
    assert "2 by the cheaper version" in screen.text
    assert "1 by the fallback" in screen.text


def a_plan_line(kind: str, action: str = "update", detail: str = "") -> dict[str, str]:
    return {"action": action, "kind": kind, "name": "s", "detail": detail}


@pytest.mark.parametrize(
    ("trained", "change", "told"),
    [
        (True, a_plan_line("stream", "create"), "skyriver table load orders FILE, then skyriver run"),
        (False, a_plan_line("stream", "create"), "skyriver table load orders FILE, or skyriver send orders FILE"),
        (True, a_plan_line("stream", detail="stream"), ""),
        (True, a_plan_line("stream", detail="features; features take 40 bytes"), "skyriver run trains with it."),
        (True, a_plan_line("stream", detail="decide"), ""),
        (True, a_plan_line("model", detail="model"), "skyriver run trains with it."),
        (False, a_plan_line("model", detail="model"), ""),
    ],
)
def test_what_is_next_after_a_deployment(trained: bool, change: dict[str, str], told: str) -> None:
    class Order(sr.Event):
        order: int
        at: sr.Time

    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="order")
    if trained:
        back = app.labels("back", of=orders, delay="1d")

        @app.train(app.features("f", orders, {"n": sr.count(by="order", over="1d")}), label=back)
        def fit(data: sr.TrainingData) -> None: ...

        app.model("m", fit)
    screen = Showing()
    show.deployed(screen, app.spec, [change])
    after = screen.text.partition("Next: ")[2].strip()
    assert after == told


def test_rows_come_from_a_pipe_and_nothing_from_null(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text('{"n": 1}\n{"n": 2}\n'))
    writer.start()
    assert read_rows(pipe) == [{"n": 1}, {"n": 2}]
    writer.join()
    assert read_rows(Path(os.devnull)) == []
    with pytest.raises(InvalidInput, match="There is no file"):
        read_rows(tmp_path / "nothing")


def test_the_version_is_told() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == f"skyriver {sr.__version__}\n"


def test_points_in_time_are_shown_as_such() -> None:
    screen = Showing()
    show._print_facts(screen, {"checkpoint_at": 1_795_000_000_000_000, "rows": 1_000_000})
    assert "2026-11-18 11:06:40 UTC" in screen.text
    assert "1,000,000" in screen.text


# Logs


QUIET = Patience(lambda text: None)


class Logs:
    """Files that grow; a page has at most 8 bytes."""

    def __init__(self, **files: str) -> None:
        self.files = files
        self.state = "RUNNING"
        self.away = 0
        """For so many answers the control plane is away."""

    def logs(self, name: str, offset: int) -> list[dict[str, Any]]:
        self.answer()
        found = []
        for who, text in self.files.items():
            if name in ("all", who):
                start = min(len(text), offset if offset >= 0 else max(0, len(text) + offset))
                page = text[start : start + 8]
                found.append({"name": who, "text": page, "next": start + len(page)})
        return found

    def explain(self, name: str) -> list[dict[str, str]]:
        self.answer()
        return [{"state": self.state}]

    def answer(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("Away.", code="CONTROL_AWAY")


def test_the_last_lines_are_the_last_however_long_the_log_is() -> None:
    logs: Any = Logs(a="".join(f"line {n}\n" for n in range(100)), b="only\n")
    assert LogReader(logs, "all", QUIET).last(2) == [("a", "line 98"), ("a", "line 99"), ("b", "only")]
    assert LogReader(logs, "all", QUIET).last(0) == []


def test_following_gives_each_whole_line_once_and_ends_with_the_job() -> None:
    logs: Any = Logs(a="one\ntw")
    reader = LogReader(logs, "all", QUIET)
    assert reader.last(10) == [("a", "one")]
    logs.files["a"] += "o\nthree\n"
    logs.files["b"] = "a second process\n"
    assert reader.new() == [("a", "two"), ("a", "three"), ("b", "a second process")]
    assert reader.new() == []
    logs.files["a"] += "done\n"
    logs.state = "SUCCEEDED"
    assert list(follow(logs, "all", reader, QUIET)) == [[("a", "done")]]


def test_following_bears_a_control_plane_that_is_away_and_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.0)
    said: list[str] = []
    logs: Any = Logs(a="one\n")
    bearing = Patience(said.append)
    reader = LogReader(logs, "all", bearing)
    logs.away = 2
    assert reader.last(10) == [("a", "one")]
    logs.files["a"] += "two\nthree\nfour\n"
    logs.state, logs.away = "SUCCEEDED", 3
    assert list(follow(logs, "all", reader, bearing)) == [[("a", "two"), ("a", "three"), ("a", "four")]]
    assert [text.split(" (")[0] for text in said] == ["The control plane is away", "The control plane is back."] * 2


@pytest.mark.parametrize(("options", "asked"), [((), 1), (("-f",), 3)])
def test_only_following_waits_for_a_control_plane_that_is_away(
    options: Sequence[str], asked: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away:
        calls = 0

        def __enter__(self) -> Away:
            return self

        def __exit__(self, *error: object) -> None: ...

        def logs(self, name: str, offset: int) -> None:
            self.calls += 1
            code = "CONTROL_AWAY" if self.calls < 3 else "OVERLOADED"
            raise Unavailable("Away.", code=code, next_action="Wait.")

    client = Away()
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(cli, "connect", lambda: client)
    machine: Any = None
    assert cli.main(machine, ["logs", "orders", *options]) == Unavailable.exit_code
    assert client.calls == asked
    assert ("waiting for it" in capsys.readouterr().err) == bool(options)


def test_patience_ends_and_other_errors_are_not_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.0)
    logs: Any = Logs(a="")
    logs.away = 10**9
    with pytest.raises(Unavailable):
        Patience(lambda text: None, seconds=0.05).call(lambda: logs.explain("a"))

    def refuse() -> None:
        raise Unavailable("Busy.", code="OVERLOADED")

    with pytest.raises(Unavailable, match="Busy"):
        QUIET.call(refuse)


# What is shown


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    return lambda: capsys.readouterr().out


def item(kind: str, name: str, state: str, **more: Any) -> dict[str, Any]:
    empty = {"reason": "", "message": "", "next_action": "", "since": 0, "updated_at": 0, "processes": {}, "log": []}
    return {"kind": kind, "name": name, "state": state, "spec": {}, "status": {}, **empty, **more}


def test_an_empty_cloud_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show.running(Screen(as_json=False), {"streams": [], "services": [], "processes": [], "parts": [], "incidents": []})
    out, err = capsys.readouterr()
    assert out == ""
    assert "skyriver deploy" in err
    show.resources(Screen(as_json=False), "jobs", [])
    assert capsys.readouterr() == ("", "There are no jobs.\n")


@pytest.mark.parametrize("left", [["gateway"], []])
def test_top_keeps_what_it_saw_only_while_something_runs(left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine:
        def parts(self, home: object) -> list[dict[str, Any]]:
            return [{"kind": "part", "name": name} for name in left]

    class Away:
        def processes(self) -> None:
            raise Unavailable("Away.", code="CLOUD_AWAY")

    monkeypatch.setitem(shell.state, "machine", Machine())
    client: Any = Away()
    before = top.Look(0.0, [{"kind": "part", "name": "gateway"}, {"kind": "worker", "name": "w"}], [{"name": "j"}])
    now = top.look(client, before)
    assert [p["name"] for p in now.processes] == (["gateway", "w"] if left else [])
    assert ("`skyriver up` starts it." in now.trouble, bool(now.jobs)) == (not left, bool(left))


@pytest.mark.parametrize(
    ("supervisor", "control", "action"),
    [
        ("READY", "STARTING", "The supervisor starts it again; ask again in some seconds."),
        ("READY", "FAILED", "`skyriver up` starts it."),
        ("DEGRADED", "STARTING", "`skyriver up` starts it."),
        ("LOST", "LOST", "`skyriver up` starts it."),
    ],
)
def test_ps_names_up_only_where_nobody_else_starts_it(
    supervisor: str, control: str, action: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away() -> None:
        raise Unavailable("Away.", code="CONTROL_AWAY", next_action="`skyriver up` starts it.")

    class Machine:
        def parts(self, home: object) -> list[dict[str, Any]]:
            empty = {"kind": "part", "pid": 0, "message": "", "next_action": ""}
            states = {"supervisor": supervisor, "control plane": control}
            return [{**empty, "name": name, "state": state} for name, state in states.items()]

    this: Any = Machine()
    monkeypatch.setattr("skyriver.client.machine.connect", away)
    assert cli.main(this, ["ps"]) == Unavailable.exit_code
    out, err = capsys.readouterr()
    assert (control in out, err.splitlines()[-1].strip()) == (True, f"→ {action}")
    assert cli.main(this, ["ps", "--json"]) == Unavailable.exit_code
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["next_action"]) == ("", action)


def test_ps_tells_what_to_do_about_what_is_not_ready(shown: Callable[[], str]) -> None:
    waits = {"message": "No version is released.", "next_action": "`skyriver run` trains one."}
    service = item("service", "fraud", "PENDING", **waits) | {"spec": {"versions": {}}}
    show.running(
        Screen(as_json=False),
        {"streams": [], "services": [service], "scalings": [], "processes": [], "parts": [], "incidents": []},
    )
    assert "No version is released. `skyriver run` trains one." in shown()


def test_lists_count_as_people_do_and_keep_names_whole(shown: Callable[[], str]) -> None:
    names = [f"{'a-very-long-name-' * 5}{n}" for n in (10, 9, 1)]
    jobs = [
        item("job", name, "SUCCEEDED", status={"progress": {"stage": "fit", "done": 0, "total": 1}}) for name in names
    ]
    show.resources(Screen(as_json=False), "jobs", jobs)
    head, *lines = shown().splitlines()
    assert head.startswith("NAME")
    assert [line.split()[0] for line in lines] == names[::-1]
    assert not any("fit" in line for line in lines), "what is over makes no progress"


def test_an_explanation_names_each_process(shown: Callable[[], str]) -> None:
    told = {"alive": True, "pid": 7, "started_at": 0, "ready": True, "requests": 1_000_000, "effective_time": 0}
    failed = item(
        "service",
        "fraud",
        "DEGRADED",
        reason="REPLICAS_MISSING",
        message="1 of 2 replicas serve.",
        next_action="Wait.",
        spec={"serve": {}},
        processes={"fraud-1-1": told, "fraud-1-2": told | {"pid": 8}, "fraud-1-3": {"alive": False}},
        log=["[oops]"],
        waits_for=[
            {"ref": "replica/fraud-1-3", "by": "service/fraud", "state": "LOST", "progress": None}
            | {"reason": "PROCESS_DIED", "message": "Ended by [signal] 9.", "next_action": "Wait."},
        ],
        tried=[{"attempt": 2, "reason": "PROCESS_DIED", "message": "gone"}],
        next_pass=["starts the process replica.fraud-1-3"],
        helps=["Wait.", "More memory."],
    )
    show.explained(Screen(as_json=False), [failed])
    text = shown()
    assert "service fraud is DEGRADED\n  why   REPLICAS_MISSING: 1 of 2 replicas serve.\n  next  Wait.\n" in text
    assert "process fraud-1-1, pid 7" in text
    assert "process fraud-1-2, pid 8" in text
    assert "process fraud-1-3," not in text
    assert "  waits for replica/fraud-1-3, LOST: PROCESS_DIED Ended by [signal] 9.\n" in text
    assert "  tried attempt 2: PROCESS_DIED: gone\n" in text
    assert "  now   it starts the process replica.fraud-1-3\n" in text
    assert "  would help: More memory.\n" in text
    assert "1,000,000" in text
    assert "1970-01-01 00:00:00 UTC" in text
    assert "    [oops]\n" in text


def test_a_load_shows_its_first_bad_rows(capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"file": "a.csv", "row": n, "field": "at", "message": f"at is {n}."} for n in range(1, 30)]
    report = {"counts": {"rows_read": 1_000, "rows_bad": 29}, "bad_by_reason": {"BAD_TIME": 29}, "examples": bad}
    show.loaded(Screen(as_json=False), "orders", report)
    out, err = capsys.readouterr()
    assert "1,000" in out
    assert err.startswith("  set aside: 29 x BAD_TIME\n    a.csv, row 1: at is 1.\n")
    assert len(err.splitlines()) == 1 + show.EXAMPLES


def test_a_failed_job_keeps_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(JobFailed("fit failed", code="USER_ERROR", where="job/fraud-run-1-train"), as_json=False)
    assert capsys.readouterr().err == "error USER_ERROR job/fraud-run-1-train\n  fit failed\n"
