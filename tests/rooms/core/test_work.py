"""What a job's function gets, without a cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import skyriver as sr
from skyriver.adapters.memory.objects import MemoryObjects
from skyriver.core.errors import InvalidInput, NotFound, SkyriverError

OUTPUTS: dict[str, Any] = {
    "extract": {"result": {"rows": 3}, "artifacts": {}},
    "work": [{"result": 1}, {"result": None}],
}


def test_inputs_are_what_other_jobs_returned() -> None:
    job = sr.Job(params={"day": "monday"}, outputs=OUTPUTS)
    assert job.inputs == {"extract": {"rows": 3}, "work": [1, None]}
    assert (job.params, job.index, job.attempt, job.slot) == ({"day": "monday"}, 0, 1, "")
    job.progress("rows", 1, 3)  # nobody listens
    job.report(1, of=3, loss=0.5)


@pytest.mark.parametrize("cloud", [False, True])
def test_what_is_saved_can_be_opened(cloud: bool, tmp_path: Path) -> None:
    objects = MemoryObjects() if cloud else None
    job = sr.Job(objects=objects)
    file = tmp_path / "file.bin"
    file.write_bytes(b"\x00\x01")
    assert job.save("a.txt", "Gruß") == job.save("b.txt", "Gruß".encode())
    job.save("c", file)
    assert {name: kept["bytes"] for name, kept in job.artifacts.items()} == {"a.txt": 5, "b.txt": 5, "c": 2}
    for name, data in (("a.txt", "Gruß".encode()), ("c", b"\x00\x01")):
        with job.open(name) as found:
            assert found.read() == data


def test_an_artifact_of_several_is_named_by_whose_it_is() -> None:
    objects = MemoryObjects()
    kept = [{"result": None, "artifacts": {"part": {"digest": objects.put(data), "bytes": 1}}} for data in (b"0", b"1")]
    job = sr.Job(outputs={"work": kept, "other": kept[0]}, objects=objects)
    with pytest.raises(InvalidInput, match="3 jobs have an artifact 'part'"):
        job.open("part")
    with job.open("part", of="work", index=1) as found:
        assert found.read() == b"1"
    with job.open("part", of="other") as found:
        assert found.read() == b"0"
    with pytest.raises(NotFound) as caught:
        job.open("nothing")
    assert "work: part" in caught.value.next_action


@pytest.mark.parametrize(("name", "data"), [("../x", b""), ("", b""), ("a/b", b""), ("ok", 7), (".hidden", b"")])
def test_what_cannot_be_kept_is_refused(name: str, data: Any) -> None:
    with pytest.raises(SkyriverError):
        sr.Job().save(name, data)
