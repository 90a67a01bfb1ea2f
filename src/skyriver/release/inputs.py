"""What a model asks of a caller: its features as named fields, with the border cleaning of their origins."""

from __future__ import annotations

from skyriver.core.expr import Aggregate, Binary, Calendar, Column, Constant, Lookup, Node, Same, Unary
from skyriver.core.spec import FeatureSetSpec, FieldSpec, StreamSpec, TableSpec


def input_fields(features: FeatureSetSpec, source: StreamSpec | TableSpec) -> tuple[FieldSpec, ...]:
    """One field a feature, in the model's order, all numbers.

    A feature that is a field itself keeps that field's rules (its scale was applied before). Any other may be missing
    only where its expression can be.
    """
    declared = {f.name: f for f in source.fields}
    return tuple(_field(f.name, f.expr, declared) for f in features.features)


def _field(name: str, node: Node, declared: dict[str, FieldSpec]) -> FieldSpec:
    match node:
        case Column(name=column) if declared[column].type in ("int", "float", "bool"):
            field = declared[column]
            fill = float(field.fill) if isinstance(field.fill, bool | int | float) else None
            changed = {"name": name, "type": "float", "fill": fill, "scale": 1.0, "one_of": ()}
            return field.model_copy(update=changed)
        case _:
            return FieldSpec(name=name, type="float", nullable=_may_miss(node, declared))


def _may_miss(node: Node, declared: dict[str, FieldSpec]) -> bool:
    match node:
        case Column(name=name) | Same(column=name) | Calendar(of=Column(name=name)):
            return declared[name].nullable and declared[name].fill is None
        case Aggregate(kind="minimum" | "maximum" | "last" | "since") | Lookup():
            return True
        case Constant() | Unary(kind="is_missing") | Aggregate():
            return False
        case Unary(of=inner):
            return _may_miss(inner, declared)
        case Binary(kind=kind, left=left, right=right):
            return kind == "/" or _may_miss(left, declared) or _may_miss(right, declared)
