"""Bodies of any size on their way into the objects."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi.concurrency import run_in_threadpool

from skyriver.control.cloud import Cloud
from skyriver.core.errors import InvalidInput

UPLOAD_LIMIT = 64 * 1024**3


async def take_upload(cloud: Cloud, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
    """Streams a body of any size to disk, then into the objects; its digest and size."""
    with tempfile.NamedTemporaryFile(dir=cloud.uploads) as file:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > UPLOAD_LIMIT:
                raise InvalidInput(
                    f"The upload has over {UPLOAD_LIMIT} bytes.",
                    code="TOO_LARGE",
                    next_action="Split the file and upload the parts.",
                )
            await run_in_threadpool(file.write, chunk)
        file.flush()
        digest = await run_in_threadpool(cloud.objects.put_file, Path(file.name))
    return digest, size
