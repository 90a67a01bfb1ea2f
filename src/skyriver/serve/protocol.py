"""The Open Inference Protocol, version 2, over REST: bodies in, bodies out; pure.

What is there: server and model metadata, live and ready, `infer` with tensors as JSON (flat or nested), `id` given
back, `outputs` honoured, `parameters` taken and not used. FP16 travels as JSON numbers like the other floats; a
`null` in a tensor of floats is a missing value (NaN), and what is not finite in an output is `null`.
What is not: the binary tensor extension and shared memory. A request that uses them is refused, never misread.
Errors have the protocol's `error`, with our `code` and `next_action` beside it; what is wrong with a request is 400.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct, field

from skyriver.core.errors import InvalidInput, SkyriverError
from skyriver.release.signature import Signature
from skyriver.serve.runner import Array, Tensors
from skyriver.serve.tensors import show, tensor_of_json

PLATFORM = "onnxruntime_onnx"
BINARY_HEADER = b"inference-header-content-length"
_BINARY_PARAMETERS = ("binary_data_size", "binary_data", "binary_data_output", "shared_memory_region")

Kind = TypeVar("Kind")
Parameters = dict[str, str | int | float | bool | None]


class NotSupported(InvalidInput):
    """A part of the protocol that is not built."""

    default_code = "NOT_SUPPORTED"
    http_status = 501


class BadJson(InvalidInput):
    """A body that is no JSON, or JSON of another shape than the protocol's."""

    default_code = "BAD_JSON"
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


class _Output(Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any]


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

    def decode(self, body: bytes) -> Infer:
        """Raises BadJson, NotSupported, or InvalidInput naming the tensor, what was given and what is wanted."""
        request = decode_body(_decoder, body)
        if request.parameters:
            _refuse_binary("The request", request.parameters)
        inputs: dict[str, Array] = {}
        for given in request.inputs:
            spec = self._inputs.get(given.name)
            if spec is None or given.name in inputs:
                raise InvalidInput(
                    f"Input {given.name!r} is {'given twice' if spec else 'unknown'}.",
                    code="UNKNOWN_INPUT" if spec is None else "DUPLICATE_INPUT",
                    next_action=f"The model takes {_names(self._inputs)}.",
                )
            if given.parameters:
                _refuse_binary(f"Input {given.name!r}", given.parameters)
            if given.datatype != spec.datatype:
                raise InvalidInput(
                    f"Input {given.name!r}: the datatype {given.datatype} is given, {spec.datatype} is wanted.",
                    code="WRONG_DATATYPE",
                    where=given.name,
                )
            inputs[given.name] = tensor_of_json(spec, given.shape, given.data)
        if len(inputs) < len(self._inputs):
            missing = [name for name in self._inputs if name not in inputs]
            raise InvalidInput(
                f"Input {_names(missing)} is missing.",
                code="MISSING_INPUT",
                next_action=f"The model takes {_names(self._inputs)}.",
            )
        return Infer(inputs, request.id, self._wanted(request.outputs) if request.outputs else self._all)

    def encode(self, asked: Infer, outputs: Tensors) -> bytes:
        return encode_json(
            _Response(
                self._model,
                self._version,
                [
                    _Output(name, outputs[name].shape, self._outputs[name], outputs[name].ravel().tolist())
                    for name in asked.outputs
                ],
                asked.id,
            )
        )

    def metadata(self) -> bytes:
        return encode_json(
            {
                "name": self._model,
                "versions": [self._version],
                "platform": PLATFORM,
                **self._signature.to_json(),
            }
        )

    def _wanted(self, outputs: list[_Wanted]) -> tuple[str, ...]:
        for output in outputs:
            if output.parameters:
                _refuse_binary(f"Output {output.name!r}", output.parameters)
            if output.name not in self._outputs:
                raise InvalidInput(
                    f"Output {output.name!r} is unknown.",
                    code="UNKNOWN_OUTPUT",
                    next_action=f"The model gives {_names(self._outputs)}.",
                )
        return tuple(dict.fromkeys(output.name for output in outputs))


def decode_body(decoder: msgspec.json.Decoder[Kind], body: bytes) -> Kind:
    """Raises BadJson with the place of the fault."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadJson(f"The body is not as the protocol wants it: {error}.", code="BAD_REQUEST") from error
    except msgspec.DecodeError as error:
        raise BadJson(f"The body is no JSON: {error}.") from error
    except RecursionError as error:
        raise BadJson("The body is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise BadJson("The body is not UTF-8.") from error


def refuse_binary_body(header: bytes | None) -> None:
    """A request with this header carries tensors as bytes behind the JSON."""
    if header is not None:
        raise NotSupported(
            "The binary tensor extension is not supported.", next_action="Send the tensors as JSON `data`."
        )


def server_metadata(version: str) -> bytes:
    return encode_json({"name": "skyriver", "version": version, "extensions": []})


def error_body(error: SkyriverError) -> bytes:
    """The protocol's error object."""
    body = {"error": f"{error.message} {error.next_action}".strip(), "code": error.code}
    if error.next_action:
        body["next_action"] = error.next_action
    return encode_json(body)


def error_status(error: SkyriverError) -> int:
    return 400 if error.http_status == 422 else error.http_status


def _refuse_binary(what: str, parameters: Parameters) -> None:
    for name in _BINARY_PARAMETERS:
        if parameters.get(name):
            raise NotSupported(
                f"{what} uses {name}={show(parameters[name])}: binary tensors and shared memory are not supported.",
                next_action="Send the tensors as JSON `data`.",
            )


def _names(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(repr(name) for name in names)
