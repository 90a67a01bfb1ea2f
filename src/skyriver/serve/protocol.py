"""The Open Inference Protocol, version 2, over REST: bodies in, bodies out; pure.

What is there: server and model metadata, live and ready, `infer` with tensors as JSON (flat or nested) or as bytes
(the binary tensor extension, serve.binary), mixed as one likes, `id` given back, `outputs` honoured. Of `parameters`,
`timeout` counts, and those of the binary extension; others are taken and not used. FP16 travels as JSON numbers like
the other floats; a `null` in a tensor of floats is a missing value (NaN), and what is not finite is `null` in JSON.
What is not: shared memory, sequences, classification, and the routes of `EXTENSIONS`. A request that uses them is
refused (501), never misread.
Errors have the protocol's `error`, with our `code` and `next_action` beside it; what is wrong with a request is 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct, field

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.core.inference_protocol import ALL_STATISTICS, EXTENSIONS
from skyriver.release.signature import Signature
from skyriver.serve.binary import bytes_of_tensor, raw_shape, tensor_of_bytes
from skyriver.serve.runner import Array, Tensors
from skyriver.serve.tensors import quoted, show, tensor_of_json

PLATFORM = "onnxruntime_onnx"
BINARY_HEADER = b"inference-header-content-length"
_NOT_BUILT = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
    "sequence_id",
    "sequence_start",
    "sequence_end",
)

Kind = TypeVar("Kind")
Parameters = dict[str, str | int | float | bool | None]


class NotSupported(InvalidInput):
    """A part of the protocol that is not built."""

    default_code = "NOT_SUPPORTED"
    http_status = 501


class BadJson(InvalidInput):
    """A body that is no JSON, or JSON of another shape than the protocol's."""

    default_code = "BAD_JSON"
    default_action = 'Send {"inputs": [...]} for infer, {"field": value, ...} for predict, in UTF-8.'
    http_status = 400


class _Input(Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Raw = field(default_factory=Raw)
    parameters: Parameters | None = None


class _Wanted(Struct):
    name: str
    parameters: Parameters | None = None


class _Request(Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Wanted] | None = None
    parameters: Parameters | None = None


class _Output(Struct, omit_defaults=True):
    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class _Response(Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str = ""


class Infer(Struct):
    """A checked request."""

    inputs: dict[str, Array]
    id: str
    outputs: tuple[str, ...]
    """Names wanted, in their order."""
    binary: frozenset[str] = frozenset()
    """Those wanted as bytes."""
    timeout_us: int | None = None


class Reply(NamedTuple):
    """A body, of which the first `json_size` bytes are JSON and the rest tensors; 0: it is JSON alone."""

    body: bytes
    json_size: int = 0


_decoder = msgspec.json.Decoder(_Request)
encode_json = msgspec.json.Encoder().encode
"""NaN and infinities become `null`: the answer is JSON whatever a model gives."""


class InferCodec:
    """`infer` of one model: bytes to tensors, tensors to bytes."""

    def __init__(self, model: str, version: int, signature: Signature) -> None:
        self._model = model
        self._version = str(version)
        self._signature = signature
        self._inputs = {t.name: t for t in signature.inputs}
        self._outputs = {t.name: t.datatype for t in signature.outputs}
        self._all = tuple(self._outputs)

    def decode(self, body: bytes, header: bytes | None = None) -> Infer:
        """`header`: of the request, saying how many bytes of the body are JSON; 0: it is one tensor without any.

        Raises BadJson, NotSupported, or InvalidInput naming the tensor, what was given and what is wanted.
        """
        size = len(body) if header is None else _json_size(header, len(body))
        if size == 0 and header is not None:
            return self._raw(body)
        request = decode_body(_decoder, body if size == len(body) else memoryview(body)[:size])
        tail = _Tail(memoryview(body)[size:]) if size < len(body) else _NO_TAIL
        inputs: dict[str, Array] = {}
        for given in request.inputs:
            inputs[given.name] = self._tensor(given, inputs, tail)
        tail.check_end()
        if len(inputs) < len(self._inputs):
            raise self._missing([name for name in self._inputs if name not in inputs])
        timeout_us = binary = None
        if request.parameters:
            _refuse_what_is_not_built("The request", request.parameters)
            timeout_us = _timeout(request.parameters)
            binary = request.parameters.get("binary_data_output")
        if request.outputs is None and not binary:  # most requests
            return Infer(inputs, request.id, self._all, timeout_us=timeout_us)
        outputs, as_bytes = self._wanted(request.outputs, binary=bool(binary))
        return Infer(inputs, request.id, outputs, as_bytes, timeout_us)

    def encode(self, asked: Infer, outputs: Tensors) -> Reply:
        listed: list[_Output] = []
        tail: list[bytes] = []
        for name in asked.outputs:
            array = outputs[name]
            if name in asked.binary:
                tail.append(bytes_of_tensor(array))
                parameters = {"binary_data_size": len(tail[-1])}
                listed.append(_Output(name, array.shape, self._outputs[name], parameters))
            else:
                listed.append(_Output(name, array.shape, self._outputs[name], data=array.ravel().tolist()))
        document = encode_json(_Response(self._model, self._version, listed, asked.id))
        return Reply(b"".join([document, *tail]), len(document)) if tail else Reply(document)

    def metadata(self, parameters: Mapping[str, object]) -> bytes:
        """`parameters`: what this server says beside what the protocol asks for."""
        return encode_json(
            {
                "name": self._model,
                "versions": [self._version],
                "platform": PLATFORM,
                **self._signature.to_json(),
                "parameters": parameters,
            }
        )

    def _tensor(self, given: _Input, before: Mapping[str, Array], tail: _Tail) -> Array:
        spec = self._inputs.get(given.name)
        if spec is None or given.name in before:
            raise InvalidInput(
                f"Input {quoted(given.name)} is {'given twice' if spec else 'unknown'}.",
                code="UNKNOWN_INPUT" if spec is None else "DUPLICATE_INPUT",
                next_action=f"The model takes {_names(self._inputs)}.",
            )
        if given.datatype != spec.datatype:
            raise InvalidInput(
                f"Input {given.name!r}: the datatype {given.datatype[:40]} is given, {spec.datatype} is wanted.",
                code="WRONG_DATATYPE",
                where=given.name,
                next_action=_converted(given.datatype, spec.datatype),
            )
        if not given.parameters:
            return tensor_of_json(spec, given.shape, given.data)
        _refuse_what_is_not_built(f"Input {given.name!r}", given.parameters)
        if "binary_data_size" not in given.parameters:
            return tensor_of_json(spec, given.shape, given.data)
        if bytes(given.data):
            raise InvalidInput(
                f"Input {given.name!r} has both `data` and `binary_data_size`.",
                code="DATA_TWICE",
                where=given.name,
                next_action="Send its values in one of the two ways.",
            )
        return tensor_of_bytes(spec, given.shape, tail.take(given.name, given.parameters["binary_data_size"]))

    def _raw(self, body: bytes) -> Infer:
        """A body that is the only input's bytes; its outputs are bytes too."""
        if len(self._inputs) != 1:
            raise InvalidInput(
                f"A body without JSON is one tensor, the model takes {_names(self._inputs)}.",
                code="MISSING_INPUT",
                next_action="Send JSON that names each input, with Inference-Header-Content-Length if bytes follow it.",
            )
        (spec,) = self._inputs.values()
        data = body
        if spec.datatype == "BYTES":
            data = len(body).to_bytes(4, "little") + body
        tensor = tensor_of_bytes(spec, raw_shape(spec, len(body)), memoryview(data))
        return Infer({spec.name: tensor}, "", self._all, frozenset(self._all))

    def _missing(self, names: list[str]) -> InvalidInput:
        return InvalidInput(
            f"Input {_names(names)} is missing.",
            code="MISSING_INPUT",
            next_action=f"The model takes {_names(self._inputs)}.",
        )

    def _wanted(self, outputs: list[_Wanted] | None, *, binary: bool) -> tuple[tuple[str, ...], frozenset[str]]:
        """Names in their order, and which of them as bytes; `binary`: what holds for those that do not say it."""
        as_bytes: dict[str, bool] = {}
        for output in outputs or [_Wanted(name) for name in self._all]:
            parameters = output.parameters or {}
            _refuse_what_is_not_built(f"Output {quoted(output.name)}", parameters)
            if output.name not in self._outputs:
                raise InvalidInput(
                    f"Output {quoted(output.name)} is unknown.",
                    code="UNKNOWN_OUTPUT",
                    next_action=f"The model gives {_names(self._outputs)}.",
                )
            as_bytes[output.name] = bool(parameters.get("binary_data", binary))
        return tuple(as_bytes), frozenset(name for name, wanted in as_bytes.items() if wanted)


class _Tail:
    """The bytes behind the JSON, taken piece by piece."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, name: str, size: object) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidInput(
                f"Input {name!r}: binary_data_size is {show(size)}, a number of bytes is wanted.",
                code="WRONG_SIZE",
                where=name,
                next_action="Give how many bytes of this tensor follow the JSON.",
            )
        if size > len(self._data) - self._at:
            raise InvalidInput(
                f"Input {name!r}: binary_data_size is {show(size)}, {len(self._data) - self._at} bytes are left.",
                code="WRONG_SIZE",
                where=name,
                next_action="The header Inference-Header-Content-Length says where the JSON ends.",
            )
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def check_end(self) -> None:
        if self._at != len(self._data):
            raise InvalidInput(
                f"{len(self._data) - self._at} bytes are left behind the last tensor.",
                code="WRONG_SIZE",
                next_action="Give each tensor behind the JSON its binary_data_size, and send no more bytes.",
            )


_NO_TAIL = _Tail(memoryview(b""))
"""Shared: there is nothing to take of it."""


def _json_size(header: bytes, size: int) -> int:
    if not (header.isdigit() and len(header) < 20 and int(header) <= size):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {show(header[:40].decode('latin-1'))}, the body has {size} bytes.",
            code="WRONG_SIZE",
            next_action="Give there how many bytes of the body are JSON.",
        )
    return int(header)


def _timeout(parameters: Parameters) -> int | None:
    """Microseconds; 0 is none."""
    timeout = parameters.get("timeout")
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0):
        raise InvalidInput(
            f"The parameter timeout is {show(timeout)}, a whole number of microseconds is wanted.",
            code="WRONG_VALUE",
            next_action="Write e.g. 250000 for 250 ms, or leave it out.",
        )
    return timeout or None


_NOT_FINITE = re.compile(rb"NaN|Infinity")
_AT_BYTE = re.compile(r"\(byte (\d+)\)$")


def _place_of(error: msgspec.DecodeError) -> int:
    found = _AT_BYTE.search(str(error))
    return int(found[1]) if found else 0


def decode_body(decoder: msgspec.json.Decoder[Kind], body: bytes | memoryview) -> Kind:
    """Raises BadJson with the place of the fault."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadJson(f"The body is not as the protocol wants it: {error}.", code="BAD_REQUEST") from error
    except msgspec.DecodeError as error:
        if found := _NOT_FINITE.match(body, _place_of(error)):
            raise BadJson(
                f"The body is no JSON, which has no {found[0].decode()}: there is one at byte {found.start()}.",
                next_action="Send null for a value that is missing. In the Open Inference Protocol, binary data has all"
                " floats.",
            ) from error
        raise BadJson(f"The body is no JSON: {error}.") from error
    except RecursionError as error:
        raise BadJson("The body is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise BadJson("The body is not UTF-8.") from error


def extension_of(path: str) -> str:
    """Which extension, of those that are not there, a path belongs to; "" for none."""
    parts = path.split("/")[1:]
    if parts[:1] != ["v2"]:
        return ""
    at = 1 if parts[1:2] != ["models"] else 5 if parts[3:4] == ["versions"] else 3
    named = parts[at] if len(parts) > at else ""
    if path == ALL_STATISTICS:
        named = "stats"
    return EXTENSIONS.get(named, "")


def error_body(error: SkyriverError) -> bytes:
    """The protocol's error object."""
    body = {"error": f"{error.message} {error.next_action}".strip(), "code": error.code}
    if error.next_action:
        body["next_action"] = error.next_action
    return encode_json(body)


def error_status(error: SkyriverError) -> int:
    return 400 if error.http_status == 422 else error.http_status


def _refuse_what_is_not_built(what: str, parameters: Parameters) -> None:
    for name in _NOT_BUILT:
        if parameters.get(name):
            raise NotSupported(
                f"{what} uses {name}={show(parameters[name])}, which is not supported.",
                next_action="Shared memory, sequences and classification are not there: send and take whole tensors.",
            )


def _converted(given: str, wanted: str) -> str:
    """What to do about one kind of number sent for another. BF16 is what trainers hold; no model served takes it."""
    if "BF16" in (given, wanted):
        return (
            f"Convert it before it is sent: with ml_dtypes or torch to {wanted}, which the metadata of the model names."
        )
    return f"Send {wanted}, as the metadata of the model says."


def _names(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(repr(name) for name in names)
