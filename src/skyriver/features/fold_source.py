"""From a plan of a stream to the source of `fold`: its records in log order, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skyriver.data.log import RecordKind
from skyriver.features.checks import GRID_BITS
from skyriver.features.expressions import feature_lines, indent
from skyriver.features.layout import (
    DONE,
    GROW,
    JOURNAL_LABELS,
    LABEL_SHIFT,
    META_AT,
    META_FAULT,
    META_JOURNAL,
    META_NOW,
    META_OFF_GRID,
    META_OUT,
    META_ROWS,
    META_SEED,
    NEVER,
    OUT_OF_ORDER,
    OWNERS,
    UNKNOWN_KIND,
    UNSOUND_ROW,
    cursor_place,
    nodes_place,
    reference_place,
    sound_place,
    waiting_place,
)
from skyriver.features.look_ahead import look_ahead_lines
from skyriver.features.plan import ROW_OFFSET, ROW_SLOTS, ROW_TIME, FeaturePlan
from skyriver.features.soundness import checksum
from skyriver.features.tables import SQUARES, STATE_REFERENCES, KeyTable, Shape, Sum, Trail, Window


def placed(plan: FeaturePlan) -> Iterator[tuple[int, int, Trail]]:
    """Each trail with the place of its key and its own."""
    place = 0
    for k, table in enumerate(plan.keys):
        for trail in table.trails:
            yield k, place, trail
            place += 1


@dataclass(frozen=True, slots=True)
class Fold:
    """The text of `fold`. Variables: c, x: cursor of an edge and the time of the row it stands at; s: slot of a
    key; g: grid value; l: label as held in the scratch; n: rows; m: journal entries; j: outputs.

    The time numba takes grows with the number of statements, much more than the time the kernel takes falls: so
    cursors live in `meta`, and what windows do is written once a shape, as functions that LLVM inlines.
    """

    plan: FeaturePlan

    def text(self) -> str:
        plan = self.plan
        tables = "".join(f", index{k}, state{k}" for k in range(len(plan.keys)))
        tables += ", nodes, chains, codes" if plan.trails else ""
        tables += ", given_keys, given_times, given" if plan.references else ""
        tables += "".join(f", found{r}, table{r}" for r in range(len(plan.references)))
        return "\n".join(
            [
                *self._shape_functions(),
                "",
                "def fold(kind, effective, offset, values, times, keys, subject, label, labelled,",
                f"         rows, labels, journal, meta, slots, out, exact{tables}):",
                f"    now, n, m = meta[{META_NOW}], meta[{META_ROWS}], meta[{META_JOURNAL}]",
                f"    i, j = meta[{META_AT}], meta[{META_OUT}]",
                f"    status, sound, seed = {DONE}, True, meta[{META_SEED}]",
                "    o = n - n  # o + 5 is an int64 for numba, where 5 would be a type of its own, compiled for",
                "    base, known, end = i, i, kind.shape[0]",
                "    while i < end:",
                *indent(look_ahead_lines(self.plan), 2),
                f"        if kind[i] == {RecordKind.EVENT.value}:",
                *indent(self._event(), 3),
                f"        elif kind[i] == {RecordKind.LABEL.value}:",
                *indent(self._label(), 3),
                *indent(self._reference(), 2),
                "        else:",
                f"            status = {UNKNOWN_KIND}",
                "            break",
                "        i += 1",
                f"    meta[{META_NOW}], meta[{META_ROWS}], meta[{META_JOURNAL}] = now, n, m",
                f"    meta[{META_AT}], meta[{META_OUT}] = i, j",
                "    return status",
                "",
            ]
        )

    def _shape_functions(self) -> list[str]:
        """`move_Q`: a row with values g and labels l enters (by 1) or leaves (by -1) the window at `at` of shape Q."""
        lines: list[str] = []
        for q, shape in enumerate(self._shapes()):
            lines += ["", "@inner", f"def move_{q}(state, s, at, by{_parameters(shape)}):"]
            lines.append("    state[s, at] += by")
            place = 1
            for of_label, which, seen, squared in shape:
                value, none, amount = f"g{which}", "MISSING", f"g{which}"
                if of_label:
                    value, none, amount = f"l{which}", "0", f"(l{which} ^ MISSING)"
                lines.append(f"    if {value} != {none}:")
                if seen:
                    lines.append(f"        state[s, at + {place + 2}] += by")
                lines.append(f"        add(state, s, at + {place}, by * {amount})")
                place += 3 if seen else 2
                if squared:
                    lines.append(f"        add_square(state, s, at + {place}, {amount}, by)")
                    place += SQUARES
            lines.append("")
        return lines

    def _shapes(self) -> list[Shape]:
        return list(dict.fromkeys(w.shape for k in self.plan.keys for w in k.windows))

    def _event(self) -> list[str]:
        plan = self.plan
        lines = [
            *self._nodes_left(),
            "t = effective[i]",
            "if t < now:",
            f"    status = {OUT_OF_ORDER}",
            "    break",
            "if t > now:",
            "    now = t",
            *(line for e in range(len(plan.edges)) for line in indent(self._edge(e), 1)),
            "    if not sound:",
            f"        status = {UNSOUND_ROW}",
            "        break",
        ]
        lines += [f"s{k} = slots[{k}, U64(i - base)]" for k in range(len(plan.keys))]
        for place, value in enumerate(plan.values):
            lines += [
                f"g{place} = on_grid(values[{value.column}, i], {2.0**value.shift!r}, {value.limit!r})",
                f"meta[{META_OFF_GRID}] += is_off_grid(values[{value.column}, i], g{place})",
            ]
        lines += self._write_row()
        for k, table in enumerate(plan.keys):
            lines += self._follow(k, table)
            lines.append(f"state{k}[s{k}, {STATE_REFERENCES}] += 1")
            lines += self._enter(k, table)
        lines += [line for k, place, trail in placed(plan) for line in self._trail(k, place, trail)]
        return [*lines, *feature_lines(plan, "j"), "j += 1"]

    def _nodes_left(self) -> list[str]:
        """An event takes at most one node a trail: they are there before anything of it is done."""
        plan, used = self.plan, nodes_place(self.plan)
        if not plan.trails:
            return []
        return [
            f"if meta[{used}] - meta[{used + 2}] + {len(plan.trails)} > nodes.shape[0]:",
            f"    meta[{META_FAULT}], status = {len(plan.keys)}, {GROW}",
            "    break",
        ]

    def _follow(self, k: int, table: KeyTable) -> list[str]:
        """What the events before this one left, for the features; then it takes their place."""
        lines: list[str] = []
        if table.lasts or table.since >= 0:
            times = [last.at for last in table.lasts] + ([table.since] if table.since >= 0 else [])
            lines.append(f"if state{k}[s{k}, {STATE_REFERENCES}] == 0:")
            lines += [f"    state{k}[s{k}, {at}] = {NEVER}" for at in times]
        for last in table.lasts:
            lines += [
                f"time_{k}_{last.at}, value_{k}_{last.at} ="
                f" state{k}[s{k}, {last.at}], float_of(state{k}[s{k}, {last.at + 1}])",
                f"x = values[{last.column}, i]",
                "if x == x:",
                f"    state{k}[s{k}, {last.at}], state{k}[s{k}, {last.at + 1}] = t, bits_of(x)",
            ]
        if table.since >= 0:
            lines += [f"before_{k} = state{k}[s{k}, {table.since}]", f"state{k}[s{k}, {table.since}] = t"]
        return lines

    def _trail(self, k: int, place: int, trail: Trail) -> list[str]:
        now = "t" if trail.pane_us == 1 else f"t // {trail.pane_us}"
        where = f"state{k}, s{k}, o + {trail.at}, {now}, SPANS_{place}"
        match trail.kind:
            case "minimum" | "maximum":
                sign = "-" if trail.kind == "maximum" else ""
                return [f"lower(nodes, meta, {where}, o + {trail.limit}, {sign}values[{trail.source}, i])"]
            case "distinct":
                owner = f"I64(s{k}) * {OWNERS} + {place}"
                value = f"codes[{trail.source}, i], {owner}"
                return [f"differ(nodes, chains, meta, {where}, o + {trail.limit}, {value})"]
            case "decayed_mean":
                return [f"collect(nodes, meta, {where}, g{trail.source})"]

    def _enter(self, k: int, table: KeyTable) -> list[str]:
        """The event enters the windows without delay; those of one shape stand side by side, in steps of one size.
        It has no label yet."""
        lines: list[str] = []
        for q, shape in enumerate(self._shapes()):
            starts = [w.count for w in table.windows if w.delay_us == 0 and w.shape == shape]
            if starts:
                step = next(w.words for w in table.windows if w.shape == shape)
                given = "".join(", NONE" if of_label else f", g{which}" for of_label, which, _, _ in shape)
                lines += [
                    f"for at in range({starts[0]}, {starts[-1] + 1}, {step}):",
                    f"    move_{q}(state{k}, s{k}, at, o + 1{given})",
                ]
        return lines

    def _write_row(self) -> list[str]:
        plan = self.plan
        words = {ROW_TIME: "t", ROW_OFFSET: "offset[i]"}
        for k in range(0, len(plan.keys), 2):
            pair = f"I64(s{k} | (s{k + 1} << SHIFT32))" if k + 1 < len(plan.keys) else f"I64(s{k})"
            words[ROW_SLOTS + k // 2] = pair
        words |= {plan.row_values + place: f"g{place}" for place in range(len(plan.values))}
        return [
            *(f"rows[n, {at}] = {word}" for at, word in words.items()),
            "rows[n, CHECK] = checksum(rows, n)",
            f"for e in range({waiting_place(plan, 0)}, {waiting_place(plan, len(plan.edges))}):",
            "    if meta[e] == END:",
            "        meta[e] = t",
            "n += 1",
        ]

    def _edge(self, e: int) -> list[str]:
        """Rows that have become as old as the edge: they leave windows, enter those of labels, free their keys."""
        plan, edge = self.plan, self.plan.edges[e]
        shapes = self._shapes()
        work: list[str] = []
        for k, table in enumerate(plan.keys):
            moves: list[str] = []
            for window in table.windows:
                given = _parameters(window.shape)
                call = f"move_{shapes.index(window.shape)}(state{k}, s, o + {window.count}, o"
                if window.edge == edge:
                    moves.append(f"{call} - 1{given})")
                if window.delay_us == edge:
                    moves.append(f"{call} + 1{given})")
            if table.last_edge == edge:
                moves.append(f"state{k}[s, {STATE_REFERENCES}] -= 1")
                moves += self._clear(k, table)
            if moves:
                work += [self._slot(k, "c"), *moves]
        loads = [f"g{p} = rows[c, {plan.row_values + p}]" for p in range(len(plan.values)) if _uses(work, f"g{p}")]
        loads += [f"l{p} = labels[c, {p}]" for p in range(len(plan.labels)) if _uses(work, f"l{p}")]
        return [
            f"x = meta[{waiting_place(plan, e)}]",
            f"if x <= t - {edge}:",
            f"    c, v = meta[{cursor_place(e)}], meta[{sound_place(plan, e)}]",
            f"    while x <= t - {edge}:",
            "        if x == UNSOUND:",
            f"            meta[{META_FAULT}], sound = c, False",
            "            break",
            *indent([*loads, *work], 2),
            "        c += 1",
            f"        x = rows[U64(c), {ROW_TIME}] if c < v else time_of(rows, c, n)",
            f"    meta[{cursor_place(e)}], meta[{waiting_place(plan, e)}] = c, x",
        ]

    def _clear(self, k: int, table: KeyTable) -> list[str]:
        """A key without events gives its nodes back."""
        if not table.trails:
            return []
        lines = [f"if state{k}[s, {STATE_REFERENCES}] == 0:"]
        for trail in table.trails:
            name, chains = ("clear_distinct", "chains, ") if trail.kind == "distinct" else ("clear", "")
            longest = trail.oldest(trail.spans[-1])
            lines.append(f"    {name}(nodes, {chains}meta, state{k}, s, o + {trail.at}, o + {longest})")
        return lines

    def _slot(self, k: int, row: str) -> str:
        word = f"rows[{row}, {ROW_SLOTS + k // 2}]"
        return f"s = U64({word} >> 32)" if k % 2 else f"s = U64({word} & 4294967295)"

    def _label(self) -> list[str]:
        """A label replaces the one its subject had; it counts where a cursor has let the subject in and not out."""
        plan = self.plan
        if not plan.labels:
            return ["pass"]
        lines = ["r = subject[i]"]
        for place, label in enumerate(plan.labels):
            holders = [
                (k, w, s)
                for k, table in enumerate(plan.keys)
                for w in table.windows
                for s in w.sums
                if s.of_label and s.which == place
            ]
            lines.append(f"{'el' if place else ''}if label[i] == {label.index}:")
            lines += indent(self._one_label(place, label.delay_us, holders), 1)
        return lines

    def _reference(self) -> list[str]:
        """A row of a reference: `label` says of which, `subject` is its place among those that are given."""
        plan = self.plan
        if not plan.references:
            return []
        lines = [f"elif kind[i] == {RecordKind.REFERENCE.value}:", "    r, full = subject[i], -1"]
        for place in range(len(plan.references)):
            where = f"found{place}, table{place}, meta, o + {reference_place(plan, place)}"
            row = "given_keys[r], given_times[r], now, given, r, seed"
            lines += [
                f"    {'el' if place else ''}if label[i] == {place}:",
                f"        if not learn({where}, {row}):",
                f"            full = {len(plan.keys) + 1 + place}",
            ]
        return [
            *lines,
            "    if full >= 0:",
            f"        meta[{META_FAULT}], status = full, {GROW}",
            "        break",
        ]

    def _one_label(self, place: int, delay_us: int, holders: list[tuple[int, Window, Sum]]) -> list[str]:
        if not holders:  # only counted: its values are not read
            return ["pass"]
        plan = self.plan
        value = f"on_grid(labelled[i], {2.0**LABEL_SHIFT!r}, {2.0 ** (GRID_BITS - LABEL_SHIFT)!r})"
        changes: list[str] = []
        for k in range(len(plan.keys)):
            mine = [(w, s) for key, w, s in holders if key == k]
            if mine:
                changes.append(self._slot(k, "r"))
            for window, s in mine:
                inside = f"r >= {self._cursor(window.edge)}"
                changes.append(f"replace(state{k}, s, o + {s.at}, old, new, {inside})")
                if s.squares >= 0:
                    changes.append(f"replace_square(state{k}, s, o + {s.squares}, old, new, {inside})")
        return [
            f"if {self._cursor(max(w.edge for _, w, _ in holders))} <= r < n:",
            f"    g = {value}",
            f"    meta[{META_OFF_GRID}] += is_off_grid(labelled[i], g)",
            f"    old, new = labels[r, {place}], g ^ MISSING",
            "    if old != new:",
            "        if rows[r, CHECK] != checksum(rows, r):",
            f"            meta[{META_FAULT}] = r",
            f"            status = {UNSOUND_ROW}",
            "            break",
            f"        labels[r, {place}] = new",
            f"        entry = r * {JOURNAL_LABELS} + {place}",
            "        journal[m, 0], journal[m, 1], journal[m, 2] = offset[i], entry, g",
            f"        journal[m, 3] = {checksum(['offset[i]', 'entry', 'g'])}",
            "        m += 1",
            f"        if {f'r < {self._cursor(delay_us)}' if delay_us else 'True'}:",
            *indent(changes, 3),
        ]

    def _cursor(self, edge: int) -> str:
        return f"meta[{cursor_place(self.plan.edges.index(edge))}]"


def _parameters(shape: Shape) -> str:
    return "".join(f", l{which}" if of_label else f", g{which}" for of_label, which, _, _ in shape)


def _uses(lines: Iterable[str], name: str) -> bool:
    return any(f", {name}," in line or f", {name})" in line for line in lines)
