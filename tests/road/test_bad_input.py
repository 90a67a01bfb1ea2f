"""What is wrong is told once and clearly - what, where, why, what to do - and leaves nothing half-done."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cloud_process import (
    COMMAND,
    HISTORY,
    ROW,
    SHOP,
    Cloud,
    free_port,
    history,
    iso,
    run_command,
    unknown_commands,
    wait_for,
    write_csv,
    write_lines,
    write_parquet,
)

from skyriver.client.api import Client
from skyriver.core.errors import NotAllowed
from skyriver.core.names import digest
from skyriver.trust.secretfile import write_secret
from skyriver.trust.tokens import new_token
from skyriver.wiring.home import Home

MOON = """\
import skyriver as sr

app = sr.App("moon")


class Rock(sr.Event):
    rock: int
    weight: float
    hollow: int


rocks = app.table("rocks", Rock, id="rock")
weighed = app.features("weighed", rocks, {"weight": rocks.weight})


@app.train(weighed, label=rocks.hollow)
def fit(data: sr.TrainingData):
    print("looking at", len(data.y), "rocks")
    raise ValueError("the moon is in the wrong house")


app.model("hollowness", fit)
"""
A_FEW = [dict(row) for row in history()[:300]]


# Application files. They are executed before anything is asked of a cloud, so none is needed.

BAD_APPS: Mapping[str, tuple[str, str, str, str, list[str]]] = {
    "syntax": ("(sr.Event):", "(sr.Event)", "SYNTAX_ERROR", "class Order", ["expected ':'", "class Order(sr.Event)"]),
    "window": (
        'over="7d"),\n    "m',
        'over="7 parsecs"),\n    "m',
        "BAD_DURATION",
        "7 parsecs",
        ["'7 parsecs'", 'as in "7d"'],
    ),
    "label as a field": (
        "customer: int\n",
        "customer: int\n    returned: int\n",
        "LABEL_LEAK",
        "returned = app.labels",
        ["'returned'", "orders", "would leak"],
    ),
    "label by name": (
        'sr.mean("amount", by="customer", over="7d")',
        'sr.mean("returned", by="customer", over="7d")',
        "LABEL_LEAK",
        "habits = app.features",
        ["mean_7d", "'returned'", "it leaks", "app.labels"],
    ),
    "missing module": (
        "\n\napp = ",
        "\nimport astrology\n\napp = ",
        "MISSING_MODULE",
        "import astrology",
        ["astrology"],
    ),
    "failing": ("app = sr.App", "app = 1 / 0, sr.App", "APP_FILE_FAILED", "1 / 0", ["ZeroDivisionError"]),
    "unknown field": ('r", over="14d"', 'rs", over="14d"', "UNKNOWN_FIELD", "habits = app.features", ["'customers'"]),
    "model of another stream": (
        'model = app.model("comes_back", fit,',
        """calls = app.stream("calls", Order, id="order", time="at", key="customer")
asked = app.labels("asked", of=calls, delay="2d")
of_calls = app.features("of_calls", calls, {"amount": calls.amount})


@app.train(of_calls, label=asked)
def fit_of_calls(data: sr.TrainingData):
    return None


model = app.model("comes_back", fit_of_calls,""",
        "BAD_DECISION",
        "app.decide(orders",
        ["orders cannot decide with the model comes_back", "trained on features of calls", "@app.train"],
    ),
    "ready model": (
        'app.model("comes_back", fit, gate=sr.Gate(auc=">= 0.6"), serve',
        'app.model("comes_back", onnx="model.onnx", serve',
        "BAD_DECISION",
        "app.decide(orders",
        ["orders cannot decide with the model comes_back", "ready file"],
    ),
    "decisions on a table": (
        "app.decide(orders, model",
        'old = app.table("old", Order, id="order")\napp.decide(old, model',
        "BAD_DECISION",
        "app.decide(old",
        ["old is not a stream"],
    ),
    "fallbacks": (
        'otherwise="ship"',
        'otherwise="ship", fallback_by=["hope"]',
        "BAD_DECISION",
        "app.decide(orders",
        ["['hope']", "last_version"],
    ),
    "retention of a log in NATS": (
        'disorder="1h")',
        'disorder="1h", retention="30d", log=sr.NatsLog("nats://bus", name="orders", credentials="bus"))',
        "BAD_STREAM",
        "orders = app.stream",
        ["kept whole", "retention="],
    ),
    "keyword": (
        'disorder="1h")',
        'dissorder="1h")',
        "APP_FILE_FAILED",
        "orders = app.stream",
        ["'dissorder'", "Did you mean disorder=?", "dedupe"],
    ),
    "keyword of a service": (
        "model = app.model(",
        "ready = sr.Service(replicas=(0, 1), idel='10m')\nmodel = app.model(",
        "BAD_SERVICE",
        "idel=",
        ["sr.Service: idel is not known (did you mean 'idle'?)", "sr.Service takes replicas, "],
    ),
    "keyword of a window": (
        'by="customer", over="14d"',
        'by="customer", ower="14d"',
        "APP_FILE_FAILED",
        "ower=",
        ["'ower'", "Did you mean over=? There are what, by, over."],
    ),
    "half-life": (
        'sr.count(by="customer", over="7d")',
        'sr.decayed_mean("amount", by="customer", over="7d", half_life="8d")',
        "BAD_DURATION",
        "half_life=",
        ["half_life='8d'", "over='7d'"],
    ),
    "gate": ('">= 0.6"', '"good"', "BAD_GATE", "model = app.model", ["'good'", '">= 0.6"']),
}
"""What is there, what stands there instead, the code, the line that is shown, and words of the error."""


@pytest.mark.parametrize("case", BAD_APPS)
def test_an_application_file_with_a_mistake(case: str, tmp_path: Path) -> None:
    good, bad, code, line, words = BAD_APPS[case]
    assert SHOP.count(good) == 1
    text = SHOP.replace(good, bad)
    file = tmp_path / "shop.py"
    file.write_text(text)
    number = next(n for n, there in enumerate(text.splitlines(), 1) if line in there)
    run_command("--home", tmp_path / "none", "deploy", file, "-y").refused(code, 2, f"{file}:{number}\n", *words)


def test_an_application_file_without_an_application(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import skyriver as sr\n")
    run_command("deploy", tmp_path / "shop.py").refused("NO_APP", 2, "shop.py", "no application", "sr.App")
    (tmp_path / "shop.py").write_text("import skyriver as sr\none, two = sr.App('a'), sr.App('b')\n")
    run_command("deploy", tmp_path / "shop.py").refused("NO_APP", 2, "shop.py", "2 applications")


def test_an_application_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("a,b\n1,2\n")
    run_command("deploy", tmp_path / "shop.csv", "-y").refused("NO_APP_FILE", 2, "shop.csv")
    problem = run_command("deploy", tmp_path / "shop.py", "-y", "--json").problem("NO_APP_FILE", 2)
    assert "shop.py" in problem["detail"]


# No cloud, and a cloud that cannot start


def test_no_cloud_at_all(tmp_path: Path) -> None:
    for command in (["ps"], ["table", "load", "orders", "x.csv"], ["send", "orders", "-"], ["predict", "m", "a=1"]):
        run_command("--home", tmp_path / "none", *command).refused("NO_CLOUD", 7, str(tmp_path / "none"), "skyriver up")
    problem = run_command("--home", tmp_path / "none", "ps", "--json").problem("NO_CLOUD", 7)
    assert problem["status"] == 503
    assert not (tmp_path / "none").exists()
    assert run_command("--home", tmp_path / "none", "down").succeeded().err == "Ended: nothing ran.\n"


def test_a_cloud_that_is_down_is_no_crash(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    home.write_settings({"port": free_port()})
    write_secret(home.token, new_token()[0].encode())
    for command in (["ps"], ["top"], ["logs", "orders"], ["predict", "m", "a=1"]):
        ended = run_command("--home", home.root, *command)
        ended.refused("CLOUD_AWAY", 7, f"The cloud in {home.root} is down.", "`skyriver up` starts it.")
        assert (ended.out, len(ended.err.splitlines())) == ("", 3), "what was not started is not lost"


def test_a_port_in_use_leaves_no_cloud_and_the_token_is_shown_later(tmp_path: Path) -> None:
    found = Cloud(tmp_path)
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", found.port))
            taken.listen()
            found.command("up", "--port", found.port).refused("PORT_IN_USE", 6, str(found.port), "--port")
        assert (found.living(), found.sockets()) == ({}, [])
        found.command("ps").refused("NO_CLOUD", 7)  # and nothing is sent to whoever has the port
        found.port = free_port()
        assert found.json("up", "--port", found.port)["token"] == found.token
        found.command("up", "--port", free_port()).refused("ALREADY_RUNNING", 6, str(found.port), "skyriver down")
    finally:
        found.close()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_home_that_nobody_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    run_command("--home", tmp_path / "home", "up").refused("BAD_HOME", 2, str(tmp_path))


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no directory")
    run_command("--home", tmp_path / "home", "up").refused("BAD_HOME", 2, str(tmp_path / "home"), "--home")


# Loads


@pytest.fixture(scope="module")
def shop(cloud: Cloud) -> Cloud:
    """A cloud with the shop deployed, and nothing in it."""
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "shop.py", "-y").succeeded()
    cloud.wait_ready()
    return cloud


def state_of(cloud: Cloud) -> dict[str, Any]:
    """What a refused load may not change: the log, from which the stream's tables are made, and the rejected rows."""
    events = cloud.ask("GET", "/streams/orders")[1]
    rejected = cloud.home / "tables" / "default" / "orders.rejected"
    return {
        "offset": events["offset"],
        "time": events["effective_time"],
        "rejected": cloud.json("table", "get", "orders.rejected")["status"],
        "commits": sorted(path.name for path in rejected.rglob("*.json")),
    }


def loads(cloud: Cloud) -> list[dict[str, Any]]:
    found = [job for job in cloud.rows("jobs") if job["spec"]["kind"] == "load"]
    return sorted(found, key=lambda job: job["created_at"])


def without_customer(path: Path) -> None:
    write_csv(path, [{k: v for k, v in row.items() if k != "customer"} for row in A_FEW])


def truncated(path: Path) -> None:
    data = write_parquet(path, A_FEW).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def floats_for_ids(path: Path) -> None:
    write_parquet(path, [row | {"order": float(row["order"])} for row in A_FEW])


def many_bad(path: Path) -> None:
    write_csv(path, [row | {"at": "noon"} if n % 5 == 3 else row for n, row in enumerate(A_FEW)])


BAD_FILES: Mapping[str, tuple[Callable[[Path], object], str, list[str]]] = {
    "lacking.csv": (without_customer, "MISSING_COLUMN", ["'customer'", "order, at, amount, returned"]),
    "truncated.parquet": (truncated, "UNREADABLE_FILE", ["cut off"]),
    "floats.parquet": (floats_for_ids, "WRONG_COLUMN_TYPE", ["'order'", "Float64", "int"]),
    "empty.csv": (Path.touch, "EMPTY_FILE", ["no rows"]),
    "binary.jsonl": (lambda path: path.write_bytes(bytes(range(256))), "UNREADABLE_FILE", ["JSON"]),
    "many.csv": (many_bad, "TOO_MANY_BAD_ROWS", ["60 of 600", "BAD_TIME", "5.0%", "row 4", "'noon'"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_refused_whole(shop: Cloud, name: str) -> None:
    make, code, words = BAD_FILES[name]
    make(shop.folder / name)
    write_csv(shop.folder / "good.csv", A_FEW)
    before = state_of(shop)
    shop.command("table", "load", "orders", "good.csv", name).refused(code, 100, "job/orders-load-", name, *words)
    assert state_of(shop) == before
    job = loads(shop)[-1]
    assert (job["state"], job["reason"]) == ("FAILED", code)
    assert code in shop.command("explain", job["name"]).succeeded().out


def test_a_refused_load_as_a_problem_document(shop: Cloud) -> None:
    without_customer(shop.folder / "lacking.csv")
    problem = shop.command("table", "load", "orders", "lacking.csv", "--json").problem("MISSING_COLUMN", 100)
    assert problem["where"].startswith("job/orders-load-")
    assert "'customer'" in problem["detail"]


def test_files_that_never_leave_the_command_line(shop: Cloud) -> None:
    before = len(loads(shop))
    shop.command("table", "load", "orders", "nowhere.csv").refused("NO_FILE", 2, "nowhere.csv")
    shop.command("table", "load", "orders", "shop.py").refused("UNKNOWN_FORMAT", 2, "shop.py", ".parquet")
    shop.command("table", "load", "orders", "--labels", "returned", "a.csv").refused("BAD_PARAMETER", 2, "LABEL=FILE")
    write_csv(shop.folder / "good.csv", A_FEW)
    shop.command("table", "load", "order", "good.csv").refused("NOT_FOUND", 3, "'order'", "skyriver table list")
    assert len(loads(shop)) == before


@pytest.fixture(scope="module")
def filled(shop: Cloud) -> Cloud:
    """The shop with its history, of which some rows were bad."""
    rows = [dict(row) for row in history()]
    rows[10]["customer"] = "nan"
    rows[20]["customer"] = None
    rows[30]["at"] = iso(4_000_000_000)
    write_csv(shop.folder / "history.csv", rows)
    report = shop.json("table", "load", "orders", "history.csv")
    assert report["bad_by_reason"] == {"MISSING": 2, "AHEAD_OF_CLOCK": 1}
    assert (report["counts"]["rows_good"], report["counts"]["rows_bad"]) == (3_997, 3)
    assert [(bad["file"], bad["row"], bad["field"]) for bad in report["examples"]] == [
        ("history.csv", 11, "customer"),
        ("history.csv", 21, "customer"),
        ("history.csv", 31, "at"),
    ]
    return shop


def test_bad_rows_are_set_aside_and_kept(filled: Cloud) -> None:
    kept = filled.json("table", "get", "orders.rejected")
    assert (kept["state"], kept["status"]["rows"]) == ("READY", 3)
    rows = pl.read_delta(str(filled.home / "tables" / "default" / "orders.rejected")).sort("row").to_dicts()
    assert [(r["file"], r["row"], r["field"], r["reason"]) for r in rows] == [
        ("history.csv", 11, "customer", "MISSING"),
        ("history.csv", 21, "customer", "MISSING"),
        ("history.csv", 31, "at", "AHEAD_OF_CLOCK"),
    ]
    assert json.loads(rows[0]["raw"])["customer"] == "nan"
    taken = pl.read_delta(str(filled.home / "tables" / "default" / "orders"))
    assert (taken["order"] <= HISTORY).sum() == 3_997


def test_history_older_than_what_is_live(filled: Cloud) -> None:
    before = state_of(filled)
    rows = [row | {"order": 500_000 + row["order"]} for row in A_FEW]
    write_csv(filled.folder / "old.csv", [*rows, rows[0] | {"order": 600_000, "customer": None}])
    shown = filled.command("table", "load", "orders", "old.csv")
    shown.refused("HISTORY_AFTER_LIVE", 100, "40 days before the last event of orders")
    assert state_of(filled) == before


# Training


def test_a_training_function_that_raises(shop: Cloud) -> None:
    moon = shop.folder / "moon"
    moon.mkdir()
    (moon / "moon.py").write_text(MOON)
    rocks = [{"rock": n, "weight": float(n % 7), "hollow": n % 2} for n in range(200)]
    shop.command("deploy", moon / "moon.py", "-y").succeeded()
    shop.command("run", "hollowness").refused("NO_DATA", 100, "rocks", "skyriver table load rocks")
    assert shop.json("table", "load", "rocks", write_csv(moon / "rocks.csv", rocks))["counts"]["rows_good"] == 200
    line = MOON.splitlines().index('    raise ValueError("the moon is in the wrong house")') + 1
    failed = shop.command("run", "hollowness").refused(
        "USER_ERROR", 100, f"moon.py:{line}", "ValueError: the moon is in the wrong house"
    )
    job = failed.err.split("job/")[1].split()[0]
    assert shop.json("job", "get", job)["state"] == "FAILED"
    explained = shop.command("explain", job).succeeded().out
    assert f"job {job} is FAILED" in explained
    assert " rocks\n" in explained
    assert "ValueError: the moon is in the wrong house" in explained.split("last lines of its log:")[1]
    assert unknown_commands(explained) == []
    assert "looking at 1" in shop.command("logs", job).succeeded().out
    assert shop.command("run", "--json").problem("WHICH", 2)["detail"].startswith("There are 2 models")
    assert not [v["name"] for v in shop.rows("versions") if v["name"].startswith("hollowness")]


def test_what_the_control_plane_refuses_to_deploy(shop: Cloud) -> None:
    wrong = shop.folder / "wrong"
    wrong.mkdir()
    file = wrong / "shop.py"
    before = {kinds: shop.rows(kinds) for kinds in ("apps", "models")}
    file.write_text(SHOP.replace('"score >= 0.25"', '"score >>= 0.25"'))
    shop.command("deploy", file, "-y").refused("BAD_RULE", 2, "rule 'call' of orders", "column 8", "score >>= 0.25")
    file.write_text(f'{SHOP}\ndecisions.example("call", score=0.1)\n'.replace("app.decide(", "decisions = app.decide("))
    shop.command("deploy", file, "-y").refused("EXAMPLE_FAILED", 2, "example 1 of the decisions of orders", "score=0.1")
    file.write_text(SHOP.replace('sr.App("shop")', 'sr.App("another")'))
    shop.command("deploy", file, "-y").refused("NAME_TAKEN", 6, "'orders'", "app/shop")
    # What no application file says, a program may: a model whose inputs are not what the stream computes.
    deployed = shop.json("app", "get", "shop")["spec"]
    spec = deployed["spec"]
    rules = spec["decides"][0]["rules"]
    rules.append({"decision": "never", "when": "score > 0.5"})
    body = {"spec": spec, "spec_digest": digest(spec), "code": deployed["code"]["bundle"], "main": "shop.py"}
    status, told = shop.ask("PUT", "/api/v1/tenants/default/apps/shop?dry_run=true", body)
    assert (status, told["plan"][-1]["action"], told["plan"][-1]["name"]) == (200, "warn", "never of orders"), told
    assert told["plan"][-1]["detail"] == "never fires: what it demands is decided before it, by 'call'"
    rules.pop()
    spec["models"][0] |= {"train": None, "onnx": "model.onnx"}
    body["spec_digest"] = digest(spec)
    for path in ("", "?dry_run=true"):
        status, told = shop.ask("PUT", f"/api/v1/tenants/default/apps/shop{path}", body)
        assert (status, told["code"]) == (422, "BAD_DECISION"), told
        assert "orders cannot decide with the model comes_back" in told["detail"]
        assert told["next_action"]
    assert {kinds: shop.rows(kinds) for kinds in before} == before


# Predictions


@pytest.fixture(scope="module")
def serving(filled: Cloud) -> Cloud:
    filled.command("predict", "comes_back", "amount=1").refused("NO_VERSION", 7, "skyriver run")
    assert "skyriver run" in filled.command("ps").succeeded().out
    filled.command("run", "comes_back").succeeded()
    filled.wait_ready()
    return filled


def test_a_prediction_that_cannot_be_made(serving: Cloud) -> None:
    fields = [f"{name}={value}" for name, value in ROW.items()]
    serving.command("predict", "comes_back", *fields[:3]).refused("INVALID_FIELD", 2, "returned_14d is missing")
    serving.command("predict", "comes_back", *fields[1:], "amount=much").refused(
        "INVALID_FIELD", 2, "amount", "'much'", "number"
    )
    serving.command("predict", "comes_back", *fields, "colour=1").refused("INVALID_FIELD", 2, "'colour'", "orders_7d")
    serving.command("predict", "comes_back", "amount").refused("NOT_FOUND", 3, "'amount'", "amount=VALUE")
    serving.command("predict", "comes_back", "--data", '{"amount": ').refused("BAD_JSON", 2, "--data")
    serving.command("predict", "comes_back", "--data", "[1]").refused("BAD_JSON", 2, "object")
    serving.command("predict", "comes_back", "--data", "@nowhere").refused("NO_FILE", 2, "nowhere")
    serving.command("predict", "comes_back:7", *fields).refused("NOT_THE_CHAMPION", 2, "comes_back:7", "/versions/N")
    serving.command("predict", "come_back", "a=1").refused("UNKNOWN_ROUTE", 3, "/predict/come_back", "service list")
    problem = serving.command("predict", "comes_back", *fields[:3], "--json").problem("INVALID_FIELD", 2)
    assert (problem["status"], problem["where"]) == (422, "returned_14d")
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    status, answer = serving.ask("POST", "/v2/models/comes_back/infer", {"inputs": [tensor]})
    assert (status, answer["code"]) == (400, "WRONG_SHAPE")
    assert "[1, 3]" in answer["error"]


# Events


def good_order(cloud: Cloud) -> dict[str, Any]:
    return cloud.next_orders(1)[0]


BAD_EVENTS: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "unknown field": ({"colour": "red"}, "UNKNOWN_FIELD", "colour"),
    "wrong type": ({"customer": "many"}, "WRONG_TYPE", "customer"),
    "missing": ({"customer": None}, "MISSING", "customer"),
    "out of range": ({"amount": -1.0}, "OUT_OF_RANGE", "amount"),
    "future": ({"at": iso(4_000_000_000)}, "AHEAD_OF_CLOCK", "at"),
}


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_an_event_that_is_refused(filled: Cloud, case: str) -> None:
    change, reason, name = BAD_EVENTS[case]
    before = filled.ask("GET", "/streams/orders")[1]
    event = good_order(filled) | change
    file = write_lines(filled.folder / "event.jsonl", [event])
    filled.command("send", "orders", file).refused("ALL_REJECTED", 2, name, "dead letters")
    status, problem = filled.ask("POST", "/streams/orders/events", event)
    assert (status, problem["code"]) == (422, "ALL_REJECTED")
    assert [(bad["index"], bad["field"], bad["reason"]) for bad in problem["errors"]] == [(0, name, reason)]
    after = filled.ask("GET", "/streams/orders")[1]
    assert (after["dead"], after["events"]) == (before["dead"] + 2, before["events"])
    assert filled.ask("GET", f"/streams/orders/decisions/{event['order']}")[0] == 404


def test_good_events_are_taken_and_bad_ones_named_by_their_line(filled: Cloud) -> None:
    good = [good_order(filled) for _ in range(3)]
    bad = good_order(filled) | {"amount": "cheap"}
    file = write_lines(filled.folder / "mixed.jsonl", [good[0], good[1], bad, good[2], bad])
    sent = filled.command("send", "orders", file, "--batch", 2, "--json")
    assert sent.code == 2
    assert (sent.json["accepted"], [r["index"] for r in sent.json["rejected"]]) == (3, [2, 4])
    shown = filled.command("send", "orders", file, "--batch", 1)
    assert (shown.code, shown.err) == (2, "")
    assert "3 were sent before" in shown.out
    assert "row 5: amount is 'cheap'" in shown.out


@pytest.mark.parametrize("body", [b"", b'{"order": ', b"[1, 2", b"\xff\xfe", b'{"order": 1} {"order": 2}'])
def test_a_batch_that_does_not_parse(filled: Cloud, body: bytes) -> None:
    before = filled.ask("GET", "/streams/orders")[1]
    for path in ("/streams/orders/events", "/streams/orders/labels"):
        status, problem = filled.ask("POST", path, body)
        assert (status, problem["code"]) == (400, "NOT_JSON")
        assert problem["next_action"]
    after = filled.ask("GET", "/streams/orders")[1]
    assert (after["offset"], after["dead"]) == (before["offset"], before["dead"])


def test_a_file_of_events_that_does_not_parse(filled: Cloud) -> None:
    before = filled.ask("GET", "/streams/orders")[1]["offset"]
    file = filled.folder / "broken.jsonl"
    file.write_text(json.dumps(good_order(filled)) + '\n{"order": \n')
    filled.command("send", "orders", file).refused("BAD_JSON", 2, "broken.jsonl:2")
    file.write_bytes(b"\xff\xfe\x00")
    filled.command("send", "orders", file).refused("UNREADABLE_FILE", 2, "broken.jsonl", "UTF-8")
    truncated(filled.folder / "events.parquet")
    filled.command("send", "orders", "events.parquet").refused("UNREADABLE_FILE", 2, "events.parquet")
    filled.command("send", "orders", "shop.py").refused("UNKNOWN_FORMAT", 2, "shop.py", ".jsonl")
    filled.command("send", "orders", "nowhere.jsonl").refused("NO_FILE", 2, "nowhere.jsonl")
    assert filled.ask("GET", "/streams/orders")[1]["offset"] == before


def test_labels_that_are_refused(filled: Cloud) -> None:
    file = write_lines(filled.folder / "labels.jsonl", [{"order": 1, "retruned": 1}])
    filled.command("send", "orders", file, "--labels").refused("ALL_REJECTED", 2, "retruned")
    sent = filled.command(
        "send", "orders", write_lines(file, [{"order": -5, "returned": 1}, {"returned": 1}]), "--labels", "--json"
    )
    assert sent.code == 2
    assert (sent.json["labels"], sent.json["unknown_subjects"]) == (1, 1)
    assert [r["index"] for r in sent.json["rejected"]] == [1]


# Names and tokens

UNKNOWN_NAMES = (
    ["explain", "nobody"],
    ["logs", "nobody"],
    ["run", "nobody"],
    ["rollback", "nobody"],
    ["stream", "verify", "nobody"],
    ["model", "history", "nobody"],
    ["table", "get", "nobody"],
    ["job", "get", "nobody"],
)


@pytest.mark.parametrize("command", UNKNOWN_NAMES, ids=" ".join)
def test_an_unknown_name(shop: Cloud, command: list[str]) -> None:
    shop.command(*command).refused("NOT_FOUND", 3, "'nobody'", "`skyriver ")


def test_names_that_are_near(shop: Cloud) -> None:
    shop.command("explain", "order").refused("NOT_FOUND", 3, "'order'", "Did you mean orders")
    shop.command("send", "order", write_lines(shop.folder / "e.jsonl", [good_order(shop)])).refused(
        "NOT_FOUND", 3, "'order'", "Did you mean orders"
    )
    shop.command("rollback", "comes_back:7").refused("NOT_FOUND", 3, "'comes_back:7'", "skyriver version list")


def test_an_unknown_token(shop: Cloud) -> None:
    stranger = "sky_" + "x" * 43
    for method, path in (("GET", "/api/v1/whoami"), ("GET", "/streams/orders"), ("POST", "/predict/comes_back")):
        for token in (stranger, "", "nonsense"):
            status, problem = shop.ask(method, path, {} if method == "POST" else None, token=token)
            assert (status, problem["code"]) == (401, "UNAUTHENTICATED")
            assert unknown_commands(problem["next_action"]) == []
    kept = shop.token
    try:
        (shop.home / "token").write_text(stranger)
        shop.command("ps").refused("UNAUTHENTICATED", 4)
        assert shop.command("ps", "--json").problem("UNAUTHENTICATED", 4)["status"] == 401
        (shop.home / "token").write_text("nonsense")
        shop.command("ps").refused("BAD_TOKEN_FILE", 4, str(shop.home / "token"))
        (shop.home / "token").unlink()
        for command in ("ps", "up"):
            shop.command(command).refused("NO_TOKEN_FILE", 4, "is gone", "`skyriver down`, then `skyriver up`")
        token = next(c for c in shop.command("doctor", "--json").json["checks"] if c["name"] == "deployed")
        assert (token["result"], "`skyriver up`" in token["action"]) == ("fail", True)
        (shop.home / "token").write_text(kept)
        (shop.home / "token").chmod(0o644)
        shop.command("ps").refused("SECRET_EXPOSED", 4, str(shop.home / "token"), "chmod 600")
    finally:
        (shop.home / "token").write_text(kept)
        (shop.home / "token").chmod(0o600)
    shop.command("ps").succeeded()


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
def test_a_role_that_only_looks_sends_nothing_to_a_stream(shop: Cloud, role: str) -> None:
    token = shop.json("token", "create", f"only-{role}", "--role", role)["token"]
    wait_for(lambda: shop.ask("GET", "/streams/orders", token=token)[0] == 200, "the gateway knows the token")
    for path in ("events", "events?wait=decision", "labels", "references/denied?off"):
        status, problem = shop.ask("POST", f"/streams/orders/{path}", [good_order(shop)], token=token)
        assert (status, problem["code"]) == (403, "NOT_ALLOWED"), path
        assert "operator" in problem["next_action"]
    few = [good_order(shop)]
    with Client(f"http://127.0.0.1:{shop.port}", token) as client:
        for sent in (few, few * 20_000):  # also some megabytes, of which the gateway reads no end
            with pytest.raises(NotAllowed) as refused:
                client.send("orders", sent)
            assert refused.value.code == "NOT_ALLOWED"


def test_another_tenant_in_the_path(shop: Cloud) -> None:
    status, problem = shop.ask("GET", "/api/v1/tenants/neighbour/jobs")
    assert (status, problem["code"]) == (403, "OTHER_TENANT")
    with (
        Client(f"http://127.0.0.1:{shop.port}", shop.token, tenant="neighbour") as client,
        pytest.raises(NotAllowed) as refused,
    ):
        list(client.list("streams"))
    assert (refused.value.code, refused.value.exit_code) == ("OTHER_TENANT", 4)
    assert "'default'" in refused.value.message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/tenants/default/nothings", 404),
        ("DELETE", "/api/v1/tenants/default/jobs", 405),
        ("GET", "/nothing", 404),
        ("GET", "/streams/orders/nothing", 404),
        ("GET", "/streams/orders/events", 405),
        ("GET", "/streams/orders/decisions/abc", 422),
        ("POST", "/streams/orders/events?wait=forever", 422),
        ("POST", "/api/v1/tenants/default/actions/train", 422),
        ("GET", "/api/v1/tenants/default/jobs?limit=0", 422),
        ("POST", "/internal/history", 404),
    ],
)
def test_a_request_that_means_nothing(shop: Cloud, method: str, path: str, status: int) -> None:
    got, problem = shop.ask(method, path, {} if method == "POST" else None)
    assert got == problem["status"] == status
    assert problem["code"]
    assert problem["detail"]


def test_usage(tmp_path: Path) -> None:
    run_command("nonsense").refused("USAGE", 2, "'nonsense'", "skyriver --help")
    run_command("deploy").refused("USAGE", 2, "file", "skyriver deploy --help")
    run_command("send", "orders").refused("USAGE", 2)
    run_command("ps", "--wide").refused("USAGE", 2, "--wide")
    run_command("up", "--port", "99999").refused("USAGE", 2, "--port", "65535")
    run_command("ps", "-o", "yaml").refused("USAGE", 2, "yaml", "-o json")
    assert "--wide" in run_command("ps", "--wide", "--json").problem("USAGE", 2)["detail"]


def test_a_reader_that_goes_away_is_no_error(shop: Cloud) -> None:
    """As `skyriver table list --json | head -c 1` does."""
    read, write = os.pipe()
    os.close(read)
    command = [str(COMMAND), "--home", str(shop.home), "table", "list", "--json"]
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=300, check=False)
    assert done.returncode in (1, 141)
    assert done.stderr == b""
