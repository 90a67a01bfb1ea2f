"""Declaring that a model is also asked by the keys of its features:
`app.model(..., serve=sr.Service(features=sr.FromStream(payments)))`."""

from __future__ import annotations

from typing import Literal

from skyriver.core.events import Source, refuse
from skyriver.core.misread import made
from skyriver.core.spec import FromStreamSpec, StreamSpec

_WRITE = 'Write sr.FromStream(orders, on_unknown="refuse", max_age="5m", on_old="refuse").'


def from_stream(
    stream: Source,
    *,
    on_unknown: Literal["answer", "refuse", "fallback"] = "answer",
    max_age: str = "",
    on_old: Literal["refuse", "fallback"] = "refuse",
    fallback: float | None = None,
) -> FromStreamSpec:
    """See `skyriver.core.spec.FromStreamSpec` for what each option does."""
    if not isinstance(stream, Source) or not isinstance(stream._spec, StreamSpec):
        refuse(f"sr.FromStream({stream!r:.80}): that is no stream.", "BAD_SERVICE", "Give what app.stream returned.")
    given = {
        "stream": stream._spec.name,
        "on_unknown": on_unknown,
        "max_age": max_age,
        "on_old": on_old,
        "fallback": fallback,
    }
    return made(FromStreamSpec, "sr.FromStream", "BAD_SERVICE", _WRITE, given)
