"""What an application declares of its decisions: rules, and of what they decide examples, sinks and reviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from skyriver.core import spec as specs
from skyriver.core.budgets import Budget, Count, budgets_of, combine_of, counters_of
from skyriver.core.costs import Costs, costs_of
from skyriver.core.events import Source, refuse
from skyriver.core.expr import Label
from skyriver.core.misread import a_mapping, a_text, made, texts
from skyriver.core.names import check_name, nearest
from skyriver.core.places import declared_at
from skyriver.core.ranges import DECISIONS, MOST_SCORING_CPUS, duration, hint
from skyriver.core.units import parse_duration

_A_RULE = 'Write sr.Rule("block", "score >= 0.9"), or {"block": "score >= 0.9"}.'
_A_REVIEW = 'Write .review("review", label=LABEL, answers={"block": 1, "approve": 0}, within="1d").'
_A_SINK = 'Write .sink("shop", on="block").'
_REASONS = 'Write {"customer_mean_7d": "spends unlike the last week"}, each of 1 to 200 characters.'


@dataclass(frozen=True)
class Rule:
    """A rule of `App.decide` with a name, by which records tell that it fired: `Rule("block", "score >= 0.9",
    name="certain")`. Several rules may have one decision."""

    decision: str
    when: str
    name: str = ""
    place: str = field(default="", init=False, repr=False, compare=False)
    """Where it is written."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", declared_at())
        check_name(self.decision, "a decision")
        a_text(self.when, "when", "BAD_DECISION", _A_RULE)
        if self.name != "":
            check_name(self.name, "a rule")


class Decisions:
    """What is declared by `App.decide`, to say more of it."""

    def __init__(self, spec: specs.DecideSpec, stream: Source, places: dict[str, str]) -> None:
        self.spec = spec
        self._stream = stream
        self._places = places

    def example(
        self,
        decision: str,
        /,
        **given: bool | int | float | str | Sequence[int | str | Mapping[str, bool | int | float | str | None]] | None,
    ) -> Decisions:
        """An event that must get this decision, by what is `given` of it: the score, fields, features. What is not
        given is missing; without a score the fallback decides. Of a list its rows are given, or their ids alone:
        `customer=1, denied=[1], limits=[{"customer": 1, "amount": 50}]`. Each `skyriver deploy` runs the rules on all
        examples, and refuses an application whose rules decide otherwise."""
        check_name(decision, "a decision")
        lists = {r.name: r for r in self._stream._spec.references if r.until}  # type: ignore[union-attr]  # a stream
        rows: dict[str, tuple[Mapping[str, Any], ...]] = {}
        plain: dict[str, bool | int | float | str | None] = {}
        for name, value in given.items():
            if isinstance(value, Sequence) and not isinstance(value, str | bytes) and name in lists:
                rows[name] = tuple(_row(name, row, lists[name].id) for row in value)
            elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
                refuse(
                    f"{name}={value!r:.80} of an example are rows of a list, and there is no list {name!r}.",
                    "BAD_EXAMPLE",
                    f"There are {', '.join(lists)}." if lists else "app.list declares one.",
                )
            else:
                plain[name] = _plain(name, value)
        example = specs.DecisionExample(decision=decision, given=plain, lists=rows)  # type: ignore[arg-type]
        self.spec = self.spec.model_copy(update={"examples": (*self.spec.examples, example)})
        where = f"example {len(self.spec.examples)} of the decisions of {self.spec.stream}"
        self._places[where] = declared_at()
        return self

    def sink(
        self,
        to: str,
        *,
        on: str | Sequence[str],
        ordered: str = "",
        parked: Literal["hold", "pass"] = "hold",
        parallel: int = 8,
        tries: int = 50,
        retry_for: str = "1d",
        approve: bool = False,
        approve_within: str = "1d",
        unapproved: Literal["drop", "deliver"] = "drop",
    ) -> Decisions:
        """Each event with a decision of `on` is told to a receiver, at least once: to whom and how stands in the file
        HOME/sinks/TENANT/`to`.toml of the cloud's machine. See `skyriver.core.spec.SinkSpec` for the rest."""
        check_name(to, "a sink")
        words = (on,) if isinstance(on, str) else texts(on, "on", "BAD_SINK", _A_SINK)
        sink = made(
            specs.SinkSpec,
            f"sink {to!r}",
            "BAD_SINK",
            _A_SINK,
            {
                "to": to,
                "on": tuple(check_name(word, "a decision") for word in words),
                "ordered": ordered,
                "parked": parked,
                "parallel": parallel,
                "tries": tries,
                "retry_us": parse_duration(retry_for, "a time for trying again"),
                "approve": approve,
                "approve_us": parse_duration(approve_within, "a time for approving"),
                "unapproved": unapproved,
            },
            retry_us="retry_for",
            approve_us="approve_within",
        )
        spec = specs.DecideSpec.model_validate({**dict(self.spec), "sinks": (*self.spec.sinks, sink)})
        specs.check_sinks(spec, self._stream._spec)
        self.spec = spec
        return self

    def review(
        self,
        decision: str,
        /,
        *,
        label: Label,
        answers: Mapping[str, float],
        within: str = "1d",
        lease: str = "15m",
        second_opinion: str | float | None = None,
        expires: str | None = None,
        unanswered: str = "",
        most_waiting: int = 10_000,
        keep: str = "90d",
    ) -> Decisions:
        """Each event that is decided `decision` becomes a case for people. They claim it, for a `lease` at a time, and
        answer with one of `answers` and a reason; the answer is sent as the `label`'s value that it stands for.

        `within`: when it is overdue; `second_opinion`: two people must agree, on cases of which this rule is true
        ("amount > 5000") or on such a share of them (0.1); `expires`, `unanswered`: so long after it was opened a case
        nobody answered is closed with that outcome, without a label; `most_waiting`: so many may wait, what ranks
        lowest beyond is closed in the same way; `keep`: how long closed cases are kept.
        """
        stream = self._stream._spec
        check_name(decision, "a decision")
        if not isinstance(label, Label) or label.of != stream.name:
            refuse(f"label={label!r:.80} is no label of {stream.name}.", "BAD_REVIEW", "Give what app.labels returned.")
        when, share = _second_opinion(second_opinion)
        review = made(
            specs.ReviewSpec,
            f"review of {decision!r}",
            "BAD_REVIEW",
            _A_REVIEW,
            {
                "decision": decision,
                "label": label.name,
                "answers": _answers(answers),
                "within_us": parse_duration(within, "a time within which a case is answered"),
                "lease_us": parse_duration(lease, "a lease"),
                "second_when": when,
                "second_share": share,
                "expires_us": parse_duration(expires, "a time after which a case expires")
                if expires is not None
                else 0,
                "unanswered": unanswered,
                "most_waiting": most_waiting,
                "keep_us": parse_duration(keep, "a time for which a case is kept"),
            },
            within_us="within",
            lease_us="lease",
            expires_us="expires",
            keep_us="keep",
        )
        spec = self.spec.model_copy(update={"reviews": (*self.spec.reviews, review)})
        specs.check_review(review, spec, [known.name for known in getattr(stream, "labels", ())])
        self.spec = spec
        place = declared_at()
        self._places[f"review of {decision} of {stream.name}"] = place
        self._places[f"rule {f'second opinion on {decision}'!r} of {stream.name}"] = place
        return self


def decide_of(
    stream: specs.StreamSpec,
    model: str,
    features: Sequence[specs.FeatureSpec],
    rules: object,
    *,
    otherwise: str,
    fallback: str | None,
    fallback_by: object,
    deadline: str | None,
    latency: str | None,
    share: float | None,
    cheaper: str,
    cpus: object,
    costs: Costs | None,
    reasons: object,
    budgets: Mapping[str, Budget | Sequence[Budget]] | None,
    counters: Mapping[str, Count] | None,
    combine: object,
    places: dict[str, str],
) -> specs.DecideSpec:
    """The terms of `App.decide`, of a stream by a model of these features. `places`: is told where what of it is
    written, by what errors call it."""
    fallback = otherwise if fallback is None else fallback
    for decision in (otherwise, fallback):
        check_name(decision, "a decision")
    asked, place = _rules(rules), declared_at()
    spec = specs.DecideSpec(
        stream=stream.name,
        model=model,
        rules=tuple(specs.DecisionRule(decision=r.decision, when=r.when, name=r.name) for r in asked),
        otherwise=otherwise,
        fallback=fallback,
        fallback_by=_fallback_by(fallback_by),
        deadline_us=duration(DECISIONS, "deadline", deadline, "a deadline") if deadline is not None else 0,
        latency_us=_latency(latency),
        share=_share(stream.name, share, latency),
        cheaper=check_name(cheaper, "an alias") if cheaper != "" else "",
        cpus=_cpus(cpus),
        costs=costs_of(costs),
        reasons=_reasons(reasons, features),
        budgets=budgets_of(budgets),
        counters=counters_of(counters),
        combine=combine_of(combine),
    )
    specs.check_budgets(spec, stream)
    for rule in asked:
        places[f"rule {rule.name or rule.decision!r} of {stream.name}"] = rule.place
    places[f"costs of the decisions of {stream.name}"] = place
    return spec


def _rules(given: object) -> list[Rule]:
    """{decision: when}, or rules."""
    if isinstance(given, Mapping):
        return [Rule(decision, when) for decision, when in given.items()]
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        refuse(f"rules={given!r:.80} are no rules.", "BAD_DECISION", _A_RULE)
    for rule in given:
        if not isinstance(rule, Rule):
            refuse(f"{rule!r:.80} is no rule.", "BAD_DECISION", _A_RULE)
    return list(given)


def _fallback_by(given: object) -> tuple[Literal["last_version", "rules"], ...]:
    action = 'Name each at most once: fallback_by=("last_version", "rules").'
    words = texts(given, "fallback_by", "BAD_DECISION", action)
    if any(word not in ("last_version", "rules") for word in words) or len(set(words)) < len(words):
        refuse(f"fallback_by={list(words)} holds other words than last_version and rules.", "BAD_DECISION", action)
    return tuple(word for word in ("last_version", "rules") if word in words)


def _latency(given: str | None) -> int:
    if given is None:
        return 0
    latency_us = duration(DECISIONS, "latency", given, "a latency")
    if not latency_us:
        refuse(f"latency={given!r}: nothing is decided at once.", "BAD_DECISION", hint(DECISIONS, "latency"))
    return latency_us


def _share(stream: str, given: object, latency: str | None) -> float:
    if given is None:
        return specs.IN_TIME
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0.5 < given < 1:
        told = f"share={given!r:.80} is no share of events between 0.5 and 1."
        refuse(told, "BAD_DECISION", hint(DECISIONS, "share", given))
    if latency is None:  # also of the usual one, which the specification does not tell from none
        wrong = f"share={given} is a share of the events that are decided within a latency, and there is none"
        refuse(f"The decisions of {stream}: {wrong}.", "BAD_DECISION", specs.AN_OBJECTIVE)
    return float(given)


def _cpus(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_SCORING_CPUS:
        told = f"cpus={given!r:.80} is no number of cores from 1 to {MOST_SCORING_CPUS}."
        refuse(told, "BAD_DECISION", hint(DECISIONS, "cpus"))
    return given


def _reasons(given: object, features: Sequence[specs.FeatureSpec]) -> dict[str, str]:
    reasons = a_mapping({} if given is None else given, "reasons", "BAD_DECISION", _REASONS)
    known = [feature.name for feature in features]
    for name, text in reasons.items():
        if name not in known:
            refuse(
                f"reasons= names {name!r}, which is no feature of the model{nearest(str(name), known)}.",
                "BAD_DECISION",
                f"Name a feature of {', '.join(known)}." if known else "A ready model has no features: leave it out.",
            )
        if not isinstance(text, str) or not 1 <= len(text) <= 200:
            refuse(f"What reasons= says of {name} is no text of 1 to 200 characters.", "BAD_DECISION", _REASONS)
    return dict(reasons)


def _row(name: str, given: object, id: str) -> Mapping[str, Any]:
    """Of a list, for an example."""
    row = given if isinstance(given, Mapping) else {id: given}
    for field_name, value in row.items():
        if not isinstance(field_name, str):
            refuse(
                f"A row of {name} names {field_name!r:.80}, which is no field.",
                "BAD_EXAMPLE",
                f'Write {name}=[{{"{id}": ...}}].',
            )
        _plain(name, value)
    return row


def _plain(name: str, value: Any) -> bool | int | float | str | None:
    """What a rule can be given."""
    if not isinstance(value, bool | int | float | str | None) or (isinstance(value, float) and not isfinite(value)):
        refuse(
            f"{name} of an example holds {value!r:.80}, which is no number, text or truth.",
            "BAD_EXAMPLE",
            "Give it as it comes with an event; leave it out, or give None, where it is missing.",
        )
    return value


def _answers(given: object) -> dict[Any, float]:
    if not isinstance(given, Mapping) or not all(type(value) in (int, float, bool) for value in given.values()):
        refuse(f"answers={given!r:.80} gives no values of a label.", "BAD_REVIEW", _A_REVIEW)
    return {check_name(word, "an answer"): float(value) for word, value in given.items()}


def _second_opinion(given: object) -> tuple[str, float]:
    """As a rule, or as a share."""
    if given is None:
        return "", 0.0
    if isinstance(given, str) and given:
        return given, 0.0
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 <= given <= 1:
        refuse(
            f"second_opinion={given!r:.80} is neither a rule nor a share.",
            "BAD_REVIEW",
            'Write a rule, as in "amount > 5000", or a share from 0 to 1.',
        )
    return "", float(given)
