"""Thresholds from costs in a whole cloud: chosen, measured, and equal to what one computes by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from cloud_process import START, Cloud, iso, write_csv

PAY = """\
import skyriver as sr

app = sr.App("pay")


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    amount: float | None
    channel: str


payments = app.stream("payments", Payment, id="payment", time="at", key="customer", disorder="1h")
app.list("trusted", of=payments, id="customer")
bad = app.labels("bad", of=payments, delay="2d")
seen = app.features("seen", payments, {"amount": payments.amount, "of_web": payments.channel == "web"})


@app.train(seen, label=bad, test="30d")
def fit(data: sr.TrainingData) -> object:
    import lightgbm

    settings = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 20, "seed": 1}
    return lightgbm.train(settings, lightgbm.Dataset(data.x, data.y), 20)


app.decide(
    payments,
    app.model("fraud", fit, calibrate=None),
    [
        sr.Rule("approve", "customer in trusted and amount < 200", name="known"),
        sr.Rule("block", "channel == 'web' and score >= 0.9", name="certain"),
        sr.Rule("review", "score >= 0.5"),
    ],
    otherwise="approve",
    costs=sr.Costs(
        {
            "approve": sr.Cost(positive="amount"),
            "block": sr.Cost(negative=30),
            "review": sr.Cost(3, positive="0.2 * amount"),
        },
        capacity={"review": "15/1d"},
        unit="EUR",
    ),
)
"""
DAY = 86_400
DAYS, A_DAY = 70, 60
TRUSTED, TRUSTED_UNTIL = 5, 62
"""Of so many customers one is trusted, and up to which day."""
FIRST = START - START % DAY


def history() -> list[dict[str, Any]]:
    """Every second positive is labelled; who is not labelled was none. Some amounts are missing."""
    luck = np.random.default_rng(3)
    rows = []
    for n in range(DAYS * A_DAY):
        amount, web = round(float(luck.gamma(2, 40)), 2), bool(luck.random() < 0.5)
        chance = 1 / (1 + np.exp(6 - amount / 25 - web))
        row = {
            "payment": n,
            "at": iso(FIRST + n * DAY / A_DAY + 1),
            "customer": n % 50,
            "amount": None if n % 97 == 0 else amount,
            "channel": "web" if web else "shop",
            "bad": 1 if luck.random() < chance else (0 if n % 2 else None),
        }
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return history()


@pytest.fixture(scope="module")
def pay(cloud: Cloud, rows: list[dict[str, Any]]) -> Cloud:
    (cloud.folder / "pay.py").write_text(PAY)
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", "pay.py", "-y").succeeded()
    cloud.command("decide", "tune", "payments").refused("NO_VERSION", 6, "skyriver run fraud")
    until = iso(FIRST + TRUSTED_UNTIL * DAY)
    trusted = [{"customer": c, "at": iso(FIRST), "until": until, "note": "regular"} for c in range(0, 50, TRUSTED)]
    listed = f"trusted={write_csv(cloud.folder / 'trusted.csv', trusted)}"
    cloud.json("table", "load", "payments", write_csv(cloud.folder / "history.csv", rows), "--reference", listed)
    cloud.json("run")
    return cloud


@pytest.fixture(scope="module")
def report(pay: Cloud) -> dict[str, Any]:
    found: dict[str, Any] = pay.json("decide", "tune", "payments", "--hold-out", "14d")
    return found


def test_what_is_told_equals_a_computation_by_hand(
    pay: Cloud, rows: list[dict[str, Any]], report: dict[str, Any]
) -> None:
    """From the file that was loaded and the model's own file, with NumPy alone."""
    version = pay.json("version", "get", "fraud:1")
    onnx = (pay.home / "objects").rglob(version["spec"]["artifact"])
    session = onnxruntime.InferenceSession(next(iter(onnx)).read_bytes())
    amount = np.array([np.nan if row["amount"] is None else row["amount"] for row in rows])
    web = np.array([row["channel"] == "web" for row in rows])
    bad = np.array([row["bad"] == 1 for row in rows])
    day = np.arange(DAYS * A_DAY) // A_DAY
    score = session.run(None, {"features": np.stack([amount, web], axis=1).astype(np.float32)})[0].reshape(-1)
    last = DAYS - 3  # of the last day but two not all labels are known yet, of those after it none
    trained = version["spec"]["split"]["train"][1] / 1e6
    begins = int(trained // DAY + 1 - FIRST // DAY)
    chosen_on, held_out = (day >= begins) & (day < last - 14), (day >= last - 14) & (day < last)
    for told, own in ((report["chosen_on"], chosen_on), (report["held_out"], held_out)):
        assert (told["events"], told["positives"]) == (own.sum(), bad[own].sum())
    assert (report["held_out"]["days"], report["chosen_on"]["days"]) == (14, last - 14 - begins)

    trusted = (np.array([row["customer"] for row in rows]) % TRUSTED == 0) & (day < TRUSTED_UNTIL)
    assert (trusted & held_out & (score > 0.5)).any()
    assert (~trusted & held_out & (day >= TRUSTED_UNTIL)).any()
    mean = np.nanmean(amount[chosen_on & bad])  # stands for an amount that is missing
    lost = np.where(np.isnan(amount), mean, amount)
    costs = {
        "approve": np.where(bad, lost, 0.0),
        "block": np.where(bad, 0.0, 30.0),
        "review": 3 + np.where(bad, 0.2 * lost, 0.0),
    }
    for policy, which in ((report["policies"][0], "chosen"), (report["policies"][1], "in_use")):
        certain, review = (own[which] for own in report["thresholds"])
        known = trusted & (amount < 200)
        block = ~known & web & (score >= certain)
        decided = np.where(block, "block", np.where(~known & (score >= review), "review", "approve"))
        cost = np.select([decided == name for name in costs], list(costs.values()))
        total = cost[held_out].sum()
        for at in range(last - 14, last):  # what is beyond capacity costs as if it were approved
            own = (day == at) & (decided == "review")
            over = max(0, own.sum() - 15)
            total += over * (costs["approve"] - costs["review"])[own].mean() if over else 0.0
        assert policy["cost"] == pytest.approx(total / 14)
        for told in policy["decided"]:
            assert told["events"] == pytest.approx((decided[held_out] == told["decision"]).sum() / 14)
    if which == "chosen":
        assert np.bincount(day[chosen_on & (decided == "review")]).max() <= 15


def test_a_person_sees_all_of_it(pay: Cloud, report: dict[str, Any]) -> None:
    shown = pay.command("decide", "tune", "payments", "--hold-out", "14d").succeeded().out
    certain, review = report["thresholds"]
    assert f'sr.Rule("block", "channel == \'web\' and score >= {certain["chosen"]:g}", name="certain"),' in shown
    assert f'sr.Rule("review", "score >= {review["chosen"]:g}"),  # was score >= 0.5' in shown
    for words in ("A day costs in EUR, on 14 later days", "tuned", "in use", "always block", "chosen", "95%"):
        assert words in shown


def test_the_same_question_gets_the_same_answer(pay: Cloud, report: dict[str, Any]) -> None:
    again = pay.json("decide", "tune", "payments", "--hold-out", "14d")
    assert again | {"job": ""} == report | {"job": ""}
    other = pay.json("decide", "tune", "payments", "--hold-out", "14d", "--seed", 5)
    assert other["thresholds"][0]["chosen"] == report["thresholds"][0]["chosen"], "the draws are for intervals alone"


def test_what_gains_becomes_a_candidate_and_once_it_decides_it_is_what_is_in_use(
    pay: Cloud, report: dict[str, Any]
) -> None:
    assert report["verdict"] == "change"
    made = pay.json("decide", "tune", "payments", "--hold-out", "14d", "--candidate")
    listed = pay.json("rules", "list", "payments")["items"]
    candidate = next(own for own in listed if own["version"] == made["candidate"])
    assert (candidate["state"], candidate["origin"]) == ("CANDIDATE", "tune")
    assert [rule["when"] for rule in candidate["rules"]] == [rule["now"]["when"] for rule in report["rules"]]
    assert (candidate["gain"]["value"], candidate["gain"]["unit"]) == (report["gain"], "EUR")
    pay.command("rules", "promote", "payments", made["candidate"]).succeeded()
    again = pay.json("decide", "tune", "payments", "--hold-out", "14d")
    assert [own["in_use"] for own in again["thresholds"]] == [own["chosen"] for own in report["thresholds"]]
    assert (again["rules_version"], again["verdict"]) == (made["candidate"], "keep")
    refused = pay.command("decide", "tune", "payments", "--hold-out", "14d", "--candidate")
    assert refused.code == 1
    assert "No candidate" in refused.err
    assert "keep what you have" in refused.out


def test_costs_capacity_and_rules_can_be_given_for_one_run(pay: Cloud) -> None:
    asked = ("--cost", "block.negative=0.01", "--reviews", "20/1d", "--rule", "certain")
    found = pay.json("decide", "tune", "payments", *asked, "--cost", "review=0")
    assert [own["rule"] for own in found["thresholds"]] == ["certain"]
    assert {own["decision"]: own["negative"] for own in found["costs"]["of"]}["block"] == "0.01"
    assert found["costs"]["capacity"] == [{"decision": "review", "most": 20, "per_us": DAY * 1_000_000}]


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (("--hold-out", "300d"), "NOT_ENOUGH_DATA", "--hold-out"),
        (("--hold-out", "1d"), "BAD_PARAMETER", "2d"),
        (("--cost", "block=amont"), "BAD_COST", "amount"),
        (("--cost", "block"), "BAD_COST", "DECISION=AMOUNT"),
        (("--cost", "stop=1"), "BAD_COST", "The decisions are"),
        (("--reviews", "many"), "BAD_CAPACITY", "200/1d"),
        (("--rule", "nobody"), "UNKNOWN_NAME", "certain, review"),
    ],
)
def test_what_cannot_be_asked_says_what_to_do(pay: Cloud, asked: tuple[str, ...], code: str, words: str) -> None:
    ended = pay.command("decide", "tune", "payments", *asked)
    assert ended.code != 0
    assert code in ended.err
    assert words in ended.err


def test_without_costs_it_says_how_to_give_them(pay: Cloud) -> None:
    bare = PAY[: PAY.index("    costs=")] + ")\n"
    (pay.folder / "pay.py").write_text(bare)
    pay.command("deploy", "pay.py", "-y").succeeded()
    refused = pay.command("decide", "tune", "payments")
    assert "NO_COSTS" in refused.err
    assert "sr.Costs(...) for approve, block, review" in refused.err
    given = [f"--cost={text}" for text in ("approve.positive=amount", "block.negative=30", "review=3")]
    assert pay.json("decide", "tune", "payments", *given)["costs"]["unit"] == ""


def test_a_version_whose_features_are_gone_is_not_tuned(pay: Cloud) -> None:
    told = pay.json("version", "get", "fraud:1")["spec"]["features"]
    assert told["spec"] is not None
    (pay.folder / "pay.py").write_text(PAY.replace('"of_web": payments', '"on_web": payments'))
    pay.command("deploy", "pay.py", "-y").succeeded()
    found = pay.json("decide", "tune", "payments")
    assert found["version"] == 1, "the version brings its own features along"
