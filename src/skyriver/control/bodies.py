"""How large a request may be: a body that is read into memory has a limit, whoever sends it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skyriver.core.errors import InvalidInput

BODY_LIMIT = 16 * 1024 * 1024
"""Bytes. A specification has some thousands."""


class BodyLimit:
    """Ends the reading of a body past the limit. Requests that `but` names stream theirs to the disk, and are free."""

    def __init__(self, app: ASGIApp, *, but: Callable[[str, str], bool]) -> None:
        self._app = app
        self._but = but

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._but(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_LIMIT:
                raise InvalidInput(
                    f"The body of the request has over {BODY_LIMIT:,} bytes.",
                    code="TOO_LARGE",
                    next_action="Upload what is large as an object, and name its digest.",
                )
            return message

        await self._app(scope, bounded, send)
