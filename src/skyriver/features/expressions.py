"""Feature expressions as statements of the kernel; their laws are told in `skyriver.core.expr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from skyriver.core.expr import Aggregate, Binary, Calendar, Column, Constant, Node, Unary
from skyriver.features.layout import LABEL_SHIFT
from skyriver.features.plan import FeaturePlan


@dataclass(slots=True)
class Expressions:
    """Statements that compute features of record `i`; a part that occurs twice is computed once.

    What is missing is NaN: arithmetic carries it by itself, comparisons and logic are told to.
    """

    plan: FeaturePlan
    lines: list[str] = field(default_factory=list)
    known: dict[Node, str] = field(default_factory=dict)

    def value(self, node: Node) -> str:
        """The variable that holds `node`."""
        found = self.known.get(node)
        if found is None:
            expression = self._expression(node)
            found = f"v{len(self.known)}"
            self.known[node] = found
            self.lines.append(f"{found} = {expression}")
        return found

    def _expression(self, node: Node) -> str:
        match node:
            case Constant(value=value):
                return repr(float(value))
            case Column(name=name) if name in self.plan.times:
                return f"number_of(times[{self.plan.times.index(name)}, i])"
            case Column(name=name):
                return f"values[{self.plan.columns.index(name)}, i]"
            case Calendar(part=part, of=of):
                return f"{part}_of(times[{self.plan.times.index(of.name)}, i])"
            case Unary(kind=kind, of=of):
                x = self.value(of)
                match kind:
                    case "neg":
                        return f"-{x}"
                    case "not":
                        return f"when({x} == 0.0, {x}, {x})"
                    case "is_missing":
                        return f"1.0 if {x} != {x} else 0.0"
                    case _:
                        assert_never(kind)
            case Binary():
                return self._binary(node)
            case Aggregate():
                return self._aggregate(node)
            case _:
                assert_never(node)

    def _binary(self, node: Binary) -> str:
        a, b = self.value(node.left), self.value(node.right)
        match node.kind:
            case "+" | "-" | "*":
                return f"{a} {node.kind} {b}"
            case "/":
                return f"divide({a}, {b})"
            case "and":
                truth = f"{a} != 0.0 and {b} != 0.0"
            case "or":
                truth = f"{a} != 0.0 or {b} != 0.0"
            case "<" | "<=" | ">" | ">=" | "==" | "!=":
                truth = f"{a} {node.kind} {b}"
            case _:
                assert_never(node.kind)
        return f"when({truth}, {a}, {b})"

    def _aggregate(self, node: Aggregate) -> str:
        plan = self.plan
        k = plan.key_fields.index(node.by)
        window = plan.keys[k].find(node.over_us, node.delay_us)
        if node.kind == "count":
            return f"F64(state{k}[s{k}, {window.count}])"
        if node.label:
            which = next(place for place, label in enumerate(plan.labels) if label.name == node.label)
            shift = LABEL_SHIFT
        else:
            which = next(place for place, v in enumerate(plan.values) if v.field == node.column)
            shift = plan.values[which].shift
        found = window.find(bool(node.label), which)
        unit = repr(2.0**-shift)
        if node.kind == "sum":
            return f"total(state{k}, s{k}, o + {found.at}, {unit})"
        return f"mean(state{k}, s{k}, o + {found.at}, o + {window.count if found.seen < 0 else found.seen}, {unit})"


def feature_lines(plan: FeaturePlan, row: str) -> list[str]:
    """Statements that compute the features of record `i` and put them out as `row`."""
    expressions = Expressions(plan)
    found = [expressions.value(feature.expr) for feature in plan.spec.features]
    return [
        *expressions.lines,
        *(f"line[{place}] = {v}" for place, v in enumerate(found)),
        f"put(line, out, exact, {row})",
    ]
