"""What the calls of a tenant have in common: how their paths and bodies are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from skyriver.client.events import rows_as_json
from skyriver.client.flows import Request
from skyriver.core.errors import InvalidInput

_JSON = {"Content-Type": "application/json"}


class TenantCalls:
    tenant: str

    @property
    def _base(self) -> str:
        return f"/api/v1/tenants/{part(self.tenant)}"


def part(text: str, safe: str = "") -> str:
    """A name as a part of a path. Raises InvalidInput (EMPTY_NAME)."""
    if not text:
        raise InvalidInput("A name is empty.", code="EMPTY_NAME", next_action="Give the name of what is meant.")
    return quote(text, safe=f":{safe}")


def rows_request(path: str, rows: Sequence[Mapping[str, Any]]) -> Request:
    return Request("POST", path, headers=_JSON, content=rows_as_json(rows))


def json_request(method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Request:
    return Request(method, path, headers={**(headers or {}), **_JSON}, content=json.dumps(body).encode())
