"""The bare loop: Granian's RSGI, msgspec and ONNX Runtime, one run a request; no checks, no limits, no metrics.

PEER_MODELS=FOLDER granian --interface rsgi --workers N bare_granian:app
"""

import os
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort


class Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Asked(msgspec.Struct):
    inputs: list[Tensor]


class Scores(msgspec.Struct):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[float]


class Answer(msgspec.Struct):
    model_name: str
    model_version: str
    outputs: list[Scores]


def opened(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


MODELS = {
    f"/v2/models/{path.stem}/infer": (path.stem, opened(path))
    for path in Path(os.environ["PEER_MODELS"]).glob("*.onnx")
}
decode = msgspec.json.Decoder(Asked).decode
encode = msgspec.json.Encoder().encode
HEADERS = [("content-type", "application/json")]


async def app(scope, protocol) -> None:  # type: ignore[no-untyped-def]
    found = MODELS.get(scope.path)
    if found is None:
        protocol.response_empty(404, [])
        return
    name, session = found
    given = decode(await protocol()).inputs[0]
    features = np.array(given.data, np.float32).reshape(given.shape)
    scores = session.run(["score"], {"features": features})[0]
    answer = Answer(name, "1", [Scores("score", scores.shape, "FP32", scores.tolist())])
    protocol.response_bytes(200, HEADERS, encode(answer))
