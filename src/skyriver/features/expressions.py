"""Feature expressions as statements of the kernel; their laws are told in `skyriver.core.expr`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

from skyriver.core.expr import Aggregate, Binary, Calendar, Column, Constant, Lookup, Node, Same, Unary
from skyriver.features.layout import LABEL_SHIFT
from skyriver.features.plan import FeaturePlan
from skyriver.features.tables import KeyTable, TextColumn, Trail, span_of, trail_of


@dataclass(slots=True)
class Expressions:
    """Statements that compute features of record `i`; a part that occurs twice is computed once.

    What is missing is NaN: arithmetic carries it by itself, comparisons and logic are told to.
    """

    plan: FeaturePlan
    lines: list[str] = field(default_factory=list)
    known: dict[Node, str] = field(default_factory=dict)
    rows: set[str] = field(default_factory=set)
    """Variables that hold which row of a reference is current."""

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
            case Same(column=name, text=text):
                return f"values[{self.plan.columns.index(TextColumn(name, text).name)}, i]"
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
            case Lookup():
                return self._lookup(node)
            case _:
                assert_never(node)

    def _lookup(self, node: Lookup) -> str:
        plan = self.plan
        r = next(place for place, table in enumerate(plan.references) if table.name == node.reference)
        k = plan.key_columns.index(node.by)
        row = f"row_{r}_{k}"
        if row not in self.rows:
            self.rows.add(row)
            self.lines.append(f"{row} = as_of(found{r}, table{r}, keys[{k}, i], t, seed)")
        return f"looked_up(table{r}, {row}, o + {plan.references[r].word(node.column)})"

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
        table = plan.keys[k]
        match node.kind:
            case "count" | "sum" | "mean" | "std":
                return self._windowed(node, k, table)
            case "last":
                at = next(last.at for last in table.lasts if plan.columns[last.column] == node.column)
                return f"recent(value_{k}_{at}, time_{k}_{at}, t, {node.over_us})"
            case "since":
                return f"recent(F64(t - before_{k}) / 1000000.0, before_{k}, t, {node.over_us})"
            case "minimum" | "maximum" | "distinct" | "decayed_mean":
                return self._of_trail(node, k, table)
            case _:
                assert_never(node.kind)

    def _windowed(self, node: Aggregate, k: int, table: KeyTable) -> str:
        plan = self.plan
        window = table.find(node.over_us, node.delay_us)
        if node.kind == "count":
            return f"F64(state{k}[s{k}, {window.count}])"
        if node.label:
            which = next(place for place, label in enumerate(plan.labels) if label.name == node.label)
            shift = LABEL_SHIFT
        else:
            which = next(place for place, v in enumerate(plan.values) if v.field == node.column)
            shift = plan.values[which].shift
        found = window.find(bool(node.label), which)
        unit, count = repr(2.0**-shift), window.count if found.seen < 0 else found.seen
        match node.kind:
            case "sum":
                return f"total(state{k}, s{k}, o + {found.at}, {unit})"
            case "mean":
                return f"mean(state{k}, s{k}, o + {found.at}, o + {count}, {unit})"
            case _:
                return f"deviation(state{k}, s{k}, o + {found.at}, o + {found.squares}, o + {count}, {unit})"

    def _of_trail(self, node: Aggregate, k: int, table: KeyTable) -> str:
        trail = _trail_of(self.plan, table, node)
        oldest = f"state{k}[s{k}, {trail.oldest(span_of(node))}]"
        match node.kind:
            case "distinct":
                return f"F64(state{k}[s{k}, {trail.oldest(span_of(node)) + 1}])"
            case "minimum":
                return f"lowest(nodes, {oldest})"
            case "maximum":
                return f"-lowest(nodes, {oldest})"
            case _:
                unit = repr(2.0 ** -self.plan.values[trail.source].shift)
                weights = f"WEIGHTS_{_weighted(self.plan).index(_weights(trail, node))}"
                return f"decayed(nodes, {oldest}, t // {trail.pane_us}, {weights}, {unit})"


def _trail_of(plan: FeaturePlan, table: KeyTable, node: Aggregate) -> Trail:
    names = {"distinct": plan.codes, "decayed_mean": tuple(v.field for v in plan.values)}
    return next(
        t
        for t in table.trails
        if (t.kind, names.get(t.kind, plan.columns)[t.source], t.pane_us, t.limit) == trail_of(node)
    )


def _weights(trail: Trail, node: Aggregate) -> tuple[float, ...]:
    """Of each age in panes."""
    return tuple(2.0 ** (-age * trail.pane_us / node.half_life_us) for age in range(trail.spans[-1]))


def _weighted(plan: FeaturePlan) -> list[tuple[float, ...]]:
    tables = {table.field: table for table in plan.keys}
    nodes = [a for a in plan.spec.aggregates() if a.kind == "decayed_mean"]
    return list(dict.fromkeys(_weights(_trail_of(plan, tables[a.by], a), a) for a in nodes))


def weight_lines(plan: FeaturePlan) -> list[str]:
    """Constants that the decayed means refer to."""
    return [f"WEIGHTS_{place} = np.array({list(weights)}, np.float64)" for place, weights in enumerate(_weighted(plan))]


def feature_lines(plan: FeaturePlan, row: str) -> list[str]:
    """Statements that compute the features of record `i` and put them out as `row`."""
    expressions = Expressions(plan)
    found = [expressions.value(feature.expr) for feature in plan.spec.features]
    return [
        *expressions.lines,
        *(f"out[U64({row}), {place}] = {v}" for place, v in enumerate(found)),
        "if exact.shape[0] > 0:",
        *(f"    exact[U64({row}), {place}] = {v}" for place, v in enumerate(found)),
    ]


def indent(lines: Iterable[str], by: int) -> Iterator[str]:
    """Lines of source, `by` steps further in."""
    return (" " * (4 * by) + line for line in lines)
