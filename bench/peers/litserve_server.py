"""LitServe with N workers on this machine's cores: `litserve_server.py MODEL.onnx PORT N`."""

import sys

import litserve
import numpy as np
import onnxruntime as ort


class Scoring(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict) -> np.ndarray:
        given = request["inputs"][0]
        return np.array(given["data"], np.float32).reshape(given["shape"])

    def predict(self, features: np.ndarray) -> np.ndarray:
        return self._session.run(["score"], {"features": features})[0]

    def encode_response(self, scores: np.ndarray) -> dict:
        return {"outputs": [{"name": "score", "shape": scores.shape, "datatype": "FP32", "data": scores.tolist()}]}


if __name__ == "__main__":
    server = litserve.LitServer(Scoring(), accelerator="cpu", workers_per_device=int(sys.argv[3]))
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
