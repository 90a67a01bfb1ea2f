"""What counts as shown that a NATS server syncs before it acknowledges."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from skyriver.adapters.nats import proof
from skyriver.core.errors import Conflict, InvalidInput
from skyriver.decide.worker.sources import Access

OURS: Any = SimpleNamespace(_server_info={"version": "2.15.0", "server_id": "A"})


def server(name: str, sync: bool | None) -> dict[str, Any]:
    config = {} if sync is None else {"config": {"sync_always": sync}}
    return {"server_id": name, "server_name": name, "jetstream": config}


def check(monkeypatch: pytest.MonkeyPatch, *servers: dict[str, Any]) -> None:
    async def answer(url: str, access: Access) -> list[dict[str, Any]]:
        return list(servers)

    monkeypatch.setattr(proof, "_ask_system", answer)
    asyncio.run(proof.check_syncs("nats://x:4222", OURS, Access(system_user="sys")))


def test_a_cluster_that_syncs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, server("A", True), server("B", True))
    check(monkeypatch, server("A", None), server("B", True))


def test_nothing_shown_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    for servers in ([server("A", None)], [server("A", None), server("B", None)], [server("B", True)]):
        with pytest.raises(InvalidInput) as refused:
            check(monkeypatch, *servers)
        assert refused.value.code == "NO_PROOF"
    monkeypatch.setattr(proof, "_ask_monitor", lambda _: {"server_id": "A", "jetstream": {}})
    with pytest.raises(InvalidInput, match="no server that answers tells"):
        asyncio.run(proof.check_syncs("nats://x:4222", OURS, Access(monitor="http://x")))


def test_one_that_does_not_sync_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Conflict) as refused:
        check(monkeypatch, server("A", True), server("B", False))
    assert refused.value.code == "DOES_NOT_SYNC"
