"""What Triton's Python backend runs: the requests that its dynamic batcher hands over, as one run of ONNX Runtime."""

import os
import sys
from pathlib import Path

sys.path.append(os.environ["PEER_PACKAGES"])  # Triton's interpreter does not look at PYTHONPATH

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, given: dict[str, str]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(given["model_repository"]) / given["model_version"] / "model.onnx"
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list) -> list:
        parts = [triton.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        together = parts[0] if len(parts) == 1 else np.concatenate(parts)
        scores = self._session.run(["score"], {"features": together})[0]
        answers, at = [], 0
        for part in parts:
            mine = scores[at : at + len(part)].reshape(-1, 1)
            answers.append(triton.InferenceResponse([triton.Tensor("score", mine)]))
            at += len(part)
        return answers
