"""Names, references and content digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from skyriver.core.errors import InvalidInput

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
RULE_WORDS = frozenset({"and", "or", "not", "is", "missing", "true", "false", "in"})
"""Words of the rules' language, which name nothing else in it."""
SCORES = ("score", "probability")
"""What a rule may ask of the model."""
BY_KEY = ("entity", "event")
"""The parts of a row that a model is asked for by key."""
BY_ENTITY = "entity"
"""As `CanarySpec.key`: the stream's key in the entity by which features are asked for."""
_ARTIFACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: object, what: str) -> str:
    """`name` itself, if it may name a `what` (an app, stream, model, table, tenant ...).

    Raises InvalidInput naming the rule.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name {what}: a name starts with a-z, goes on with a-z, 0-9, - or _,"
            " and has at most 63 characters.",
            code="BAD_NAME",
            next_action=f"Give {what} another name{_nearby(name)}.",
        )
    return name


def check_field(name: str, what: str) -> str:
    """`name` itself, if it may name a field, feature or label: a Python-like identifier, no leading _."""
    if not isinstance(name, str) or not _FIELD.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name {what}: use letters, digits and _, starting with a letter.",
            code="BAD_NAME",
            next_action=f"Give {what} another name{_nearby(name)}.",
        )
    return name


def _nearby(name: object) -> str:
    """A name that comes close to one that may not be."""
    letters = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:63] if isinstance(name, str) else ""
    return f", as in {letters!r}" if letters else ", as in 'first'"


def check_artifact(name: object) -> str:
    """`name` itself, if it may name an artifact, and so a file in a folder."""
    if not isinstance(name, str) or not _ARTIFACT.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name an artifact: use letters, digits, ., - and _, at most 128.",
            code="BAD_NAME",
            next_action="Give the artifact another name.",
        )
    return name


MOST_SHOWN: Final = 10
"""Names, in a sentence about others."""


def some_of(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - MOST_SHOWN
    return ", ".join(names[:MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that there is not."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (there are {', '.join(names)})" if names else ""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """`fraud`, `fraud@champion` or `fraud:3`."""

    model: str
    alias: str = ""
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        name, sep, rest = text.partition("@") if "@" in text else text.partition(":")
        check_name(name, "a model")
        if not sep:
            return cls(name)
        if sep == "@":
            return cls(name, alias=check_name(rest, "an alias"))
        if not rest.isdigit() or int(rest) < 1:
            raise InvalidInput(
                f"{text!r}: a version is a whole number from 1, as in {name}:3.",
                code="BAD_NAME",
                next_action=f"Write {name}:3, or {name}@champion.",
            )
        return cls(name, version=int(rest))


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the same value always gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 (hex) of bytes, or of the canonical JSON of anything else."""
    data = value if isinstance(value, bytes) else canonical_json(value)
    return hashlib.sha256(data).hexdigest()
