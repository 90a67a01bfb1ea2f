"""Every error a user can meet. The type says whose fault it is and what the caller can do.

SkyriverError
├── InvalidInput     the request, file or declaration is wrong: change it          exit 2    HTTP 422
├── NotFound         the named thing does not exist                                exit 3    HTTP 404
├── NotAllowed       the identity lacks a permission, or there is no identity      exit 4    HTTP 403/401
├── QuotaExceeded    a limit or budget is reached                                  exit 5    HTTP 429
├── Conflict         the state of things forbids it now                            exit 6    HTTP 409
├── Unavailable      a part is away or overloaded: try again                       exit 7    HTTP 503
├── JobFailed        a job the caller waited for failed                            exit 100  HTTP 409
├── Corrupt          stored bytes are not what was written: restore                exit 1    HTTP 500
└── Internal         our fault: report it                                          exit 1    HTTP 500

An error carries a stable `code` (UPPER_SNAKE), a `message` (what and why), `where` (file:line, field,
offset) and `next_action` (what to do). Exceptions of libraries are translated at the adapter.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class SkyriverError(Exception):
    """Base of all errors that are shown to users; see the tree at the top of the file."""

    default_code: ClassVar[str] = "INTERNAL"
    default_action: ClassVar[str] = ""
    """What to do where the error itself does not say."""
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        where: str = "",
        next_action: str = "",
        details: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.where = where
        self.next_action = next_action or self.default_action
        self.details = details

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        action = f" {self.next_action}" if self.next_action else ""
        return f"{place}{self.message}{action}"

    def to_problem(self) -> dict[str, Any]:
        """The body of an `application/problem+json` answer (RFC 9457)."""
        problem: dict[str, Any] = {
            "type": f"urn:skyriver:error:{self.code.lower()}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.http_status,
            "code": self.code,
            "detail": self.message,
        }
        if self.where:
            problem["where"] = self.where
        if self.next_action:
            problem["next_action"] = self.next_action
        if self.details:
            problem["errors"] = list(self.details)
        return problem


class InvalidInput(SkyriverError):
    """What was given is wrong; nothing was done. Naming the field, the value and the rule."""

    default_code = "INVALID_INPUT"
    exit_code = 2
    http_status = 422


class NotFound(SkyriverError):
    default_code = "NOT_FOUND"
    exit_code = 3
    http_status = 404


class NotAllowed(SkyriverError):
    default_code = "NOT_ALLOWED"
    exit_code = 4
    http_status = 403


class Unauthenticated(NotAllowed):
    """No token, or one nobody issued."""

    default_code = "UNAUTHENTICATED"
    http_status = 401


class QuotaExceeded(SkyriverError):
    default_code = "QUOTA_EXCEEDED"
    exit_code = 5
    http_status = 429


class Conflict(SkyriverError):
    default_code = "CONFLICT"
    exit_code = 6
    http_status = 409


class StaleWrite(Conflict):
    """Another writer was faster (revision), or this writer lost its lease (fence)."""

    default_code = "STALE_WRITE"


class Unavailable(SkyriverError):
    default_code = "UNAVAILABLE"
    exit_code = 7
    http_status = 503


class DeadlineExceeded(Unavailable):
    """The time that the caller gave for an answer is over; the work was not done."""

    default_code = "DEADLINE_EXCEEDED"
    http_status = 504


class PreconditionFailed(Conflict):
    """The resource is not at the revision that the caller named."""

    default_code = "PRECONDITION_FAILED"
    http_status = 412


class JobFailed(SkyriverError):
    default_code = "JOB_FAILED"
    exit_code = 100
    http_status = 409


class Corrupt(SkyriverError):
    """Stored bytes fail their checksum; they are never served."""

    default_code = "CORRUPT"
    default_action = "It is never served as it is: restore it from a copy of the cloud's folder."


class Internal(SkyriverError):
    default_code = "INTERNAL"
    default_action = "This is a mistake of ours: report it with the log of the process."


_BY_CODE: dict[int, type[SkyriverError]] = {
    401: Unauthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: InvalidInput,
    422: InvalidInput,
    400: InvalidInput,
    429: QuotaExceeded,
    503: Unavailable,
    502: Unavailable,
    504: Unavailable,
}


def told(what_not: str, error: Exception) -> SkyriverError:
    """Why something goes on without what it should do, as a report shows it: "WHAT_NOT: why"; code and next action
    are those of the error, and our own where it is none that users know."""
    if isinstance(error, SkyriverError):
        return SkyriverError(
            f"{what_not}: {error.message}", code=error.code, where=error.where, next_action=error.next_action
        )
    return Internal(
        f"{what_not}: {type(error).__name__}: {error}.",
        next_action="It is tried again by itself; the log of the process says more.",
    )


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def disk_error(error: OSError, what: str, where: str = "") -> Unavailable:
    """What the file system said as what a user can do: DISK_FULL, DISK_READ_ONLY or DISK_FAILED. `what` did not
    happen, as in "A checkpoint cannot be written"."""
    if error.errno in _NO_ROOM:
        code, action = "DISK_FULL", "Free space on this disk and try again."
    elif error.errno in _READ_ONLY:
        code, action = "DISK_READ_ONLY", "Check how this disk is mounted, and the folder's owner and mode."
    else:
        code, action = "DISK_FAILED", "Look at the system's log for errors of this disk."
    return Unavailable(f"{what}: {error.strerror or error}.", code=code, where=where, next_action=action)


def half_characters(error: UnicodeEncodeError) -> InvalidInput:
    """What a database is not given: a text with a surrogate that stands alone."""
    return InvalidInput(
        "This text has half characters.",
        code="BAD_TEXT",
        where=ascii(error.object),
        next_action="Send text that is whole Unicode: no surrogate stands alone.",
    )


def from_problem(status: int, problem: dict[str, Any]) -> SkyriverError:
    """The error a server answered with, as the client raises it again."""
    code = str(problem.get("code", ""))
    kind = JobFailed if code == "JOB_FAILED" else _BY_CODE.get(status, Internal)
    return kind(
        str(problem.get("detail") or problem.get("title") or f"the server answered {status}"),
        code=code or None,
        where=str(problem.get("where", "")),
        next_action=str(problem.get("next_action", "")),
        details=tuple(problem.get("errors", ())),
    )
