"""Ray Serve with N replicas: `ray_serving.py MODEL.onnx PORT N`. Whether HAProxy stands in front, its variable says."""

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from starlette.requests import Request

MODEL, PORT, REPLICAS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


@serve.deployment(num_replicas=REPLICAS, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Scoring:
    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def __call__(self, request: Request) -> dict:
        given = (await request.json())["inputs"][0]
        features = np.array(given["data"], np.float32).reshape(given["shape"])
        scores = self._session.run(["score"], {"features": features})[0]
        return {"outputs": [{"name": "score", "shape": scores.shape, "datatype": "FP32", "data": scores.tolist()}]}


if __name__ == "__main__":
    ray.init(include_dashboard=False, _temp_dir=str(Path.cwd() / "r"), logging_level="warning", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Scoring.bind(MODEL), name="bench", route_prefix="/v2/models/trees/infer")
    while True:
        time.sleep(60)
