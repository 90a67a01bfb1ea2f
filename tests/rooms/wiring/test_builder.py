"""What goes wrong with a builder, as its worker tells it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.core.errors import Unavailable
from skyriver.wiring import feature_changes as module
from skyriver.wiring.feature_changes import FeatureChanges


@pytest.mark.parametrize(
    ("line", "why"),
    [(b"{}\n", "KeyError: 'stream'."), (b'{"stream": {}}\n', "ValidationError: "), (b"{\n", "JSONDecodeError: ")],
)
def test_whatever_ends_a_builder_is_told(line: bytes, why: str) -> None:
    command = [sys.executable, "-m", "skyriver.wiring.builder"]
    done = subprocess.run(command, input=line, capture_output=True, timeout=300, check=False)
    problem = json.loads(done.stdout)["problem"]
    assert (done.returncode, problem["code"]) == (1, "INTERNAL")
    assert problem["detail"].startswith(why)
    assert b"Traceback" in done.stderr, "the worker's log has all of it"


def test_the_worker_has_code_and_next_action_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.0)
    full = Unavailable("A file cannot be written.", code="DISK_FULL", next_action="Free space.").to_problem()

    async def test(lines: list[bytes], code: int) -> Any:
        async def readline() -> bytes:
            return lines.pop(0)

        async def wait() -> int:
            return code

        parts: Any = SimpleNamespace()
        changes = FeatureChanges(parts, parts, parts, parts, parts, parts)
        process: Any = SimpleNamespace(stdout=SimpleNamespace(readline=readline), wait=wait)
        changes._process = process
        features: Any = object()
        while lines:
            assert not await changes._is_built(features)
        return changes.problem

    told = asyncio.run(test([json.dumps({"problem": full}).encode(), b""], 1))
    assert (told.code, told.next_action) == ("DISK_FULL", "Free space.")
    assert told.message == "The changed features are not built: A file cannot be written."
    killed = asyncio.run(test([b""], -9))
    assert (killed.code, killed.message) == (
        "INTERNAL",
        "The changed features are not built: It was ended by SIGKILL.",
    )
