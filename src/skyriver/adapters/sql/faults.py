"""What the errors of databases mean to a user, in the words that all of them share."""

from __future__ import annotations

from skyriver.core.errors import Conflict, Corrupt, InvalidInput, SkyriverError, Unavailable
from skyriver.core.resources import Key

Fault = tuple[type[SkyriverError], str, str, str]
"""(type, code, message, next action)"""

DAMAGED: Fault = (
    Corrupt,
    "STORE_CORRUPT",
    "The control state is damaged",
    "Stop the cloud, keep this state, and restore the last backup.",
)
FULL: Fault = (
    Unavailable,
    "DISK_FULL",
    "The disk is full: nothing was written.",
    "Free space on this disk and try again.",
)
DISK_ERROR: Fault = (
    Unavailable,
    "STORE_DISK_ERROR",
    "The disk failed while the control state was read or written.",
    "Look into the system's log for errors of this disk.",
)
TOO_LARGE: Fault = (
    InvalidInput,
    "TOO_LARGE",
    "A row is larger than the control state can keep.",
    "Keep large content as an object and name its digest.",
)


def error_of(fault: Fault, where: str) -> SkyriverError:
    kind, code, message, action = fault
    return kind(message, code=code, where=where, next_action=action)


def damaged(where: str, what: str, *, row: Key | None = None) -> Corrupt:
    """`row`: the one that is damaged, where that is known."""
    _, code, message, action = DAMAGED
    details = ({"tenant": row[0], "kind": row[1], "name": row[2]},) if row is not None else ()
    return Corrupt(f"{message}: {what}.", code=code, where=where, next_action=action, details=details)


def closed(where: str) -> Unavailable:
    return Unavailable(
        "The control state was closed.",
        code="STORE_CLOSED",
        where=where,
        next_action="Try again when the cloud is up: `skyriver ps` tells.",
    )


def busy(where: str) -> Unavailable:
    return Unavailable(
        "Too many requests use the control state at once.",
        code="STORE_BUSY",
        where=where,
        next_action="Try again in a moment.",
    )


def locked_by_a_thread(where: str) -> Unavailable:
    return Unavailable(
        "Another thread is writing the control state, and went on for too long.",
        code="STORE_LOCKED",
        where=where,
        next_action="Try again.",
    )


def newer(where: str, found: str, known: str) -> Conflict:
    return Conflict(
        f"The control state was written by a newer Skyriver (its revision is {found!r},"
        f" this Skyriver knows up to {known!r}).",
        code="NEWER_STORE",
        where=where,
        next_action="Install the newer Skyriver again; a state is never migrated backwards.",
    )
