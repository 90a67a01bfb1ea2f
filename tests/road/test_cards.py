"""What somebody meets who brings a stream of their own: texts in it, events that come late, times of another unit."""

from __future__ import annotations

import pytest
from cloud_process import START, Cloud, iso, write_csv, write_lines

CARDS = """\
import skyriver as sr

app = sr.App("cards")


class Payment(sr.Event):
    payment: int
    at: sr.Time
    card: str
    merchant: str | None
    country: str
    amount: float


cardpay = app.stream("cardpay", Payment, id="payment", time="at", key="card", disorder="1h")
frauds = app.labels("fraud", of=cardpay, delay="1d")
habits = app.features("habits", cardpay, {
    "amount": cardpay.amount,
    "merchants_1d": sr.distinct("merchant", by="card", over="1d"),
    "countries_1d": sr.distinct("country", by="card", over="1d"),
    "abroad": cardpay.country != "DE",
    "no_merchant": cardpay.merchant.is_missing(),
    "of_m1": cardpay.merchant == "m1",
})


@app.train(habits, label=frauds)
def fit(data: sr.TrainingData) -> object:
    import lightgbm

    return lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(data.x, data.y), 5)


app.decide(cardpay, app.model("fraud", fit), {"block": "score >= 0.9"}, otherwise="approve")
"""


def payment(number: int, at: object, **others: object) -> dict[str, object]:
    merchant = None if number % 3 == 0 else f"m{number % 7}"
    row: dict[str, object] = {"payment": number, "at": at, "card": "a", "merchant": merchant, "country": "DE"}
    return row | {"amount": 1.5} | others


@pytest.fixture(scope="module")
def cards(cloud: Cloud) -> Cloud:
    """A cloud with a stream of cards, and its history."""
    (cloud.folder / "cards.py").write_text(CARDS)
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "cards.py", "-y").succeeded()
    history = [payment(n, iso(START + 60 * n)) for n in range(100)]
    report = cloud.json("table", "load", "cardpay", write_csv(cloud.folder / "history.csv", history))
    assert report["counts"]["rows_good"] == 100
    return cloud


def test_history_is_loaded_with_texts_whose_different_values_are_counted(cards: Cloud) -> None:
    sent = write_lines(cards.folder / "one.jsonl", [payment(1_000, iso(START + 6_000), country="FR")])
    cards.command("send", "cardpay", sent).succeeded()
    features = cards.ask("GET", "/streams/cardpay/decisions/1000")[1]["features"]
    assert (features["merchants_1d"], features["countries_1d"]) == (7, 2)
    assert (features["abroad"], features["no_merchant"], features["of_m1"]) == (1, 0, 0)


def test_texts_are_the_same_alone_in_blocks_and_in_history(cards: Cloud) -> None:
    """1,002 is without a merchant, 1,016 with m1; the first few come alone, the others as a block."""
    rows = [payment(1_001 + n, iso(START + 6_000)) for n in range(64)]
    cards.command("send", "cardpay", write_lines(cards.folder / "few.jsonl", rows[:2]), "--batch", 1).succeeded()
    cards.command("send", "cardpay", write_lines(cards.folder / "many.jsonl", rows)).succeeded()
    found = {n: cards.ask("GET", f"/streams/cardpay/decisions/{n}")[1]["features"] for n in (1_002, 1_016)}
    assert [found[1_002][name] for name in ("abroad", "no_merchant", "of_m1")] == [0, 1, None]
    assert [found[1_016][name] for name in ("abroad", "no_merchant", "of_m1")] == [0, 0, 1]
    assert "65 recorded feature rows equal the backfill" in cards.command("stream", "verify", "cardpay").succeeded().out


def test_events_that_come_too_late_are_told(cards: Cloud) -> None:
    old = [payment(2_000 + n, iso(START - 86_400 + n)) for n in range(5)]
    file = write_lines(cards.folder / "old.jsonl", [*old, payment(2_010, iso(START + 6_001))])
    sent = cards.command("send", "cardpay", file).succeeded()
    assert "6 events taken and decided" in sent.out
    assert "5 were late: decided without a score (LATE)" in sent.out
    assert cards.json("send", "cardpay", file)["statuses"] == {"late": 5, "fallback": 1}


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"at": START + 6_100}, "BAD_TIME", "as us since 1970 1970-01-01T00:28:55: seconds? Declare sr.field(time_"),
        ({"at": (START + 6_100) * 1_000}, "BAD_TIME", "milliseconds?"),
    ],
)
@pytest.mark.parametrize("count", [1, 100])
def test_a_time_of_another_unit_is_found_out(
    cards: Cloud, change: dict[str, object], reason: str, words: str, count: int
) -> None:
    file = write_lines(cards.folder / "unit.jsonl", [payment(3_000 + n, 0) | change for n in range(count)])
    cards.command("send", "cardpay", file).refused("ALL_REJECTED", 2, words)
    table = write_csv(cards.folder / "unit.csv", [payment(3_000 + n, 0) | change for n in range(count)])
    cards.command("table", "load", "cardpay", table).refused("TOO_MANY_BAD_ROWS", 100, reason)


def test_the_last_dead_letters_are_as_many_as_the_guide_says(cards: Cloud) -> None:
    bad = [payment(4_000 + n, iso(START + 6_200), amount="much") for n in range(60)]
    cards.command("send", "cardpay", write_lines(cards.folder / "bad.jsonl", bad)).refused("ALL_REJECTED", 2, "amount")
    assert len(cards.json("stream", "dead", "cardpay")["items"]) == 50
    assert "The last 50" in cards.command("stream", "dead", "cardpay").succeeded().err
