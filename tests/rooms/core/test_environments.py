"""Requirements, locks, and which job may run in which environment."""

from __future__ import annotations

import pytest

from skyriver.core.environments import (
    Lock,
    Locked,
    apart,
    canonical,
    environment_name,
    lacking,
    parse_lock,
    read_requirements,
    readiness,
    users,
)
from skyriver.core.errors import InvalidInput
from skyriver.core.resources import Resource, Snapshot

HASH = "ab" * 32
LOCK = "c" * 64


def test_requirements_are_read_with_their_lines() -> None:
    text = b"""\
# what the model needs

Pandas >= 2.0 ; python_version > "3.10"   # frames
shap[plots]==0.46 \\
    --hash=sha256:00
some.thing_else
"""
    found = read_requirements(text, "requirements.txt")
    assert [(r.name, r.line) for r in found] == [("pandas", 3), ("shap", 4), ("some-thing-else", 6)]
    assert found[0].text == 'Pandas >= 2.0 ; python_version > "3.10"'
    assert found[1].text == "shap[plots]==0.46 --hash=sha256:00"


def test_a_file_of_comments_asks_for_nothing() -> None:
    assert read_requirements(b"# nothing\n\n", "requirements.txt") == ()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("pebble @ https://me:secret@example.org/pebble-1.0-py3-none-any.whl", "REQUIREMENT_FROM_A_PLACE"),
        ("git+https://me:secret@example.org/pebble", "REQUIREMENT_FROM_A_PLACE"),
        ("pebble@file:///tmp/pebble", "REQUIREMENT_FROM_A_PLACE"),
        ("pebble[all] @ file:///tmp/pebble", "REQUIREMENT_FROM_A_PLACE"),
        ("./pebble", "REQUIREMENT_FROM_A_PLACE"),
        ("/tmp/pebble", "REQUIREMENT_FROM_A_PLACE"),
        ("pebble-1.0-py3-none-any.whl", "REQUIREMENT_FROM_A_PLACE"),
        ("--index-url https://me:secret@example.org/simple", "OPTION_IN_REQUIREMENTS"),
        ("--extra-index-url=https://me:secret@example.org/simple", "OPTION_IN_REQUIREMENTS"),
        ("-i https://me:secret@example.org/simple", "OPTION_IN_REQUIREMENTS"),
        ("-e .", "OPTION_IN_REQUIREMENTS"),
        ("-r other.txt", "OPTION_IN_REQUIREMENTS"),
        ("--pre", "OPTION_IN_REQUIREMENTS"),
        ("== 1.0", "BAD_REQUIREMENT"),
    ],
)
def test_a_line_that_names_a_place_or_an_option_is_refused_without_telling_secrets(line: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_requirements(f"numpy\n{line}\n".encode(), "requirements.txt")
    assert (refused.value.code, refused.value.where) == (code, "requirements.txt:2")
    assert refused.value.next_action
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_requirements(b"\xff\xfe", "requirements.txt")


def test_a_lock_comes_back_as_it_was_and_its_digest_is_its_contents() -> None:
    lock = Lock("3.11", "linux-x86_64", (Locked("pebble", "1.0", (HASH,)), Locked("sand", "2.0.post1+cpu", ())))
    assert parse_lock(lock.to_bytes()) == lock
    assert lock.digest != Lock("3.12", "linux-x86_64", lock.packages).digest
    assert lock.digest != Lock("3.11", "linux-aarch64", lock.packages).digest
    assert lock.digest != Lock("3.11", "linux-x86_64", lock.packages[:1]).digest
    assert parse_lock(Lock("3.11", "linux-x86_64", ()).to_bytes()).packages == ()


@pytest.mark.parametrize(
    "line",
    [
        "pebble==1.0",  # nothing says which file
        f"pebble>=1.0 --hash=sha256:{HASH}",
        f"pebble @ https://example.org/pebble.whl --hash=sha256:{HASH}",
        f"https://example.org/pebble.whl --hash=sha256:{HASH}",
        "--index-url https://example.org/simple",
        f"-e . --hash=sha256:{HASH}",
        f"pebble==1.0 --hash=sha256:{HASH} --index-url=https://example.org",
        f"pebble==1.0 --hash=md5:{HASH}",
        f"pebble==1.0 --installed --hash=sha256:{HASH}",
        "pebble>=1.0 --installed",
    ],
)
def test_a_lock_holds_nothing_but_names_versions_and_hashes(line: str) -> None:
    data = Lock("3.11", "linux-x86_64", ()).to_bytes() + line.encode() + b"\n"
    with pytest.raises(InvalidInput) as refused:
        parse_lock(data)
    assert refused.value.code == "BAD_LOCK"


@pytest.mark.parametrize("data", [b"", b"pebble==1.0\n", b"\xff", b"# skyriver lock 2: python 3.11, linux-x86_64\n"])
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_lock(data)
    assert refused.value.code == "BAD_LOCK"


def test_one_spelling_of_a_name() -> None:
    assert {canonical(n) for n in ("Some.Thing", "some_thing", "SOME--thing")} == {"some-thing"}


def test_a_process_in_an_environment_gets_no_packages_from_outside() -> None:
    given = {"PATH": "/bin", "PYTHONPATH": "/x", "PYTHONHOME": "/y", "VIRTUAL_ENV": "/z", "PYTHONUNBUFFERED": "1"}
    kept = {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}
    assert apart(given) == kept


def _rows(*rows: Resource) -> Snapshot:
    return Snapshot({r.key: r for r in rows}, {}, {}, 0)


def _environment(state: str, **told: str) -> Resource:
    return Resource("t", "environment", environment_name(LOCK), spec={"lock": LOCK}, state=state, **told)


def _named(kind: str, name: str, state: str, lock: str = LOCK, tenant: str = "t") -> Resource:
    return Resource(tenant, kind, name, spec={"environment": lock}, state=state)


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        ([_environment("READY")], "go", ""),
        ([_environment("PENDING")], "wait", "BUILDING_ENVIRONMENT"),
        ([_environment("BUILDING")], "wait", "BUILDING_ENVIRONMENT"),
        ([_environment("REMOVING")], "wait", "BUILDING_ENVIRONMENT"),
        ([_environment("FAILED", message="no such package.")], "refuse", "ENVIRONMENT_FAILED"),
        ([], "refuse", "ENVIRONMENT_FAILED"),
    ],
)
def test_a_job_runs_once_its_environment_is_ready(rows: list[Resource], verdict: str, reason: str) -> None:
    found = readiness(_rows(*rows), _named("job", "one", "PENDING"))
    assert (found.verdict, found.reason) == (verdict, reason)
    assert verdict == "go" or found.message
    if rows and rows[0].state == "FAILED":
        assert "no such package" in found.message


def test_a_job_without_an_environment_waits_for_none() -> None:
    assert readiness(_rows(), Resource("t", "job", "one", spec={})).verdict == "go"
    assert readiness(_rows(), _named("job", "one", "PENDING", lock="")).verdict == "go"


def test_who_uses_an_environment() -> None:
    others = [
        _named("app", "other", "DEPLOYED", lock="d" * 64),
        _named("app", "foreign", "DEPLOYED", tenant="u"),
        _named("job", "done", "SUCCEEDED"),
        _named("job", "gone", "CANCELLED"),
    ]
    environment = _environment("READY")
    assert list(users(_rows(environment, *others), environment)) == []
    using = [_named("app", "shop", "DEPLOYED"), _named("job", "now", "RUNNING"), _named("job", "next", "PENDING")]
    found = list(users(_rows(environment, *others, *using), environment))
    assert sorted(found) == ["app/shop", "job/next", "job/now"]


@pytest.mark.parametrize(
    ("module", "said"),
    [("keras.layers", "skyriver[keras]"), ("sklearn", "skyriver[sklearn]"), ("catboost", "names what brings catboost")],
)
def test_what_a_users_code_lacks_is_said_with_where_it_comes_from(module: str, said: str) -> None:
    told = lacking(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert said in told
    assert "requirements.txt" in told


def test_other_errors_lack_nothing() -> None:
    assert lacking(ImportError("cannot import name 'x'", name="numpy")) == ""
    assert lacking(ModuleNotFoundError("of no name")) == ""
