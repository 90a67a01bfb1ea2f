"""What is this: of a picture, a description, three numbers, or some of them. `skyriver deploy wardrobe.py`"""

from __future__ import annotations

import skyriver as sr

app = sr.App("wardrobe")

app.model(
    "wardrobe",
    onnx="wardrobe.onnx",
    serve=sr.Service(memory_mb=1_000),
    description="Which of six kinds of clothes a thing is, of its picture, its description and three numbers.",
    licence="Apache-2.0",
)
