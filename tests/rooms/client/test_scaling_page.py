"""How what was decided on replicas is told: the sum, why it is the least, what it was before, and who sleeps."""

from __future__ import annotations

from typing import Any

import pytest

from skyriver.client import demo_burst, scaling_page, service_page, show, top
from skyriver.client.screen import Screen

AT = 1_795_000_000_000_000
CHOICES = [
    {"replicas": 1, "cost": 1.0, "late_cost": 2.309, "sum": 3.309, "late_share": 0.44831},
    {"replicas": 2, "cost": 2.0, "late_cost": 0.31601, "sum": 2.31601, "late_share": 0.06137},
    {"replicas": 3, "cost": 3.00025, "late_cost": 0.000137, "sum": 3.000387, "late_share": 0.00266},
]
STATUS: dict[str, Any] = {
    "at": AT,
    "lines": [["objective", "0.9 of the requests are answered within 150 ms, with 1 to 2 replicas."]],
    "choices": CHOICES,
    "chosen": 2,
    "late_price": 7.25e-06,
    "unit": "replica-hours",
    "cores": 0.5,
    "came": 0.24,
    "prices": "list owned, as of 2026-11-01",
    "why": "limits: 3 are wanted, and at most 2 are declared.",
    "measured": {},
    "changes": [
        {"at": AT, "from": 1, "to": 2, "why": "demand: 1.12.", "cost": 2.0, "late_cost": 0.3, "sum": 2.3}
        | {"unit": "replica-hours", "cores": 0.5}
    ],
}
NOTHING: dict[str, Any] = {"reason": "", "message": "", "next_action": "", "waits_for": (), "tried": ()} | {
    "next_pass": (),
    "helps": (),
    "processes": {},
    "log": (),
    "since": 0,
    "spec": {},
}


def row(**status: Any) -> dict[str, Any]:
    told = {"kind": "scaling", "name": "quote", "state": "ACTIVE", "spec": {"replicas": 2}}
    return {**NOTHING, **told, "status": {**STATUS, **status}}


def service(**status: Any) -> dict[str, Any]:
    spec = {"serve": {"replicas": [1, 2]}, "versions": {"1": {"weight": 100}}}
    report = {"alive": True, "pid": 7, "started_at": AT, "ready": True, "requests": 2_266, "errors": 0, "rss_mb": 105.2}
    report |= {"p50_us": 140_900, "p99_us": 209_390, "run_us": 5}
    told = {"kind": "service", "name": "quote", "state": "READY", "processes": {"quote-1-1": report}}
    return {**NOTHING, **told, "spec": spec, "status": {"wanted": 2, "ready": {"1": 2}, **status}}


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_sum_is_one_table_in_one_unit_with_the_chosen_number_marked(capsys: pytest.CaptureFixture[str]) -> None:
    scaling_page.scaling(Screen(as_json=False), row())
    assert printed(capsys)[1:] == [
        "What replicas cost (c), and late requests (D), in core-hours an hour:",
        "REPLICAS COST c LATE D c + D LATE",
        "1 0.50 1.15 1.65 45%",
        "2 (chosen) 1.00 0.16 1.16 6.1%",
        "3 1.50 <0.01 1.50 0.27%",
        "2 replicas are the cheapest: one fewer would save 0.50 and cost 1.00 more in late requests; one more would"
        " cost 0.50 more and spare 0.16 of late requests.",
        "As of 2026-11-18 11:06:40 UTC, by the prices of list owned, as of 2026-11-01; 1,000 late requests count as"
        " 0.0036 core-hours.",
        "2026-11-18 11:06:40 1 -> 2 replicas, demand: 1.12. c + D = 1.15 core-hours an hour.",
    ]


def test_money_is_told_as_money_and_sums_that_differ_look_so() -> None:
    choices = [{**choice, "cost": 0.0012 * choice["replicas"]} for choice in CHOICES]
    choices = [{**choice, "sum": choice["cost"] + 0.9, "late_cost": 0.9} for choice in choices]
    of = scaling_page.choices({**STATUS, "unit": "EUR", "choices": choices})
    assert of.unit == "EUR an hour"
    assert of.rows == [
        (1, "0.001", "0.900", "0.901"),
        (2, "0.002", "0.900", "0.902"),
        (3, "0.004", "0.900", "0.904"),
    ]


def test_what_goes_before_the_sum_is_said() -> None:
    dear = [{**choice, "sum": 3.0 - choice["replicas"]} for choice in CHOICES]
    assert scaling_page.cheapest(row(choices=dear)) == (
        "By this sum 3 would be cheaper than 2; what goes before it: limits: 3 are wanted, and at most 2 are declared."
    )
    idle = [{**choice, "late_cost": 0.0, "sum": choice["cost"]} for choice in CHOICES[1:]]
    assert scaling_page.cheapest(row(choices=idle)) == (
        "2 replicas are the cheapest: one more would cost 0.50 more, and nothing is late."
    )
    assert scaling_page.cheapest(row(choices=[])) == ""
    assert scaling_page.cheapest(row(wish=3)) == (
        "2 replicas are all that it may have, and one fewer would save 0.50 and cost 1.00 more in late requests;"
        " limits: 3 are wanted, and at most 2 are declared."
    )
    alike = [{**choice, "sum": 9.353204282679995 - choice["replicas"] * 1e-14} for choice in CHOICES]
    assert scaling_page.cheapest(row(choices=alike)).startswith("2 replicas are the cheapest")


def test_what_was_late_stands_beside_what_is_foreseen_where_that_is_far_less(
    capsys: pytest.CaptureFixture[str],
) -> None:
    missed = {"state": "missed", "judged": 496, "missed": 417}
    told = (
        "LATE is foreseen, by a replay of its demand were that always as it is now; of the last 496 requests 84% were"
        " late: `because` says why, where that is known."
    )
    scaling_page.scaling(Screen(as_json=False), row(), missed)
    assert told in printed(capsys)
    assert scaling_page.measured(row(), {**missed, "missed": 40}) == "", "6.1% are foreseen, and 8.1% were"
    assert scaling_page.measured(row(), {**missed, "state": "kept"}) == scaling_page.measured(row(), None) == ""
    unknown = [{**choice, "late_share": None} for choice in CHOICES]
    assert scaling_page.measured(row(choices=unknown), missed) == ""


def test_a_missed_objective_is_said_first_in_explain_and_in_ps(capsys: pytest.CaptureFixture[str]) -> None:
    objective = {"name": "quote", "state": "missed", "message": "The objective is missed: 12%.", "because": "Too few."}
    objective |= {"judged": 1_000, "missed": 61}
    objective |= {"next_action": "Declare more."}
    show.explained(Screen(as_json=False), [service() | {"objective": objective}, row()], counters=False)
    assert printed(capsys)[1:4] == ["objective The objective is missed: 12%.", "because Too few.", "next Declare more."]
    document: dict[str, Any] = {"incidents": [], "streams": [], "processes": [], "parts": []}
    document |= {"services": [service()], "scalings": [row() | {"message": ""}], "objectives": [objective]}
    show.running(Screen(as_json=False), document)
    assert "service quote READY v1 100%, 2 replicas The objective is missed: 12%. Too few. Declare more." in printed(
        capsys
    )
    show.running(Screen(as_json=False), document | {"objectives": [{**objective, "state": "kept"}]})
    assert "service quote READY v1 100%, 2 replicas limits: 3 are wanted, and at most 2 are declared." in printed(
        capsys
    )


def test_rows_of_a_release_before_are_told_in_replicas() -> None:
    status = {what: value for what, value in STATUS.items() if what != "cores"}
    assert scaling_page.choices(status).unit == "replicas"
    assert scaling_page.choices(status).rows[0] == (1, "1.00", "2.31", "3.31")


def test_the_first_screen_is_of_the_service_and_counters_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model = {**NOTHING, "kind": "model", "name": "quote", "state": "DECLARED", "status": {}}
    items = [model, service(), row()]
    show.explained(Screen(as_json=False), items, ["It came."], counters=False)
    lines = printed(capsys)
    assert lines[0].startswith("service quote is READY")
    assert lines[1] == "replicas 2: limits: 3 are wanted, and at most 2 are declared."
    assert lines[2] == "cost 1.00 core-hours an hour for them, and 0.16 for what is late."
    assert lines[3].endswith(", 2,266 requests, p50 141 ms, p99 209 ms, 105 MB")
    assert lines[4].startswith("scaling quote is ACTIVE")
    assert lines[-2:] == ["It came.", "model quote is DECLARED"]
    show.explained(Screen(as_json=False), items, ["It came."])
    assert "run_us 5" in printed(capsys)


def test_what_does_not_scale_is_told_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    model = {**NOTHING, "kind": "model", "name": "quote", "state": "DECLARED", "status": {}}
    show.explained(Screen(as_json=False), [model, service()], ["It came."], counters=False)
    assert [line.split(" is ")[0] for line in printed(capsys)][:3] == ["It came.", "model quote", "service quote"]


RESTS = [
    {"at": AT + 60_000_000, "to": "asleep", "why": "Asleep: nobody asked for 15s.", "from": 2, "replicas": 0},
    {"at": AT + 90_000_000, "to": "awake", "why": "Waking: a request waits for it.", "from": 0, "replicas": 1}
    | {"ready_at": AT + 91_200_000},
]


def test_sleeps_and_wakes_are_in_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    changes = scaling_page.with_rests(STATUS["changes"], RESTS)
    assert [(change["from"], change["to"]) for change in changes] == [(1, 2), (2, 0), (0, 1)]
    assert [change.get("rest") for change in changes] == [None, "asleep", "awake"]
    scaling_page.history(Screen(as_json=False), changes)
    assert printed(capsys)[2:] == [
        "2026-11-18 11:08:10 0 -> 1 Woken: a request waits for it. It was ready after 1.2 s.",
        "2026-11-18 11:07:40 2 -> 0 Asleep: nobody asked for 15s.",
        "2026-11-18 11:06:40 1 -> 2 1.00 0.15 1.15 demand: 1.12.",
    ]


def test_amounts_of_other_units_are_told_in_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    (change,) = STATUS["changes"]
    old = {what: value for what, value in change.items() if what != "cores"}
    euros = {**change, "at": AT + 60_000_000, "cost": 0.021, "late_cost": 0.0, "sum": 0.021, "unit": "EUR"}
    scaling_page.history(Screen(as_json=False), scaling_page.with_rests([old, change, euros], RESTS[1:]))
    assert printed(capsys) == [
        "What replicas cost (c), and late requests (D), in the unit of then:",
        "SINCE (UTC) REPLICAS COST c LATE D c + D IN WHY",
        "2026-11-18 11:08:10 0 -> 1 Woken: a request waits for it. It was ready after 1.2 s.",
        "2026-11-18 11:07:40 1 -> 2 0.0210 0 0.0210 EUR an hour demand: 1.12.",
        "2026-11-18 11:06:40 1 -> 2 1.00 0.15 1.15 core-hours an hour demand: 1.12.",
        "2026-11-18 11:06:40 1 -> 2 2.00 0.30 2.30 replicas demand: 1.12.",
    ]
    scaling_page.history(Screen(as_json=False), [change])
    assert printed(capsys)[-3] == "What replicas cost (c), and late requests (D), in core-hours an hour:"


def test_the_demo_tells_a_change_in_the_same_unit() -> None:
    (change,) = STATUS["changes"]
    assert demo_burst.told(change) == "demand: 1.12. c + D = 1.00 + 0.15 core-hours an hour"
    unknown = {**change, "cost": None, "late_cost": None, "sum": None}
    assert demo_burst.told(unknown) == "demand: 1.12."


@pytest.mark.parametrize("late", [0, 9], ids=["kept", "missed"])
def test_the_demo_says_whether_its_burst_was_answered_in_time(late: int) -> None:
    burst = demo_burst.Burst("", "", b"", {})
    burst.answers += [(0.5, 0.2, 200)] * 4 + [(3.5, 0.2, 200)] * late + [(3.5, 0.01, 200)] * 10
    told = demo_burst.lateness(burst, 0.05, 0.0, 2.0, 4.0)
    assert told.startswith(f"too late: 4 of 4 answers with one, {late} of {10 + late} answers with two")
    assert ("more than the 5% that may" in told) == (late > 0)


def test_top_tells_of_one_that_sleeps_that_it_does() -> None:
    sleeping = {**service(rest={"state": "asleep"}, wanted=0), "message": "Asleep: nobody asked for 15s."}
    now = top.Look(1.0, [], [], [row()], [{**sleeping, "state": "SCALED_TO_ZERO"}])
    assert top.told(now, now)["scalings"] == [
        {"name": "quote", "ready": 0, "wanted": 0, "why": "Asleep: nobody asked for 15s.", "state": "SCALED_TO_ZERO"}
    ]
    awake = top.Look(1.0, [], [], [row()], [service()])
    assert top.told(awake, awake)["scalings"][0]["wanted"] == 2
    assert service_page.is_asleep(sleeping)
    assert not service_page.is_asleep(service())


def test_one_that_sleeps_is_not_told_of_as_if_it_ran(capsys: pytest.CaptureFixture[str]) -> None:
    sleeping = {**service(rest={"state": "asleep"}, wanted=0), "state": "SCALED_TO_ZERO", "processes": {}}
    show.explained(Screen(as_json=False), [sleeping, row()], counters=False)
    lines = printed(capsys)
    assert lines[1].startswith("scaling quote is ACTIVE"), "no replicas and no cost of now"
    assert lines[2].startswith("objective 0.9 of the requests")
    assert lines[3:] == ["It sleeps: it has no replicas, and they cost nothing until it wakes."]


def test_it_is_said_of_what_a_million_is_counted() -> None:
    assert "; a million late requests count as 0.28 EUR" in scaling_page._worth(
        {**STATUS, "unit": "EUR", "late_price": 2.8e-7}
    )
