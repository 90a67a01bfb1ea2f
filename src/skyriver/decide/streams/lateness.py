"""Why events are decided too late though no score is left out for it: what takes the time of the worker. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CAUSES = {
    "scoring": (
        "their scores are not all that takes the time, and without them it would be too little",
        "Let less come at a time, or declare a smaller model (compress=) or fewer features.",
    ),
    "recording": (
        "their features, their rules and the log with its disk take the time, which a shed event needs too",
        'See whether the disk is busy with something else; durability="process" waits for none.'
        " Fewer features and rules take less.",
    ),
    "labels": (
        "labels, references and reads take the time",
        "Send fewer of them at a time, or when fewer events come.",
    ),
    "answering": (
        "reading and answering them takes the time, which a shed event needs too",
        "Let less wait at a time: fewer clients that each wait for an answer, or fewer events a request;"
        " without ?wait=decision an answer costs less.",
    ),
}
_NOT_KNOWN = ("what takes the time is not their scores", "Let less come at a time.")


def why_late(pace: Mapping[str, Any]) -> tuple[str, str]:
    """(what takes the time, what to do) by what a worker tells."""
    return _CAUSES.get(pace.get("late_by", ""), _NOT_KNOWN)
