"""Versions are signed as they become rows, and what happens without a key."""

from typing import Any

import pytest

from skyriver.adapters.memory.keys import MemoryKeys, MemoryTrust
from skyriver.adapters.memory.store import MemoryStore
from skyriver.control.signing import SignedStore, Signer
from skyriver.core.errors import Corrupt
from skyriver.core.resources import Put, Resource
from skyriver.trust.signing import proof_of, verify_version
from skyriver.wiring.simulation import SimulatedClock

ARTIFACT = "a" * 64


class Cloud:
    def __init__(self) -> None:
        self.keys, self.trust, self.store = MemoryKeys(), MemoryTrust(), MemoryStore()
        self.fence = self.store.acquire("test")
        self.signer = Signer(self.keys, self.trust, SimulatedClock())
        self.signed = SignedStore(self.store, self.signer)

    def add(self, name: str, *, tenant: str = "default", plainly: bool = False, **status: Any) -> Resource:
        model, _, number = name.partition(":")
        spec = {"model": model, "version": int(number), "artifact": ARTIFACT}
        row = Resource(tenant, "version", name, spec=spec, status=status, state="CANDIDATE")
        store = self.store if plainly else self.signed
        return store.commit([Put(row, 0)], audit=(), fence=self.fence, actor="test", now=1)[0]

    def loads(self, name: str, tenant: str = "default") -> str:
        proof = proof_of(self.store.get(tenant, "version", name))
        try:
            verify_version(self.signer.trusted(tenant), tenant, ARTIFACT, proof)
        except Corrupt as error:
            return error.code
        return ""


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def test_a_cloud_of_before_signs_what_it_has_once(cloud: Cloud) -> None:
    cloud.add("m:1", plainly=True)
    cloud.add("m:1", tenant="globex", plainly=True)
    cloud.signer.begin(cloud.store, cloud.fence)
    assert (cloud.loads("m:1"), cloud.loads("m:1", "globex")) == ("", "")
    cloud.add("m:2", plainly=True)  # somebody writes into the database
    cloud.signer.begin(cloud.store, cloud.fence)
    assert cloud.loads("m:2") == "NOT_SIGNED"


def test_a_version_is_signed_as_it_becomes_a_row(cloud: Cloud) -> None:
    cloud.signer.begin(cloud.store, cloud.fence)
    cloud.add("m:1")
    assert cloud.loads("m:1") == ""
    cloud.add("m:1", tenant="globex")  # a tenant of which there was nothing yet
    assert cloud.loads("m:1", "globex") == ""


def test_nobody_brings_a_signature_along(cloud: Cloud) -> None:
    cloud.signer.begin(cloud.store, cloud.fence)
    brought = cloud.add("m:1").status["signature"]
    cloud.keys.lose("default")
    row = cloud.add("m:2", signature=brought)
    assert "signature" not in row.status


def test_a_later_write_keeps_the_signature(cloud: Cloud) -> None:
    cloud.signer.begin(cloud.store, cloud.fence)
    row = cloud.add("m:1")
    cloud.signed.commit([Put(row, row.revision)], audit=(), fence=cloud.fence, actor="test", now=2)
    assert cloud.loads("m:1") == ""


def test_a_lost_key_stops_nothing_that_is_signed_and_signs_nothing_new(cloud: Cloud) -> None:
    cloud.signer.begin(cloud.store, cloud.fence)
    cloud.add("m:1")
    cloud.keys.lose("default")
    cloud.add("m:2")
    assert (cloud.loads("m:1"), cloud.loads("m:2")) == ("", "NOT_SIGNED")
    assert cloud.signer.problem is not None
    assert cloud.signer.problem.code == "NO_KEY"
    cloud.signer.rotate("default")
    assert cloud.signer.sign_again(cloud.store, cloud.fence, "default", actor="ann") == ["m:1", "m:2"]
    assert (cloud.loads("m:1"), cloud.loads("m:2"), cloud.signer.problem) == ("", "", None)


def test_what_the_key_before_signed_counts_after_a_rotation(cloud: Cloud) -> None:
    cloud.signer.begin(cloud.store, cloud.fence)
    cloud.add("m:1")
    cloud.signer.rotate("default")
    cloud.add("m:2")
    assert (cloud.loads("m:1"), cloud.loads("m:2")) == ("", "")
    used = {cloud.store.get("default", "version", f"m:{n}").status["signature"]["key"] for n in (1, 2)}
    assert used == {key.id for key in cloud.signer.list("default")}


def test_a_key_that_a_crash_kept_from_being_trusted_is_trusted_before_it_signs(cloud: Cloud) -> None:
    cloud.signer.begin(cloud.store, cloud.fence)
    cloud.keys.rotate("default", now=2)
    cloud.keys.rotate("globex", now=2)
    cloud.add("m:1")
    cloud.add("m:1", tenant="globex")
    assert (cloud.loads("m:1"), cloud.loads("m:1", "globex")) == ("", "")


def test_a_crash_between_signing_and_trusting_is_made_good(cloud: Cloud) -> None:
    cloud.add("m:1", plainly=True)
    cloud.keys.rotate("default", now=1)
    cloud.signer.begin(cloud.store, cloud.fence)
    assert (cloud.loads("m:1"), len(cloud.keys.list("default"))) == ("", 1)
