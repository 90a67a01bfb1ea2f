"""`POST /predict`: named fields in, named answers out; pure.

One object asks for one row, `{"rows": [...]}` for many (a model that itself takes an input named `rows` is asked by
objects only). The fields are the declared ones, cleaned at the border like everything that comes in (a missing
value reaches the model as NaN), or, for a model without a declaration, its own inputs: a number, or
nested lists, of one row. An output of one value a row is answered as a value, others as lists; an output called
`model`, `version` or `predictions` is answered with a `_` behind its name.

A form (`multipart/form-data`) is one row too: its parts are texts where a text is wanted, else JSON. A picture is a
file in a form or `{"base64": ...}` in JSON, for an input that takes one (serve.images).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct

from skyriver.core.errors import Internal, InvalidInput
from skyriver.core.names import BY_KEY
from skyriver.data.border import Reason, Rejection, RowCleaner
from skyriver.release.signature import ANY, Signature, TensorSpec, answer_names, takes_pictures
from skyriver.serve.faults import ERRORS_SHOWN, faults_of, invalid_fields, listed
from skyriver.serve.images import BASE64, picture, picture_of_text
from skyriver.serve.multipart import FORM, parts_of
from skyriver.serve.protocol import BadJson, NotSupported, Reply, decode_body, encode_json
from skyriver.serve.runner import MOST_VALUES, NUMPY_TYPES, Array, Tensors
from skyriver.serve.tensors import array_of, flatten, show, values_of

if TYPE_CHECKING:
    from skyriver.core.spec_fields import FieldSpec

ROWS = "rows"
MOST_RUNS = 1024
"""Rows of one request to a model whose rows cannot share a run: as many as requests may wait."""

Row = Mapping[str, object]

_decoder = msgspec.json.Decoder()


class TooManyRows(InvalidInput):
    default_code = "TOO_MANY_ROWS"
    http_status = 413


class Predict(Struct):
    """A checked request: `runs` are to be run one by one, each for `rows` rows of the answer."""

    runs: list[dict[str, Array]]
    rows: int
    single: bool


class PredictCodec:
    """`/predict` of one model: bytes to tensors, outputs to bytes. `batching`: rows may share a run.

    Raises InvalidInput (FIELDS_MISMATCH) when the declared fields do not fit the model's inputs.
    """

    def __init__(
        self,
        model: str,
        version: int,
        signature: Signature,
        fields: Sequence[FieldSpec] | None = None,
        *,
        batching: bool,
    ) -> None:
        self._head: dict[str, object] = {"model": model, "version": version}
        self._batching = batching
        self._plan = _Inputs(signature) if fields is None else _declared(signature, tuple(fields))
        self._quick = _QuickRows(fields) if isinstance(self._plan, _Columns) and fields and _plain(fields) else None
        self._fields = listed([f.name for f in fields] if fields else [t.name for t in signature.inputs])
        self._takes_rows = ROWS in self._plan.names
        self._outputs = answer_names(signature)

    def decode(self, body: bytes, content_type: bytes = b"") -> Predict:
        """Raises BadJson, BadForm, TooManyRows, or InvalidInput naming row, field, value and rule."""
        if content_type[: len(FORM)].lower() == FORM:
            return self._predict(self._clean([self._form(body, content_type)], single=True), single=True)
        if self._quick is not None:
            read = self._quick.read(body)
            if read is not None:
                self._check_runs(len(read[0]))
                return self._predict(*read)
        given = decode_body(_decoder, body)
        if not isinstance(given, dict):
            raise BadJson(
                f"The body is {show(given)}; an object of fields is wanted.",
                code="BAD_REQUEST",
                next_action='Send {"field": value, ...} or {"rows": [{...}, ...]}.',
            )
        single = ROWS not in given or self._takes_rows
        rows = [given] if single else given[ROWS]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadJson('"rows" is a list of objects of fields.', code="BAD_REQUEST")
        if not single and len(given) > 1:
            extra = next(name for name in given if name != ROWS)
            raise BadJson(f'{extra!r} stands beside "rows": fields go into each row.', code="BAD_REQUEST")
        if not rows:
            raise BadJson('"rows" is empty.', code="BAD_REQUEST")
        self._check_runs(len(rows))
        return self._predict(self._clean(rows, single), single)

    def _form(self, body: bytes, content_type: bytes) -> dict[str, object]:
        row: dict[str, object] = {}
        for name, part in parts_of(body, content_type).items():
            if part.is_file and name in self._plan.pictures:
                row[name] = part.content
            elif name in self._plan.texts:
                row[name] = _utf8(name, part.content)
            else:
                try:
                    row[name] = _decoder.decode(part.content)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                    row[name] = part.content.decode(errors="replace")  # what it should have been is told of it then
        return row

    def encode(self, asked: Predict, results: Sequence[Tensors]) -> Reply:
        """`results` are the outputs of `asked.runs`, in their order."""
        predictions = self.predictions(asked, results)
        if asked.single:
            return Reply(encode_json(self._head | predictions[0]))
        return Reply(encode_json(self._head | {"predictions": predictions}))

    def predictions(self, asked: Predict, results: Sequence[Tensors]) -> list[dict[str, object]]:
        if self._batching:
            return self._answers(results[0], asked.rows)
        return [self._whole_answer(outputs) for outputs in results]

    def reply(self, predictions: list[dict[str, object]], more: dict[str, object], *, single: bool) -> Reply:
        """`more`: what the answer says beside them."""
        told = predictions[0] if single else {"predictions": predictions}
        return Reply(encode_json(self._head | told | more))

    def of_features(self, features: Array) -> Predict:
        """The request with these rows, as they are, of a model whose one input they are."""
        if not isinstance(self._plan, _Columns):
            raise Internal("The model takes no rows of features.")
        self._check_runs(len(features))
        runs = [features] if self._batching else [features[row : row + 1] for row in range(len(features))]
        return Predict([self._plan.matrix(run) for run in runs], len(features), single=False)

    def _check_runs(self, rows: int) -> None:
        if not self._batching and rows > MOST_RUNS:
            name = self._head["model"]
            raise TooManyRows(
                f"{name} runs its rows one by one: a request has at most {MOST_RUNS} of them, not {rows}.",
                next_action=f"Send fewer rows a request; `skyriver predict {name} FILE` scores any number of them,"
                " where a column holds what an input takes.",
            )

    def _predict(self, cleaned: list[Sequence[object]], single: bool) -> Predict:
        if self._batching:
            return Predict([self._plan.tensors(cleaned)], len(cleaned), single)
        return Predict([self._plan.tensors([row]) for row in cleaned], len(cleaned), single)

    def _clean(self, rows: list[Row], single: bool) -> list[Sequence[object]]:
        cleaned: list[Sequence[object]] = []
        errors: list[dict[str, Any]] = []
        unpacked = 0
        for index, row in enumerate(rows):
            values = self._plan.clean(row)
            if isinstance(values, list):
                cleaned.append(values)
                if self._plan.pictures:
                    unpacked += sum(value.size for value in values if isinstance(value, np.ndarray))
                    if unpacked > MOST_VALUES:
                        raise InvalidInput(
                            f"The pictures up to row {index} have more than {MOST_VALUES} values together.",
                            code="WRONG_IMAGE",
                            next_action="Send fewer pictures a request, or smaller ones.",
                        )
                continue
            if any(isinstance(row.get(part), dict) and part not in self._plan.names for part in BY_KEY):
                raise self._not_by_key()
            faults = faults_of(row, values, self._plan.names, self._plan.required)
            errors += faults if single else [{"row": index} | fault for fault in faults]
            if len(errors) >= ERRORS_SHOWN:
                break
        if errors:
            raise invalid_fields(errors, f"Send {self._head['model']} its fields: {self._fields}.")
        return cleaned

    def _not_by_key(self) -> InvalidInput:
        name = "{model}:{version}".format(**self._head)
        return InvalidInput(
            f"{name} is not asked by an entity's key: it reads no features from a stream.",
            code="NO_STREAM",
            next_action="Declare it with serve=sr.Service(features=sr.FromStream(...)), for a model that is trained on"
            f" a stream's features; or send it its fields: {self._fields}.",
        )

    def _answers(self, outputs: Tensors, rows: int) -> list[dict[str, object]]:
        columns = [(name, _by_row(outputs[source], rows)) for name, source in self._outputs]
        return [{name: column[row] for name, column in columns} for row in range(rows)]

    def _whole_answer(self, outputs: Tensors) -> dict[str, object]:
        return {name: _scalar_or_list(outputs[source]) for name, source in self._outputs}


def _by_row(output: Array, rows: int) -> list[Any]:
    flat: list[Any] = (output.reshape(rows) if output.size == rows else output).tolist()
    return flat


def _scalar_or_list(output: Array) -> object:
    """A value where there is one, else lists without the leading axis of length one."""
    if output.size == 1:
        return output.reshape(()).item() if output.dtype.kind != "O" else output.ravel()[0]
    return (output[0] if output.shape[0] == 1 else output).tolist()


class _Columns:
    """Declared fields that are the columns of the model's one input [n, F]."""

    pictures: frozenset[str] = frozenset()

    def __init__(self, tensor: TensorSpec, fields: tuple[FieldSpec, ...]) -> None:
        self.names, self.required = frozenset(f.name for f in fields), _required(fields)
        self.texts = _texts(fields)
        self._tensor = tensor
        self._cleaner = RowCleaner(fields)

    def clean(self, row: Row) -> list[object] | Rejection:
        return self._cleaner.clean(row)  # type: ignore[return-value]  # a list of narrower values

    def tensors(self, rows: Sequence[Sequence[object]]) -> dict[str, Array]:
        return {self._tensor.name: _numbers(self._tensor, rows, self._cleaner.fields)}

    def matrix(self, rows: Array) -> dict[str, Array]:
        return {self._tensor.name: rows.astype(NUMPY_TYPES[self._tensor.datatype], copy=False)}


def _plain(fields: Sequence[FieldSpec]) -> bool:
    """Floats without rules, as the features of a trained model are: their types are all there is to check."""
    from skyriver.core.spec_fields import FieldSpec  # who has any has loaded it

    return all(
        field == FieldSpec(name=field.name, type="float", nullable=field.nullable, unit=field.unit)
        and field.name.isidentifier()
        and field.name != ROWS
        for field in fields
    )


class _QuickRows:
    """Reads rows of plain floats in one go, a fifth of the time of cleaning them one by one. What it does not take,
    for whatever reason, goes the long way, which finds the words for what is wrong."""

    def __init__(self, fields: Sequence[FieldSpec]) -> None:
        members: list[Any] = [(f.name, float) for f in fields if not f.nullable]
        members += [(f.name, float | None, None) for f in fields if f.nullable]
        row = msgspec.defstruct("Row", members, forbid_unknown_fields=True, gc=False)
        rows = msgspec.defstruct("Rows", [(ROWS, list[row])], forbid_unknown_fields=True)  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(row)
        self._many = msgspec.json.Decoder(rows)
        self._values = attrgetter(*(f.name for f in fields)) if len(fields) > 1 else None
        self._only = fields[0].name

    def read(self, body: bytes) -> tuple[list[Sequence[object]], bool] | None:
        """Rows of values in the order of the fields, and whether one row was asked for alone."""
        single = not body.startswith(b'{"rows"')
        try:
            rows = [self._one.decode(body)] if single else getattr(self._many.decode(body), ROWS)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        if not rows:
            return None
        if self._values is None:
            return [(getattr(row, self._only),) for row in rows], single
        return [self._values(row) for row in rows], single


class _Parts:
    """Declared fields that each are an input of their name, [n] or [n, 1]."""

    pictures: frozenset[str] = frozenset()

    def __init__(self, tensors: tuple[TensorSpec, ...], fields: tuple[FieldSpec, ...]) -> None:
        self.names, self.required = frozenset(f.name for f in fields), _required(fields)
        self.texts = _texts(fields)
        self._fields = fields
        self._tensors = {t.name: t for t in tensors}
        self._cleaner = RowCleaner(fields)

    def clean(self, row: Row) -> list[object] | Rejection:
        return self._cleaner.clean(row)  # type: ignore[return-value]  # a list of narrower values

    def tensors(self, rows: Sequence[Sequence[object]]) -> dict[str, Array]:
        columns: dict[str, Array] = {}
        for place, field in enumerate(self._fields):
            spec = self._tensors[field.name]
            values = [row[place] for row in rows]
            column = _numbers(spec, [[value] for value in values], (field,))
            columns[field.name] = column.reshape((len(rows), *(1 for _ in spec.shape[1:])))
        return columns


class _Inputs:
    """No declared fields: the model's own inputs, each given for one row."""

    def __init__(self, signature: Signature) -> None:
        self._tensors = signature.inputs
        self.required = tuple(t.name for t in signature.inputs)
        self.names = frozenset(self.required)
        self.texts = frozenset(t.name for t in signature.inputs if t.datatype == "BYTES")
        self.pictures = frozenset(t.name for t in signature.inputs if takes_pictures(t))

    def clean(self, row: Row) -> list[object] | Rejection:
        for name in row:
            if name not in self.names:
                wanted = ", ".join(t.name for t in self._tensors)
                message = f"{name!r} is not one of the model's inputs: {wanted}."
                return Rejection(name, row[name], Reason.UNKNOWN_FIELD, message)
        values: list[object] = []
        for tensor in self._tensors:
            if tensor.name not in row:
                return Rejection(tensor.name, None, Reason.MISSING, f"{tensor.name} is missing.")
            try:
                values.append(_row_of(tensor, row[tensor.name]))
            except NotSupported:  # not the row's fault
                raise
            except InvalidInput as error:
                return Rejection(tensor.name, row[tensor.name], Reason.WRONG_TYPE, error.message)
        return values

    def tensors(self, rows: Sequence[Sequence[object]]) -> dict[str, Array]:
        together: dict[str, Array] = {}
        for place, tensor in enumerate(self._tensors):
            parts: list[Array] = [row[place] for row in rows]  # type: ignore[misc]  # _row_of made them
            try:
                together[tensor.name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
            except ValueError as error:
                shapes = sorted({str(list(part.shape[1:])) for part in parts})
                raise InvalidInput(
                    f"The rows give {tensor.name} in different shapes: {', '.join(shapes[:5])}.",
                    code="WRONG_SHAPE",
                    where=tensor.name,
                    next_action="Give it one shape in all rows, or send rows of another shape apart.",
                ) from error
        return together


_Plan = _Columns | _Parts | _Inputs


def inputs_of(signature: Signature, fields: Sequence[FieldSpec]) -> list[tuple[TensorSpec, tuple[FieldSpec, ...]]]:
    """Each input with the fields that are its columns. Raises InvalidInput (FIELDS_MISMATCH)."""
    given = tuple(fields)
    if isinstance(_declared(signature, given), _Columns):
        return [(signature.inputs[0], given)]
    named = {field.name: field for field in given}
    return [(tensor, (named[tensor.name],)) for tensor in signature.inputs]


def no_such_value(field: str, value: object, datatype: str) -> str:
    return f"{field} is {show(value)}: the model takes {datatype}, which has no such value."


def _declared(signature: Signature, fields: tuple[FieldSpec, ...]) -> _Plan:
    inputs = {t.name: t for t in signature.inputs}
    if set(inputs) == {f.name for f in fields} and all(_one_value(t) for t in signature.inputs):
        for field in fields:
            if field.type not in _fits(inputs[field.name].datatype):
                raise _mismatch(f"the field {field.name} is a {field.type}, the input {inputs[field.name].datatype}")
        return _Parts(signature.inputs, fields)
    if len(signature.inputs) != 1:
        raise _mismatch(f"its inputs are {', '.join(inputs)}, the fields {', '.join(f.name for f in fields)}")
    tensor = signature.inputs[0]
    if len(tensor.shape) != 2 or tensor.shape[0] not in (ANY, 1) or tensor.shape[1] not in (ANY, len(fields)):
        raise _mismatch(f"its input {tensor.name} has the shape {list(tensor.shape)}, there are {len(fields)} fields")
    for field in fields:
        if field.type not in _fits(tensor.datatype) or tensor.datatype == "BYTES":
            raise _mismatch(f"the field {field.name} is a {field.type}, the input {tensor.name} {tensor.datatype}")
    return _Columns(tensor, fields)


def _fits(datatype: str) -> tuple[str, ...]:
    """The types of fields whose values a datatype takes as they are."""
    match datatype:
        case "BYTES":
            return ("text",)
        case "BOOL":
            return ("bool",)
        case "FP16" | "FP32" | "FP64":
            return ("float", "int", "bool", "time")
        case _:
            return ("int", "bool", "time")


def _mismatch(why: str) -> InvalidInput:
    return InvalidInput(
        f"The declared fields do not fit the model: {why}.",
        code="FIELDS_MISMATCH",
        next_action="Declare the fields as the model's inputs are, or give the model that was made for them.",
    )


def _one_value(tensor: TensorSpec) -> bool:
    """A single value for each row."""
    return bool(tensor.shape) and tensor.shape[0] in (ANY, 1) and all(axis in (ANY, 1) for axis in tensor.shape[1:])


def _numbers(tensor: TensorSpec, rows: Sequence[Sequence[object]], fields: Sequence[FieldSpec]) -> Array:
    """Clean values as a matrix; missing is NaN. Raises InvalidInput naming a value that the datatype cannot hold."""
    kind = NUMPY_TYPES[tensor.datatype]
    try:
        if kind.kind != "f" and any(None in values for values in rows):
            raise TypeError("only floats have a value for what is missing")
        with np.errstate(over="raise"):
            return np.array(rows, dtype=kind)
    except (FloatingPointError, OverflowError, TypeError) as error:
        for values in rows:
            for field, value in zip(fields, values, strict=True):
                if not _holds(kind, value):
                    raise InvalidInput(
                        no_such_value(field.name, value, tensor.datatype),
                        code="WRONG_VALUE",
                        where=field.name,
                        next_action=f"Give a value that {tensor.datatype} has.",
                    ) from error
        raise


def _holds(kind: np.dtype[Any], value: object) -> bool:
    if value is None:
        return kind.kind == "f"
    try:
        with np.errstate(over="raise"):
            np.array([value], dtype=kind)
    except (FloatingPointError, OverflowError, TypeError):
        return False
    return True


def _required(fields: Sequence[FieldSpec]) -> tuple[str, ...]:
    """Those that a row must have."""
    return tuple(f.name for f in fields if not f.nullable and f.fill is None)


def _texts(fields: Sequence[FieldSpec]) -> frozenset[str]:
    return frozenset(f.name for f in fields if f.type in ("text", "time"))


def _utf8(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{name} is not UTF-8: byte {error.start} of it.",
            code="INVALID_FIELD",
            where=name,
            next_action="Send it in UTF-8.",
        ) from error


def _row_of(tensor: TensorSpec, value: object) -> Array:
    """One row of an input: with a first axis of 1 if the model has one that is free or 1, else the whole tensor."""
    if isinstance(value, bytes):
        return picture(tensor, value)
    if isinstance(value, dict) and set(value) == {BASE64} and takes_pictures(tensor):
        return picture_of_text(tensor, value[BASE64])
    leading = bool(tensor.shape) and tensor.shape[0] in (ANY, 1)
    shape = tensor.shape[1:] if leading else tensor.shape
    single = not isinstance(value, list) and math.prod(shape) == 1 and ANY not in shape
    flat = values_of(tensor, [value] if single else flatten(tensor.name, value, shape))
    lengths = shape if single else _lengths(value, len(shape))
    return array_of(tensor, flat).reshape((1, *lengths) if leading else lengths)


def _lengths(value: object, axes: int) -> tuple[int, ...]:
    lengths: list[int] = []
    for _ in range(axes):
        assert isinstance(value, list)  # flatten has seen to it
        lengths.append(len(value))
        value = value[0] if value else []
    return tuple(lengths)
