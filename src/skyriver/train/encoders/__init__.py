"""Encoders of texts, pictures and tables that were trained elsewhere, and what is trained on top of them."""

from __future__ import annotations

from importlib.util import find_spec

from skyriver.core.errors import InvalidInput

for _package in ("torch", "safetensors", "onnxscript"):
    if find_spec(_package) is None:
        raise InvalidInput(
            f"Encoders need {_package}, which is not installed.",
            code="MISSING_PACKAGE",
            next_action="pip install 'skyriver[torch]'",
        )
