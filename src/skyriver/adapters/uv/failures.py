"""What uv says when it fails, as one error that names the requirement and why.

uv's words are kept, for they are good; what is left out is how it got there, addresses with credentials and paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from skyriver.core.environments import Requirement
from skyriver.core.errors import InvalidInput, SkyriverError, Unavailable

WORDS_LIMIT = 600
"""Characters of an explanation; the log has all of it."""

_AWAY = (
    "error sending request",
    "client error (Connect)",
    "dns error",
    "timed out",
    "Network connectivity is disabled",
    "network was disabled",
    "connection closed",
    "HTTP status server error",
    "Failed to fetch",
    "Failed to download",
)
_REFUSED = ("401 Unauthorized", "403 Forbidden", "(401", "(403")
_DISK = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")


def explain_failure(
    text: str,
    held: Mapping[str, str],
    requirements: Sequence[Requirement] = (),
    where: str = "",
    ranges: Sequence[str] = (),
) -> SkyriverError:
    """The error for what uv printed. `held` are the versions of packages that Skyriver runs with, `ranges` those that
    it works with of others."""
    text = clean(text)
    cause = _cause(text)
    named = _concerned(cause, requirements)
    place = f"{where}:{named[0].line}" if where and named else where
    kind, code, message, action = _judge(text, cause, held, ranges)
    return kind(message[:WORDS_LIMIT], code=code, where=place, next_action=action)


Judged = tuple[Callable[..., SkyriverError], str, str, str]


def _judge(text: str, cause: str, held: Mapping[str, str], ranges: Sequence[str]) -> Judged:
    if any(sign in text for sign in _DISK):
        return Unavailable, "DISK_FULL", "The disk is full.", "Free space on it."
    if "Hash mismatch" in text:
        return _corrupt(text)
    if found := re.search(r"Failed to (?:download and )?build `?([^`\n]+?)`?(?:\n|$)", text):
        return _not_built(found[1], text)
    if "No solution found" in text:
        return _unsolvable(text, cause, held, ranges)
    if any(sign in text for sign in _REFUSED):
        action = "Check the credentials in the configuration of uv or pip on this machine."
        return InvalidInput, "INDEX_REFUSED", f"The package index refuses: {cause}", action
    if any(sign in text for sign in _AWAY):
        action = "Check the network, and the index that uv or pip is configured for on this machine."
        return Unavailable, "INDEX_AWAY", f"The package index does not answer: {cause}", action
    if "parse requirement" in text:
        action = "Correct this line, as in NAME==VERSION, and deploy again."
        return InvalidInput, "BAD_REQUIREMENT", f"It is no requirement: {cause}", action
    action = "Change the requirements file and deploy again."
    return InvalidInput, "ENVIRONMENT_FAILED", f"The packages cannot be installed: {cause}", action


def _unsolvable(text: str, cause: str, held: Mapping[str, str], ranges: Sequence[str]) -> Judged:
    ours = {f"{n}=={v}": f"{n} {v}" for n, v in held.items() if _names(cause, f"{n}=={v}")}
    known = [of for of in ranges if re.search(rf"(?i)\b(because|and) {re.escape(of)}(?!\.?\w)", cause)]
    if ours or known:
        for pin in ours:
            cause = cause.replace(f"and {pin}", f"and Skyriver runs with {pin}")
        for of in known:
            cause = cause.replace(f"and {of}", f"and Skyriver works with {of}")
        action = (
            f"Choose versions that work with {' and '.join((*ours.values(), *known))}, which Skyriver itself needs."
        )
        return InvalidInput, "PRODUCT_CONFLICT", f"It conflicts with what Skyriver needs: {cause}", action
    action = "Correct the requirements file and deploy again; nothing was done."
    if "was not found in" in cause:
        action = "Check the name; the index of this machine does not have it. Nothing was done."
        return InvalidInput, "NO_SUCH_PACKAGE", cause, action
    if "subsequent index" in text:
        action = (
            "Another index of this machine may have it: UV_INDEX_STRATEGY=unsafe-best-match asks all of them alike."
        )
    if re.search(r"there (is|are) no versions? of|\bonly \S+ is available", cause) and " depend" not in cause:
        return InvalidInput, "NO_SUCH_VERSION", cause, action
    return InvalidInput, "REQUIREMENTS_CONFLICT", cause, action


def _names(cause: str, pin: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(pin)}(?!\.?\w)", cause) is not None


def _not_built(what: str, text: str) -> Judged:
    lines = [line.strip() for line in text.splitlines()]
    signs = [line for line in lines if re.search(r"(?i)error\b|not found|no such file", line)]
    telling = [
        line for line in signs if not re.match(r"(?i)(error: (failed to|command|the build backend)|cause:|hint:)", line)
    ]
    why = telling[-1] if telling else _cause(text)
    message = f"{what} has no ready wheel for this machine, and building it from source failed: {why}"
    action = "Ask for a version that has a wheel, or install what building it needs on this machine."
    return InvalidInput, "BUILD_FAILED", message, action


def _corrupt(text: str) -> Judged:
    found = re.search(r"Hash mismatch for `([^`]+)`", text)
    message = f"The index gave another file for {found[1] if found else 'a package'} than the lock names."
    return InvalidInput, "HASH_MISMATCH", message, "`skyriver deploy APP.py --upgrade` locks the packages anew."


def _cause(text: str) -> str:
    """uv's own explanation as one sentence or a few."""
    lines = [line for line in text.splitlines() if line.strip()]
    start = next((n for n, line in enumerate(lines) if line.lstrip().startswith("cause:")), None)
    head = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "it said nothing")
    if start is None:
        told = head.removeprefix("error:")
    elif "No solution found" in head or "parse requirement" in head:
        told = " ".join(line.strip().removeprefix("cause:") for line in lines[start:] if not _drawing(line))
        told = re.split(r"\b(?:hint|help):", told)[0]
    else:
        causes = [line.strip().removeprefix("cause:").strip() for line in lines if line.lstrip().startswith("cause:")]
        told = f"{head.removeprefix('error:').strip()}: {causes[-1]}"
    told = " ".join(told.split())
    single = re.fullmatch(
        r"Because ([^.]*(?:\.\d[^.]*)*), we can conclude that your requirements are unsatisfiable\.", told
    )
    told = single[1] if single else told
    told = told.replace("your requirements are unsatisfiable", "nothing satisfies the file")
    return f"{told[:1].upper()}{told[1:].rstrip('.')}." if single is None else f"{told.rstrip('.')}."


def _drawing(line: str) -> bool:
    return not line.strip().strip("^|~- ")


def _concerned(cause: str, requirements: Sequence[Requirement]) -> list[Requirement]:
    """Requirements that the explanation names, the one named first in front."""
    found = {}
    for requirement in requirements:
        spelling = re.escape(requirement.name).replace(r"\-", "[-_.]")
        if match := re.search(rf"(?i)(?<![\w.-]){spelling}(?![\w-])", cause):
            found[requirement] = match.start()
    return sorted(found, key=lambda r: found[r])


def clean(text: str) -> str:
    """Without credentials in addresses, colours, and folders of this machine."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"://[^/@\s]*@", "://", text)
    return re.sub(r"(?<![\w:/.])/(?:[\w.@+-]+/)+([\w.@+-]+)", r"\1", text)
