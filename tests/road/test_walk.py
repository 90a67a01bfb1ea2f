"""The whole road as a user walks it: from an empty machine to decisions, through kills, to an orderly end."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
from cloud_process import (
    DEADLINE,
    HISTORY,
    ROW,
    Cloud,
    Ended,
    history,
    kill,
    wait_for,
    write_csv,
    write_lines,
    write_parquet,
)

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.release.profiled import ModelProfile

# Each stage of the cloud, made once a file; what the commands said on the way is kept.


@pytest.fixture(scope="module")
def started(cloud: Cloud) -> Ended:
    return cloud.command("up", "--port", cloud.port).succeeded()


@pytest.fixture(scope="module")
def deployed(cloud: Cloud, started: Ended) -> dict[str, Ended]:
    tried = cloud.command("deploy", "shop.py", "--dry-run")
    nothing = cloud.command("app", "list", "-o", "json")
    unasked = cloud.command("deploy", "shop.py")
    done = cloud.command("deploy", "shop.py", "-y").succeeded()
    return {"tried": tried, "nothing": nothing, "unasked": unasked, "done": done}


@pytest.fixture(scope="module")
def loaded(cloud: Cloud, deployed: dict[str, Ended]) -> dict[str, Any]:
    rows = history()
    write_csv(cloud.folder / "a.csv", rows[1_000:2_000])
    write_parquet(cloud.folder / "b.parquet", rows[2_000:])
    write_lines(cloud.folder / "c.jsonl", [*rows[:1_000], rows[0]])
    report: dict[str, Any] = cloud.json("table", "load", "orders", "a.csv", "b.parquet", "c.jsonl")
    return report


@pytest.fixture(scope="module")
def released(cloud: Cloud, loaded: dict[str, Any]) -> dict[str, Any]:
    """The first version, serving."""
    version: dict[str, Any] = cloud.json("run")["version"]
    cloud.wait_ready()
    return version


def send(cloud: Cloud, count: int) -> dict[str, Any]:
    orders = cloud.next_orders(count)
    sent: dict[str, Any] = cloud.json("send", "orders", write_lines(cloud.folder / "live.jsonl", orders))
    assert (sent["accepted"], sent["rejected"]) == (count, [])
    assert sum(sent["decisions"].values()) == count
    return sent


def predicted(cloud: Cloud) -> float:
    status, answer = cloud.ask("POST", "/predict/comes_back", ROW)
    assert status == 200, answer
    return float(answer["score"])


def test_up_shows_its_token_once_and_is_idempotent(cloud: Cloud, started: Ended) -> None:
    assert f"http://127.0.0.1:{cloud.port}" in started.err
    assert cloud.token in started.err
    assert "skyriver deploy" in started.err
    assert stat.S_IMODE((cloud.home / "token").stat().st_mode) == 0o600
    before = cloud.control_pid()
    again = cloud.command("up").succeeded()
    assert "runs already" in again.err
    assert cloud.token not in again.err + again.out
    assert cloud.json("up") == {"url": f"http://127.0.0.1:{cloud.port}", "started": False}
    assert cloud.control_pid() == before


def test_deploy_shows_its_plan_and_does_it_once(cloud: Cloud, deployed: dict[str, Ended]) -> None:
    for ended in (deployed["tried"], deployed["done"]):
        assert "+ create stream   orders" in ended.err
        assert "+ create model    comes_back" in ended.err
    assert "nothing was done" in deployed["tried"].err
    assert deployed["nothing"].json == []
    deployed["unasked"].refused("NOT_CONFIRMED", 2, "-y")
    again = cloud.json("deploy", "shop.py", "-y")
    assert {line["action"] for line in again["plan"]} == {"keep"}
    assert "Nothing to do" in cloud.command("deploy", "shop.py").succeeded().err


def test_one_load_takes_files_of_three_formats(cloud: Cloud, loaded: dict[str, Any]) -> None:
    assert loaded["counts"] == {
        "rows_read": HISTORY + 1,
        "rows_good": HISTORY + 1,
        "rows_bad": 0,
        "duplicates": 1,
        "labels": HISTORY,
    }
    tables = {table["name"]: table for table in cloud.json("table", "list")}
    assert tables["orders"]["status"]["rows"] >= HISTORY
    assert tables["orders.labels"]["status"]["rows"] >= HISTORY
    assert set(tables) == {"orders", "orders.labels", "orders.decisions", "orders.dead", "orders.rejected"}


def test_a_run_gives_a_version_that_serves(cloud: Cloud, released: dict[str, Any]) -> None:
    assert (released["name"], released["state"]) == ("comes_back:1", "APPROVED")
    assert released["spec"]["metrics"]["auc"] >= 0.6
    assert cloud.json("version", "get", "comes_back:1")["spec"]["artifact"] == released["spec"]["artifact"]
    assert cloud.json("model", "history", "comes_back")[0]["version"] == 1
    model = cloud.json("model", "get", "comes_back")
    assert model["status"]["aliases"]["champion"] == 1
    jobs = {job["name"]: job["state"] for job in cloud.json("job", "list")}
    assert jobs["comes_back-run-1-train"] == "SUCCEEDED"
    assert cloud.json("job", "get", "comes_back-run-1-train")["spec"]["kind"] == "train"
    for noun in ("app", "model", "version", "service", "stream", "table", "job"):
        listed = cloud.command(noun, "list").succeeded()
        assert listed.out.startswith("NAME"), listed.out
        assert len(listed.out.splitlines()) > 1
    ps = cloud.command("ps").succeeded().out
    assert "comes_back:1" in ps
    assert "orders-0" in ps


def test_a_version_knows_what_its_training_rows_were_like(cloud: Cloud, released: dict[str, Any]) -> None:
    spec = released["spec"]
    kept = DirectoryObjects(cloud.home / "objects").get(spec["profile"])
    profile = ModelProfile.parse(kept)
    assert profile.inputs.rows == spec["split"]["train"][2]
    assert profile.scores.rows == spec["split"]["test"][2]
    assert [column.name for column in profile.inputs.columns] == spec["features"]["names"]
    assert [column.name for column in profile.scores.columns] == ["score"]


def test_a_model_is_explained_by_its_last_change(cloud: Cloud, released: dict[str, Any]) -> None:
    told = cloud.command("explain", "comes_back").succeeded().out
    assert "by comes_back-run-1, because somebody asked for it." in " ".join(told.split())
    assert "It serves since" in told


def test_both_protocols_predict_the_same(cloud: Cloud, released: dict[str, Any]) -> None:
    fields = [f"{name}={value}" for name, value in ROW.items()]
    typed = cloud.json("predict", "comes_back", *fields)
    assert typed["model"] == "comes_back"
    assert "score = " in cloud.command("predict", "comes_back", *fields).succeeded().out
    piped = cloud.command("predict", "comes_back", "--data", "-", "--json", given=str(ROW).replace("'", '"'))
    assert piped.succeeded().json["score"] == typed["score"] == predicted(cloud)
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, len(ROW)], "data": list(ROW.values())}
    for path in ("/v2/models/comes_back/infer", "/v2/models/comes_back/versions/1/infer"):
        status, answer = cloud.ask("POST", path, {"inputs": [tensor]})
        assert status == 200, answer
        assert answer["outputs"][0]["data"][0] == pytest.approx(typed["score"], abs=1e-6)


def test_rows_of_a_file_get_what_single_rows_get(cloud: Cloud, released: dict[str, Any]) -> None:
    rows = [{**ROW, "amount": amount} for amount in (1.5, None, 900.0, 0.1, 2e4)]
    bad = {**ROW, "amount": -1.0}
    write_lines(cloud.folder / "many.jsonl", [*rows, bad])
    shown = cloud.command("predict", "comes_back", "many.jsonl", "--to", "answers.jsonl", "--max-bad", "0.2")
    assert "comes_back:1 scored 5 rows" in shown.succeeded().out
    assert "answers  answers.jsonl" in shown.out
    answers = [json.loads(line) for line in (cloud.folder / "answers.jsonl").read_text().splitlines()]
    assert [(a["file"], a["row"], a["model"], a["version"]) for a in answers] == [
        ("many.jsonl", number, "comes_back", 1) for number in range(1, 6)
    ]
    status, alone = cloud.ask("POST", "/predict/comes_back", {"rows": rows})
    assert status == 200, alone
    assert [a["score"] for a in answers] == [p["score"] for p in alone["predictions"]], "to the bit"
    [refused] = [json.loads(line) for line in (cloud.folder / "answers.dead.jsonl").read_text().splitlines()]
    assert (refused["row"], refused["reason"], refused["field"]) == (6, "OUT_OF_RANGE", "amount")
    made = cloud.json("predict", "comes_back@champion", "many.jsonl", "--max-bad", "0.2")
    assert made["tables"]["comes_back-predictions"]["rows"] == 5
    tables = {table["name"]: table for table in cloud.json("table", "list")}
    assert tables["comes_back-predictions"]["status"]["rows"] == 5
    assert tables["comes_back-predictions.dead"]["status"]["rows"] == 1


def test_rows_that_are_refused_whole(cloud: Cloud, released: dict[str, Any]) -> None:
    write_lines(cloud.folder / "bad.jsonl", [{**ROW, "amount": -1.0}] * 3)
    write_csv(cloud.folder / "less.csv", [{"amount": 1.0}])
    for arguments, code, exit_code in (
        (("nobody", "bad.jsonl"), "NOT_FOUND", 3),
        (("comes_back:9", "bad.jsonl"), "NOT_FOUND", 3),
        (("comes_back", "nothing"), "NOT_FOUND", 3),
        (("comes_back", "orders"), "MISSING_COLUMN", 2),
        (("comes_back", "missing.csv"), "NO_FILE", 2),
        (("comes_back", "shop.py"), "UNKNOWN_FORMAT", 2),
        (("comes_back", "bad.jsonl"), "TOO_MANY_BAD_ROWS", 100),
        (("comes_back", "less.csv"), "MISSING_COLUMN", 100),
        (("comes_back", "amount=1", "bad.jsonl"), "USAGE", 2),
        (("comes_back", "amount=1", "--to", "x.csv"), "USAGE", 2),
    ):
        cloud.command("predict", *arguments).refused(code, exit_code)


def test_scoring_goes_on_after_its_process_is_killed(cloud: Cloud, released: dict[str, Any]) -> None:
    """Of 30 pieces; the first kill comes when one is there."""
    rows = pl.DataFrame({**{name: [float(value)] for name, value in ROW.items()}, "orders_7d": [1.0]})
    count = 30 * 65_536
    many = pl.concat([rows] * 65_536).with_columns(amount=pl.int_range(pl.len()).cast(pl.Float64))
    pl.concat([many] * 30).write_parquet(cloud.folder / "large.parquet")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(cloud.json, "predict", "comes_back", "large.parquet", "--to", "large.answers.parquet")
        [folder] = wait_for(lambda: [*cloud.home.glob("predictions/default/*/0000-*.parquet")][:1], "a piece is scored")
        name = folder.parent.name
        mark = f"default.job.{name}.config.json"
        [pid] = [pid for pid, command in cloud.living().items() if mark in command and "skyriver.wiring.job" in command]
        kill(pid)
        report = asked.result()
    assert report["job"] == name
    assert report["counts"] == {"rows_read": count, "rows_scored": count, "rows_bad": 0}
    assert 0 < report["resumed"] < count
    answers = pl.read_parquet(cloud.folder / "large.answers.parquet")
    assert answers["row"].equals(pl.Series("row", range(1, count + 1)))
    first = answers[:65_536]["score"]
    assert all(answers[n * 65_536 : (n + 1) * 65_536]["score"].equals(first) for n in range(30))
    assert cloud.json("job", "get", name)["attempts"] == 2


def test_events_are_decided_and_duplicates_get_the_first_decision(cloud: Cloud, released: dict[str, Any]) -> None:
    send(cloud, 250)
    again = cloud.json("send", "orders", "live.jsonl")
    assert (again["accepted"], again["duplicates"]) == (0, 250)
    order = cloud.next_orders(1)[0]
    status, first = cloud.ask("POST", "/streams/orders/events?wait=decision", order)
    assert (status, first["accepted"]) == (200, 1)
    decision = first["decisions"][0]
    assert decision["status"] == "decided"
    assert decision["decision"] == ("call" if decision["score"] >= 0.25 else "ship")
    assert (decision["model"], decision["features"]["amount"]) == ("comes_back", pytest.approx(order["amount"]))
    status, second = cloud.ask("POST", "/streams/orders/events?wait=decision", order | {"amount": 9_999})
    assert (status, second["duplicates"], second["decisions"]) == (200, 1, [decision])
    status, answer = cloud.ask("GET", f"/streams/orders/decisions/{order['order']}")
    assert (status, {name: answer[name] for name in decision}) == (200, decision)
    assert 0 < decision["probability"] < 1
    assert (answer["reasons_method"], answer["reasons_unit"], answer["reasons_why"]) == ("TreeSHAP", "log-odds", "")
    assert answer["reasons"][0]["value"] == decision["features"][answer["reasons"][0]["feature"]]
    assert decision["rule"] == ("call" if decision["decision"] == "call" else "")
    assert cloud.json("explain", "decision", str(order["order"])) == answer
    told = cloud.command("explain", "decision", str(order["order"]), "--stream", "orders").succeeded().out
    assert f"{order['order']} of orders: {decision['decision']}" in told
    assert ("the rule call fired" if decision["rule"] else "no rule fired") in told
    assert "by comes_back:1" in told
    assert "moved most by, in log-odds" in told
    assert answer["reasons"][0]["text"] in told
    assert len([line for line in told.splitlines() if line.split()[:1] == ["amount"]]) == 1
    cloud.command("explain", "decision").refused("USAGE", 2, "skyriver explain decision ID")
    cloud.command("explain", "orders", "7").refused("USAGE", 2, "orders 7")
    cloud.command("explain", "decision", "no number").refused("BAD_ID", 2, "no id of orders")
    cloud.command("explain", "decision", "999").refused("NOT_DECIDED", 3, "999 is loaded history, which is not decided")
    cloud.command("explain", "decision", "99999999").refused("NOT_FOUND", 3, "no event with the id 99999999")
    cloud.command("explain", "decision", "999", "--stream", "order").refused(
        "NOT_FOUND", 3, "There is no stream 'order'"
    )
    labels = [{"order": order["order"], "returned": 1}, {"order": 7, "returned": 0}]
    taken = cloud.json("send", "orders", write_lines(cloud.folder / "labels.jsonl", labels), "--labels")
    assert (taken["labels"], taken["unknown_subjects"], taken["rejected"]) == (2, 0, [])


def test_one_bad_cell_of_a_csv_keeps_back_its_row_alone(cloud: Cloud, released: dict[str, Any]) -> None:
    rows = cloud.next_orders(3)
    cells = [
        [str(order["order"]), str(order["at"]), str(order["customer"]), amount]
        for order, amount in zip(rows, ("x", "7", ""), strict=True)
    ]
    lines = [";".join(row) for row in (["order", "at", "customer", "amount"], *cells)]
    (cloud.folder / "three.csv").write_text("\n".join(lines))
    sent = cloud.command("send", "orders", "three.csv", "--json")
    assert (sent.code, sent.json["accepted"], sent.json["duplicates"]) == (2, 2, 0)
    assert [(bad["index"], bad["field"], bad["reason"]) for bad in sent.json["rejected"]] == [
        (0, "amount", "WRONG_TYPE")
    ]
    cloud.command("stream", "dead", "nobody").refused("NOT_FOUND", 3, "There is no stream 'nobody'.")
    assert "have WRONG_TYPE" in cloud.command("stream", "dead", "orders", "--reason", "NONE").succeeded().err


def test_what_was_recorded_equals_a_backfill(cloud: Cloud, released: dict[str, Any]) -> None:
    send(cloud, 20)
    report = cloud.json("stream", "verify", "orders")
    assert report["compared"] >= 20
    assert (report["different"], report["undecided"], report["decided_twice"]) == (0, 0, 0)
    assert "bit for bit" in cloud.command("stream", "verify", "orders").succeeded().out


def test_logs_and_explanations(cloud: Cloud, released: dict[str, Any]) -> None:
    lines = cloud.command("logs", "comes_back-run-1-train", "--tail", 1).succeeded().out
    assert lines == "job/comes_back-run-1-train | done\n"
    followed = cloud.command("logs", "-f", "comes_back-run-1").succeeded().out  # ends with what is over
    assert "job/comes_back-run-1-train | fit ..." in followed
    explained = cloud.command("explain", "orders").succeeded().out
    assert "stream orders is READY" in explained
    assert "process orders-0, pid " in explained


# Kills. None may lose what was acknowledged, or stop what does not hang on the killed.


def test_a_killed_worker_is_started_again_and_nothing_is_lost(cloud: Cloud, released: dict[str, Any]) -> None:
    send(cloud, 20)
    before = cloud.processes()
    kill(before["orders-0"])
    send(cloud, 20)  # waits for the worker as a patient client does
    cloud.wait_ready()
    after = cloud.processes()
    assert after["orders-0"] != before["orders-0"]
    assert {k: v for k, v in after.items() if k != "orders-0"} == {k: v for k, v in before.items() if k != "orders-0"}
    again = cloud.json("send", "orders", "live.jsonl")
    assert again["duplicates"] == 20


def test_a_killed_replica_is_not_missed(cloud: Cloud, released: dict[str, Any]) -> None:
    before = cloud.processes()
    victim = next(name for name in before if name.startswith("comes_back-"))
    kill(before[victim])
    for _ in range(50):
        predicted(cloud)
    wait_for(lambda: cloud.processes().get(victim, before[victim]) != before[victim], "another process")
    cloud.wait_ready()


def test_without_the_control_plane_everything_answers_and_up_adopts_it(cloud: Cloud, released: dict[str, Any]) -> None:
    before = cloud.processes()
    os.kill(cloud.supervisor_pid(), signal.SIGSTOP)  # else it is back too soon to look at a cloud without one
    kill(cloud.control_pid())
    assert 0 <= predicted(cloud) <= 1
    send(cloud, 20)
    cloud.command("ps").refused("CONTROL_AWAY", 7, "predictions and streams go on")
    back = cloud.command("up").succeeded()
    assert cloud.token not in back.err
    assert cloud.processes() == before
    cloud.wait_ready()


def test_a_killed_gateway_comes_back_by_itself(cloud: Cloud, released: dict[str, Any]) -> None:
    processes, killed = cloud.processes(), cloud.gateway_pid()
    kill(killed)

    def answers() -> bool:
        try:
            return cloud.ask("POST", "/predict/comes_back", ROW)[0] == 200
        except OSError:
            return False

    wait_for(answers, "the gateway answers")
    wait_for(lambda: cloud.gateway_pid() != killed, "its run file")
    send(cloud, 5)
    assert cloud.processes() == processes


# A second version, while requests and events come without pause


@contextmanager
def asking(ask: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Calls `ask` again and again in a thread of its own; gives what it raised."""
    failures: list[BaseException] = []
    stop = threading.Event()

    def go() -> None:
        try:
            while not stop.wait(0.005):
                ask()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(DEADLINE)


def test_versions_change_without_a_failed_request(cloud: Cloud, released: dict[str, Any]) -> None:
    versions: list[int] = []
    with cloud.connected() as over_one, cloud.connected() as over_another:

        def predict() -> None:
            status, answer = over_one("POST", "/predict/comes_back", ROW)
            assert status == 200, answer
            versions.append(int(answer["version"]))

        def decide() -> None:
            status, answer = over_another("POST", "/streams/orders/events?wait=decision", cloud.next_orders(1))
            assert status == 200, answer
            assert answer["decisions"][0]["status"] == "decided"

        with asking(predict) as failed_requests, asking(decide) as failed_events:
            second = cloud.json("run", "comes_back", "-p", "trees=6", "-p", "seed=1")["version"]
            assert second["name"] == "comes_back:2"
            asked = len(versions)
            wait_for(lambda: len(versions) > asked + 20, "requests go on")
            assert set(versions[asked + 1 :]) == {2}
            back = cloud.json("rollback", "comes_back")
            asked = len(versions)
            wait_for(lambda: len(versions) > asked + 20, "requests go on")
    assert (failed_requests, failed_events) == ([], [])
    assert back["version"] == 1
    assert set(versions[asked + 1 :]) == {1}
    changes = [(entry["version"], entry["cause"]) for entry in cloud.json("model", "history", "comes_back")]
    assert changes == [(1, "release"), (2, "release"), (1, "rollback")]
    cloud.wait_ready()
    report = cloud.json("stream", "verify", "orders")
    assert (report["different"], report["undecided"], report["decided_twice"]) == (0, 0, 0)


# The end, and the next beginning


def test_down_leaves_nothing_running_and_up_brings_all_of_it_back(cloud: Cloud, released: dict[str, Any]) -> None:
    send(cloud, 10)
    token, score = cloud.token, predicted(cloud)
    champion = cloud.json("model", "get", "comes_back")["status"]["aliases"]["champion"]
    rows = {t["name"]: t["status"].get("rows", 0) for t in cloud.json("table", "list")}
    ended = cloud.json("down")["ended"]
    assert {"control plane", "worker orders-0", "gateway"} <= set(ended)
    assert (cloud.living(), cloud.sockets()) == ({}, [])
    assert cloud.json("down") == {"ended": []}
    cloud.command("ps").refused("CLOUD_AWAY", 7, f"The cloud in {cloud.home} is down.", "skyriver up")
    start = time.monotonic()
    again = cloud.command("up").succeeded()
    assert cloud.token == token
    assert token not in again.err
    cloud.wait_ready()
    assert predicted(cloud) == score
    assert time.monotonic() - start < DEADLINE
    assert cloud.json("model", "get", "comes_back")["status"]["aliases"]["champion"] == champion
    after = {t["name"]: t["status"].get("rows", 0) for t in cloud.json("table", "list")}
    assert all(after[name] >= rows[name] for name in rows)
    assert cloud.json("send", "orders", "live.jsonl")["duplicates"] == 10
    send(cloud, 10)
    assert cloud.json("stream", "verify", "orders")["different"] == 0
