"""What a server of the Open Inference Protocol says of itself, and what of it is not there: the same words from a
replica and from the gateway, which answers for all of them."""

from __future__ import annotations

from typing import Final

METADATA_PATHS: Final = ("/v2", "/v2/")
BINARY_TENSORS: Final = "binary_tensor_data"

EXTENSIONS: Final = {
    "repository": "model repository",
    "systemsharedmemory": "shared memory",
    "cudasharedmemory": "shared memory",
    "trace": "trace",
    "logging": "logging",
    "stats": "statistics",
    "config": "model configuration",
    "generate": "generate",
    "generate_stream": "generate",
}
"""Part of a path under /v2 -> the extension that it belongs to, of those that are not there."""
OF_THE_SERVER: Final = ("repository", "systemsharedmemory", "cudasharedmemory", "trace", "logging")
"""Those of them that are asked for without a model, as /v2/NAME/..."""
ALL_STATISTICS: Final = "/v2/models/stats"


def server_metadata(version: str) -> dict[str, object]:
    return {"name": "skyriver", "version": version, "extensions": [BINARY_TENSORS]}
