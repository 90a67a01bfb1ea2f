"""What uv says, as errors; from where it is told to take packages; what Skyriver itself holds."""

from __future__ import annotations

import zipfile
from email.parser import Parser
from importlib.metadata import requires, version
from pathlib import Path

import pytest

from skyriver.adapters.uv.brought import known_wheels
from skyriver.adapters.uv.failures import explain_failure
from skyriver.adapters.uv.index import also_from, index_options, settings_of
from skyriver.adapters.uv.product import this_product
from skyriver.core.environments import Lock, Locked, read_requirements

HELD = {"numpy": "2.4.6", "h11": "0.16.0"}
RANGES = ("keras>=3.12",)
ASKED = read_requirements(b"pebble<2\ngravel\nsand\nnumpy==1.26\nkeras<3\n", "requirements.txt")

UNKNOWN = """\
error: No solution found when resolving dependencies
  cause: Because pebbel was not found in the package registry and you require pebbel, we can conclude that your \
requirements are unsatisfiable.
"""
NO_VERSION = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of pebble==9 and you require pebble==9, we can conclude that your requirements \
are unsatisfiable.
"""
CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because all versions of gravel depend on pebble>=2 and you require pebble<2, we can conclude that your \
requirements and all versions of gravel are incompatible.
         And because you require gravel, we can conclude that your requirements are unsatisfiable.
"""
PRODUCT = """\
error: No solution found when resolving dependencies
  cause: Because all versions of sand depend on numpy<1.20 and numpy==2.4.6, we can conclude that all versions of sand \
cannot be used.
         And because you require sand, we can conclude that your requirements are unsatisfiable.
"""
PINNED = """\
error: No solution found when resolving dependencies
  cause: Because you require numpy==1.26 and numpy==2.4.6, we can conclude that your requirements are unsatisfiable.
"""
OLD = """\
error: No solution found when resolving dependencies
  cause: Because you require keras<3 and keras>=3.12, we can conclude that your requirements are unsatisfiable.
"""
NEEDS_ALIKE = """\
error: No solution found when resolving dependencies
  cause: Because all versions of gravel depend on keras>=3.12 and you require keras<3, we can conclude that your \
requirements and all versions of gravel are incompatible.
         And because you require gravel, we can conclude that your requirements are unsatisfiable.
"""
ELSEWHERE = """\
error: No solution found when resolving dependencies
  cause: Because only pebble==3.0 is available and you require pebble<2, we can conclude that your requirements are \
unsatisfiable.

hint: `pebble` was found on https://one.example/simple, but not at the requested version (pebble<2). A compatible \
version may be available on a subsequent index (e.g., https://two.example/simple).
"""
LOOKS_ALIKE = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of my-numpy==2.4.6 and you require my-numpy==2.4.6, we can conclude that your \
requirements are unsatisfiable.
"""
AWAY = """\
error: Failed to fetch: https://me:secret@example.org/simple/pebble/
  cause: error sending request for url (https://me:secret@example.org/simple/pebble/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
REFUSED = """\
error: Failed to fetch: https://example.org/simple/pebble/
  cause: HTTP status client error (401 Unauthorized) for url (https://example.org/simple/pebble/)
"""
COMPILER = """\
error: Failed to build `brick==1.0`
  cause: The build backend returned an error
  cause: Call to `setuptools.build_meta.build_wheel` failed (exit status: 1)

         [stdout]
         building 'brick' extension
         gcc -I/home/me/cache/uv/builds-v0/.tmpAyq80U/include -c brick.c -o build/temp/brick.o

         [stderr]
         brick.c:1:10: fatal error: nothing.h: No such file or directory
             1 | #include <nothing.h>
               |          ^~~~~~~~~~~
         compilation terminated.
         error: Command '['gcc', '-c', 'brick.c']' returned non-zero exit status 1.

hint: This error likely indicates that you need to install a library that provides `nothing.h` for `brick@1.0`
"""
HASH = """\
error: Failed to download `pebble==2.0`
  cause: Hash mismatch for `pebble==2.0`

         Expected:
           sha256:47

         Computed:
           sha256:42
"""
FULL = """\
error: Failed to install: pebble-2.0-py3-none-any.whl (pebble==2.0)
  cause: failed to write to file `/home/me/cache/uv/x`: No space left on device (os error 28)
"""
GRAMMAR = """\
error: Couldn't parse requirement in `requirements.txt` at position 0
  cause: Unexpected end of version specifier, expected version
         pebble==
               ^^
"""


@pytest.mark.parametrize(
    ("text", "code", "where", "words"),
    [
        (UNKNOWN, "NO_SUCH_PACKAGE", "", ["pebbel was not found"]),
        (NO_VERSION, "NO_SUCH_VERSION", ":1", ["no version of pebble==9"]),
        (CONFLICT, "REQUIREMENTS_CONFLICT", ":2", ["gravel depend on pebble>=2", "you require pebble<2"]),
        (PRODUCT, "PRODUCT_CONFLICT", ":3", ["sand depend on numpy<1.20", "Skyriver runs with numpy==2.4.6"]),
        (PINNED, "PRODUCT_CONFLICT", ":4", ["you require numpy==1.26", "Skyriver runs with numpy==2.4.6"]),
        (OLD, "PRODUCT_CONFLICT", ":5", ["you require keras<3", "Skyriver works with keras>=3.12"]),
        (NEEDS_ALIKE, "REQUIREMENTS_CONFLICT", ":2", ["gravel depend on keras>=3.12", "you require keras<3"]),
        (ELSEWHERE, "NO_SUCH_VERSION", ":1", ["only pebble==3.0 is available"]),
        (LOOKS_ALIKE, "NO_SUCH_VERSION", "", ["my-numpy==2.4.6"]),
        (AWAY, "INDEX_AWAY", ":1", ["does not answer", "Connection refused"]),
        (REFUSED, "INDEX_REFUSED", ":1", ["401 Unauthorized"]),
        (COMPILER, "BUILD_FAILED", "", ["brick==1.0", "nothing.h: No such file or directory"]),
        (HASH, "HASH_MISMATCH", ":1", ["pebble==2.0"]),
        (FULL, "DISK_FULL", ":1", ["disk is full"]),
        (GRAMMAR, "BAD_REQUIREMENT", ":1", ["expected version", "pebble=="]),
        ("", "ENVIRONMENT_FAILED", "", ["said nothing"]),
    ],
)
def test_a_failure_names_the_requirement_and_why(text: str, code: str, where: str, words: list[str]) -> None:
    error = explain_failure(text, HELD, ASKED, "requirements.txt", RANGES)
    assert (error.code, error.where) == (code, f"requirements.txt{where}")
    for word in words:
        assert word in error.message, error.message
    assert error.next_action
    told = str(error)
    assert "secret" not in told
    assert "/home" not in told
    assert "\n" not in told
    assert (error.http_status == 503) == (code in ("INDEX_AWAY", "DISK_FULL")), "what may pass is Unavailable"


def test_another_index_that_may_have_it_is_told() -> None:
    assert "UV_INDEX_STRATEGY" in explain_failure(ELSEWHERE, HELD, ASKED).next_action
    assert "UV_INDEX_STRATEGY" not in explain_failure(NO_VERSION, HELD, ASKED).next_action


def test_pip_s_configuration_counts_where_uv_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    system, own = tmp_path / "system" / "pip", tmp_path / ".config" / "pip"
    for folder in (system, own):
        folder.mkdir(parents=True)
    (system / "pip.conf").write_text("[global]\nindex-url = https://one.example/simple\nno-index = true\n")
    (own / "pip.conf").write_text("[global]\nindex-url = https://two.example/simple\n[install]\nfind-links = /a /b\n")
    variables = {"XDG_CONFIG_DIRS": str(tmp_path / "system"), "PIP_NO_INDEX": "0", "PIP_TRUSTED_HOST": "two.example"}
    options = index_options(variables)
    assert options[-8:] == [
        "--default-index",
        "https://two.example/simple",
        *("--find-links", "/a", "--find-links", "/b"),
        *("--allow-insecure-host", "two.example"),
    ]
    assert "--no-index" not in options
    assert index_options({**variables, "UV_DEFAULT_INDEX": "https://three.example/simple"}) == []
    (tmp_path / ".config" / "uv").mkdir()
    (tmp_path / ".config" / "uv" / "uv.toml").write_text("")
    assert index_options(variables) == []


def test_a_broken_configuration_of_pip_stops_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "pip.conf"
    broken.write_text("what is this\n")
    assert index_options({"PIP_CONFIG_FILE": str(broken), "PIP_NO_INDEX": "1"})[-1] == "--no-index"


def test_what_is_kept_for_the_builds_concerns_packages_alone() -> None:
    given = {"UV_INDEX": "u", "PIP_CERT": "c", "https_proxy": "p", "SSL_CERT_FILE": "s", "AWS_SECRET": "x", "PATH": "y"}
    assert settings_of(given).keys() == {"UV_INDEX", "PIP_CERT", "https_proxy", "SSL_CERT_FILE"}


def test_the_product_holds_what_it_needs_and_not_what_else_is_installed() -> None:
    held = this_product().held
    assert held["numpy"] == version("numpy")
    assert "httpcore" in held, "needed by what it needs"
    assert not held.keys() & {"pytest", "mypy", "ruff", "duckdb", "pip", "skyriver"}
    names = {path.name for path in this_product().entries(lock_of())}
    assert {"skyriver", "numpy", "numpy.libs", "typing_extensions.py"} <= names
    assert not names & {"pytest", "bin", "__pycache__", "site-packages"}


def lock_of(*packages: Locked) -> Lock:
    return Lock(this_product().python, this_product().platform, packages)


def test_what_only_trainings_need_lies_beside_and_what_the_cloud_needs_is_held() -> None:
    product = this_product()
    assert {"torch", "keras", "h5py", "scikit-learn", "joblib", "optuna"} <= product.beside.keys()
    assert {
        "numpy",
        "onnx",
        "protobuf",
        "ml-dtypes",
        "obstore",
        "psycopg",
        "nats-py",
        "paho-mqtt",
    } <= product.held.keys()
    assert not product.held.keys() & product.beside.keys()
    assert "keras>=3.12" in product.ranges
    assert not [text for text in product.ranges if text.startswith("skyriver")]


def test_what_goes_with_another_version_than_the_environment_s_is_not_seen() -> None:
    product = this_product()

    def seen(*packages: Locked) -> set[str]:
        return {path.name for path in product.entries(lock_of(*packages))}

    own = Locked("scikit-learn", "1.5.0", ("ab" * 32,))
    assert {"sklearn", "imblearn", "skl2onnx", "torch", "keras"} <= seen()
    assert seen() - seen(own) >= {"sklearn", "imblearn", "skl2onnx", "sklearn_compat"}, "they were installed for ours"
    assert {"torch", "keras", "joblib"} <= seen(own), "what has nothing to do with it stays"
    chosen = Locked("imbalanced-learn", product.beside["imbalanced-learn"], ())
    assert "imblearn" in seen(own, chosen), "whoever chose the versions found that these go together"


def test_what_uv_may_choose_is_what_is_installed_with_what_it_needs(tmp_path: Path) -> None:
    folder = known_wheels(this_product(), tmp_path)
    assert known_wheels(this_product(), tmp_path) == folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing half is left"
    assert len(list(folder.iterdir())) == len(this_product().versions)
    wheel = folder / f"scikit_learn-{version('scikit-learn')}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as content:
        told = Parser().parsestr(content.read(f"scikit_learn-{version('scikit-learn')}.dist-info/METADATA").decode())
    assert told["Name"] == "scikit-learn"
    assert told.get_all("Requires-Dist") == requires("scikit-learn")
    assert wheel.stat().st_size < 20_000


def test_a_folder_beside_the_places_that_are_configured_takes_the_place_of_none(tmp_path: Path) -> None:
    given = {"PIP_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    variables, options = also_from(tmp_path, {**given, "PIP_FIND_LINKS": "/a"})
    assert options[-4:] == ["--find-links", "/a", "--find-links", tmp_path.as_uri()]
    assert "UV_FIND_LINKS" not in variables
    variables, options = also_from(tmp_path, {**given, "UV_FIND_LINKS": "/a,/b"})
    assert (variables["UV_FIND_LINKS"], options) == (f"{tmp_path.as_uri()},/a,/b", [])
