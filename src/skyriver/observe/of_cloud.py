"""Signs of the machine and of the cloud's own parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from skyriver.observe.sight import (
    CLOCK,
    CONTROL,
    DISK,
    DISK_SPACE,
    GATEWAY,
    MEMORY,
    RECEIVERS,
    SIGNING,
    SUPERVISOR,
    Machine,
)
from skyriver.observe.signs import HOLD_S, Seen, Sign, fills, of_problem

DISK_LOW: Final = 0.90
DISK_FULL: Final = 0.97
MEMORY_FULL: Final = 0.95
SLOW_WRITE_S: Final = 1.0
CLOCK_STEP_US: Final = 2_000_000
CLOCK_TOLD_US: Final = 10 * 60_000_000
RECEIVER_HOLD_S: Final = 60.0
PASS_S: Final = 10.0
RESTARTS: Final = 3
RESTARTS_WITHIN: Final = 10
"""Minutes."""
CERTIFICATE_US: Final = 14 * 86_400_000_000
_PARTS: Final = {"supervisor": SUPERVISOR, "control plane": CONTROL}
_ROOM: Final = "Make room, or move the cloud's folder to a larger disk; `skyriver doctor` shows what takes it."


def of_cloud(seen: Seen) -> Iterator[Sign]:
    machine = seen.sight.machine
    yield from _of_disk(seen, machine)
    yield from _of_memory(seen, machine)
    yield from _of_clock(seen)
    yield from _of_parts(seen, machine)
    for part, problem in seen.sight.problems.items():
        subject = GATEWAY if part == "gateway" else CONTROL
        yield of_problem(subject, f"cannot: {part}", problem, "critical" if part != "rows" else "warning")
    if seen.sight.pass_age_s > PASS_S:
        told = f"The control plane has finished no pass for {seen.sight.pass_age_s:.0f} s: nothing is put right."
        yield Sign(CONTROL, "hangs", told, "`skyriver logs control` tells why; `skyriver up` starts it anew.")
    if machine.gateway_problem is not None:
        yield of_problem(GATEWAY, "away", machine.gateway_problem, "critical")
    for name, why in machine.receivers:
        told = f"The alert {name} does not take what it is told: {why}."
        action = f"`skyriver alert test {name}` tries it at once."
        yield Sign(f"{RECEIVERS}/{name}", "receiver", told, action, "warning", RECEIVER_HOLD_S)
    if seen.sight.signing is not None:
        yield of_problem(SIGNING, "cannot", seen.sight.signing, "warning")
    now = seen.sight.snapshot.now
    if machine.certificate_until and machine.certificate_until - now < CERTIFICATE_US:
        over = machine.certificate_until <= now
        days = abs(machine.certificate_until - now) / 86_400e6
        told = f"The gateway's certificate {'ended' if over else 'ends in'} {days:.0f} days{' ago' if over else ''}."
        action = "Put a new one in its place; `skyriver doctor` says where."
        yield Sign(GATEWAY, "certificate", told, action, "critical" if over else "warning")


def _of_disk(seen: Seen, machine: Machine) -> Iterator[Sign]:
    if machine.disk_problem:
        yield Sign(DISK, "cannot be written", f"The cloud's disk cannot be written: {machine.disk_problem}.", _ROOM)
    elif machine.disk_write_s > SLOW_WRITE_S:
        told = f"The cloud's disk is slow: a small write takes {machine.disk_write_s:.1f} s."
        yield Sign(DISK, "slow", told, "Look what else writes there: `iostat -x 1`.", "critical", HOLD_S)
    if not machine.disk_total:
        return
    share = machine.disk_used / machine.disk_total
    if share >= DISK_LOW:
        left = (machine.disk_total - machine.disk_used) / 1e9
        told = f"The cloud's disk is {share:.0%} full: {left:,.1f} GB are left."
        full = share >= DISK_FULL
        yield Sign(DISK if full else DISK_SPACE, "fills", told, _ROOM, "critical" if full else "warning")
    else:
        yield from fills(seen, DISK_SPACE, "The cloud's disk", machine.disk_used, machine.disk_total, _ROOM)


def _of_memory(seen: Seen, machine: Machine) -> Iterator[Sign]:
    if not machine.memory_total:
        return
    share, action = machine.memory_used / machine.memory_total, "`skyriver top` shows who holds it."
    if share >= MEMORY_FULL:
        told = f"The machine's memory is {share:.0%} in use."
        yield Sign(MEMORY, "fills", told, action, "critical", HOLD_S)
    else:
        yield from fills(
            seen, MEMORY, "The machine's memory", machine.memory_used, MEMORY_FULL * machine.memory_total, action
        )


def _of_clock(seen: Seen) -> Iterator[Sign]:
    """Told for ten minutes, by the clock that was not set."""
    step, at = seen.sight.clock_step_us, seen.sight.clock_step_at
    track = seen.tracks.get(CLOCK)
    if abs(step) >= CLOCK_STEP_US and track.known.get("at") != at:
        track.known |= {"at": at, "seconds": seen.seconds}
    since = track.known.get("seconds")
    if since is not None and track.known["at"] == at and seen.seconds - since < CLOCK_TOLD_US / 1e6:
        told = (
            f"The machine's clock was set by {step / 1e6:+,.0f} s: ages, schedules and events' times are off by that."
        )
        yield Sign(CLOCK, "set", told, "Keep it by NTP: `timedatectl status`.", "warning")


def _of_parts(seen: Seen, machine: Machine) -> Iterator[Sign]:
    for part in machine.parts:
        subject = _PARTS.get(part["name"], GATEWAY)
        if part["name"] != "control plane" and part["state"] in ("LOST", "DEGRADED", "FAILED", "STARTING"):
            told = f"The {part['name']} is {part['state']}: {part['reason']}. {part['message']}".strip()
            yield Sign(
                subject, "away", told, part["next_action"] or "`skyriver doctor` tells more.", "critical", HOLD_S
            )
    now = seen.sight.snapshot.now
    for name, ends in machine.ends.items():
        often = sum(0 <= now - at < RESTARTS_WITHIN * 60_000_000 for at in ends)
        if often >= RESTARTS:
            told = f"The {name} was started again {often} times within {RESTARTS_WITHIN} minutes."
            yield Sign(
                CONTROL if name == "control" else GATEWAY, "restarts", told, f"`skyriver logs {name}` tells why."
            )
