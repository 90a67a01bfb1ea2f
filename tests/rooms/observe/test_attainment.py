"""Whether a service keeps its objective now, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.resources import ProcessStatus, Resource, Snapshot
from skyriver.core.units import utc_time
from skyriver.observe.attainment import Attainment, Counted, objective_of, percent, state_of
from skyriver.observe.demand import Measured

NOW = 1_795_000_000_000_000
SERVE = sr.Service(replicas=(1, 2), latency="50ms", share=0.999)
SCALING: dict[str, Any] = {"at": NOW, "wish": 1, "measured": {"start_s": 1.25}, "lines": [], "changes": []}


def service(serve: sr.Service = SERVE, **given: Any) -> Resource:
    spec = {"model": "quote", "serve": serve.to_json(), "versions": {"1": {"weight": 100}}}
    status = {"ready": {"1": 1}, "wanted": 1, **given.pop("status", {})}
    return Resource("t", "service", "quote", spec, status, **{"state": "READY", **given})


def snapshot(row: Resource, scaling: dict[str, Any] | None = None, state: str = "ACTIVE", **more: Any) -> Snapshot:
    rows = [row]
    if scaling is not None:
        told = {"reason": "", "message": "", "next_action": "", **more}
        rows.append(Resource("t", "scaling", "quote", {"replicas": 2}, {**SCALING, **scaling}, state=state, **told))
    return Snapshot({row.key: row for row in rows}, {}, {}, NOW)


def told(missed: int = 34, judged: int = 283, seconds: float = 300.0, waiting: int = 0, **given: Any) -> Any:
    row = given.pop("row", None) or service()
    return objective_of(snapshot(row, **given), row, Counted(judged, missed, seconds, waiting=waiting))


def test_what_is_missed_is_said_with_its_share_and_what_may_be() -> None:
    assert told(scaling={})["message"] == (
        "The objective is missed: 12% of 283 requests were not answered within 50ms in the last 5 minutes (0.1% may)."
    )
    assert "missed: 91% of 778 requests" in told(missed=705, judged=778, scaling={})["message"]
    kept = told(missed=1, judged=2_000, scaling={})
    assert (kept["state"], kept["because"], kept["next_action"]) == ("kept", "", "")
    assert kept["message"] == (
        "The objective is kept: 99.95% of 2,000 requests were answered within 50ms in the last 5 minutes (99.9% must"
        " be)."
    )
    assert told(missed=1, judged=3, seconds=42.0, scaling={})["message"] == (
        "1 of 3 requests were not answered within 50ms in the last 42 s (0.1% may): too few to judge the objective by."
    )
    assert told(missed=0, judged=0, scaling={})["message"] == "Nobody asked in the last 5 minutes."


@pytest.mark.parametrize(("waiting", "said"), [(1, "1 request waits"), (3, "3 requests wait")])
def test_while_requests_wait_it_is_not_said_that_nobody_asked(waiting: int, said: str) -> None:
    of = told(missed=0, judged=0, waiting=waiting, scaling={})
    assert (of["state"], of["message"]) == ("idle", f"{said}, and none was answered in the last 5 minutes.")


def test_what_waits_is_known_from_one_look_to_the_next() -> None:
    known = Attainment()
    for second, measured in enumerate((Measured(ready=1, waiting=2), Measured(stale="silent"), Measured(ready=1))):
        known.note({"default/s": measured}, second)
        counted = known.of("default/s")
        assert (counted and counted.waiting) == (2, None, 0)[second]


def test_of_one_that_declares_none_nothing_is_said() -> None:
    row = service(sr.Service())
    assert objective_of(snapshot(row), row, Counted(100, 50, 300.0)) is None
    assert objective_of(snapshot(service()), service(), None) is None


POOL = {"asked": 3, "granted": 1, "scarce": "cores"}
HELD = " Cores are held by huge 64 (more than the machine's 2), quote 0.5."
REFUSED = {"by": "most", "wish": 4, "had": 2}
THEN = utc_time(NOW - 240_000_000)[-8:]


@pytest.mark.parametrize(
    ("given", "because", "action"),
    [
        (
            {"scaling": {"pool": POOL}},
            "The machine's cores do not do for all: quote has 1 of 3 replicas that it needs.",
            "Declare a higher priority or a smaller model for quote, or add cores.",
        ),
        (
            {"scaling": {"pool": {**POOL, "ahead": 0, "holders": HELD}}},
            f"The machine's cores do not do for all: quote has 1 of 3 replicas that it needs.{HELD}",
            "No priority helps, for others have only what is theirs at least: declare less of it (cpus=, replicas=) for"
            " them, a smaller model for quote, or add cores.",
        ),
        (
            {"scaling": {"refused": {**REFUSED, "at": NOW - 240_000_000}}},
            f"4 replicas were wanted for quote at {THEN} UTC, and at most 2 were declared.",
            "Declare replicas=(1, 4) for quote, a longer latency=, or a smaller model.",
        ),
        (
            {"scaling": {"refused": {**REFUSED, "at": NOW - 240_000_000, "by": "pool"}}},
            f"4 replicas were wanted for quote at {THEN} UTC, and the machine had room for 2.",
            "`skyriver service history quote` has when that was.",
        ),
        (
            {"scaling": {"refused": {**REFUSED, "at": NOW - 400_000_000}, "came": 0.0}},
            "More was late than was foreseen.",
            "Nobody asks now; more replicas are added when too much is late again.",
        ),
        (
            {"scaling": {"wish": 4}},
            "4 replicas are wanted for quote, and at most 2 are declared.",
            "Declare replicas=(1, 4) for quote, a longer latency=, or a smaller model.",
        ),
        (
            {"scaling": {}, "row": service(status={"wanted": 2})},
            "2 replicas are wanted and 1 serves yet.",
            "It goes on by itself: a replica is ready 1.2 s after it was asked for.",
        ),
        (
            {"scaling": {"lines": [["replicas", "The replica quote-1-2 failed: it is not counted on."]]}},
            "The replica quote-1-2 failed: it is not counted on.",
            "`skyriver logs quote` has the replicas' last words.",
        ),
        (
            {"scaling": {"changes": [{"from": 1, "to": 2, "at": NOW - 60_000_000}]}},
            "It had 1 replicas before the 2 of now: more came than these answered in time.",
            "It goes on by itself: more are added while too much is late.",
        ),
        (
            {"scaling": {}, "state": "HOLDING", "message": "It stays at 1.", "next_action": "Wait."},
            "It stays at 1.",
            "Wait.",
        ),
        (
            {"row": service(sr.Service(latency="50ms", share=0.999))},
            "It has 1 replica, however much comes.",
            "`skyriver service replay quote --replicas 1..4` tries what more would do; replicas=(1, 4) lets them follow"
            " the load.",
        ),
        (
            {"scaling": {}, "row": service(state="DEGRADED", message="0 of 1 replicas serve.", next_action="Look.")},
            "0 of 1 replicas serve.",
            "Look.",
        ),
    ],
    ids=[
        "pool",
        "first",
        "was limited",
        "had no room",
        "is over",
        "limits",
        "starts",
        "fails",
        "grew",
        "blind",
        "fixed",
        "degraded",
    ],
)
def test_why_it_is_missed_and_what_to_do(given: dict[str, Any], because: str, action: str) -> None:
    found = told(**given)
    assert (found["state"], found["because"], found["next_action"]) == ("missed", because, action)


WOKEN: dict[str, Any] = {"to": "awake", "why": "Waking: a request waits for it.", "from": 0, "replicas": 1}
WOKEN |= {"at": NOW - 200_000_000, "ready_at": NOW - 198_800_000}
LATER = {**WOKEN, "at": NOW - 90_000_000, "ready_at": NOW - 88_500_000}
BEFORE = {**WOKEN, "at": NOW - 900_000_000, "ready_at": NOW - 880_000_000}
FORESEEN = {**LATER, "why": "Waking: on most days before somebody asked at about this time."}
FORESAW = "More was late than was foreseen."


@pytest.mark.parametrize(
    ("serve", "rests", "because", "action"),
    [
        (
            sr.Service(replicas=(0, 4), latency="50ms"),
            [BEFORE, WOKEN],
            "Requests woke it once, in 1.2 s, for which they waited.",
            "Declare wake=, which those that wake it may take in place of latency=, or replicas=(1, 4) for quote, which"
            " never sleeps then.",
        ),
        (
            sr.Service(replicas=(0, 1), latency="50ms", wake="1s", idle="1m"),
            [WOKEN, LATER],
            "Requests woke it 2 times, in up to 1.5 s, for which they waited: longer than wake='1s'.",
            "Declare a longer wake=, or replicas=1 without wake= and idle= for quote, which never sleeps then.",
        ),
        (sr.Service(replicas=(0, 4), latency="50ms", wake="2s"), [WOKEN, LATER], FORESAW, ""),
        (sr.Service(replicas=(0, 4), latency="50ms"), [BEFORE, FORESEEN], FORESAW, ""),
    ],
    ids=["woken", "wake", "in-time", "foreseen"],
)
def test_wakes_that_took_longer_than_requests_may_are_named(
    serve: sr.Service, rests: list[dict[str, Any]], because: str, action: str
) -> None:
    found = told(row=service(serve, status={"rests": rests}), scaling={})
    assert found["because"] == because
    assert found["next_action"] == action or not action


@pytest.mark.parametrize(
    ("replicas", "wish", "action"),
    [
        (40, 1, "replicas=(40, 64) lets them follow the load."),
        (
            64,
            1,
            "Declare a longer latency= for quote, or a smaller model: no service has more than 64.",
        ),
        ((0, 1), 1, "replicas=(0, 4) lets them follow the load."),
        (
            (1, 40),
            90,
            "Declare replicas=(1, 64) for quote, a longer latency=, or a smaller model.",
        ),
        (
            (1, 64),
            90,
            "Declare a longer latency= for quote, or a smaller model: no service has more than 64.",
        ),
    ],
    ids=["fixed", "most", "sleeps", "elastic", "elastic-most"],
)
def test_no_more_is_advised_than_may_be_declared(replicas: int | tuple[int, int], wish: int, action: str) -> None:
    row = service(sr.Service(replicas=replicas, latency="50ms", share=0.999))
    given = Resource("t", "scaling", "quote", {"replicas": 64}, {**SCALING, "wish": wish}, state="ACTIVE")
    there = Snapshot({one.key: one for one in (row, given)}, {}, {}, NOW)
    found = objective_of(there, row, Counted(283, 34, 300.0))
    assert found is not None
    assert found["next_action"].endswith(action)


def test_of_one_that_sleeps_it_is_told_as_over_and_nothing_is_said_to_be_added() -> None:
    rest = {"state": "asleep", "why": "IDLE", "since": NOW - 60_000_000}
    asleep = service(state="SCALED_TO_ZERO", message="Asleep: nobody asked for 15 s.", status={"rest": rest})
    found = told(row=asleep, scaling={"wish": 0, "came": 0.0, "refused": {**REFUSED, "at": NOW - 240_000_000}})
    assert found["message"] == (
        "Asleep; before that the objective was missed: 12% of 283 requests were not answered within 50ms in the last"
        " 5 minutes (0.1% may)."
    )
    assert found["because"] == f"4 replicas were wanted for quote at {THEN} UTC, and at most 2 were declared."
    unknown = told(row=asleep, scaling={"wish": 4})
    assert (unknown["because"], unknown["next_action"]) == ("", "")


def test_what_no_number_of_replicas_keeps_is_said_first() -> None:
    row = service()
    replica = Resource("t", "replica", "quote-1-1", {"version": 1}, state="READY", parent="service/quote")
    alive = ProcessStatus(replica.process, alive=True, pid=1, report={"row_us": 80_000.0})
    there = Snapshot({one.key: one for one in (row, replica)}, {replica.process: alive}, {}, NOW)
    found = objective_of(there, row, Counted(100, 100, 300.0))
    assert found is not None
    assert found["because"].startswith("latency='50ms' cannot be kept by any number of replicas")


def test_few_requests_are_no_verdict_and_the_allowed_share_is_kept() -> None:
    assert state_of(Counted(1_000, 1, 300.0), 0.999) == "kept"
    assert state_of(Counted(1_000, 2, 300.0), 0.999) == "few"
    assert state_of(Counted(1_000, 10, 300.0), 0.999) == "missed"
    assert state_of(Counted(0, 0, 300.0), 0.999) == "idle"


def test_shares_are_told_to_two_digits_of_what_is_off() -> None:
    assert [percent(share) for share in (0.0, 0.0012, 0.12, 0.5, 0.9, 0.9995, 1.0)] == [
        "0%",
        "0.12%",
        "12%",
        "50%",
        "90%",
        "99.95%",
        "100%",
    ]


def test_five_minutes_are_counted_and_no_more() -> None:
    attainment = Attainment()
    assert attainment.of("t/quote") is None
    for tick in range(61):
        attainment.note({"t/quote": Measured(answered=10, missed=1 if tick < 30 else 0)}, 1_000.0 + 5 * tick)
    counted = attainment.of("t/quote")
    assert counted is not None
    assert counted.seconds == 300.0
    assert 590 <= counted.judged <= 610
    for tick in range(61, 200):
        attainment.note({"t/quote": Measured()}, 1_000.0 + 5 * tick)
    assert attainment.of("t/quote") == Counted(0, 0, 300.0)
    attainment.keep(set())
    assert attainment.of("t/quote") is None


def test_a_look_that_tells_nothing_is_no_look_at_which_nobody_asked() -> None:
    attainment = Attainment()
    for tick in range(100):
        attainment.note({"t/quote": Measured(stale="No replica has told anything for 8 s.")}, 5.0 * tick)
    assert attainment.of("t/quote") is None
    for tick in range(100, 103):
        attainment.note({"t/quote": Measured()}, 5.0 * tick)
    assert attainment.of("t/quote") == Counted(0, 0, 15.0), "since it is known again"
    attainment.note({"t/quote": Measured(answered=3)}, 515.0)
    attainment.note({"t/quote": Measured(stale="Its replicas fail, and more of them would fail too.")}, 520.0)
    assert attainment.of("t/quote") == Counted(3, 0, 300.0), "what was counted was so"


def test_what_reached_no_replica_is_missed() -> None:
    attainment = Attainment()
    attainment.note({"t/quote": Measured(stale="Its replicas fail, and more of them would fail too.")}, 1_000.0)
    attainment.note_refused({"t/quote": 40, "t/gone": 3}, {}, 1_000.0)
    attainment.note({"t/quote": Measured(stale="Its replicas fail, and more of them would fail too.")}, 1_005.0)
    assert attainment.of("t/quote") == Counted(40, 40, 5.0, unreached=40)
    attainment.note({"t/quote": Measured(answered=100, missed=2)}, 1_010.0)
    assert attainment.of("t/quote") == Counted(140, 42, 10.0, unreached=40)
    assert attainment.of("t/gone") is None


def test_what_a_limit_refused_is_no_miss_and_not_nobody() -> None:
    attainment, row = Attainment(), service()
    attainment.note({"t/quote": Measured()}, 1_000.0)
    attainment.note_refused({}, {"t/quote": 1_200}, 1_000.0)
    attainment.note({"t/quote": Measured(answered=0.0)}, 1_010.0)
    counted = attainment.of("t/quote")
    assert counted == Counted(0, 0, 10.0, limited=1_200)
    found = objective_of(snapshot(row, {}), row, counted)
    assert found is not None
    assert (found["state"], found["message"]) == (
        "idle",
        "No request was let through in the last 10 s: 1,200 were refused by a limit of requests (429).",
    )
    kept = objective_of(snapshot(row, {}), row, Counted(2_000, 1, 300.0, limited=1))
    assert kept is not None
    assert kept["message"].endswith("(99.9% must be). Besides, 1 was refused by a limit of requests (429).")


def test_how_many_reached_no_replica_is_said() -> None:
    row = service()
    found = objective_of(snapshot(row, {}), row, Counted(1_283, 1_234, 300.0, unreached=1_200))
    assert found is not None
    assert found["message"].endswith("in the last 5 minutes (0.1% may); 1,200 reached no replica.")
    assert found["because"] == "Most of these came when none served, or when all had as many as they may have."
    assert found["next_action"] == "`skyriver request list --of model/quote --status 5xx` shows them."
    few = objective_of(snapshot(row, {}), row, Counted(100, 3, 300.0, unreached=2))
    assert few is not None
    assert few["message"].endswith("(0.1% may); 2 reached no replica: too few to judge the objective by.")


def test_of_one_that_does_not_serve_nobody_says_that_nobody_asks() -> None:
    starting = service(state="STARTING", status={"ready": {}, "wanted": 1})
    assert objective_of(snapshot(starting), starting, Counted(0, 0, 300.0)) is None
    asleep = service(sr.Service(replicas=(0, 2), latency="50ms"), status={"ready": {}, "rest": {"state": "asleep"}})
    found = objective_of(snapshot(asleep), asleep, Counted(0, 0, 300.0))
    assert found is not None
    assert found["state"] == "idle"
