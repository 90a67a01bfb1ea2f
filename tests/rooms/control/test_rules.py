"""Versions of rules over the API: candidates are checked, tried, promoted by the gate; deployments and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from api_stage import APP, BASE, Stage

from skyriver.client.appfile import load_app
from skyriver.decide.streams.live import live_settings
from skyriver.decide.streams.rules_gate import _IN_THE_WAY
from skyriver.decide.streams.rules_kind import RULES_TRANSITIONS

RULES = f"{BASE}/streams/orders/rules"
CALL = {"decision": "call", "when": "score >= 0.5"}
GAIN = {"value": 3.0, "low": 1.0, "high": 5.0, "unit": "EUR", "per": "day", "job": "orders-tune-1", "rules_version": 1}


class Shop:
    """The application of the stage, deployed, with a worker that says what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder)
        self.admin = self.stage.issue()
        self.deploy("score >= 0.25")
        self.stage.world.settle()

    def deploy(self, when: str, *, dry_run: bool = False) -> httpx.Response:
        return self.deploy_text(APP.format(limit=100_000).replace("score >= 0.25", when), dry_run=dry_run)

    def deploy_text(self, text: str, *, dry_run: bool = False) -> httpx.Response:
        file = self.stage.folder / "shop.py"
        file.write_text(text)
        spec = load_app(file).spec
        bundle = self.stage.objects.put(text.encode())
        body = {"spec": spec.to_json(), "spec_digest": spec.digest(), "code": bundle, "main": file.name}
        params = {"dry_run": dry_run}
        return self.stage.caller.put(f"{BASE}/apps/shop", json=body, headers=self.admin, params=params)

    def post(self, path: str = "", role: str = "", **body: Any) -> httpx.Response:
        headers = self.stage.issue(role) if role else self.admin
        return self.stage.caller.post(f"{RULES}{path}", json=body, headers=headers)

    def get(self, path: str = "") -> Any:
        return self.stage.caller.get(f"{RULES}{path}", headers=self.admin).json()

    def add(self, *rules: dict[str, str], **more: Any) -> int:
        answer = self.post(rules=[*(rules or (CALL,))], **more)
        assert answer.status_code == 201, answer.json()
        return int(answer.json()["version"])

    def states(self) -> list[str]:
        return [version["state"] for version in self.get()["items"]]

    def live(self) -> Any:
        """What the worker is told."""
        snapshot = self.stage.world.loop.snapshot()
        stream = snapshot.find("default", "stream", "orders")
        assert stream is not None
        return live_settings(snapshot, stream)

    def follow(self, *said: tuple[str, str, int], by_trial: tuple[tuple[str, str, int], ...] = ()) -> None:
        """The worker uses what it is told, and has counted this."""
        live, trial = self.live(), None
        if live["trial"]:
            trial = {"number": live["trial"]["number"], "percent": live["trial"]["percent"], "live_rules": "digest"}
            trial["said"] = {"live": [list(row) for row in said], "trial": [list(row) for row in by_trial]}
        rules = {"version": live["rules_version"], "digest": "digest", "trial": trial}
        self.stage.world.compute.report("default.worker.orders-0", ready=True, rules=rules)
        self.stage.world.settle()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """For what is refused."""
    return Shop(tmp_path_factory.mktemp("shop"))


def test_the_rules_of_the_file_are_the_first_version(shop: Shop) -> None:
    [first] = shop.get()["items"]
    assert (first["version"], first["state"], first["origin"]) == (1, "LIVE", "deploy")
    assert first["rules"] == [{"decision": "call", "when": "score >= 0.25"}]
    assert shop.live()["rules"] == [["call", "score >= 0.25"]]
    assert (shop.live()["rules_version"], shop.live()["trial"]) == (1, None)
    assert shop.stage.store.rows("default", "ruleset") == [], "nobody pays for what nobody uses"


def test_a_candidate_goes_its_way_and_back(shop: Shop) -> None:
    number = shop.add(why="fewer calls")
    assert (number, shop.states()) == (2, ["LIVE", "CANDIDATE"])
    assert shop.live()["trial"] is None, "a candidate changes nothing"
    assert shop.post("/2/shadow").json()["state"] == "SHADOW"
    assert shop.live()["trial"] == {"number": 2, "percent": 0.0, "rules": [["call", "score >= 0.5"]]}
    assert not shop.get("/2")["in_use"]
    shop.follow(("call", "ship", 30), ("ship", "ship", 970))
    seen = shop.get("/2")
    assert seen["in_use"]
    assert seen["compared"] == {
        "live": 1,
        "events": 1000,
        "differed": 30,
        "said": [
            {"live": "call", "candidate": "ship", "events": 30, "per_1000": 30.0},
            {"live": "ship", "candidate": "ship", "events": 970, "per_1000": 970.0},
        ],
        "decided_by_live": {"call": 30, "ship": 970},
        "decided_by_candidate": {},
    }
    assert shop.post("/2/canary", percent=20).json()["percent"] == 20.0
    assert shop.live()["trial"]["percent"] == 20.0
    shop.follow(("call", "ship", 800), by_trial=(("call", "ship", 200),))
    assert shop.get("/2")["compared"]["decided_by_candidate"] == {"ship": 200}
    promoted = shop.post("/2/promote", why="good").json()
    assert (promoted["state"], promoted["compared"]["events"]) == ("LIVE", 1000)
    assert [step["state"] for step in promoted["history"]] == ["CANDIDATE", "SHADOW", "CANARY", "LIVE"]
    assert {step["by"] for step in promoted["history"]} == {"admin-token"}
    live = shop.live()
    assert (live["rules"], live["rules_version"], live["trial"]) == ([["call", "score >= 0.5"]], 2, None)
    assert shop.states() == ["REPLACED", "LIVE"]
    assert shop.post("/1/promote").status_code == 200, "what decided before may decide again"
    assert (shop.states(), shop.live()["rules_version"]) == (["LIVE", "REPLACED"], 1)


def test_the_gate(shop: Shop) -> None:
    unmeasured, loss, unsure, good = (
        shop.add({**CALL, "when": f"score >= 0.{n}"}, gain=gain)
        for n, gain in enumerate((None, {**GAIN, "low": -9, "value": -4, "high": -1}, {**GAIN, "low": -1}, GAIN), 3)
    )

    def refused(path: str, **body: Any) -> str:
        answer = shop.post(path, **body)
        assert (answer.status_code, answer.json()["code"]) == (409, "GATE_REFUSED")
        return str(answer.json()["detail"])

    assert "nothing was measured" in refused(f"/{unmeasured}/promote")
    shop.post(f"/{unmeasured}/shadow")
    shop.follow(("call", "call", 999))
    assert "999 events" in refused(f"/{unmeasured}/promote")
    shop.stage.world.compute.report(
        "default.worker.orders-0",
        rules={
            "version": 1,
            "digest": "others by now",
            "trial": {"number": 2, "percent": 0.0, "live_rules": "digest", "said": {"live": [["a", "b", 5_000]]}},
        },
    )
    shop.stage.world.settle()
    assert "0 events" in refused(f"/{unmeasured}/promote"), "compared with other rules than those of now"
    busy = shop.post(f"/{good}/shadow")
    assert (busy.status_code, busy.json()["code"]) == (409, "TRIAL_RUNNING")
    assert shop.post(f"/{unmeasured}/drop").json()["state"] == "DROPPED"
    assert "is a loss, -9 to -1 EUR a day" in refused(f"/{loss}/canary", percent=5)
    assert "does not exclude a loss" in refused(f"/{loss}/promote")
    assert shop.post(f"/{loss}/shadow").status_code == 200, "a shadow does no harm"
    shop.post(f"/{loss}/drop")
    assert "does not exclude a loss" in refused(f"/{unsure}/promote")
    anyway = shop.post(f"/{unsure}/promote", anyway="the contract demands it").json()
    assert (anyway["state"], anyway["reason"]) == ("LIVE", "GATE_PASSED_BY")
    assert "the contract demands it" in anyway["message"]
    entry = shop.stage.store.audit("default", limit=1000)[-1]
    assert (entry["action"], entry["target"], entry["permission"]) == (
        "promote_rules",
        "stream/orders",
        "streams:write",
    )
    assert entry["details"] == {"version": unsure, "why": "", "anyway": "the contract demands it"}
    assert "measured against version 1, not against those that decide now, and 0 events" in refused(f"/{good}/promote")
    shop.post("/1/promote")
    assert shop.post(f"/{good}/promote").status_code == 200, "these decide again"


def test_a_gain_counts_against_the_rules_that_it_was_measured_against(shop: Shop) -> None:
    number = shop.add(gain=GAIN)
    unsaid = shop.add({**CALL, "when": "score >= 0.6"}, gain={k: v for k, v in GAIN.items() if k != "rules_version"})
    answer = shop.post(f"/{unsaid}/promote")
    assert (answer.status_code, answer.json()["code"]) == (409, "GATE_REFUSED")
    assert "measured against rules that are not said" in answer.json()["detail"]
    shop.deploy("score >= 0.3")
    answer = shop.post(f"/{number}/promote")
    assert (answer.status_code, answer.json()["code"]) == (409, "GATE_REFUSED")
    assert "skyriver rules shadow orders 2" in answer.json()["next_action"]
    assert shop.get(f"/{number}")["gain"]["rules_version"] == 1
    shop.stage.world.settle()
    shop.post(f"/{number}/shadow")
    shop.follow(("call", "call", 1_000))
    assert shop.post(f"/{number}/promote").status_code == 200, "compared with those that decide now"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"rules": [{"decision": "call", "when": "skore > 1"}]}, 422, "BAD_RULE"),
        ({"rules": [{"decision": "call", "when": "score >"}]}, 422, "BAD_RULE"),
        ({"rules": [{"decision": "call"}]}, 422, "BAD_RULE"),
        ({"rules": [{"decision": "call", "when": "+".join(["1"] * 201) + " > score"}]}, 422, "BAD_RULE"),
        ({"rules": [{"decision": "no word", "when": "score > 0.5"}]}, 422, "BAD_NAME"),
        ({"rules": [CALL, CALL]}, 422, "BAD_DECISION"),
        ({"rules": [{"decision": "call", "when": "score >= 0.25"}]}, 409, "SAME_RULES"),
        ({"rules": [CALL], "gain": {**GAIN, "value": 9}}, 422, "BAD_GAIN"),
        ({"rules": [CALL], "gain": {"value": 1}}, 422, "BAD_REQUEST"),
        ({"rules": "none"}, 422, "BAD_REQUEST"),
        ({"rules": [CALL], "more": 1}, 422, "BAD_REQUEST"),
    ],
)
def test_a_candidate_that_cannot_be_one(unchanged: Shop, body: dict[str, Any], status: int, code: str) -> None:
    answer = unchanged.post(**body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert unchanged.states() == ["LIVE"]


def test_what_cannot_be_asked(shop: Shop) -> None:
    shop.add()
    for path, body, status, code in (
        ("/7/shadow", {}, 404, "NOT_FOUND"),
        ("/0/shadow", {}, 422, "BAD_REQUEST"),
        ("/2/canary", {}, 422, "BAD_REQUEST"),
        ("/2/canary", {"percent": 0}, 422, "BAD_REQUEST"),
        ("/2/canary", {"percent": 101}, 422, "BAD_REQUEST"),
        ("/2/promote", {"anyway": " "}, 422, "NO_REASON"),
    ):
        answer = shop.post(path, **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), path
    assert shop.post(role="operator", rules=[CALL]).status_code == 403, "who operates declares nothing"
    assert shop.post("/2/shadow", role="viewer").status_code == 403
    assert shop.stage.caller.get(f"{BASE}/streams/none/rules", headers=shop.admin).status_code == 404


def test_a_move_that_cannot_be_says_what_is_in_its_way(shop: Shop) -> None:
    def refused(path: str, **body: Any) -> str:
        answer = shop.post(path, **body)
        assert (answer.status_code, answer.json()["code"]) == (409, "REFUSED_TRANSITION"), path
        return f"{answer.json()['detail']} {answer.json()['next_action']}"

    shop.add()
    assert "orders decides already. `skyriver rules list orders`" in refused("/1/promote")
    assert "what decides is not dropped. Promote another one in its place" in refused("/1/drop")
    shop.post("/2/shadow")
    assert "is in shadow already. `skyriver rules get orders 2`" in refused("/2/shadow")
    assert "is not compared with itself" in refused("/1/shadow"), "and not that another one is tried"
    assert "decides already, for all keys" in refused("/1/canary", percent=5)
    shop.post("/2/promote", anyway="a test")
    assert "was replaced: it decides nothing" in refused("/1/drop")
    again = "decided before, and is not tried again. `skyriver rules promote orders 1` lets it decide again."
    assert again in refused("/1/shadow")
    assert again in refused("/1/canary", percent=5)
    shop.add({**CALL, "when": "score >= 0.7"})
    shop.post("/3/drop")
    assert "is dropped already" in refused("/3/drop")
    anew = "was dropped. `skyriver rules add orders FILE` makes such rules a candidate again."
    for path, body in (("/3/promote", {}), ("/3/shadow", {}), ("/3/canary", {"percent": 5})):
        assert anew in refused(path, **body), path


def test_every_move_that_a_state_forbids_has_its_words() -> None:
    states = {state for state, _ in RULES_TRANSITIONS} | {*RULES_TRANSITIONS.values()}
    forbidden = {(s, to) for s in states for to in ("shadow", "canary", "promote", "drop")} - {*RULES_TRANSITIONS}
    assert {pair for pair in forbidden if pair[0] != "DROPPED"} == {p for p in _IN_THE_WAY if p[0] != "DROPPED"}


def test_a_refusal_of_the_gate_says_what_helps(shop: Shop) -> None:
    def helps(number: int) -> str:
        return str(shop.post(f"/{number}/promote").json()["next_action"])

    number, loss = shop.add(), shop.add({**CALL, "when": "score >= 0.8"}, gain={**GAIN, "low": -1})
    assert f"`skyriver rules shadow orders {number}` compares it" in helps(number)
    assert f"Give it up: `skyriver rules drop orders {loss}`" in helps(loss)
    shop.post(f"/{number}/canary", percent=50)
    assert helps(number).startswith("It only needs more events: `skyriver rules get orders 2` shows how many")
    assert "--anyway" in helps(number)


def test_examples_of_the_application_hold_for_candidates_too(shop: Shop) -> None:
    text = APP.format(limit=100_000).replace("app.decide", "decisions = app.decide")
    assert shop.deploy_text(text + 'decisions.example("call", score=0.4)\n').status_code == 200
    answer = shop.post(rules=[CALL])
    assert (answer.status_code, answer.json()["code"]) == (422, "EXAMPLE_FAILED")
    never = shop.post(rules=[{"decision": "call", "when": "score >= 0.4"}, {**CALL, "name": "sure"}])
    assert never.status_code == 201
    [warning] = never.json()["warnings"]
    assert warning.startswith("sure of orders never fires")


@pytest.mark.parametrize(
    ("rules", "code", "told"),
    [
        ([], "BAD_RULE", "The list of rules is empty."),
        ([{"decision": "hold", "when": "amont > 5"}], "BAD_RULE", "unknown name 'amont'; did you mean 'amount'?"),
        ([{"decision": "hold", "when": "amount > 5"}], "BAD_SINK", "is for 'call', which nothing decides"),
    ],
)
def test_rules_are_looked_at_before_what_is_declared_beside_them(
    unchanged: Shop, rules: list[dict[str, str]], code: str, told: str
) -> None:
    """The application has a sink for `call`."""
    answer = unchanged.post(rules=rules)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert told in answer.json()["detail"]
    assert answer.json()["next_action"]
    if code == "BAD_SINK":
        assert "Let a rule decide what it is for" in answer.json()["next_action"]


def lines(answer: httpx.Response) -> list[tuple[str, str, str]]:
    return [
        (line["action"], line["name"], line["detail"]) for line in answer.json()["plan"] if line["kind"] == "ruleset"
    ]


def told_of(answer: httpx.Response, *kinds: str) -> list[tuple[str, str, str]]:
    return [(own["action"], own["name"], own["detail"]) for own in answer.json()["plan"] if own["kind"] in kinds]


def test_a_plan_tells_what_of_the_decisions_changes(unchanged: Shop) -> None:
    text = APP.format(limit=100_000)
    for before, after, told in (
        ('{"hold": 1, "ship": 0}', '{"call": 1, "ship": 0}, within="2h"', "review call (answers, within)"),
        ("approve=True", 'approve=True, tries=3, retry_for="2h"', "sink callers (retry, tries)"),
        ('sink("callers"', 'sink("people"', "sink callers (removed), sink people (new)"),
        ('otherwise="ship"', 'otherwise="ship", fallback="call"', "fallback"),
    ):
        assert before in text
        [(action, _, detail)] = told_of(unchanged.deploy_text(text.replace(before, after), dry_run=True), "stream")
        assert action == "update"
        assert detail.startswith(f"decide: {told}; features take")


def test_an_answer_that_nothing_decides_is_warned_of(unchanged: Shop) -> None:
    text = APP.format(limit=100_000)
    told = "may be answered 'hold', which nothing decides; decided are call, ship"
    assert told_of(unchanged.deploy_text(text, dry_run=True), "review") == [("warn", "call of orders", told)]
    text = text.replace('{"hold": 1, "ship": 0}', '{"call": 1, "ship": 0}')
    assert told_of(unchanged.deploy_text(text, dry_run=True), "review") == []


def test_a_deployment_with_other_rules_makes_a_version_that_decides(shop: Shop) -> None:
    assert lines(shop.deploy("score >= 0.25", dry_run=True)) == []
    assert lines(shop.deploy("score >= 0.3", dry_run=True)) == [
        ("create", "orders-r2", "decides in place of orders-r1")
    ]
    assert shop.states() == ["LIVE"]
    shop.deploy("score >= 0.3")
    assert (shop.states(), shop.live()["rules"]) == (["REPLACED", "LIVE"], [["call", "score >= 0.3"]])
    assert lines(shop.deploy("score >= 0.3")) == []
    shop.post("/1/promote")
    assert shop.live()["rules"] == [["call", "score >= 0.25"]], "back to what was deployed before"


def test_a_deployment_leaves_what_was_promoted_until_its_rules_change(shop: Shop) -> None:
    shop.add()
    shop.post("/2/promote", anyway="a test")
    told = "was promoted and decides; the file's rules are those of the deployment before"
    assert lines(shop.deploy("score >= 0.25")) == [("keep", "orders-r2", told)]
    assert shop.live()["rules_version"] == 2
    assert lines(shop.deploy("score >= 0.5")) == [], "the file has the promoted ones now"
    assert (shop.states(), shop.live()["rules_version"]) == (["REPLACED", "LIVE"], 2)
    assert lines(shop.deploy("score >= 0.75")) == [("create", "orders-r3", "decides in place of orders-r2")]
    assert shop.live()["rules"] == [["call", "score >= 0.75"]]
    assert shop.states() == ["REPLACED", "REPLACED", "LIVE"]


def test_a_deployment_that_what_was_promoted_does_not_fit_is_refused(shop: Shop) -> None:
    shop.add({"decision": "call", "when": "mean_7d > 5"})
    shop.post("/2/promote", anyway="a test")
    answer = shop.deploy_text(APP.format(limit=100_000).replace("mean_7d", "mean_of_week"))
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_RULE")
    assert "Version 2 of the rules of orders, which was promoted, would stay" in answer.json()["detail"]


@pytest.mark.parametrize(("to", "state"), [("shadow", "SHADOW"), ("canary", "CANARY")])
def test_a_deployment_that_what_is_tried_does_not_fit_is_refused(shop: Shop, to: str, state: str) -> None:
    shop.add({"decision": "call", "when": "mean_7d > 5"})
    shop.post(f"/2/{to}", **({"percent": 5, "anyway": "a test"} if to == "canary" else {}))
    assert shop.states() == ["LIVE", state]
    changed = APP.format(limit=100_000).replace("mean_7d", "mean_of_week")
    answer = shop.deploy_text(changed)
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_RULE")
    told = (
        f"Version 2 of the rules of orders, which is in {state}, would go on, and does not fit: column 1: unknown name"
    )
    assert answer.json()["detail"].startswith(told)
    assert answer.json()["next_action"].endswith("or end its trial: `skyriver rules drop orders 2`.")
    assert shop.states() == ["LIVE", state], "nothing was done"
    shop.post("/2/drop")
    assert shop.deploy_text(changed).status_code == 200


def test_a_rule_with_a_key_that_none_has_is_refused_with_the_nearest(shop: Shop) -> None:
    answer = shop.post(rules=[{**CALL, "nam": "sure"}])
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_RULE")
    assert "nam is not known (did you mean 'name'?)" in answer.json()["detail"]
    answer = shop.post(rules=[{"decision": "call"}])
    assert "when is missing" in answer.json()["detail"]
    assert answer.json()["next_action"]


def test_a_version_that_is_no_number_is_refused_in_our_words(shop: Shop) -> None:
    answer = shop.stage.caller.get(f"{BASE}/streams/orders/rules/first", headers=shop.admin)
    assert answer.json()["detail"] == "The request is not understood: version='first' is no whole number."
    answer = shop.stage.caller.get(f"{BASE}/streams/orders/rules/0", headers=shop.admin)
    assert answer.json()["detail"] == "The request is not understood: version='0' is less than 1."


def test_an_application_that_comes_back_finds_its_versions(shop: Shop) -> None:
    shop.add()
    shop.post("/2/promote", anyway="a test")
    shop.add({**CALL, "when": "score >= 0.6"})
    shop.post("/3/shadow")
    assert shop.stage.caller.request("DELETE", f"{BASE}/apps/shop", headers=shop.admin).status_code == 200
    shop.stage.world.settle()
    rows = {row.name: (row.state, row.reason) for row in shop.stage.store.rows("default", "ruleset")}
    assert rows == {
        "orders-r1": ("REPLACED", "PROMOTED_ANOTHER"),
        "orders-r2": ("REPLACED", "STREAM_REMOVED"),
        "orders-r3": ("DROPPED", "STREAM_REMOVED"),
    }, "none of them decides for a stream that is not there"
    assert lines(shop.deploy("score >= 0.25")) == [("create", "orders-r4", "decides")]
    assert shop.states() == ["REPLACED", "REPLACED", "DROPPED", "LIVE"]
    assert shop.live()["rules"] == [["call", "score >= 0.25"]]
    assert shop.post("/2/promote").status_code == 200, "and the way back to what decided before"


def test_a_stream_is_ready_once_its_worker_uses_its_rules(shop: Shop) -> None:
    shop.follow()
    state = lambda: shop.stage.store.get("default", "stream", "orders")  # noqa: E731
    assert state().state == "READY"
    shop.add()
    shop.post("/2/shadow")
    shop.stage.world.settle()
    assert (state().state, state().reason) == ("UPDATING", "RULES_CHANGE")
    shop.follow(("call", "ship", 5))
    assert state().state == "READY"
    now = shop.stage.caller.get(f"{BASE}/now/streams/orders", headers=shop.admin).json()["decides"]
    assert now["rules_version"] == 1
    assert now["trial"] == {
        "version": 2,
        "state": "SHADOW",
        "percent": 0.0,
        "in_use": True,
        "events": 5,
        "differed": 5,
    }


def test_what_does_not_fit_what_is_deployed_now_is_not_moved(shop: Shop) -> None:
    shop.add({"decision": "call", "when": "mean_7d > 5"})
    shop.add({"decision": "call", "when": "score >= 0.6 and mean_7d > 5"})
    shop.post("/2/promote", anyway="a test")
    shop.post("/1/promote")
    renamed = APP.format(limit=100_000).replace("mean_7d", "mean_of_week")
    assert shop.deploy_text(renamed).status_code == 200
    before = shop.get()
    for path, body in (
        ("/3/shadow", {}),
        ("/3/canary", {"percent": 5}),
        ("/3/promote", {"anyway": "a test"}),
        ("/2/promote", {}),
    ):
        answer = shop.post(path, **body)
        told = answer.json()
        assert (answer.status_code, told["code"]) == (422, "BAD_RULE"), path
        assert "does not fit what is deployed now: column " in told["detail"]
        assert "unknown name 'mean_7d'" in told["detail"]
        assert "skyriver rules add orders" in told["next_action"]
    assert shop.get() == before, "nothing changed"
    assert shop.post("/3/drop").status_code == 200, "it can be given up all the same"
    shop.add({"decision": "call", "when": "mean_of_week > 5"})
    assert shop.post("/4/shadow").status_code == 200
