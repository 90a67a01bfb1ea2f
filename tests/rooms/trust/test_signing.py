"""What is signed of a version, and what is refused."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from skyriver.adapters.memory.keys import MemoryKeys
from skyriver.core.errors import Corrupt
from skyriver.core.resources import Resource
from skyriver.trust.signing import proof_of, signed_version, verify_version

ARTIFACT = "a" * 64
SPEC: Mapping[str, Any] = {"model": "m", "version": 3, "artifact": ARTIFACT, "metrics": {"average_precision": 0.5}}
KEYS = MemoryKeys()
KEYS.rotate("acme", now=1)
TRUSTED = {key.id: key.public for key in KEYS.list("acme")}
VERSION = signed_version(KEYS, Resource("acme", "version", "m:3", spec=SPEC, state="CANDIDATE", revision=1))


def refusal(version: Resource, *, tenant: str = "acme", artifact: str = ARTIFACT) -> str:
    """The code; "" where it may be loaded."""
    try:
        verify_version(TRUSTED, tenant, artifact, proof_of(version))
    except Corrupt as error:
        return error.code if error.next_action and f"{version.name}" in error.message else str(error)
    return ""


def test_a_signed_version_is_loaded_whatever_happens_to_it_later() -> None:
    assert refusal(VERSION) == ""
    later = replace(VERSION, state="APPROVED", status={**VERSION.status, "gate": {"passed": True}}, revision=2)
    assert refusal(later) == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": {"average_precision": 0.9}},
        {"artifact": "b" * 64},
        {"version": 4},
        {"model": "other"},
        {"champion": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_changed_manifest_is_refused(changed: Mapping[str, Any]) -> None:
    spec = {**SPEC, **changed}
    other = replace(VERSION, spec=spec, revision=7 + len(str(changed)))
    with pytest.raises(Corrupt) as caught:
        verify_version(TRUSTED, "acme", spec["artifact"], proof_of(other))
    assert caught.value.code == "BAD_SIGNATURE"


def test_another_file_than_the_signed_one_is_refused() -> None:
    assert refusal(VERSION, artifact="b" * 64) == "BAD_SIGNATURE"


def test_a_version_of_another_tenant_is_refused() -> None:
    assert refusal(VERSION, tenant="globex") == "BAD_SIGNATURE"


def test_a_missing_signature_is_refused() -> None:
    assert refusal(replace(VERSION, status={}, revision=3)) == "NOT_SIGNED"
    with pytest.raises(Corrupt, match="not signed") as caught:
        verify_version(TRUSTED, "acme", ARTIFACT, None)
    assert caught.value.code == "NOT_SIGNED"


def test_a_foreign_signature_is_refused() -> None:
    foreign = MemoryKeys()
    foreign.rotate("acme", now=1)
    assert refusal(signed_version(foreign, VERSION)) == "UNKNOWN_KEY"
    told = signed_version(foreign, VERSION).status["signature"]
    ours = {**told, "key": VERSION.status["signature"]["key"]}
    assert refusal(replace(VERSION, status={"signature": ours})) == "BAD_SIGNATURE"


@pytest.mark.parametrize("signature", ["", "!!!", base64.b64encode(b"short").decode(), "é"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    told = {**VERSION.status["signature"], "signature": signature}
    expected = "BAD_SIGNATURE" if signature else "NOT_SIGNED"
    assert refusal(replace(VERSION, status={"signature": told})) == expected


def test_what_an_old_key_signed_is_loaded_after_a_rotation() -> None:
    keys = MemoryKeys()
    keys.rotate("acme", now=1)
    version = signed_version(keys, VERSION)
    keys.rotate("acme", now=2)
    trusted = {key.id: key.public for key in keys.list("acme")}
    verify_version(trusted, "acme", ARTIFACT, proof_of(version))
    assert signed_version(keys, VERSION).status["signature"]["key"] != version.status["signature"]["key"]


def test_a_manifest_that_changed_under_the_same_revision_is_refused() -> None:
    assert refusal(VERSION) == ""
    assert refusal(replace(VERSION, spec={**SPEC, "champion": 1})) == "BAD_SIGNATURE"


def test_what_stands_beside_a_signature_counts_for_nothing() -> None:
    signed = {**proof_of(VERSION), **VERSION.status["signature"]}
    changed = replace(VERSION, spec={**SPEC, "metrics": {}}, status={"signature": signed})
    assert refusal(changed) == "BAD_SIGNATURE"
