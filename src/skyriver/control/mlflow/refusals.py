"""Errors in the form that MLflow's clients read."""

from __future__ import annotations

from typing import Final

from fastapi.responses import JSONResponse

from skyriver.core.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    NotAllowed,
    NotFound,
    QuotaExceeded,
    SkyriverError,
    Unavailable,
)

PREFIXES: Final = ("/api/2.0/", "/api/3.0/", "/api/4.0/", "/ajax-api/")
"""Paths whose errors are told in MLflow's form."""
_WORDS: Final[tuple[tuple[type[SkyriverError], str, int], ...]] = (
    (NotFound, "RESOURCE_DOES_NOT_EXIST", 404),
    (InvalidInput, "INVALID_PARAMETER_VALUE", 400),
    (NotAllowed, "PERMISSION_DENIED", 403),
    (QuotaExceeded, "RESOURCE_LIMIT_EXCEEDED", 400),  # a 429 is sent again for minutes by MLflow's client
    (Conflict, "INVALID_STATE", 409),
    (Corrupt, "INVALID_STATE", 409),  # as for a 500
    (Unavailable, "TEMPORARILY_UNAVAILABLE", 503),
)
EXISTS: Final = frozenset({"EXISTS"})
"""Codes that clients wait for: they go on with what there is."""


def is_mlflow(path: str) -> bool:
    return path.startswith(PREFIXES)


def refusal(error: SkyriverError) -> JSONResponse:
    """As MLflow's clients read it: a word of theirs, and our sentence with what to do."""
    word, status = next(((w, s) for kind, w, s in _WORDS if isinstance(error, kind)), ("INTERNAL_ERROR", 500))
    if error.code in EXISTS:
        word, status = "RESOURCE_ALREADY_EXISTS", 400
    elif error.code == "UNKNOWN_ROUTE":
        word = "ENDPOINT_NOT_FOUND"
    elif error.http_status == 401:
        word, status = "UNAUTHENTICATED", 401
    return JSONResponse({"error_code": word, "message": f"{error} ({error.code})"}, status)


def unknown_route(method: str, path: str) -> NotFound:
    return NotFound(
        f"This cloud does not answer {method} {path}.",
        code="UNKNOWN_ROUTE",
        next_action="Of MLflow it has experiments, runs, logged models, artifacts and the registry.",
    )
