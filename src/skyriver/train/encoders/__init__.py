"""Encoders of texts, pictures and tables that were trained elsewhere, and what is trained on top of them."""

from __future__ import annotations

from importlib.util import find_spec

from skyriver.train.packages import missing

for _package in ("torch", "safetensors", "onnxscript"):
    if find_spec(_package) is None:
        raise missing(_package, "torch", "An encoder")
