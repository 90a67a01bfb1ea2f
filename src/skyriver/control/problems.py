"""Every answer that is an error is a problem document (RFC 9457) with a stable code."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from skyriver.control.mlflow.refusals import is_mlflow, refusal, unknown_route
from skyriver.core.errors import Internal, InvalidInput, NotFound, SkyriverError, Unavailable, disk_error
from skyriver.core.misread import wrong

MEDIA = "application/problem+json"
_JSON = "Send the body as JSON, with the header Content-Type: application/json."
log = logging.getLogger("skyriver.control")
RETRY_SECONDS = 1
"""After which a refusal of the moment is worth another try."""


def add_problems(api: FastAPI, contract: str) -> None:
    """`contract` is the path that describes what there is."""

    def of_http(request: Request, error: Exception) -> Response:
        """No route has this path, or none this method; or its body could not be read."""
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, SkyriverError):
            return _problem(request, error.__cause__)
        if error.status_code not in (404, 405):
            message = "The body of the request cannot be read."
            return _problem(request, InvalidInput(message, code="BAD_REQUEST", next_action=_JSON))
        if is_mlflow(request.url.path):
            return refusal(unknown_route(request.method, request.url.path))
        problem = NotFound(
            f"There is no {request.method} {request.url.path}.",
            code="UNKNOWN_ROUTE",
            next_action=f"GET {contract} describes what there is.",
        ).to_problem() | {"status": error.status_code}
        return JSONResponse(problem, error.status_code, headers=error.headers, media_type=MEDIA)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _problem(request, _bad_request(request, error, contract))

    api.add_exception_handler(SkyriverError, _problem)
    api.add_exception_handler(OSError, _of_the_disk)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(Exception, _our_mistake)
    api.add_exception_handler(HTTPException, of_http)


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, SkyriverError)
    if is_mlflow(request.url.path):
        return refusal(error)
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else {}
    if isinstance(error, Unavailable) or error.http_status == 429:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return JSONResponse(error.to_problem(), error.http_status, headers=headers, media_type=MEDIA)


def _of_the_disk(request: Request, error: Exception) -> Response:
    """A full or read-only disk is no mistake of ours, and has a way out."""
    assert isinstance(error, OSError)
    return _problem(request, disk_error(error, "The control plane cannot write what this request needs"))


def _our_mistake(request: Request, error: Exception) -> Response:
    """Says nothing of our insides; the control plane's log has it all."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _problem(request, Internal("The control plane failed on this request.", next_action="Its log has details."))


def _bad_request(request: Request, error: RequestValidationError, contract: str) -> InvalidInput:
    found = tuple(
        {"field": ".".join(str(p) for p in e["loc"]), "message": wrong({**e, "loc": e["loc"][1:]})}
        for e in error.errors()
    )
    what = "; ".join(f["message"] for f in found)
    of_body = any(e["loc"][:1] == ("body",) for e in error.errors())
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if of_body and kind != "application/json" and not kind.endswith("+json"):
        action = _JSON
    else:
        action = f"GET {contract} describes what this request takes."
    return InvalidInput(
        f"The request is not understood: {what}.", code="BAD_REQUEST", next_action=action, details=found
    )
