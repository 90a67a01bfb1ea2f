"""A version's file is loaded only whole and signed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skyriver.adapters.directory.objects import DirectoryObjects
from skyriver.adapters.keyfile.keys import KeyFiles
from skyriver.adapters.keyfile.trusting import TrustFile
from skyriver.adapters.memory.store import MemoryStore
from skyriver.control.signing import SignedStore, Signer
from skyriver.core.errors import SkyriverError
from skyriver.core.resources import Put, Resource
from skyriver.trust.signing import proof_of
from skyriver.wiring.home import Home
from skyriver.wiring.model_files import ModelFiles
from skyriver.wiring.simulation import SimulatedClock


class Stage:
    """A home with one version, signed."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.home.make()
        self.objects = DirectoryObjects(self.home.objects)
        self.artifact = self.objects.put(b"a model")
        self.signer = Signer(KeyFiles(self.home.keys), TrustFile(self.home.trusted), SimulatedClock())
        self.store = MemoryStore()
        self.fence = self.store.acquire("test")
        self.signer.begin(self.store, self.fence)
        self.version = self.add(1)
        self.files = ModelFiles(self.home, "default", self.objects)

    def add(self, number: int) -> Resource:
        spec = {"model": "m", "version": number, "artifact": self.artifact}
        row = Resource("default", "version", f"m:{number}", spec=spec, state="CANDIDATE")
        store = SignedStore(self.store, self.signer)
        return store.commit([Put(row, 0)], audit=(), fence=self.fence, actor="test", now=1)[0]

    def refusal(self) -> str:
        proof = proof_of(self.version)
        codes = []
        for load in (self.files.get, self.files.open_path):
            try:
                load(self.artifact, proof)
            except SkyriverError as error:
                assert error.next_action  # noqa: PT017  # both ways of loading are asked
                codes.append(error.code)
            else:
                codes.append("")
        assert len(set(codes)) == 1
        return codes[0]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_signed_version_is_loaded(stage: Stage) -> None:
    assert stage.refusal() == ""


def a_changed_byte(stage: Stage) -> None:
    path = stage.home.objects / stage.artifact[:2] / stage.artifact
    path.chmod(0o600)
    path.write_bytes(b"A model")


def another_manifest(stage: Stage) -> None:
    row = Resource(**{**_fields(stage.version), "spec": {**stage.version.spec, "metrics": {"auc": 1.0}}})
    stage.version = stage.store.commit([Put(row, row.revision)], audit=(), fence=stage.fence, actor="x", now=2)[0]


def no_signature(stage: Stage) -> None:
    row = Resource(**{**_fields(stage.version), "status": {}})
    stage.version = stage.store.commit([Put(row, row.revision)], audit=(), fence=stage.fence, actor="x", now=2)[0]


def another_clouds_trust(stage: Stage) -> None:
    other = KeyFiles(stage.home.root / "other")
    key = other.rotate("default", now=1)
    TrustFile(stage.home.trusted).write({"default": {key.id: key.public}})


def trust_that_others_may_write(stage: Stage) -> None:
    stage.home.trusted.chmod(0o666)


def a_rotation(stage: Stage) -> None:
    stage.signer.rotate("default")


def a_lost_key_file(stage: Stage) -> None:
    KeyFiles(stage.home.keys).path("default").unlink()


def a_key_file_open_to_others(stage: Stage) -> None:
    KeyFiles(stage.home.keys).path("default").chmod(0o644)


@pytest.mark.parametrize(
    ("happens", "code"),
    [
        (a_changed_byte, "OBJECT_CORRUPT"),
        (another_manifest, "BAD_SIGNATURE"),
        (no_signature, "NOT_SIGNED"),
        (another_clouds_trust, "UNKNOWN_KEY"),
        (trust_that_others_may_write, "SECRET_EXPOSED"),
        (a_rotation, ""),
        (a_lost_key_file, ""),
        (a_key_file_open_to_others, ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_changed_is_not_loaded(stage: Stage, happens: Callable[[Stage], None], code: str) -> None:
    happens(stage)
    assert stage.refusal() == code


def test_a_key_file_is_its_owners_alone_and_one_open_to_others_signs_nothing(stage: Stage) -> None:
    path = KeyFiles(stage.home.keys).path("default")
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert oct(os.stat(stage.home.keys).st_mode & 0o777) == "0o700"  # noqa: PTH116
    path.chmod(0o640)
    stage.version = stage.add(2)
    assert stage.refusal() == "NOT_SIGNED"
    assert stage.signer.problem is not None
    assert stage.signer.problem.code == "SECRET_EXPOSED"


def test_a_cloud_that_never_signed_loads_what_it_has(stage: Stage) -> None:
    stage.home.trusted.unlink()
    no_signature(stage)
    assert stage.refusal() == ""


def _fields(row: Resource) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__slots__}
