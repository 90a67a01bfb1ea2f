"""What can be asked of a stream's past, and what is refused before a job begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import skyriver as sr
from skyriver.core.errors import Conflict, InvalidInput, NotFound, SkyriverError
from skyriver.core.resources import Resource, Snapshot
from skyriver.decide.streams.asking import KEPT, plan_replay
from skyriver.features.plan import plan_features


class Payment(sr.Event):
    payment: int
    at: sr.Time
    customer: int
    channel: str
    amount: float


APP = sr.App("risk")
PAYMENTS = APP.stream("payments", Payment, id="payment", time="at", key="customer")
FRAUDS = APP.labels("fraud", of=PAYMENTS, delay="7d")
BEHAVIOUR = APP.features("behaviour", PAYMENTS, {"mean_1d": sr.mean("amount", by="customer", over="1d")})


@APP.train(BEHAVIOUR, label=FRAUDS)
def fit(data: sr.TrainingData) -> Any: ...


MODEL = APP.model("fraud", fit)
APP.decide(PAYMENTS, MODEL, {"block": "score >= 0.9"}, otherwise="approve", fallback="review")
SPEC = APP.spec
FEATURES = SPEC.feature_sets[0]
OTHERS = {**FEATURES.to_json(), "source": "orders"}


def rows(*more: Resource) -> Snapshot:
    spec = {
        "stream": SPEC.streams[0].to_json(),
        "decide": SPEC.decides[0].to_json(),
        "features": FEATURES.to_json(),
    }
    told = {"set": "behaviour", "digest": plan_features(FEATURES, SPEC.streams[0]).digest, "names": ["mean_1d"]}
    found = [
        Resource("t", "app", "risk", spec={"spec": SPEC.to_json(), "code": {}}),
        Resource("t", "stream", "payments", spec=spec, parent="app/risk"),
        Resource("t", "stream", "plain", spec={**spec, "decide": None}, parent="app/risk"),
        version(2, {**told, "spec": FEATURES.to_json()}),
        version(3, {**told, "spec": OTHERS}),
        version(4, None),
        *more,
    ]
    return Snapshot({row.key: row for row in found}, {}, {}, 1_000)


def version(number: int, features: dict[str, Any] | None) -> Resource:
    spec = {"artifact": "a" * 64, "features": features, "model": "fraud", "version": number}
    return Resource("t", "version", f"fraud:{number}", spec=spec)


def ask(target: str = "payments", snapshot: Snapshot | None = None, **params: Any) -> dict[str, Any]:
    """The parameters and inputs of the job."""
    named = {"from" if name == "begin" else name: value for name, value in params.items()}
    operation, job = plan_replay(snapshot or rows(), "t", target, named, {})
    assert operation.spec["jobs"] == [job.name]
    return {**job.spec["params"], **job.spec["inputs"], "name": job.name}


def test_a_stretch_a_version_and_rules_are_resolved() -> None:
    rules = {"rules": [["block", "mean_1d > 5", "much"], {"decision": "call", "when": "channel == 'web'"}]}
    asked = ask(begin="2026-01-01", to="2026-01-02T12:00:00Z", model="fraud:2", rules=rules, by=["amount", "mean_1d"])
    assert asked["name"] == "payments-replay-1"
    assert (asked["start"], asked["end"] - asked["start"]) == (1_767_225_600_000_000, 36 * 3_600 * 1_000_000)
    assert (asked["model"]["name"], asked["model"]["version"], asked["model_name"]) == ("fraud", 2, "fraud:2")
    assert asked["model"]["features"] == FEATURES.to_json()
    assert asked["rules"] == {
        "rules": [["block", "mean_1d > 5", "much"], ["call", "channel == 'web'"]],
        "otherwise": "approve",
        "fallback": "review",
    }
    assert asked["by"] == ["amount", "mean_1d"]


def test_nothing_asked_for_is_all_of_the_log_as_it_was() -> None:
    asked = ask()
    assert (asked["start"], asked["end"], asked["model"], asked["rules"]) == (None, None, None, None)
    told = ask(offset=17)
    assert "a" * 64 in told.pop("signed")
    assert told == {"offset": 17, "gone": [], "name": "payments-recompute-1"}


def test_a_version_of_the_rules_is_asked_for_by_its_number() -> None:
    assert ask(rules=1)["rules"]["rules"] == [["block", "score >= 0.9"]]
    with pytest.raises(NotFound, match="no version 7 of the rules"):
        ask(rules=7)


def test_budgets_of_the_file_hold_and_those_of_then_where_it_has_none() -> None:
    budget = {"decision": "block", "most": 3, "per_us": 60_000_000, "overflow": "review"}
    asked = ask(rules={"rules": [["block", "score > 0"]], "budgets": [budget]})
    assert asked["rules"]["bounds"] == {"budgets": [budget], "counters": [], "combine": []}
    assert "bounds" not in ask(rules={"rules": [["block", "score > 0"]]})["rules"]
    with pytest.raises(InvalidInput, match="budgets"):
        ask(rules={"rules": [["block", "score > 0"]], "budgets": [{"decision": "block"}]})


def test_rules_that_come_alone_go_with_the_counters_of_now() -> None:
    counter = {"name": "blocks_today", "decision": "block", "over_us": 60_000_000, "by": "customer", "most": 9}
    stream = rows().find("t", "stream", "payments")
    assert stream is not None
    declared = replace(stream, spec={**stream.spec, "decide": {**stream.spec["decide"], "counters": [counter]}})
    snapshot = Snapshot({**rows().resources, declared.key: declared}, {}, {}, 1_000)
    asked = ask(snapshot=snapshot, rules={"rules": [["block", "blocks_today > 2"]]})
    assert asked["rules"]["bounds"] == {"budgets": [], "counters": [counter], "combine": []}


@pytest.mark.parametrize(
    ("params", "kind", "code"),
    [
        ({"begin": "2026-02-01", "to": "2026-01-01"}, InvalidInput, "EMPTY_STRETCH"),
        ({"begin": "2026-02-01", "to": "2026-02-01"}, InvalidInput, "EMPTY_STRETCH"),
        ({"begin": "yesterday"}, InvalidInput, "BAD_TIME"),
        ({"to": 17}, InvalidInput, "BAD_TIME"),
        ({"model": "fraud"}, InvalidInput, "BAD_PARAMETER"),
        ({"model": "fraud:9"}, NotFound, "NOT_FOUND"),
        ({"model": "fraud:3"}, Conflict, "MODEL_OF_OTHER_FEATURES"),
        ({"model": "fraud:4"}, Conflict, "MODEL_OF_OTHER_FEATURES"),
        ({"rules": {"rules": [["block", "scor > 1"]]}}, InvalidInput, "BAD_RULE"),
        ({"rules": {"rules": [["block", "amount > 'x'"]]}}, InvalidInput, "BAD_RULE"),
        ({"rules": {"rules": [["block"]]}}, InvalidInput, "BAD_RULES"),
        ({"rules": {"rules": []}}, InvalidInput, "BAD_RULES"),
        ({"rules": {"rules": [["block", "score > 1"]], "otherwhise": "ok"}}, InvalidInput, "BAD_RULES"),
        ({"rules": {"rules": [{"decision": "block", "when": "score > 1", "nam": "x"}]}}, InvalidInput, "BAD_RULES"),
        ({"rules": "score > 1"}, InvalidInput, "BAD_RULES"),
        ({"rules": {"rules": [["block", "score > 1"]], "otherwise": 3}}, InvalidInput, "BAD_RULES"),
        ({"by": ["amout"]}, InvalidInput, "UNKNOWN_FIELD"),
        ({"by": ["amount", "amount"]}, InvalidInput, "BAD_PARAMETER"),
        ({"by": "amount"}, InvalidInput, "BAD_PARAMETER"),
        ({"until": "2026-02-01"}, InvalidInput, "BAD_PARAMETER"),
        ({"offset": -1}, InvalidInput, "BAD_PARAMETER"),
        ({"offset": 1, "model": "fraud:2"}, InvalidInput, "BAD_PARAMETER"),
        ({"target": "plain"}, InvalidInput, "NO_DECISIONS"),
        ({"target": "nothing"}, NotFound, "NOT_FOUND"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_do(
    params: dict[str, Any], kind: type[SkyriverError], code: str
) -> None:
    with pytest.raises(kind) as refused:
        ask(**params)
    assert refused.value.code == code
    assert refused.value.next_action


def test_the_rows_of_old_replays_go_unless_a_newer_one_has_the_same() -> None:
    def replay(number: int, digest: str) -> Resource:
        outputs = {"artifacts": {"rows-0001.parquet": {"digest": digest, "bytes": 1}}}
        spec = {"kind": "replay", "target": "payments"}
        return Resource(
            "t", "job", f"payments-replay-{number}", spec=spec, status={"outputs": outputs}, created_at=number
        )

    old = [replay(1, "one"), replay(2, "same"), replay(3, "two")]
    kept = [replay(n, "same" if n == 7 else f"kept-{n}") for n in range(4, 3 + KEPT)]
    assert ask(snapshot=rows(*old, *kept))["gone"] == ["one", "two"]
    assert ask(snapshot=rows(*kept))["gone"] == []
