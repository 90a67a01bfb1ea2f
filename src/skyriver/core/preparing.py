"""How the rows of a training are held out, weighed and changed, as it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyriver.core import spec as specs
from skyriver.core.events import check_role, refuse
from skyriver.core.expr import Column, Expression
from skyriver.core.units import parse_duration


def held_out(
    test: object, of: specs.StreamSpec | specs.TableSpec, time: object = None, group: object = None
) -> dict[str, Any]:
    """What is held out of the training, as TrainSpec has it."""
    if isinstance(of, specs.StreamSpec):
        if time is not None or group is not None:
            what = "time" if time is not None else "group"
            refuse(
                f"{what}= is of a table: the stream {of.name} is split by its own time.", "BAD_SPLIT", "Leave it out."
            )
        if not isinstance(test, str | None):
            refuse(f"test={test!r} is not a stretch of time.", "BAD_SPLIT", 'A stream is split by time: test="7d".')
        return {"test_us": parse_duration(test or "7d", "a stretch of time")}
    grouped = {} if group is None else {"group": _column(group, of, "group", ("int", "text"))}
    if time is not None:
        if not isinstance(test, str):
            refuse(f"test={test!r} is not a stretch of time, and time= is given.", "BAD_SPLIT", 'Write test="7d".')
        held = parse_duration(test, "a stretch of time")
        if not held:
            refuse(f"test={test!r} holds nothing out.", "BAD_SPLIT", 'Write test="7d".')
        return {"time": _column(time, of, "time", ("time",)), "test_us": held, **grouped}
    if not isinstance(test, float | None) or (test is not None and not 0 < test < 1):
        refuse(
            f"test={test!r} is not a share between 0 and 1.",
            "BAD_SPLIT",
            f'For a table write test=0.3; or test="7d" with a column of times: time={of.name}.{_a_time(of)}.',
        )
    return {"test_share": test or 0.3, **grouped}


def prepared(
    augment: object,
    minority: object,
    weights: object,
    of: specs.StreamSpec | specs.TableSpec,
) -> dict[str, Any]:
    """How rows are weighed and changed, as TrainSpec has it."""
    found: dict[str, Any] = {}
    if not isinstance(augment, tuple | list) or not all(isinstance(one, specs.AUGMENTS) for one in augment):
        refuse(
            f"augment={augment!r:.80} is no list of augmentations.",
            "BAD_AUGMENT",
            "Write augment=[sr.Noise(std=0.05)], of Crop, Flip, Jitter, Mixup, DropTokens, Noise.",
        )
    if augment:
        found["augment"] = tuple(augment)
    if minority is not None:
        if not isinstance(minority, specs.MinoritySpec):
            refuse(f"minority={minority!r:.80} is no sr.Minority.", "BAD_TRAINING", "Write minority=sr.Minority().")
        found["minority"] = minority
    if isinstance(weights, str) and weights == "balanced":
        found["weights"] = "balanced"
    elif weights is not None:
        found["weight"] = _column(weights, of, "weights", ("int", "float"))
    if minority is not None and "weight" in found:
        refuse(
            "minority= makes rows, and weights= is a column: rows that are made have none.",
            "BAD_TRAINING",
            'Leave one of them out, or write weights="balanced".',
        )
    return found


def check_apart(held: Mapping[str, Any], label: str) -> None:
    """What rows are weighed or kept together by is not what is to be learned: it would tell the label."""
    for role, key in (("weights", "weight"), ("group", "group"), ("time", "time")):
        if held.get(key) == label:
            refuse(
                f"{role}={label} is the label itself.",
                "LABEL_LEAK",
                f"Give another column as {role}=, or leave it out"
                + ('; weights="balanced" lets each class count as much.' if role == "weights" else "."),
            )


def _column(given: object, of: specs.StreamSpec | specs.TableSpec, role: str, types: tuple[str, ...]) -> str:
    if not isinstance(given, Expression) or not isinstance(given.node, Column) or given.source != of.name:
        refuse(
            f"{role}={given!r:.80} is no column of {of.name}.",
            "BAD_TRAINING",
            f"Give one, as in {role}={of.name}.{of.fields[-1].name}.",
        )
    check_role(of.fields, given.node.name, role, types)
    return given.node.name


def _a_time(of: specs.StreamSpec | specs.TableSpec) -> str:
    return next((field.name for field in of.fields if field.type == "time"), "at")
