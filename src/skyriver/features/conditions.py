"""Conditions over fields of an event, of many rows at once: the laws of `skyriver.core.expr`, without the kernel.

A condition looks at no other events by itself, so that nothing of a feature's state is needed, nor a compiler; what
does look at others is `given`: the features that are computed already, by their expressions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, assert_never

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skyriver.core.expr import Aggregate, Binary, Calendar, Column, Constant, Lookup, Node, Same, Unary, reached

Floats = NDArray[np.float64]


Given = Mapping[Node, NDArray[Any]]


def fields_read(node: Node, given: Container[Node] = ()) -> tuple[str, ...]:
    """Of the event, in order of first use."""
    read = (n for n in reached(node, given) if isinstance(n, Column | Same))
    return tuple(dict.fromkeys(n.name if isinstance(n, Column) else n.column for n in read))


def holds(node: Node, frame: pl.DataFrame, given: Given | None = None) -> NDArray[np.bool_]:
    """bool [n], of the rows of `frame`, which has the fields that are read; false where the condition is missing.
    `given`: values [n], NaN for missing."""
    found = _value(node, frame, given or {})
    return np.broadcast_to((found != 0) & ~np.isnan(found), (len(frame),)).copy()


def _value(node: Node, frame: pl.DataFrame, given: Given) -> Floats:
    """float64 [n], or of one number; NaN is missing."""
    if node in given:
        return given[node].astype(np.float64)
    match node:
        case Constant(value=value):
            return np.array(value)
        case Column(name=name):
            return _number(frame[name])
        case Same(column=name, text=text):
            return _number(frame[name] == text)
        case Calendar(part=part, of=of):
            return _number(_of_time(part, frame[of.name]))
        case Unary(kind="is_missing", of=Column(name=name)) if frame[name].dtype == pl.String:
            return _number(frame[name].is_null())
        case Unary(kind=kind, of=of):
            x = _value(of, frame, given)
            match kind:
                case "neg":
                    return -x
                case "not":
                    return np.where(np.isnan(x), np.nan, x == 0)
                case "is_missing":
                    return np.isnan(x).astype(np.float64)
                case _:
                    assert_never(kind)
        case Binary():
            return _binary(node, frame, given)
        case Aggregate() | Lookup():
            raise TypeError(f"{node.op} is about more than the event")
        case _:
            assert_never(node)


def _binary(node: Binary, frame: pl.DataFrame, given: Given) -> Floats:
    a, b = _value(node.left, frame, given), _value(node.right, frame, given)
    with np.errstate(all="ignore"):
        match node.kind:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "/":
                return np.where(b == 0, np.nan, a / np.where(b == 0, 1.0, b))
            case "and":
                truth = (a != 0) & (b != 0)
            case "or":
                truth = (a != 0) | (b != 0)
            case "<":
                truth = a < b
            case "<=":
                truth = a <= b
            case ">":
                truth = a > b
            case ">=":
                truth = a >= b
            case "==":
                truth = a == b
            case "!=":
                truth = a != b
            case _:
                assert_never(node.kind)
    return np.where(np.isnan(a) | np.isnan(b), np.nan, truth)


def _of_time(part: str, column: pl.Series) -> pl.Series:
    times = column.cast(pl.Datetime("us"))
    match part:
        case "minute":
            return times.dt.minute()
        case "hour":
            return times.dt.hour()
        case "weekday":
            return times.dt.weekday() - 1
        case "day":
            return times.dt.day()
        case _:
            return times.dt.month()


def _number(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
