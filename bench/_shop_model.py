"""A small model whose answers and failures a bench can choose, and a request to it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx.parser

_TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
shop (float[n, 3] features) => (float[n, 1] score)
<float[3, 1] weight = {0.1, 0.2, 0.3}, float[1] base = {BASE}, float[2] some = {1, 1}, int64[1, 1] place = {PLACE}>
{ sum = MatMul(features, weight) one = Gather(some, place) same = Mul(sum, one) score = Add(same, base) }
"""
BODY = json.dumps({"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()


def shop_model(base: float = 0.5, place: int = 0) -> bytes:
    """ONNX. `base` is added to each score; with a `place` beyond 1 it refuses all that it is asked."""
    text = _TEXT.replace("BASE", f"{base:.7f}").replace("PLACE", str(place))
    return bytes(onnx.parser.parse_model(text).SerializeToString())


@dataclass(frozen=True, slots=True)
class Asked:
    """What `sending` needs of a case."""

    model: str = "shop"
