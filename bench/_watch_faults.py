"""What `watch.py` plants: fifty faults over data, model, replica, gateway, disk and clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from _watch_world import GB, TENANT, WORKER, World, failed_operation

from skyriver.core.resources import Resource
from skyriver.core.units import DAY
from skyriver.observe.sight import CLOCK, CONTROL, DISK, DISK_SPACE, GATEWAY, MEMORY, SIGNING, SUPERVISOR, Problem

SERVICE, STREAM = f"{TENANT}:service/risk", f"{TENANT}:stream/orders"
EVENTS, TABLES = f"{STREAM}/events", f"{STREAM}/tables"
DISPATCHER, APP = f"{TENANT}:dispatcher/orders", f"{TENANT}:app/shop"
OF_WORKER = f"{TENANT}:worker/orders-0"


@dataclass(frozen=True, slots=True)
class Fault:
    """`ill`: what is wrong then; `because`: (subject, kind) of the causes that are right."""

    area: str
    name: str
    plant: Callable[[World], None]
    ill: Sequence[str]
    because: Sequence[tuple[str, str]]


def itself(subject: str, kind: str) -> tuple[str, str]:
    return subject, f"itself: {kind}"


def sets(**values: Any) -> Callable[[World], None]:
    def plant(world: World) -> None:
        world.trouble = replace(world.trouble, **values)

    return plant


def measures(**values: Any) -> Callable[[World], None]:
    return sets(machine=values)


def both(*plants: Callable[[World], None]) -> Callable[[World], None]:
    def plant(world: World) -> None:
        for each in plants:
            each(world)

    return plant


def first_replica(world: World) -> str:
    return world.replicas()[0]


def released(**values: Any) -> Callable[[World], None]:
    """A version that is bad in this way takes over."""
    return both(sets(**values), lambda world: world.release())


VERSION = f"{TENANT}:version/risk:1"
ROLLOUT = ((f"{TENANT}:rollout/risk-1", "rollout"),)
REPLICA = f"{TENANT}:replica/risk-1-1"


def of_replica(field: str, value: Any = None) -> Callable[[World], None]:
    def plant(world: World) -> None:
        known = getattr(world.trouble, field)
        name = first_replica(world)
        setattr(world.trouble, field, {*known, name} if isinstance(known, set) else {**known, name: value})

    return plant


def all_replicas_end(world: World) -> None:
    world.trouble.down |= set(world.replicas())


def row_fails(kind: str, name: str, state: str, reason: str, message: str) -> Callable[[World], None]:
    return lambda world: world.change(kind, name, state=state, reason=reason, message=message)


def schedule_fails(world: World) -> None:
    world.change("schedule", "nightly", state="ACTIVE")
    world.write(failed_operation("nightly-1", "schedule/nightly", world.clock.wall(), world.loop.snapshot()))


def tables_fail(world: World) -> None:
    for number in (1, 2):
        row = Resource(TENANT, "job", f"orders-materialise-{number}", spec={"kind": "materialise"}, state="FAILED")
        world.write(replace(row, parent="stream/orders", created_at=world.clock.wall(), message="The disk refused it."))


def rollout_goes(state: str, reason: str) -> Callable[[World], None]:
    def plant(world: World) -> None:
        spec = {"model": "risk", "to": 2, "cause": "release"}
        row = Resource(TENANT, "rollout", "risk-1", spec=spec, state=state, reason=reason, since=world.clock.wall())
        world.kinds.pop("rollout")
        world.write(replace(row, message="Errors rose from 0.1% to 4%."))

    return plant


def clock_moves(by: int) -> Callable[[World], None]:
    return lambda world: world.clock.set(by)


def rules_change(world: World) -> None:
    spec = {"stream": "orders", "version": 2, "rules": [], "origin": "hand", "why": "", "gain": None}
    world.write(Resource(TENANT, "ruleset", "orders-r2", spec=spec, state="LIVE", parent="stream/orders"))
    sets(blocked=0.6)(world)


def list_emptied(world: World) -> None:
    sets(list_ids=0, blocked=0.5)(world)


def restarts(part: str) -> Callable[[World], None]:
    def plant(world: World) -> None:
        world.trouble.ends[part] = [world.clock.wall() - n * 1_000_000 for n in range(3)]

    return plant


def part(name: str, state: str) -> Callable[[World], None]:
    told = {"name": name, "state": state, "reason": "AWAY", "message": "It does not run.", "next_action": ""}
    return sets(parts=[told])


def problem(of: str, code: str, message: str) -> Callable[[World], None]:
    return sets(problems={of: Problem(code, message, "Mend that.")})


FAULTS: Sequence[Fault] = (
    Fault(
        "data",
        "broker away",
        sets(source=("DEGRADED", "It does not answer."), events=0.0),
        [EVENTS],
        [itself(EVENTS, "source")],
    ),
    Fault("data", "events stop", sets(events=0.0), [EVENTS], [itself(EVENTS, "silence")]),
    Fault("data", "a third is malformed", sets(dead=0.3), [EVENTS], [itself(EVENTS, "dead")]),
    Fault("data", "a tenth is malformed", sets(dead=0.1), [EVENTS], [itself(EVENTS, "dead")]),
    Fault("data", "half comes too late", sets(late=0.5), [EVENTS], [itself(EVENTS, "late")]),
    Fault(
        "data",
        "malformed after a deployment",
        both(lambda w: w.deploy(spec={"v": 2}), sets(dead=0.9)),
        [EVENTS],
        [(APP, "deploy")],
    ),
    Fault("data", "half of the events stop", sets(events=0.5), [EVENTS], [itself(EVENTS, "fewer")]),
    Fault("data", "events wait after a burst", sets(events=8.0, waiting=9_000), [STREAM], [(STREAM, "load")]),
    Fault("data", "a list is emptied", list_emptied, [STREAM], [(STREAM, "list")]),
    Fault(
        "data",
        "tables are not brought up to date",
        tables_fail,
        [TABLES],
        [itself(TABLES, "tables")],
    ),
    Fault(
        "data",
        "a scheduled load fails",
        schedule_fails,
        [f"{TENANT}:schedule/nightly"],
        [itself(f"{TENANT}:schedule/nightly", "failed")],
    ),
    Fault("model", "new version fails", released(errors=0.3), [SERVICE], ROLLOUT),
    Fault("model", "new version fails a little", released(errors=0.06), [SERVICE], ROLLOUT),
    Fault("model", "new version is ten times slower", released(slower=15.0), [SERVICE], ROLLOUT),
    Fault("model", "new version decides otherwise", released(blocked=0.4), [STREAM], ROLLOUT),
    Fault("model", "new version fails in the stream", released(fallbacks=0.4), [STREAM], ROLLOUT),
    Fault(
        "model",
        "model misses its deadline beside a training",
        both(sets(fallbacks=0.5, reason="MODEL_LATE", decides_slower=9.0), lambda w: w.job("risk-train-1")),
        [STREAM],
        [("cloud:machine", "job")],
    ),
    Fault("model", "rules decide otherwise", rules_change, [STREAM], [(STREAM, "rules")]),
    Fault(
        "model",
        "a rollout is taken back",
        rollout_goes("ROLLED_BACK", "BREACH"),
        [f"{TENANT}:rollout/risk-1/end"],
        [itself(f"{TENANT}:rollout/risk-1/end", "rolled back"), *ROLLOUT],
    ),
    Fault(
        "model",
        "a rollout waits for a person",
        rollout_goes("PAUSED", "TOO_LITTLE_TRAFFIC"),
        [f"{TENANT}:rollout/risk-1/end"],
        [itself(f"{TENANT}:rollout/risk-1/end", "waits"), *ROLLOUT],
    ),
    Fault(
        "model",
        "trainings come to nothing",
        row_fails("watch", "risk", "BROKEN", "RETRAINING_FAILS", "Three came to nothing."),
        [f"{TENANT}:watch/risk"],
        [itself(f"{TENANT}:watch/risk", "retraining")],
    ),
    Fault(
        "model",
        "packages cannot be installed",
        row_fails("environment", "e1", "FAILED", "NO_PACKAGE", "There is none."),
        [f"{TENANT}:environment/e1"],
        [itself(f"{TENANT}:environment/e1", "failed")],
    ),
    Fault(
        "model",
        "versions are not signed",
        sets(signing=Problem("KEY_LOST", "The key is gone.", "Rotate it.")),
        [SIGNING],
        [itself(SIGNING, "cannot")],
    ),
    Fault(
        "replica",
        "one ends again and again",
        of_replica("dies"),
        [REPLICA],
        [(REPLICA, "death"), itself(REPLICA, "failed")],
    ),
    Fault(
        "replica",
        "one never gets ready again",
        of_replica("down"),
        [SERVICE, REPLICA],
        [(REPLICA, "death"), itself(REPLICA, "failed")],
    ),
    Fault(
        "replica",
        "all end",
        all_replicas_end,
        [SERVICE, REPLICA],
        [(f"{TENANT}:replica/risk-1-{n}", what) for n in (1, 2, 3) for what in ("death", "itself: failed")],
    ),
    Fault("replica", "one hangs", of_replica("silent"), [REPLICA], [itself(REPLICA, "silent")]),
    Fault("replica", "one is slow", of_replica("weights", 1), [REPLICA], [itself(REPLICA, "slow")]),
    Fault(
        "replica",
        "one leaks memory",
        of_replica("leak_mb", 12.0),
        [REPLICA],
        [itself(REPLICA, w) for w in ("memory", "leaks", "fills")],
    ),
    Fault(
        "replica", "all fail by themselves", sets(errors=0.5), [SERVICE], [itself(f"{TENANT}:version/risk:1", "fails")]
    ),
    Fault("replica", "requests are refused in a rush", sets(load=5.0, overloaded=0.5), [SERVICE], [(SERVICE, "load")]),
    Fault(
        "replica",
        "the stream's worker ends",
        both(row_fails("worker", "orders-0", "LOST", "PROCESS_DIED", "It ended."), sets(down={WORKER})),
        [OF_WORKER],
        [(OF_WORKER, "death"), itself(OF_WORKER, "away")],
    ),
    Fault("replica", "the stream's worker hangs", sets(silent={WORKER}), [OF_WORKER], [itself(OF_WORKER, "silent")]),
    Fault("replica", "the stream decides slowly", sets(decides_slower=12.0), [STREAM], [itself(STREAM, "slow")]),
    Fault(
        "replica",
        "the dispatcher ends",
        row_fails("dispatcher", "orders", "LOST", "PROCESS_DIED", "It ended."),
        [DISPATCHER],
        [(DISPATCHER, "death"), itself(DISPATCHER, "away")],
    ),
    Fault(
        "replica",
        "a receiver of decisions is away",
        sets(sink_failures=9),
        [f"{DISPATCHER}/sink/bank"],
        [itself(f"{DISPATCHER}/sink/bank", "sink")],
    ),
    Fault("gateway", "it does not run", part("gateway", "LOST"), [GATEWAY], [itself(GATEWAY, "away")]),
    Fault(
        "gateway",
        "it ends again and again",
        restarts("gateway"),
        [GATEWAY],
        [(GATEWAY, "death"), itself(GATEWAY, "restarts")],
    ),
    Fault(
        "gateway",
        "it takes no table",
        problem("gateway", "GATEWAY_REFUSED", "It refused the table."),
        [GATEWAY],
        [itself(GATEWAY, "cannot: gateway")],
    ),
    Fault("gateway", "it answers 503 itself", sets(gateway_failed=60), [SERVICE], [itself(SERVICE, "unserved")]),
    Fault(
        "gateway",
        "its certificate ends soon",
        lambda w: measures(certificate_until=w.clock.wall() + 3 * DAY)(w),
        [GATEWAY],
        [itself(GATEWAY, "certificate")],
    ),
    Fault("disk", "it is full", measures(disk_used=490 * GB), [DISK], [itself(DISK, "fills")]),
    Fault("disk", "it fills within the hour", sets(disk_grows=0.1 * GB), [DISK_SPACE], [itself(DISK_SPACE, "fills")]),
    Fault("disk", "it is slow", measures(disk_write_s=3.0), [DISK], [itself(DISK, "slow")]),
    Fault(
        "disk",
        "it cannot be written",
        both(
            measures(disk_problem="Read-only file system"),
            problem("pass", "STORE_READ_ONLY", "It cannot be written."),
            sets(says=("DISK_FULL", "Nothing can be written.")),
        ),
        [DISK],
        [itself(DISK, "cannot be written")],
    ),
    Fault(
        "disk",
        "the store is locked",
        problem("pass", "STORE_LOCKED", "It is locked."),
        [CONTROL],
        [itself(CONTROL, "cannot: pass")],
    ),
    Fault(
        "clock",
        "it is set an hour ahead",
        clock_moves(3_600_000_000),
        [CLOCK],
        [itself(CLOCK, "set"), (CLOCK, "clock")],
    ),
    Fault("clock", "it is set a day back", clock_moves(-DAY), [CLOCK], [itself(CLOCK, "set"), (CLOCK, "clock")]),
    Fault("machine", "its memory is used up", measures(memory_used=31 * GB), [MEMORY], [itself(MEMORY, "fills")]),
    Fault(
        "machine", "the supervisor does not run", part("supervisor", "LOST"), [SUPERVISOR], [itself(SUPERVISOR, "away")]
    ),
)
