"""What an application declares that is possible, and hardly meant: the plan of a deployment warns of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from skyriver.core.spec import SHARE, AppSpec, DecideSpec, ServiceSpec
from skyriver.core.units import SECOND, format_duration

SOON_US: Final = 15 * SECOND
"""Without a declaration no service sleeps sooner: looks and reports are seconds apart."""


def doubtful(app: AppSpec) -> Iterator[tuple[str, str, str]]:
    """(kind, name, why)."""
    for model in app.models:
        yield from (("service", model.name, why) for why in _of_service(model.serve))
    for decide in app.decides:
        if near := _misspelt(decide):
            why = f"fallback={decide.fallback!r} is decided by nothing else: is {near!r} meant?"
            yield "stream", decide.stream, why


def _of_service(serve: ServiceSpec) -> Iterator[str]:
    if serve.share != SHARE and not serve.latency:
        yield (
            f"share={serve.share} counts only answers that fail or find no room, for no latency= says when one is late;"
            ' declare it too, as in latency="150ms"'
        )
    if serve.idle and serve.idle_us < SOON_US:
        yield (
            f"idle={serve.idle!r} puts it to sleep between requests that are seconds apart, and each waking costs a"
            f" start; declare {format_duration(SOON_US)} or more, or leave it out, and it finds out by itself"
        )


def _misspelt(decide: DecideSpec) -> str:
    """What a fallback is nearly called that has the name of nothing else. Another word of its own is as good as any."""
    others = {*(rule.decision for rule in decide.rules), decide.otherwise, *(b.overflow for b in decide.budgets)}
    if decide.fallback in others:
        return ""
    near = get_close_matches(decide.fallback, sorted(others), n=1, cutoff=0.75)
    return near[0] if near else ""
