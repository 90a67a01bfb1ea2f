"""`skyriver.control.asking.Asker` for processes that are none: `answers` plays them, by socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from skyriver.core.errors import Unavailable

Answers = Callable[[str, str, Mapping[str, str], Mapping[str, Any]], Any]
"""(method, path, headers, body or query) -> the answer; it raises what a process answers as an error."""


class MemoryAsker:
    def __init__(self) -> None:
        self.answers: dict[str, Answers] = {}

    def ask(
        self,
        socket: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Any:
        if socket not in self.answers:
            raise Unavailable(
                "The process does not answer: nobody listens.",
                code="PROCESS_AWAY",
                next_action="Try again when the process is ready.",
            )
        return self.answers[socket](method, path, headers or {}, body if body is not None else query or {})
