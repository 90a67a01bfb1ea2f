"""How an attempt of a job ended, in words, and whether there is another one."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from skyriver.core.jobs import FAULTS, MACHINE_RETRIES, Ending, Fault
from skyriver.core.resources import ProcessStatus, Resource
from skyriver.core.units import SECOND, format_span

_OWN_SIGNALS = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""That a program brings upon itself."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one attempt failed."""

    reason: str
    message: str
    next_action: str
    fault: Fault
    exit_code: int | None = None
    peak_mb: float = 0.0


def how_it_failed(job: Resource, process: ProcessStatus | None) -> Ended | None:
    """None while its process runs."""
    if process is None:
        message = "Its process is gone without a word: the machine was restarted, or its run file removed."
        return _ended(Ending.LOST, message)
    found = _how(job, process)
    return replace(found, exit_code=process.exit_code, peak_mb=process.peak_mb) if found is not None else None


def _how(job: Resource, process: ProcessStatus) -> Ended | None:
    """What was put to it from outside counts before what it said itself, and that before its exit code."""
    report = process.report
    told = (str(report.get("message", "")), str(report.get("next_action", "")))
    failed = report.get("outcome") == "failed"
    if not failed and process.alive:
        return None
    if process.out_of_memory or report.get("reason") == Ending.OUT_OF_MEMORY:
        # with what it was at, and what to make smaller
        knows_better = report.get("reason") == Ending.OUT_OF_MEMORY and all(told)
        return _ended(Ending.OUT_OF_MEMORY, *(told if knows_better else _memory(job, process)))
    if process.timed_out:
        return _ended(Ending.TIMED_OUT, *_time(job))
    if failed:
        return Ended(str(report.get("reason", "")), *told, _fault(report))
    if report.get("reason") == Ending.START_FAILED:
        return _ended(Ending.START_FAILED, *told)
    if process.stopped:
        return _ended(Ending.CLOUD_DOWN, "The cloud was taken down while it ran.")
    reason, message = _by_exit_code(process.exit_code)
    return _ended(reason, message, f"`skyriver logs {job.name}` shows its last lines.")


def retries_left(job: Resource, fault: Fault) -> int:
    """How many more attempts a failure of this kind is given, before the one that is decided on now."""
    failed = int(job.status.get("failures", {}).get(fault, 0))
    repeatable = job.spec.get("repeatable", True)
    match fault:
        case Fault.NOBODY:
            allowed = failed + 1 if repeatable else 0
        case Fault.MACHINE:
            allowed = MACHINE_RETRIES if repeatable else 0
        case Fault.OWN:
            allowed = int(job.spec.get("retries", 0))
        case Fault.FINAL:
            allowed = 0
    return max(0, allowed - failed)


def _ended(reason: Ending, message: str, next_action: str = "") -> Ended:
    return Ended(reason.value, message, next_action, FAULTS[reason])


def _fault(report: Mapping[str, Any]) -> Fault:
    reason = str(report.get("reason", ""))
    if reason in FAULTS:
        return FAULTS[Ending(reason)]
    return Fault.MACHINE if report.get("fault") == Fault.MACHINE else Fault.FINAL


def _memory(job: Resource, process: ProcessStatus) -> tuple[str, str]:
    limit = int(job.spec.get("limits", {}).get("memory_mb") or 0)
    held = f" It held up to {process.peak_mb:,.0f} MB." if process.peak_mb else ""
    if limit:
        return f"It wanted more than the {limit:,} MB that it asked for.{held}", _more_memory(limit)
    return f"It wanted more memory than the machine has left.{held}", "Let it hold less at a time, or free memory."


def _more_memory(limit: int) -> str:
    return f'Ask for more, as in memory="{2 * limit}MB", or let it hold less at a time.'


def _time(job: Resource) -> tuple[str, str]:
    limit = float(job.spec.get("limits", {}).get("seconds") or 0)
    message = f"It ran longer than its time limit of {format_span(round(limit * SECOND))}."
    return message, "Give it more time with timeout=, or less to do."


def _by_exit_code(exit_code: int | None) -> tuple[Ending, str]:
    if exit_code is None:
        return Ending.ENDED_UNSEEN, "Its process ended without an outcome, and nobody saw how."
    if exit_code >= 0:
        return Ending.EXITED, f"Its process ended with exit status {exit_code} before its work was done."
    name = _signal_name(-exit_code)
    if -exit_code in _OWN_SIGNALS:
        return Ending.CRASHED, f"Its process crashed: signal {-exit_code}{name}."
    return Ending.SIGNALLED, f"Its process was ended from outside by signal {-exit_code}{name}."


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def as_attempt(job: Resource, ended: Ended, now: int) -> dict[str, Any]:
    """What is kept of it."""
    return {
        "attempt": job.attempts,
        "reason": ended.reason,
        "message": ended.message,
        "exit_code": ended.exit_code,
        "peak_mb": round(ended.peak_mb, 1),
        "started": job.status.get("start_time", 0),
        "ended": now,
    }
