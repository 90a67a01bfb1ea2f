"""Requests that change something: once for their key, with their audit row, on the state that their caller saw."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from skyriver.adapters.memory.store import MemoryStore
from skyriver.adapters.sqlite.store import SqliteStore
from skyriver.control import mutations
from skyriver.control.late import routes_of
from skyriver.control.mlflow.refusals import is_mlflow
from skyriver.core.contract import Delivery
from skyriver.core.errors import Unavailable
from skyriver.core.resources import AuditEntry, Change, Resource
from skyriver.data.decisions import Reason, Status
from skyriver.decide.acting.case_view import in_full
from skyriver.decide.acting.cases import Case
from skyriver.decide.log.records import DecisionRecord
from skyriver.release.manifest import scoring_signature

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests are no package
from api_stage import BASE, Stage

APP = f"{BASE}/apps/shop"
VERIFY = f"{BASE}/actions/verify"


def keyed(headers: dict[str, str], key: str) -> dict[str, str]:
    return {**headers, "Idempotency-Key": key}


def deploy(stage: Stage, admin: dict[str, str], **options: Any) -> httpx.Response:
    body = options.pop("json", None) or stage.body()
    return stage.caller.put(APP, json=body, headers={**admin, **options.pop("headers", {})}, **options)


# Once for its key


def test_a_key_gets_its_first_answer_and_nothing_is_done_twice(stage: Stage, admin: dict[str, str]) -> None:
    deploy(stage, admin)
    asked = {"json": {"target": "orders"}, "headers": keyed(admin, "one")}
    first, again = stage.caller.post(VERIFY, **asked), stage.caller.post(VERIFY, **asked)
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (202, first.json())
    assert first.headers["location"] == again.headers["location"] == f"{BASE}/operations/{first.json()['operation']}"
    assert len(stage.store.rows("default", "operation")) == 1
    other = stage.caller.post(VERIFY, json={"target": "orders"}, headers=keyed(admin, "two"))
    assert other.json()["operation"] != first.json()["operation"]


def test_a_key_is_of_one_request_and_of_one_caller(stage: Stage, admin: dict[str, str]) -> None:
    deploy(stage, admin)
    stage.caller.post(VERIFY, json={"target": "orders"}, headers=keyed(admin, "one"))
    reused = stage.caller.post(VERIFY, json={"target": "orders", "params": {"n": 1}}, headers=keyed(admin, "one"))
    assert (reused.status_code, reused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    neighbour = stage.issue("operator")
    theirs = stage.caller.post(VERIFY, json={"target": "orders"}, headers=keyed(neighbour, "one"))
    assert theirs.status_code == 202
    assert len(stage.store.rows("default", "operation")) == 2


def test_a_refused_request_leaves_no_trace_of_its_key(stage: Stage, admin: dict[str, str]) -> None:
    asked = {"json": {"target": "orders"}, "headers": keyed(admin, "one")}
    assert stage.caller.post(VERIFY, **asked).status_code == 404
    deploy(stage, admin)
    assert stage.caller.post(VERIFY, **asked).status_code == 202


@pytest.mark.parametrize("key", ["x" * 256, "two words", "ü"])
def test_a_key_that_cannot_be_one(stage: Stage, admin: dict[str, str], key: str) -> None:
    headers = [*admin.items(), ("Idempotency-Key", key.encode())]
    answer = stage.caller.post(VERIFY, json={"target": "orders"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_REQUEST")


def test_a_control_plane_that_was_followed_is_away_for_who_asks(stage: Stage, admin: dict[str, str]) -> None:
    stage.store.acquire("the next one")
    answer = deploy(stage, admin)
    assert (answer.status_code, answer.json()["code"]) == (503, "CONTROL_AWAY")
    assert answer.headers["retry-after"]
    assert stage.store.rows("default", "app") == []


def test_an_upload_with_a_key(stage: Stage, admin: dict[str, str]) -> None:
    path = f"{BASE}/objects"
    first = stage.caller.post(path, content=b"one", headers=keyed(admin, "u"))
    assert stage.caller.post(path, content=b"one", headers=keyed(admin, "u")).json() == first.json()
    assert stage.caller.post(path, content=b"two", headers=keyed(admin, "u")).status_code == 422


def test_old_answers_go_in_small_steps(stage: Stage, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "KEPT", 3)

    def upload(number: int) -> None:
        stage.world.clock.advance(1_000)
        answer = stage.caller.post(f"{BASE}/objects", content=b"x", headers=keyed(admin, f"key-{number}"))
        assert answer.status_code == 201

    for number in range(10):
        upload(number)
    rows = stage.store.rows("default", "request")
    assert len(rows) == 3
    oldest = min(rows, key=lambda r: r.created_at)
    upload(7)  # the oldest one that is known: an answer, and nothing new
    assert oldest in stage.store.rows("default", "request")
    stage.world.clock.advance(mutations.KEPT_US)
    upload(7)
    assert len(stage.store.rows("default", "request")) == 1, "what is a day old is gone"


KILLED = """\
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from api_stage import BASE, Stage
from skyriver.adapters.sqlite.store import SqliteStore

class Deadly(SqliteStore):
    armed = False
    def commit(self, *given, **named):
        done = super().commit(*given, **named)
        if self.armed:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

folder = Path({folder!r})
stage = Stage(folder, Deadly(folder / "state.db"))
admin = stage.issue()
(folder / "token").write_text(admin["Authorization"])
assert stage.caller.put(BASE + "/apps/shop", json=stage.body(), headers=admin).status_code == 200
Deadly.armed = True
stage.caller.post(BASE + "/actions/verify", json={{"target": "orders"}}, headers={{**admin, "Idempotency-Key": "k"}})
print("not killed")
"""


def test_a_kill_between_commit_and_answer_does_nothing_twice(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parents[2]), folder=str(tmp_path))
    killed = subprocess.run(
        [sys.executable, "-c", script], env=os.environ, capture_output=True, timeout=300, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stage = Stage(tmp_path, SqliteStore(tmp_path / "state.db"))
    headers = {"Authorization": (tmp_path / "token").read_text(), "Idempotency-Key": "k"}
    done = stage.store.rows("default", "operation")
    assert len(done) == 1, "it was committed"
    answer = stage.caller.post(VERIFY, json={"target": "orders"}, headers=headers)
    assert (answer.status_code, answer.json()["operation"]) == (202, done[0].name)
    assert stage.store.rows("default", "operation") == done
    stage.store.close()


def test_one_key_from_many_threads_is_done_once(stage: Stage, admin: dict[str, str]) -> None:
    deploy(stage, admin)
    answers = together(lambda _: stage.caller.post(VERIFY, json={"target": "orders"}, headers=keyed(admin, "one")), 8)
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["operation"] for a in answers}) == 1
    assert len(stage.store.rows("default", "operation")) == 1


# On the state that its caller saw


def test_entity_tags(stage: Stage, admin: dict[str, str]) -> None:
    deploy(stage, admin)
    first = stage.caller.get(APP, headers=admin)
    tag = first.headers["etag"]
    assert tag == f'"{first.json()["revision"]}"'
    same = stage.caller.get(APP, headers={**admin, "If-None-Match": f'"1", W/{tag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    changed = deploy(stage, admin, json=stage.body(5), headers={"If-Match": tag})
    assert changed.status_code == 200
    stale = deploy(stage, admin, json=stage.body(6), headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "PRECONDITION_FAILED")
    now = stage.caller.get(APP, headers={**admin, "If-None-Match": tag})
    assert now.status_code == 200
    assert stale.json()["errors"] == [{"revision": now.json()["revision"]}]
    exists = deploy(stage, admin, json=stage.body(6), headers={"If-None-Match": "*"})
    assert exists.status_code == 412


def test_if_match_of_what_does_not_exist(stage: Stage, admin: dict[str, str]) -> None:
    assert deploy(stage, admin, headers={"If-Match": "*"}).status_code == 412
    assert deploy(stage, admin, headers={"If-None-Match": "*"}).status_code == 200


def test_what_was_confirmed_is_what_is_done(stage: Stage, admin: dict[str, str]) -> None:
    plan = deploy(stage, admin, params={"dry_run": True}).json()
    again = deploy(stage, admin, params={"dry_run": True}).json()
    assert plan["plan_digest"] == again["plan_digest"], "a plan on the same state is the same"
    assert deploy(stage, admin, json=stage.body(5)).status_code == 200  # somebody else
    refused = deploy(stage, admin, json={**stage.body(), "plan_digest": plan["plan_digest"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "PLAN_CHANGED")
    assert {"action": "update", "kind": "app", "name": "shop"}.items() <= refused.json()["errors"][0].items()
    anew = deploy(stage, admin, params={"dry_run": True}).json()
    done = deploy(stage, admin, json={**stage.body(), "plan_digest": anew["plan_digest"]})
    assert done.json()["applied"]


def test_what_the_loop_writes_does_not_change_a_plan(stage: Stage, admin: dict[str, str]) -> None:
    deploy(stage, admin)
    plan = deploy(stage, admin, json=stage.body(5), params={"dry_run": True}).json()
    before = stage.store.revision()
    stage.world.settle()
    assert stage.store.revision() > before
    done = deploy(stage, admin, json={**stage.body(5), "plan_digest": plan["plan_digest"]})
    assert done.status_code == 200


def test_two_deployments_at_once_never_mix(stage: Stage, admin: dict[str, str]) -> None:
    bodies = [stage.body(limit) for limit in range(1, 7)]
    plan = deploy(stage, admin, json=bodies[0], params={"dry_run": True}).json()
    bodies[0]["plan_digest"] = plan["plan_digest"]
    answers = together(lambda n: deploy(stage, admin, json=bodies[n]), len(bodies))
    codes = [a.json().get("code", "done") for a in answers]
    assert set(codes) <= {"done", "PLAN_CHANGED"}
    assert codes.count("PLAN_CHANGED") <= 1
    app, stream = stage.store.get("default", "app", "shop"), stage.store.get("default", "stream", "orders")
    last = next(b for b in bodies if b["spec_digest"] == app.spec["spec_digest"])
    assert stream.spec["stream"] == last["spec"]["streams"][0], "all of one deployment, nothing of another"
    audit = [e for e in stage.store.audit("default") if e["action"] == "deploy"]
    assert len(audit) == codes.count("done")


def test_a_deployment_whose_work_runs_keeps_the_next_one_out(stage: Stage, admin: dict[str, str]) -> None:
    deploy(stage, admin)
    app = stage.store.get("default", "app", "shop")
    operation = stage.put(Resource("default", "operation", "import-1", state="RUNNING"))
    stage.put(replace_status(app, {"operations": ["import-1"]}))
    refused = deploy(stage, admin, json=stage.body(5))
    assert (refused.status_code, refused.json()["code"]) == (409, "DEPLOY_RUNNING")
    assert refused.json()["errors"] == [{"operation": "import-1"}]
    assert deploy(stage, admin).status_code == 200, "what changes nothing may come at any time"
    stage.put(replace_state(operation, "SUCCEEDED"))
    assert deploy(stage, admin, json=stage.body(5)).status_code == 200


# With its audit row

FILE = {"digest": "0" * 64, "name": "a.csv", "format": "csv", "label": ""}
REQUESTS: dict[str, dict[str, Any]] = {
    "delete_app": {},
    "upload_object": {"content": b"some bytes"},
    "start_cancel": {"json": {"target": "job/idle"}},
    "start_load": {"json": {"target": "orders", "inputs": {"files": [FILE]}}},
    "start_train": {"json": {"target": "comes_back"}},
    "start_rollback": {"json": {"target": "comes_back"}},
    "start_alias": {"json": {"target": "comes_back", "params": {"alias": "good", "version": 1}}},
    "start_unalias": {"json": {"target": "comes_back", "params": {"alias": "old"}}},
    "start_import": {"json": {"target": "churn", "inputs": {"files": [{"digest": "0" * 64, "name": "churn.onnx"}]}}},
    "delete_model": {},
    "tag_model": {"json": {"tags": {"owner": "ana"}}},
    "tag_version": {"json": {"tags": {"owner": "ana", "old": None}}},
    "start_verify": {"json": {"target": "orders"}},
    "start_tune": {"json": {"target": "orders", "params": {"costs": ["ship.positive=amount", "call=2"]}}},
    "start_predict": {"json": {"target": "comes_back", "inputs": {"files": [FILE]}}},
    "start_replay": {"json": {"target": "orders", "params": {"from": "2026-01-01"}}},
    "start_erase": {
        "json": {"target": "orders", "params": {"dry_run": True}, "inputs": {"subject": {"digest": "0" * 64}}}
    },
    "start_run": {"json": {"target": "tidy"}},
    "start_pause": {"json": {"target": "tidy"}},
    "start_resume": {"json": {"target": "resting"}},
    "start_sleep": {"json": {"target": "waking"}},
    "start_wake": {"json": {"target": "asleep"}},
    "start_rollout_pause": {"json": {"target": "price-1", "params": {"why": "until Monday"}}},
    "start_rollout_resume": {"json": {"target": "price-2"}},
    "start_rollout_promote": {"json": {"target": "price-3"}},
    "start_rollout_abort": {"json": {"target": "price-4"}},
    "rotate_key": {"json": {"sign_again": True}},
    "test_alert": {},
    "start_incident_ack": {"json": {"target": "incident-1", "params": {"why": "I look"}}},
    "start_watch_pause": {"json": {"target": "seen", "params": {"why": "until Monday"}}},
    "start_watch_resume": {"json": {"target": "given_up"}},
    "issue_token": {"json": {"name": "ana", "role": "reviewer"}},
    "revoke_token": {},
    "report_outcomes": {"json": {"outcomes": [{"version": 2, "metric": "accepted", "yes": 3, "of": 4}]}},
    "limit_tenant": {"json": {"rate": "500/s", "concurrency": 100}},
    "claim_review": {"json": {}},
    "renew_review": {"json": {}},
    "release_review": {"json": {"claim": 1}},
    "decide_review": {"json": {"answer": "block", "reason": "as before"}},
    "escalate_review": {"json": {"reason": "a customer of ours"}},
    "retry_deliveries": {"json": {"sink": "callers"}},
    "approve_deliveries": {"json": {"numbers": [1]}},
    "refuse_deliveries": {"json": {"numbers": [1], "reason": "a mistake"}},
    "retry_delivery": {"json": {}},
    "drop_delivery": {"json": {"reason": "a mistake"}},
    "approve_delivery": {"json": {}},
    "refuse_delivery": {"json": {"reason": "a mistake"}},
    "add_rules": {"json": {"rules": [{"decision": "call", "when": "score >= 0.5"}], "why": "fewer calls"}},
    "shadow_rules": {"json": {}},
    "canary_rules": {"json": {"percent": 10}},
    "promote_rules": {"json": {"anyway": "nobody to ask"}},
    "drop_rules": {"json": {"why": "not worth it"}},
}
"""One that is carried out, for each route that changes something."""

NUMBERS = ("number", "event", "tries", "due", "made", "since")
DELIVERY = {name: 1 if name in NUMBERS else "" for name in Delivery.__annotations__ if name != "body"}


RECORD = DecisionRecord(17, 9, Status.DECIDED, "call", 0.5, b"", "m", 1, "", "", Reason.NONE, 0, 0)
ANSWERS = {"hold": 1.0, "ship": 0.0}
CASE = Case(17, 9, None, "call", "returned", ANSWERS, 0, 1, 1, 0, "", False, 0.5, 1.0, RECORD, 18, {}, ())
REVIEWED = in_full(CASE, [], now=0)
"""What a dispatcher answers."""


def path_of(route: APIRoute) -> str:
    name = "orders" if "/streams/" in route.path else "ben" if "/tokens/" in route.path else "shop"
    name = "comes_back" if "/models/" in route.path else name
    name = "brought" if route.operation_id == "delete_model" else name
    name = "comes_back:1" if "/versions/{name}" in route.path else name
    name = "default" if route.path.startswith("/api/v1/tenants/{name}") else name
    version = 3 if route.operation_id == "drop_rules" else 2
    return route.path.format(tenant="default", name=name, case=17, number=1, version=version)


def changing(stage: Stage) -> list[APIRoute]:
    """What takes away comes last. Routes for MLflow's clients are in test_mlflow.py."""
    routes = [r for r in routes_of(stage.api) if not r.methods <= {"GET", "HEAD"}]
    routes = [r for r in routes if not is_mlflow(r.path)]
    return sorted(routes, key=lambda route: ("DELETE" in route.methods, route.operation_id == "start_erase"))


def prepared(stage: Stage, admin: dict[str, str]) -> None:
    """A cloud in which each of them has something to do."""
    stage.issue("viewer", name="ben")
    assert deploy(stage, admin, json=stage.body(5)).status_code == 200
    stage.world.run(seconds=1)  # its processes are seen
    stage.world.compute.report("default.worker.orders-0", ready=True, opened=0)
    stage.world.run(seconds=1)  # and its dispatcher

    def answer(method: str, path: str, *_: Any) -> Any:
        if path == "/deliveries/retry":
            return {"sink": "callers", "retried": 1, "held": 0, "waiting": 0, "awaiting_approval": 0}
        if path in ("/deliveries/approve", "/deliveries/refuse"):
            return {"judged": [1], "left": []}
        return DELIVERY if path.startswith("/deliveries/") else REVIEWED

    stage.asker.answers["default.dispatcher.orders"] = answer
    champions = {"aliases": {"champion": 2, "old": 1}, "history": [{"version": n, "cause": "release"} for n in (1, 2)]}
    stage.put(replace_status(stage.store.get("default", "model", "comes_back"), champions))
    stage.put(Resource("default", "model", "brought", spec={"model": {"registered": True}}, state="REGISTERED"))
    stage.put(Resource("default", "job", "idle", spec={"kind": "verify"}, state="QUEUED"))
    for number in (1, 2):
        spec = {"model": "comes_back", "version": number, "signature": scoring_signature(1).to_json(), "fields": []}
        stage.put(Resource("default", "version", f"comes_back:{number}", spec=spec, state="APPROVED"))
    declared = {"spec": {"name": "chores", "jobs": [{"name": "tidy", "function": "tidy"}]}, "code": {}}
    cron = {"cron": {"expression": "0 3 * * *", "zone": "UTC", "missed": "once", "overlap": False}}
    stage.put(Resource("default", "app", "chores", spec=declared, state="DEPLOYED"))
    stage.put(Resource("default", "task", "tidy", state="DECLARED", parent="app/chores"))
    stage.put(Resource("default", "schedule", "tidy", spec=cron, state="ACTIVE", parent="app/chores"))
    stage.put(Resource("default", "schedule", "resting", spec=cron, state="PAUSED", parent="app/chores"))
    serve = {"serve": {"replicas": [0, 1], "cpus": 1.0, "memory_mb": 512}, "versions": {"1": {"weight": 100}}}
    for name, state, word in (("waking", "STARTING", "waking"), ("asleep", "SCALED_TO_ZERO", "asleep")):
        rest = {"rest": {"state": word, "why": "REQUEST", "since": 0}}
        stage.put(Resource("default", "service", name, spec=serve, state=state, status=rest))
    for number, state in ((1, "CANARY"), (2, "PAUSED"), (3, "CANARY"), (4, "PAUSED")):
        stage.put(Resource("default", "rollout", f"price-{number}", spec={"model": "price", "to": 2}, state=state))
    watched = {"model": "price", "retrain": {"drift": True}}
    for name, state in (("seen", "WATCHING"), ("given_up", "BROKEN")):
        stage.put(Resource("default", "watch", name, spec=watched, state=state))
    stage.put(Resource("default", "incident", "incident-1", state="OPEN"))
    alert = stage.folder / "alerts" / "default" / "shop.toml"
    alert.parent.mkdir(parents=True)
    alert.touch(0o600)
    alert.write_text('url = "http://127.0.0.1:1/nobody"')
    for number, state in ((1, "LIVE"), (2, "CANDIDATE"), (3, "CANDIDATE")):
        rules = [{"decision": "call", "when": f"score >= 0.{number}5"}]
        given = {"stream": "orders", "version": number, "rules": rules, "origin": "hand", "why": "", "gain": None}
        stage.put(Resource("default", "ruleset", f"orders-r{number}", spec=given, state=state, parent="stream/orders"))


def test_nothing_changes_without_its_audit_row(stage: Stage, admin: dict[str, str]) -> None:
    prepared(stage, admin)
    for route in changing(stage):
        options = {"json": stage.body()} if route.operation_id == "deploy_app" else REQUESTS[str(route.operation_id)]
        path = path_of(route)
        if route.operation_id in ("start_erase", "delete_app"):
            end_jobs(stage)
        before, known = stage.store.revision(), len(stage.store.audit("default", limit=1_000))
        [method] = route.methods
        answer = stage.caller.request(method, path, headers=keyed(admin, f"k-{route.operation_id}"), **options)
        assert answer.status_code in (200, 201, 202), (route.operation_id, answer.json())
        assert stage.store.revision() > before or route.operation_id == "test_alert"  # which only sends
        [entry] = stage.store.audit("default", limit=1_000)[known:]
        assert (entry["actor"], entry["permission"]) == ("admin-token", (route.openapi_extra or {})["x-permission"])
        assert entry["action"]
        assert entry["target"]


def test_what_a_reviewer_says_of_somebody_is_not_in_the_audit_which_nobody_can_erase(
    stage: Stage, admin: dict[str, str]
) -> None:
    prepared(stage, admin)
    path, said = f"{BASE}/streams/orders/reviews/17/decide", {"answer": "hold", "reason": "Miller of Elm Street"}
    assert stage.caller.post(path, json=said, headers=admin).status_code == 200
    [*_, entry] = stage.store.audit("default", limit=1_000)
    assert entry["action"] == "decide_review"
    assert entry["details"] == {"path": "/reviews/17/decide", "answer": "hold", "claim": 0, "senior": True}
    assert "Miller" not in repr([*stage.store.rows(), *stage.store.audit("default", limit=1_000)])


def test_who_takes_an_incident_is_named_with_it(stage: Stage, admin: dict[str, str]) -> None:
    stage.put(Resource("default", "incident", "incident-1", state="OPEN"))
    asked = {"target": "incident-1", "params": {"why": "I look", "by": "somebody else"}}
    answer = stage.caller.post(f"{BASE}/actions/incident_ack", json=asked, headers=admin)
    assert answer.status_code == 202
    taken = stage.store.get("default", "incident", "incident-1").status["acknowledged"]
    assert (taken["by"], taken["why"]) == ("admin-token", "I look")


def end_jobs(stage: Stage) -> None:
    for job in stage.store.rows("default", "job"):
        stage.put(replace_state(job, "SUCCEEDED"))


def test_an_application_goes_with_what_belongs_to_it_and_its_tables_stay(stage: Stage, admin: dict[str, str]) -> None:
    assert stage.caller.request("DELETE", APP, headers=admin).status_code == 404
    deploy(stage, admin)
    stage.world.settle()
    stage.caller.post(VERIFY, json={"target": "orders"}, headers=admin)
    busy = stage.caller.request("DELETE", APP, headers=admin)
    assert (busy.status_code, busy.json()["code"]) == (409, "APP_BUSY")
    end_jobs(stage)
    dry = stage.caller.request("DELETE", APP, params={"dry_run": True}, headers=admin).json()
    assert not dry["applied"]
    tables = stage.store.rows("default", "table")
    assert {line["name"] for line in dry["plan"] if line["action"] == "keep"} == {t.name for t in tables}
    stale = stage.caller.request("DELETE", APP, headers={**admin, "If-Match": '"1"'})
    assert stale.status_code == 412
    asked = {"headers": keyed(admin, "gone")}
    done = stage.caller.request("DELETE", APP, **asked)
    assert done.json() == {"plan": dry["plan"], "applied": True}
    assert stage.caller.request("DELETE", APP, **asked).json() == done.json(), "the first answer, not a 404"
    stage.world.settle()
    left = {r.kind for r in stage.store.rows("default")}
    assert not left & {"app", "stream", "model", "service", "worker", "replica"}
    assert stage.store.rows("default", "table") == tables
    assert deploy(stage, admin).status_code == 200, "and it can come back"


class NoAudit(MemoryStore):
    """A store whose audit trail cannot be written: for the port's sake nothing is then."""

    def commit(
        self, changes: Sequence[Change], *, audit: Sequence[AuditEntry], fence: int, actor: str, now: int
    ) -> list[Resource]:
        if audit and getattr(self, "full", False):
            raise Unavailable("The disk is full.", code="DISK_FULL")
        return super().commit(changes, audit=audit, fence=fence, actor=actor, now=now)


def test_what_cannot_be_audited_is_refused(tmp_path: Path) -> None:
    store = NoAudit()
    stage = Stage(tmp_path, store)
    admin = stage.issue()
    prepared(stage, admin)
    store.full = True  # type: ignore[attr-defined]
    before = stage.store.rows()
    for route in changing(stage):
        options = {"json": stage.body()} if route.operation_id == "deploy_app" else REQUESTS[str(route.operation_id)]
        path = path_of(route)
        [method] = route.methods
        answer = stage.caller.request(method, path, headers=admin, **options)
        assert (answer.status_code, answer.json()["code"]) == (503, "DISK_FULL"), route.operation_id
        assert answer.headers["retry-after"]
    assert stage.store.rows() == before


# What the tests share


def together(act: Any, count: int) -> list[Any]:
    """`act` of each number, all at the same time."""
    barrier, answers = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        barrier.wait()
        answers[number] = act(number)

    threads = [threading.Thread(target=run, args=[n]) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def replace_status(row: Resource, status: dict[str, Any]) -> Resource:
    return replace(row, status={**row.status, **status})


def replace_state(row: Resource, state: str) -> Resource:
    return replace(row, state=state)
