"""Somebody asks to be erased: the command finds it everywhere, erases it, and proves it; all others are as before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import polars as pl
import pytest
from cloud_process import COMMAND, DEADLINE, START, Cloud, iso, kill, wait_for, write_csv, write_lines

APP = """\
import skyriver as sr

app = sr.App("cards")


class Payment(sr.Event):
    payment: str
    at: sr.Time
    card: str
    merchant: str
    note: str | None
    amount: float = sr.field(ge=0)


class Holder(sr.Event):
    card: str
    since: sr.Time
    city: str
    limit: float


cardpay = app.stream("cardpay", Payment, id="payment", time="at", key="card", disorder="1h", retention_bytes="1GB")
frauds = app.labels("fraud", of=cardpay, delay="1d")
holders = app.reference("holders", Holder, of=cardpay, id="card", time="since")
habits = app.features("habits", cardpay, {
    "payments_1d": sr.count(by="card", over="1d"),
    "merchant_mean_1d": sr.mean("amount", by="merchant", over="1d"),
    "merchant_frauds_7d": sr.sum(frauds, by="merchant", over="7d"),
    "limit": sr.lookup(holders.limit, by="card"),
})


@app.train(habits, label=frauds)
def fit(data: sr.TrainingData) -> object:
    import lightgbm

    return lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(data.x, data.y), 5)


decisions = app.decide(
    cardpay, app.model("fraud", fit), [sr.Rule("block", "amount >= 7"), sr.Rule("look", "amount >= 6")],
    otherwise="approve", fallback_by=["rules"],
)
app.model("doubled", onnx="doubled.onnx")
decisions.sink("nowhere", on="block").review("look", label=frauds, answers={"block": 1, "approve": 0})
"""
MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
doubled (float[n, 1] amount) => (float[n, 1] twice) { twice = Add(amount, amount) }
"""
GONE = "card-of-gone-4711"
OTHER = "card-of-other-0815"


def payment(name: str, number: int, card: str, **others: object) -> dict[str, object]:
    at = iso(START + 60 * number)
    row = {"payment": f"{name}-{number}", "at": at, "card": card, "merchant": f"m{number % 3}", "note": f"for {card}"}
    return row | {"amount": 1.5 + number % 7} | others


@pytest.fixture(scope="module")
def cards(cloud: Cloud) -> Cloud:
    """A stream into which payments of both came in every way there is."""
    (cloud.folder / "cards.py").write_text(APP)
    onnx.save(onnx.parser.parse_model(MODEL), cloud.folder / "doubled.onnx")
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "cards.py", "-y").succeeded()
    rows = [payment("hist", n, (GONE, OTHER, "c")[n % 3]) for n in range(120)]
    labels = [{"payment": f"hist-{n}", "fraud": 1, "known_at": iso(START + 90_000)} for n in (3, 4)]
    bad = [payment("bad", n, GONE, amount=-1) for n in (118, 119)]
    files = [write_csv(cloud.folder / "history.csv", rows + bad), write_csv(cloud.folder / "labels.csv", labels)]
    report = cloud.json("table", "load", "cardpay", files[0], "--labels", f"fraud={files[1]}")
    assert report["counts"] == report["counts"] | {"rows_good": 122, "rows_bad": 2}
    for file in files:
        file.unlink()
    send(cloud, [payment("one", 121 + n, (GONE, OTHER)[n % 2]) for n in range(6)], "--batch", "1")
    send(cloud, [payment("many", 130 + n, (GONE, OTHER, "d")[n % 3]) for n in range(90)])
    status, answer = cloud.ask(
        "POST", "/streams/cardpay/events", [payment("late", 1, GONE), payment("neg", 221, GONE, amount=-2)]
    )
    assert (status, answer["accepted"], len(answer["rejected"])) == (200, 1, 1)
    assert cloud.ask("POST", "/streams/cardpay/labels", {"payment": "one-121", "fraud": 1})[0] == 200
    for card in (GONE, OTHER):
        row = {"card": card, "since": iso(START + 13_300), "city": f"city of {card}", "limit": 5}
        assert cloud.ask("POST", "/streams/cardpay/references/holders", row)[0] == 200
    send(cloud, [payment("more", 222 + n, (GONE, OTHER)[n % 2]) for n in range(20)])
    newest = write_csv(cloud.folder / "newest.csv", [payment("newest", 244, "c")])
    cloud.command("table", "load", "cardpay", newest).succeeded()  # which brings the tables up to date
    state = cloud.home / "streams" / "default" / "cardpay" / "dispatch"
    predict(cloud)
    wait_for(lambda: files_with(state, GONE), "cases and deliveries")
    return cloud


def predict(cloud: Cloud) -> None:
    """Predictions that name payments, cards, and nobody, into tables and files."""
    rows: list[dict[str, object]] = [{"amount": n, "card": (GONE, OTHER)[n % 2]} for n in range(10)]
    refused: dict[str, object] = {"amount": "much", "card": GONE}
    file = write_lines(cloud.folder / "many.jsonl", [*rows, refused])
    cloud.command("predict", "doubled", "cardpay").succeeded()
    cloud.command("predict", "doubled", file, "--key", "card", "--to", "by-card", "--max-bad", "1").succeeded()
    cloud.command("predict", "doubled", file, "--to", "of-nobody", "--max-bad", "1").succeeded()
    for name, options in (("by-card.csv", ("--key", "card")), ("of-nobody.csv", ())):
        cloud.command("predict", "doubled", file, *options, "--to", name, "--max-bad", "1").succeeded()
        (cloud.folder / name).unlink(missing_ok=True)
        (cloud.folder / name.replace(".csv", ".dead.csv")).unlink(missing_ok=True)
    file.unlink()


def send(cloud: Cloud, rows: list[dict[str, object]], *options: object) -> None:
    cloud.command("send", "cardpay", write_lines(cloud.folder / "rows.jsonl", rows), *options).succeeded()
    (cloud.folder / "rows.jsonl").unlink()


def answered(cloud: Cloud, path: str) -> tuple[int, Any] | None:
    """None while the worker is away."""
    status, answer = cloud.ask("GET", path)
    assert status in (200, 404, 503), answer
    return (status, answer) if status != 503 else None


def decisions(cloud: Cloud) -> dict[str, Any]:
    """Of payments of all others, by their ids."""
    found = {}
    for name, numbers in (("one", range(121, 127)), ("many", range(130, 220)), ("more", range(222, 242))):
        for number in numbers:
            path = f"/streams/cardpay/decisions/{name}-{number}"
            status, answer = wait_for(lambda path=path: answered(cloud, path), "the worker answers", DEADLINE)
            if status == 200:
                answer.pop("reasons", None)
                found[f"{name}-{number}"] = answer
    return found


def files_with(home: Path, *words: str) -> list[Path]:
    """Files of the home that have one of these in their bytes."""
    found = []
    for folder, _, names in os.walk(home):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):  # a file of a moment
                if path.is_file() and not path.is_symlink() and any(w.encode() in path.read_bytes() for w in words):
                    found.append(path)
    return found


def table(cloud: Cloud, name: str) -> pl.DataFrame:
    return pl.scan_delta(str(cloud.home / "tables" / "default" / name)).collect()


def test_what_cannot_be_erased_is_refused(cards: Cloud) -> None:
    cards.command("erase", "cardpay", GONE).refused("NOT_CONFIRMED", 2, "confirm")
    cards.command("erase", "nothing", GONE, "-y").refused("NOT_FOUND", 3, "nothing")
    cards.command("erase", "cardpay", GONE, "--field", "amount", "-y").refused("UNKNOWN_FIELD", 2, "card, merchant")
    assert "has nothing of it" in cards.command("erase", "cardpay", "nobody", "--dry-run").succeeded().out


def test_somebody_is_erased_and_all_others_are_as_before(cards: Cloud) -> None:
    before = decisions(cards)
    counted = cards.json("erase", "cardpay", GONE, "--dry-run")
    assert counted["dry_run"]
    assert counted["events"] == 40 + 3 + 30 + 1 + 10
    assert files_with(cards.home / "streams", GONE), "nothing was erased by looking"

    proof = cards.json("erase", "cardpay", GONE, "-y")
    assert proof["found"]["log"] == counted["found"]["log"]
    assert {"history", "event", "events", "decision", "decisions", "label", "dead", "reference"} == set(
        proof["found"]["log"]
    )
    assert not any([*proof["left"]["log"].values(), *proof["left"]["tables"].values(), *proof["copies"]])
    assert (proof["kept"], proof["linked"], proof["files"]) == (["amount", "merchant"], False, 3)
    assert proof["acts"] > 5
    assert proof["found"]["tables"]["doubled-predictions"] == 84
    assert (proof["found"]["tables"]["by-card"], proof["found"]["tables"]["by-card.dead"]) == (5, 1)
    assert proof["predictions"] == 3, "the file by card, with what was refused, and what was predicted of"
    assert [name.rpartition("-")[0] for name in proof["unreached"]] == [
        "table of",
        "file of-nobody.csv of doubled-predict",
    ], "the refused rows of both files are alike, and so one object"
    left = table(cards, "by-card")
    assert (left["card"].null_count(), set(left["card"].drop_nulls()), left["twice"].null_count()) == (5, {OTHER}, 5)
    assert table(cards, "of-nobody")["twice"].null_count() == 0

    after = decisions(cards)
    mine = {own for own, told in before.items() if own not in after}
    assert len(mine) == 43
    assert after == {own: told for own, told in before.items() if own not in mine}, "to the bit"
    assert files_with(cards.home, GONE, *mine, "hist-0", "late-1") == []
    for name, column in (
        ("cardpay", "card"),
        ("cardpay", "payment"),
        ("cardpay.decisions", "id"),
        ("cardpay.labels", "subject"),
    ):
        values = set(table(cards, name)[column])
        assert not values & {GONE, *mine, "hist-0", "hist-3", "one-121"}, name
        assert any(str(value).startswith("erased-") for value in values), name
    assert not [
        raw for name in ("cardpay.dead", "cardpay.rejected") for raw in table(cards, name)["raw"] if GONE in raw
    ]
    assert list((cards.home / "streams" / "default" / "cardpay" / "erasing").glob("*")) != []

    assert "equal the backfill, bit for bit" in cards.command("stream", "verify", "cardpay").succeeded().out
    kill(cards.processes()["cardpay-0"])
    cards.wait_ready()
    assert decisions(cards) == after
    assert "has nothing of it" in cards.command("erase", "cardpay", GONE, "--dry-run").succeeded().out


def test_the_log_alone_gives_all_of_it_again(cards: Cloud) -> None:
    """Features are built anew from the changed log: they go on as if it never had been another one."""
    send(cards, [payment("next", 250 + n, (OTHER, "d")[n % 2]) for n in range(20)])
    expected = decisions(cards)
    worker, control = cards.processes()["cardpay-0"], cards.control_pid()
    os.kill(control, signal.SIGSTOP)  # the next worker comes when the checkpoint is gone
    kill(worker)
    for path in (cards.home / "streams" / "default" / "cardpay" / "checkpoint").glob("*"):
        path.unlink()
    os.kill(control, signal.SIGCONT)
    wait_for(lambda: cards.processes().get("cardpay-0", worker) != worker, "another worker")
    cards.wait_ready()
    send(cards, [payment("last", 280 + n, (OTHER, "d")[n % 2]) for n in range(20)])
    assert decisions(cards) == expected
    assert "equal the backfill, bit for bit" in cards.command("stream", "verify", "cardpay").succeeded().out


def test_kills_in_the_middle_of_it(cards: Cloud) -> None:
    """Of the worker and of the job; what was begun is ended."""
    before = {own: told for own, told in decisions(cards).items() if own.startswith("many")}
    started = subprocess.Popen(
        [COMMAND, "--home", cards.home, "erase", "cardpay", OTHER, "-y", "--json"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cards.folder,
    )  # fmt: skip
    stop = threading.Event()

    def kill_now_and_then() -> None:
        for _ in range(3):
            for process in cards.rows("processes"):
                if process["alive"] and (process["kind"] == "job" or process["name"] == "cardpay-0"):
                    with contextlib.suppress(ProcessLookupError):  # it has ended since
                        os.kill(process["pid"], signal.SIGKILL)
            if stop.wait(1.5):
                return

    time.sleep(0.5)
    killing = threading.Thread(target=kill_now_and_then)
    killing.start()
    out, err = started.communicate(timeout=2 * DEADLINE)
    stop.set()
    killing.join()
    assert started.returncode == 0, err
    assert out
    cards.wait_ready()
    assert files_with(cards.home, OTHER) == []
    after = decisions(cards)
    left = {own: told for own, told in before.items() if own in after}
    assert 0 < len(left) < len(before)
    assert left == {own: after[own] for own in left}
    assert "equal the backfill, bit for bit" in cards.command("stream", "verify", "cardpay").succeeded().out
