"""What a worker measures: over a window that goes on, in fixed memory, and in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from skyriver.core.spec import BudgetSpec
from skyriver.core.units import SECOND
from skyriver.decide.log.checkpoint import Counters
from skyriver.decide.rules.ruleset import compile_rules
from skyriver.decide.worker.metrics import LOOK_US, WINDOW_US, Meter, Seen, prometheus, stored_bytes

LOOKS = WINDOW_US // LOOK_US


def test_rates_and_quantiles_are_of_the_last_seconds_alone() -> None:
    meter, counters, now = Meter(), Counters(), 0
    meter.look(now, counters)
    for _ in range(2 * LOOKS):  # 20 s of 100 slow events a second
        now += LOOK_US
        counters.events, counters.decided = counters.events + 50, counters.decided + 50
        meter.decision_us.add(50_000, 50)
        meter.look(now, counters)
    recent = meter.recent()
    assert (recent.events_per_second, recent.decisions_per_second) == (100.0, 100.0)
    assert 47_000 < recent.decision_us["p50"] < 53_000
    for _ in range(LOOKS):  # 10 s of 2 fast ones
        now += LOOK_US
        counters.events, counters.decided = counters.events + 1, counters.decided + 1
        meter.decision_us.add(100)
        meter.look(now, counters)
    recent = meter.recent()
    assert recent.events_per_second == 2.0
    assert recent.decision_us["p999"] < 110, "what was before the window is forgotten"
    assert recent.answer_us == {"p50": 0, "p99": 0, "p999": 0}, "nothing came"
    assert len(meter._looks) == LOOKS + 1, "and memory stays as it was"


def test_an_engine_that_counts_anew_is_no_negative_rate() -> None:
    meter = Meter()
    meter.look(0, Counters(events=1_000, decided=1_000))
    meter.look(SECOND, None)  # it is being recovered
    assert meter.recent().events_per_second == 0
    meter.look(2 * SECOND, Counters(events=10, decided=10))
    meter.look(3 * SECOND, Counters(events=14, decided=14))
    assert meter.recent().events_per_second == 4


def seen(counters: Counters, **given: Any) -> Seen:
    told: dict[str, Any] = {
        "counters": counters,
        "recent": Meter().recent(),
        "offset": 30,
        "waiting_rows": 2,
        "effective_time": 7 * SECOND,
        "materialised": 20,
        "checkpoint_offset": 25,
        "checkpoint_at": 8 * SECOND,
        "checkpoint_pause_us": 1_500,
        "stored": {"log": 4096},
        "feature_keys": 3,
        "feature_bytes": 600,
        "epoch": 1,
    }
    return Seen(**{**told, **given})


def test_lag_and_losses_are_told_to_prometheus() -> None:
    counters = Counters(events=9, decided=8, dead=3, by_status={"late": 8}, by_decision={"approve": 8})
    counters.dead_by_reason, counters.by_reason = {"MISSING": 2}, {"LATE": 1}
    text = prometheus('pay"ments', seen(counters), Meter(), now=10 * SECOND).decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    def sample(name: str, more: str = "") -> float:
        return float(samples[f'{name}{{stream="pay\\"ments",partition="0"{more}}}'])

    assert sample("skyriver_undecided_events") == 1
    assert sample("skyriver_not_materialised_records") == 30 - 1 - 20
    assert sample("skyriver_effective_time_behind_seconds") == 3
    assert sample("skyriver_checkpoint_age_seconds") == 2
    assert sample("skyriver_checkpoint_behind_records") == 5
    assert sample("skyriver_dead_letters_total", ',reason="MISSING"') == 2
    assert sample("skyriver_dead_letters_total", ',reason="UNTOLD"') == 1, "counted before they were told apart"
    assert sample("skyriver_event_reasons_total", ',reason="LATE"') == 1
    assert sample("skyriver_stored_bytes", ',part="log"') == 4096
    names = {line.split("{")[0] for line in samples}
    assert {n.removesuffix("_sum").removesuffix("_count") for n in names} == {
        line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")
    }, "each family has its head, and each head its samples"


def test_what_is_spent_of_budgets_is_told_to_prometheus(make_house: Callable[..., Any]) -> None:
    house = make_house()
    stream = house.stream
    budgets = [
        BudgetSpec(decision="block", most=5, per_us=60 * SECOND, overflow="review"),
        BudgetSpec(decision="block", most=3, per_us=3600 * SECOND, overflow="review", by="customer"),
    ]
    rules = compile_rules([("block", "score >= 0.9")], "approve", "review", stream, None, budgets=budgets)
    house.start(replace(house.deciding(), rules=rules))
    house.send(*(house.event(n, customer=n % 2, amount=95.0) for n in range(4)))
    tallies, time = house.engine.partition.tallies, house.engine.partition.time
    text = prometheus("payments", seen(Counters(), budgets=tallies.to_json(time)), Meter(), now=0).decode()
    head = 'stream="payments",partition="0",decision="block"'
    assert f'skyriver_budget_spent{{{head},per="1m",by=""}} 4\n' in text
    assert f'skyriver_budget_keys{{{head},per="1h",by="customer"}} 2\n' in text
    assert f'skyriver_budget_most{{{head},per="1h",by="customer"}} 3\n' in text


def test_what_is_not_known_is_not_told() -> None:
    text = prometheus("s", seen(Counters(), effective_time=None, materialised=None), Meter(), now=0).decode()
    assert "effective_time" not in text
    assert "not_materialised" not in text


def test_reasons_and_dead_letters_come_back_with_replay_and_checkpoint(make_house: Callable[..., Any]) -> None:
    house = make_house().start()
    house.send(house.event(1), {"payment": 2}, house.event(3, at=-7_200), house.event(4, amount="x"))
    house.send_labels({"payment": 1}, {"payment": 1, "fraud": 1})
    before = house.engine.partition
    assert before.counters.by_reason == {"LATE": 1}
    assert sum(before.counters.dead_by_reason.values()) == before.counters.dead == 3
    letters = list(before.dead_letters)
    assert [letter.raw for letter in letters][:1] == ['{"payment":2}']
    assert [r.offset for r in house.records() if r.kind.name == "DEAD"] == [letter.offset for letter in letters]
    house.start()
    replayed = house.engine.partition
    assert (list(replayed.dead_letters), replayed.counters) == (letters, before.counters)
    house.save()
    house.start()
    assert house.recovered.offset > 0, "from the checkpoint"
    restored = house.engine.partition
    assert (list(restored.dead_letters), restored.counters) == (letters, before.counters)


def test_old_dead_letters_make_room(make_house: Callable[..., Any]) -> None:
    house = make_house().start()
    house.send(*({"payment": n, "note": "ü" * 5_000} for n in range(80)), house.event(1_000))
    letters = house.engine.partition.dead_letters
    assert (len(letters), house.engine.partition.counters.dead) == (50, 80)
    assert all(len(letter.raw) <= 500 for letter in letters)


def test_files_are_weighed_by_folder(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.log").write_bytes(b"x" * 100_000)
    (tmp_path / "side" / "f00").mkdir(parents=True)
    (tmp_path / "side" / "f00" / "rows").write_bytes(b"x" * 10_000)
    found = stored_bytes(tmp_path)
    assert 100_000 <= found["log"] < 200_000
    assert 10_000 <= found["side"] < 50_000
    assert found["ids"] == found["checkpoint"] == 0
