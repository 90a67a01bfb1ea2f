"""How another version of a model takes over, as an application declares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skyriver.core import spec as specs
from skyriver.core.events import refuse
from skyriver.core.misread import a_mapping, made
from skyriver.core.units import parse_duration


@dataclass(frozen=True)
class Shadow:
    """What a version does before it gets requests: `Canary([10, 50, 100], shadow=Shadow("10m", share=20))`. For so long
    it answers copies of `share` percent of the requests, which the version that serves has answered. The answers are
    compared, and nobody is sent them."""

    spec: specs.ShadowSpec

    def __init__(self, over: str = "10m", *, share: int = 10, wait: str = "") -> None:
        action = 'Write shadow="10m", or shadow=sr.Shadow("10m", share=20).'
        if not isinstance(over, str):
            refuse(f"shadow={over!r:.80} is no duration.", "BAD_CANARY", action)
        waits = wait or max("1h", over, key=lambda text: parse_duration(text, "a shadow"))
        given = {"over": over, "share": share, "wait": waits}
        object.__setattr__(self, "spec", made(specs.ShadowSpec, "sr.Shadow", "BAD_CANARY", action, given))


@dataclass(frozen=True)
class Guards:
    """What a version is taken back for while it is compared, and how much worse it may be: `Guards(latency=2.0,
    scores=False)`. errors, refusals, scores: so many times the champion's odds are tolerated; latency: an answer is
    slow that takes so many times as long as 95% of the champion's. False: it is not watched; True: as ever. All that
    are watched together take back one in fifty of those that are as good, at most; in a stream, by key, about so many.
    metrics: what the application
    reports of the answers, `{"accepted": "higher is better"}`."""

    spec: specs.GuardsSpec

    def __init__(
        self,
        *,
        errors: float | bool = True,
        refusals: float | bool = True,
        latency: float | bool = True,
        scores: float | bool = True,
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        given = {"errors": errors, "refusals": refusals, "latency": latency, "scores": scores}
        chosen = {name: 0.0 if value is False else value for name, value in given.items() if value is not True}
        action = "Write sr.Guards(errors=1.5, latency=2.0, scores=False)."
        told = {"metrics": dict(a_mapping(metrics, "metrics", "BAD_CANARY", action))} if metrics else {}
        object.__setattr__(self, "spec", made(specs.GuardsSpec, "sr.Guards", "BAD_CANARY", action, chosen | told))


@dataclass(frozen=True)
class Canary:
    """How another version takes over: `Canary([1, 10, 50, 100], every="5m")`. Each step gives it so many percent of the
    requests, for at least `every` and until it has answered enough to be judged by; it is compared with the version
    that serves, and taken back as soon as it is worse. Where requests are too few for a step within `wait`, the rollout
    pauses and says so. `shadow`: for so long, or as `Shadow` says, it answers copies of requests before the first
    step. `guards`: what it is taken back for. `key`: the header by whose value a request stays with its version over
    HTTP, as "x-customer", or "entity", the stream's key in the entity that is asked for."""

    spec: specs.CanarySpec

    def __init__(
        self,
        steps: Sequence[int],
        *,
        every: str = "5m",
        wait: str = "",
        shadow: Shadow | str | None = None,
        guards: Guards | None = None,
        key: str = "",
    ) -> None:
        action = 'Write sr.Canary([1, 10, 50, 100], every="5m").'
        if not isinstance(steps, (list, tuple)):
            refuse(f"steps={steps!r:.80} is no list of percents.", "BAD_CANARY", action)
        percents = tuple(steps[:-1]) if steps and steps[-1] == 100 else tuple(steps)
        waits = wait or max("1h", every, key=lambda text: parse_duration(text, "a step"))
        given = {
            "steps": percents,
            "every": every,
            "wait": waits,
            "shadow": _shadow_of(shadow),
            "guards": _guards_of(guards),
            "key": key.lower() if isinstance(key, str) else key,
        }
        object.__setattr__(self, "spec", made(specs.CanarySpec, "sr.Canary", "BAD_CANARY", action, given))


@dataclass(frozen=True)
class BlueGreen:
    """How another version takes over: `BlueGreen(keep="1h")`. It is started beside the one that serves, gets all
    requests at once, and the one before stays ready for so long, to have them again in a moment. `shadow` and
    `guards`: as of `Canary`."""

    spec: specs.BlueGreenSpec

    def __init__(self, *, keep: str = "1h", shadow: Shadow | str | None = None, guards: Guards | None = None) -> None:
        action = 'Write sr.BlueGreen(keep="1h", shadow="10m").'
        given = {"keep": keep, "shadow": _shadow_of(shadow), "guards": _guards_of(guards)}
        object.__setattr__(self, "spec", made(specs.BlueGreenSpec, "sr.BlueGreen", "BAD_CANARY", action, given))


def _shadow_of(given: Shadow | str | None) -> specs.ShadowSpec | None:
    shadow = given if isinstance(given, Shadow) or given is None else Shadow(given)
    return shadow.spec if shadow is not None else None


def _guards_of(given: object) -> specs.GuardsSpec | None:
    if given is not None and not isinstance(given, Guards):
        refuse(
            f"guards={given!r:.80} are no guards.", "BAD_CANARY", "Write guards=sr.Guards(latency=2.0, scores=False)."
        )
    return given.spec if given is not None else None


def rollout_of(value: object) -> specs.CanarySpec | specs.BlueGreenSpec | None:
    if value is not None and not isinstance(value, (Canary, BlueGreen)):
        refuse(
            f"rollout={value!r:.80} is no rollout.",
            "BAD_CANARY",
            'Write rollout=sr.Canary([1, 10, 50, 100], every="5m"), or rollout=sr.BlueGreen(keep="1h").',
        )
    return value.spec if value is not None else None
