"""What is wrong with something that was given, in words that are the same wherever it was given: as an argument, in a
file, or in a request. pydantic looks, and its own words are not shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from skyriver.core.errors import InvalidInput
from skyriver.core.names import nearest
from skyriver.core.units import format_duration

Model = TypeVar("Model", bound=BaseModel)

_WANTED: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "number"),
    "finite_number": "finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "truth, which is true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "text"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"), "list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "object of names and values"),
    "json_invalid": "JSON",
}


def made(kind: type[Model], what: str, code: str, next_action: str, given: Mapping[str, Any], **names: str) -> Model:
    """A part of a specification made of the arguments of a declaration: nothing is taken for what it is not, as True
    for 1 or "5" for 5. `names`: of its fields that the declaration calls otherwise, and gives as a duration.

    Raises InvalidInput with `code`."""
    try:
        return kind.model_validate(given, strict=True)
    except ValidationError as error:
        found = error.errors()[0]
        name, limit = next(iter(found["loc"]), ""), wrong(found)
        if isinstance(name, str) and name in names:
            limit = wrong({**found, "loc": (names[name],), "input": format_duration(found["input"])}, durations=True)
        raise InvalidInput(f"{what}: {limit}.", code=code, next_action=next_action) from None


def misread(error: ValidationError, kind: type[BaseModel] | None = None, most: int = 5) -> str:
    """All that is wrong with a document. `kind`: what its parts, or the list's entries, are."""
    known = tuple(kind.model_fields) if kind is not None else ()
    return "; ".join(wrong(found, known) for found in error.errors()[:most])


def wrong(found: Mapping[str, Any], known: Iterable[str] = (), *, durations: bool = False) -> str:
    """One finding of pydantic's. `known`: the names there are, where one is not."""
    place, ctx = [str(part) for part in found["loc"]], found.get("ctx", {})
    name = ".".join(place) or "it"
    given = f"{name}={found['input']!r:.80}" if "input" in found else name  # it may be a secret

    def limit(key: str) -> str:
        return format_duration(int(ctx[key])) if durations else f"{ctx[key]:,}"

    match found["type"]:
        case "missing" | "missing_argument":
            return f"{name} is missing"
        case "extra_forbidden":
            return f"{name} is not known{nearest(place[-1], known)}"
        case "greater_than_equal":
            return f"{given} is less than {limit('ge')}"
        case "greater_than":
            return f"{given} is not more than {limit('gt')}"
        case "less_than_equal":
            return f"{given} is more than {limit('le')}"
        case "less_than":
            return f"{given} is not less than {limit('lt')}"
        case "literal_error" | "enum":
            return f"{given} is not {ctx['expected']}"
        case "string_too_short" | "too_short":
            return f"{name} is to have {ctx['min_length']:,} {_units(found)} or more"
        case "string_too_long" | "too_long":
            return f"{name} is to have {ctx['max_length']:,} {_units(found)} at most"
        case "value_error":
            return f"{name}: {ctx['error']}" if place else str(ctx["error"])
        case kind if kind in _WANTED:
            return f"{given} is no {_WANTED[kind]}"
        case _:
            return f"{given} does not fit here"


def _units(found: Mapping[str, Any]) -> str:
    return "characters" if str(found["type"]).startswith("string") else "entries"


def a_text(value: object, name: str, code: str, next_action: str) -> str:
    if not isinstance(value, str):
        _no(value, name, "text", code, next_action)
    return value


def texts(value: object, name: str, code: str, next_action: str) -> tuple[str, ...]:
    """A list of them; a text alone is none, for it would be taken as its letters."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        _no(value, name, "list of texts", code, next_action)
    return tuple(value)


def a_mapping(value: object, name: str, code: str, next_action: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        _no(value, name, "mapping from names", code, next_action)
    return value


def _no(value: object, name: str, wanted: str, code: str, next_action: str) -> NoReturn:
    raise InvalidInput(f"{name}={value!r:.80} is no {wanted}.", code=code, next_action=next_action)
