"""The terms of references and lists, which belong to a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skyriver.core import spec as specs
from skyriver.core.errors import InvalidInput
from skyriver.core.events import check_role, refuse
from skyriver.core.misread import a_text
from skyriver.core.names import RULE_WORDS, SCORES, check_field
from skyriver.core.terms import stream_of


def new_reference(name: str, of: object, what: str, streams: Mapping[str, specs.StreamSpec]) -> specs.StreamSpec:
    """The stream that gets a reference, or a list, of this name."""
    check_field(name, what)
    stream = stream_of(of, streams, "BAD_REFERENCE", f"{what.capitalize()} is of a stream's events.")
    if any(known.name == name for known in stream.references):
        refuse(f"{stream.name} has a reference {name!r} already.", "DUPLICATE_NAME", "Give one of them another name.")
    if name in specs.PARTS_OF_STREAMS:
        refuse(
            f"{name!r} cannot name {what}: {stream.name}.{name} is a table that every stream has.",
            "BAD_REFERENCE",
            "Give it another name.",
        )
    return stream


def list_of(
    name: str,
    stream: specs.StreamSpec,
    fields: tuple[specs.FieldSpec, ...] | None,
    id: str,
    time: str,
    until: str,
    by: str,
) -> specs.ReferenceSpec:
    """A list of the stream; `fields` None: the id alone, with a note."""
    for what, text in (("id", id), ("time", time), ("until", until), ("by", by)):
        a_text(text, what, "BAD_REFERENCE", f'Name a field, as in app.list({name!r}, of=..., id="customer").')
    check_list_name(name, stream, ())
    of_stream = {own.name: own for own in stream.fields}
    if fields is None:
        if id not in of_stream:
            refuse(f"{stream.name} has no field {id!r}.", "UNKNOWN_FIELD", f"It has {', '.join(of_stream)}.")
        note = specs.FieldSpec(name=check_field("note", "a field"), type="text", nullable=True)
        fields = (specs.FieldSpec(name=id, type=of_stream[id].type), note)
    declared = {own.name: own for own in fields}
    for role, given in (("time", time), ("until", until)):
        if given not in declared:
            fields = (
                *fields,
                specs.FieldSpec(name=check_field(given, "a field"), type="time", nullable=role == "until"),
            )
        elif role == "until" and (declared[given].type != "time" or not declared[given].nullable):
            refuse(
                f"{given!r} cannot be the until: it must be of type time, and may be missing.",
                "BAD_FIELD",
                f"Declare it as `{given}: sr.Time | None`, or leave it out: it is added.",
            )
    check_role(fields, id, "id", ("int", "text"))
    check_role(fields, time, "time", ("time",))
    kind = next(own.type for own in fields if own.name == id)
    by = by or id
    if by not in of_stream or of_stream[by].type != kind:
        fits = [own.name for own in stream.fields if own.type == kind]
        refuse(
            f"The list {name!r} cannot be looked up by {by!r}: {stream.name} has no such field of type {kind}.",
            "BAD_REFERENCE",
            f"Name one with by=: {', '.join(fits)}." if fits else f"It has no field of type {kind}.",
        )
    return specs.ReferenceSpec(name=name, fields=fields, id=id, time=time, until=until, by=by)


def check_list_name(name: str, stream: specs.StreamSpec, features: Sequence[str]) -> None:
    """Rules must know by a name alone what is meant. `features`: those that the rules of the stream read."""
    fields = [own.name for own in stream.fields]
    of = {
        "a word of the rules' language": name in RULE_WORDS,
        "what the model says": name in SCORES,
        f"a field of {stream.name}": name in fields,
        "a feature that its rules read": name in features,
    }
    what = next((what for what, taken in of.items() if taken), "")
    if what:
        raise InvalidInput(
            f"A list cannot be called {name!r}: in rules that is {what}.",
            code="BAD_REFERENCE",
            where=f"list {name} of {stream.name}",
            next_action=f'Give it another name, as in app.list("{name}_list", ...).',
        )
