"""A service of BentoML with PEER_WORKERS workers and without access log."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=int(os.environ.get("PEER_WORKERS", "1")), logging={"access": {"enabled": False}})
class Scoring:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def infer(self, inputs: list[dict]) -> dict:
        given = inputs[0]
        features = np.array(given["data"], np.float32).reshape(given["shape"])
        scores = self._session.run(["score"], {"features": features})[0]
        score = {"name": "score", "shape": list(scores.shape), "datatype": "FP32", "data": scores.tolist()}
        return {"outputs": [score]}
