"""The contract as OpenAPI 3.1: what FastAPI says of the routes, with what it cannot know."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

from skyriver.control.late import routes_of
from skyriver.control.problems import MEDIA
from skyriver.control.routes import SCHEME
from skyriver.core import contract

_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_TEXT = (
    "The control plane's API. Errors are problem documents (RFC 9457) with a stable `code`. A request that changes"
    " something may carry an `Idempotency-Key`, and is then safe to repeat. `x-permission` is what the role of the"
    " token must hold. Callers must bear fields that are not described here."
)


def publish(api: FastAPI, again: Callable[[], FastAPI]) -> None:
    """`api.openapi()` gives the whole document, made at the first call: from the same routes, made by `again` with the
    docstrings of all fields. Reading those takes half a second, for which a start shall not wait."""
    made: dict[str, Any] = {}
    one_at_a_time = threading.Lock()

    def openapi() -> dict[str, Any]:
        with one_at_a_time:
            if not made:
                _answer(described=True)
                try:
                    made.update(_document(again()))
                finally:
                    _answer(described=False)
        return made

    api.openapi = openapi  # type: ignore[method-assign]


def _answer(*, described: bool) -> None:
    """How pydantic takes the contract: fields that it does not have are let through; `described`: with docstrings."""
    for found in vars(contract).values():
        if is_typeddict(found):
            found.__pydantic_config__ = {"use_attribute_docstrings": described, "extra": "allow"}


_answer(described=False)


def _document(api: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=api.title,
        version=api.version,
        openapi_version="3.1.0",
        description=_TEXT,
        routes=routes_of(api),
    )
    refusals: dict[str, Any] = {}
    for operation in (operation for path in found["paths"].values() for operation in path.values()):
        for status, answer in operation["responses"].items():
            answer["description"] = answer["description"].replace("Successful Response", "Done.")
            if int(status) >= 400:
                name = f"Refused{status}"
                refusals[name] = {"description": answer["description"], "content": {MEDIA: _PROBLEM}}
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    found["components"]["responses"] = dict(sorted(refusals.items()))
    schemas = found["components"]["schemas"]
    schemas |= _schema_of(contract.Problem)
    found["components"]["schemas"] = schemas = dict(sorted(schemas.items()))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = {
        SCHEME: {"type": "http", "scheme": "bearer", "description": "A token: sky_ and 43 more characters."}
    }
    return found


def _schema_of(answer: type) -> dict[str, Any]:
    """Its schema by name, with those that it refers to."""
    found = TypeAdapter(answer).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    return {**found.pop("$defs", {}), answer.__name__: found}
