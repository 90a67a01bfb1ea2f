"""What a declaration is about: events and their fields, the streams, tables and references that hold them."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from skyriver.core import spec as specs
from skyriver.core.errors import InvalidInput
from skyriver.core.expr import Column, Expression, ReferenceField
from skyriver.core.names import check_field


def refuse(message: str, code: str, next_action: str = "") -> NoReturn:
    raise InvalidInput(message, code=code, next_action=next_action)


class Time:
    """Annotation of a field that holds a point in time."""


class Event:
    """Base of the classes that declare the fields of a stream or table."""


@dataclass(frozen=True)
class _FieldOptions:
    options: Mapping[str, Any]


def field(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    one_of: tuple[str | int, ...] = (),
    fill: float | int | str | bool | None = None,
    unit: str = "",
    scale: float = 1.0,
    time_unit: str = "us",
    max_length: int = 4096,
) -> Any:
    """Border cleaning of one field; see `skyriver.core.spec.FieldSpec` for what each option does, in which order."""
    return _FieldOptions({k: v for k, v in locals().items() if v not in (None, (), "")})


_TYPES: dict[object, specs.FieldType] = {int: "int", float: "float", str: "text", bool: "bool", Time: "time"}


def field_specs(event: type[Event]) -> tuple[specs.FieldSpec, ...]:
    if not (isinstance(event, type) and issubclass(event, Event)):
        refuse(
            f"{event!r} is not a subclass of sr.Event.",
            "BAD_EVENT",
            "Write a class with its fields, as in `class Order(sr.Event): number: int`.",
        )
    fields = []
    for name, hint in typing.get_type_hints(event).items():
        nullable = False
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
            rest = [h for h in typing.get_args(hint) if h is not type(None)]
            nullable = len(rest) < len(typing.get_args(hint))
            hint = rest[0] if len(rest) == 1 else hint
        if hint not in _TYPES:
            refuse(
                f"Field {name} of {event.__name__} has the type {getattr(hint, '__name__', hint)}.",
                "BAD_EVENT",
                "Use int, float, str, bool or sr.Time, with `| None` where a value may be missing.",
            )
        declared = getattr(event, name, _FieldOptions({}))
        if not isinstance(declared, _FieldOptions):
            refuse(
                f"Field {name} of {event.__name__} has the value {declared!r}.",
                "BAD_EVENT",
                f"Write `{name}: {getattr(hint, '__name__', hint)} = sr.field(fill={declared!r})` for a constant fill.",
            )
        check_field(name, "a field")
        fields.append(specs.FieldSpec(name=name, type=_TYPES[hint], nullable=nullable, **declared.options))
    if not fields:
        refuse(f"{event.__name__} declares no fields.", "BAD_EVENT", "Annotate at least an id, as in `number: int`.")
    return tuple(fields)


def _check_is_field(spec: specs.StreamSpec | specs.TableSpec | specs.ReferenceSpec, name: str) -> None:
    known = [f.name for f in spec.fields]
    if name not in known:
        refuse(f"{spec.name} has no field {name!r}.", "UNKNOWN_FIELD", f"It has {', '.join(known)}.")


class Source:
    """A declared stream or table: its attributes are its fields, as expressions."""

    def __init__(self, name: str, declared: Mapping[str, specs.StreamSpec] | Mapping[str, specs.TableSpec]) -> None:
        self._name = name
        self._declared = declared

    @property
    def _spec(self) -> specs.StreamSpec | specs.TableSpec:
        return self._declared[self._name]  # labels are added to a stream after it was declared

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):
            raise AttributeError(name)
        _check_is_field(self._spec, name)
        return Expression(Column(name=name), self._spec.name)

    def __repr__(self) -> str:
        return f"<{'stream' if isinstance(self._spec, specs.StreamSpec) else 'table'} {self._name}>"


class Reference:
    """A declared reference: its attributes are its fields, for `sr.lookup`."""

    def __init__(self, spec: specs.ReferenceSpec, of: str) -> None:
        self._spec = spec
        self._of = of

    def __getattr__(self, name: str) -> ReferenceField:
        if name.startswith("_"):
            raise AttributeError(name)
        _check_is_field(self._spec, name)
        return ReferenceField(self._spec.name, name, self._of)

    def __repr__(self) -> str:
        return f"<reference {self._spec.name} of {self._of}>"


@dataclass(frozen=True)
class Features:
    spec: specs.FeatureSetSpec


def check_role(fields: tuple[specs.FieldSpec, ...], name: str, role: str, allowed: tuple[str, ...]) -> None:
    found = next((f for f in fields if f.name == name), None)
    if found is None:
        refuse(f"{role}={name!r} is not a field.", "UNKNOWN_FIELD", f"Fields: {', '.join(f.name for f in fields)}.")
    if found.type not in allowed or found.nullable or found.fill is not None:
        refuse(
            f"{name!r} cannot be the {role}: it must be of type {' or '.join(allowed)} and never missing.",
            "BAD_FIELD",
            f"Name another field, or declare {name!r} so, without `| None` and without a fill.",
        )
