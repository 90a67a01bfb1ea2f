"""Applications with packages of their own: each job sees its application's and nobody else's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from cloud_process import COMMAND, Cloud, Ended, free_port, run_command, wait_for, write_lines
from wheels import from_folder, write_source, write_wheel

APP = """\
import importlib.util
import sys

{imports}
import skyriver as sr

app = sr.App("{name}")


class Rock(sr.Event):
    rock: int
    weight: float
    hollow: int


rocks = app.table("{name}_rocks", Rock, id="rock")
weighed = app.features("{name}_weighed", rocks, {{"weight": rocks.weight}})


@app.train(weighed, label=rocks.hollow)
def fit(data: sr.TrainingData):
    seen = [name for name in ("pebble", "gravel", "pytest", "lightgbm") if importlib.util.find_spec(name)]
    raise ValueError(f"{{sys.prefix}} has {{seen}} {{{told}}}")


app.model("{name}_hollowness", fit)
"""
IMPORTS = "import importlib.metadata as about\nimport h5py"
ROCKS = [{"rock": n, "weight": float(n), "hollow": n % 2} for n in range(200)]


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("links")
    for version in ("1.0", "2.0"):
        write_wheel(folder, "pebble", version)
    write_wheel(folder, "gravel", "1.0", "from pebble import VERSION\n", requires=["pebble>=2"])
    write_wheel(folder, "sand", "1.0", requires=["numpy<1.20"])
    write_wheel(folder, "h5py", "3.0")
    write_wheel(
        folder, "boulder", "1.0", requires=[f"h5py<{metadata.version('h5py')}", "keras", "absl-py>=1", "numpy>=1.26"]
    )
    write_source(folder, "brick", "1.0", "def build_wheel(*args):\n    raise OSError('no kiln here')\n")
    return folder


@pytest.fixture(scope="module")
def cloud(links: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in from_folder(links).items():
            patch.setenv(name, value)
        made = Cloud(tmp_path_factory.mktemp("apps"))
        made.command("up", "--port", made.port).succeeded()
        yield made
        made.command("down").succeeded()
        shutil.rmtree(made.home)


def application(cloud: Cloud, name: str, requirements: str | None, imports: str = "", told: str = "''") -> Path:
    folder = cloud.folder / name
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP.format(name=name, imports=imports, told=told))
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    return folder / "app.py"


def environment_of(cloud: Cloud, name: str) -> str:
    return str(cloud.json("app", "get", name)["spec"]["environment"])


def state_of(cloud: Cloud, lock: str) -> str:
    return str(cloud.json("environment", "get", lock[:16])["state"])


def what_a_job_says(cloud: Cloud, name: str) -> str:
    """Of a training, whose function raises what it saw."""
    cloud.command("table", "load", f"{name}_rocks", write_lines(cloud.folder / "rocks.jsonl", ROCKS)).succeeded()
    ended = cloud.command("run", f"{name}_hollowness")
    assert ended.code == 100, ended.err
    return ended.err


def test_a_job_sees_the_packages_of_its_application_and_nobody_elses(cloud: Cloud) -> None:
    for name, version in (("one", "1.0"), ("two", "2.0")):
        file = application(cloud, name, f"pebble=={version}\n", "import pebble", "pebble.VERSION")
        cloud.command("deploy", file, "-y").succeeded()
    cloud.command("deploy", application(cloud, "three", None), "-y").succeeded()
    first, second, third = (environment_of(cloud, name) for name in ("one", "two", "three"))
    assert first != second
    assert third == ""

    said = what_a_job_says(cloud, "one")
    assert f"{first} has ['pebble', 'lightgbm'] 1.0" in said, "its own, and what Skyriver needs; not what else is here"
    assert f"{second} has ['pebble', 'lightgbm'] 2.0" in what_a_job_says(cloud, "two")
    plain = what_a_job_says(cloud, "three")
    assert "'pebble'" not in plain
    assert "'lightgbm'" in plain
    assert str(cloud.home / "environments") not in plain


def test_the_same_requirements_are_one_environment_and_deploying_again_changes_nothing(cloud: Cloud) -> None:
    file = application(cloud, "same", "pebble == 1.0  # alike\n", "import pebble")
    other = application(cloud, "again", "pebble==1.0\n", "import pebble")
    plans = [cloud.json("deploy", f, "-y")["plan"] for f in (other, file)]
    assert environment_of(cloud, "same") == environment_of(cloud, "again")
    built = [line for line in plans[1] if line["kind"] == "environment"]
    assert [line["action"] for line in built] == ["keep"]
    nothing = cloud.json("deploy", file, "-y")["plan"]
    assert {line["action"] for line in nothing} == {"keep"}
    wait_for(lambda: state_of(cloud, environment_of(cloud, "same")) == "READY", "READY")
    shown = cloud.json("environment", "get", environment_of(cloud, "same")[:16])["status"]
    assert shown["packages"] == {"pebble": "1.0"}
    assert shown["mb"] < 1


def test_files_of_packages_are_hard_links_into_one_cache(cloud: Cloud) -> None:
    cloud.command("deploy", application(cloud, "hard", "gravel\n", "import gravel"), "-y").succeeded()
    cloud.command("deploy", application(cloud, "disk", "pebble==2.0\n"), "-y").succeeded()
    folders = [cloud.home / "environments" / environment_of(cloud, name) for name in ("hard", "disk")]
    files = [next(folder.glob("lib/*/site-packages/pebble.py")) for folder in folders]
    assert files[0].samefile(files[1])


def test_what_lost_its_folder_is_built_again_by_the_cloud_which_tells_why_it_cannot(cloud: Cloud, links: Path) -> None:
    """A home that was brought back without its environments; the package of one is gone from the index meanwhile."""
    wheel = write_wheel(links, "slate", "1.0")
    cloud.command("deploy", application(cloud, "lost", "gravel\n", "import gravel"), "-y").succeeded()
    file = application(cloud, "slate", "slate\n")
    cloud.command("deploy", file, "-y").succeeded()
    whole, broken = environment_of(cloud, "lost"), environment_of(cloud, "slate")
    for lock in (whole, broken):
        wait_for(lambda lock=lock: state_of(cloud, lock) == "READY", "READY")
    cloud.command("down").succeeded()
    for lock in (whole, broken):
        shutil.rmtree(cloud.home / "environments" / lock)
    shutil.rmtree(cloud.home / "cache" / "uv")
    away = wheel.rename(wheel.with_suffix(".away"))
    cloud.command("up").succeeded()
    wait_for((cloud.home / "environments" / whole / "bin" / "python").exists, "built by the cloud")
    wait_for(lambda: state_of(cloud, whole) == "READY", "READY")

    wait_for(lambda: state_of(cloud, broken) == "FAILED", "FAILED")
    (told,) = cloud.json("explain", f"environment/{broken[:16]}")
    assert told["reason"] == "NO_SUCH_PACKAGE"
    assert "slate" in told["message"]
    assert told["next_action"]
    assert any("No solution found" in line for line in told["log"]), "the log has all that uv said"
    said = what_a_job_says(cloud, "slate")
    assert "ENVIRONMENT_FAILED" in said, "the job that needs it says so too"
    assert "slate" in said
    away.rename(wheel)
    plan = cloud.json("deploy", file, "-y")["plan"]
    assert [(line["action"], line["detail"]) for line in plan if line["kind"] == "environment"] == [
        ("update", "built again")
    ]
    wait_for(lambda: state_of(cloud, broken) == "READY", "READY")


def test_a_package_may_need_another_version_than_an_extra_of_ours_brought(cloud: Cloud) -> None:
    """As TensorFlow does. What both can use is not fetched: no index here has it."""
    file = application(cloud, "heavy", "boulder\nrich\n", IMPORTS, "h5py.VERSION, about.version('keras')")
    cloud.command("deploy", file, "-y").succeeded()
    said = what_a_job_says(cloud, "heavy")
    assert f"('3.0', '{metadata.version('keras')}')" in said
    shown = cloud.json("environment", "get", environment_of(cloud, "heavy")[:16])["status"]["packages"]
    assert shown["h5py"] == "3.0"
    assert {name: shown[name] for name in ("keras", "absl-py", "numpy", "rich")} == {
        name: metadata.version(name) for name in ("keras", "absl-py", "numpy", "rich")
    }


BAD: list[tuple[str, str, int, str, list[str]]] = [
    ("pebble\n\npebbel==1.0\n", "NO_SUCH_PACKAGE", 2, ":3", ["pebbel"]),
    ("pebble==9.0\n", "NO_SUCH_VERSION", 2, ":1", ["pebble==9.0"]),
    ("pebble<2\ngravel\n", "REQUIREMENTS_CONFLICT", 2, ":2", ["gravel", "pebble<2"]),
    ("sand\n", "PRODUCT_CONFLICT", 2, ":1", ["sand", "numpy<1.20", "Skyriver"]),
    ("pebble\nkeras<3\n", "PRODUCT_CONFLICT", 2, ":2", ["keras<3", "Skyriver works with keras>=3"]),
    ("brick\n", "BUILD_FAILED", 2, ":1", ["brick==1.0", "no kiln here"]),
    ("pebble @ https://me:secret@example.org/pebble.whl\n", "REQUIREMENT_FROM_A_PLACE", 2, ":1", ["pebble"]),
    ("--index-url https://me:secret@example.org/simple\n", "OPTION_IN_REQUIREMENTS", 2, ":1", ["--index-url"]),
    ("pebble==\n", "BAD_REQUIREMENT", 2, ":1", ["pebble=="]),
]


@pytest.mark.parametrize(
    ("requirements", "code", "exit_code", "line", "words"), BAD, ids=[f"{b[1]}-{b[4][0]}" for b in BAD]
)
def test_what_cannot_be_had_is_told_before_anything_is_done(
    requirements: str, code: str, exit_code: int, line: str, words: list[str], cloud: Cloud
) -> None:
    file = application(cloud, "bad", requirements)
    ended = cloud.command("deploy", file, "-y").refused(code, exit_code, f"requirements.txt{line}", *words)
    assert "secret" not in ended.err
    assert str(cloud.home) not in ended.err
    assert "bad" not in {row["name"] for row in cloud.rows("apps")}


def test_an_index_that_is_away_is_told_and_may_be_tried_again(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@127.0.0.1:{free_port()}/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    ended = cloud.command("deploy", application(cloud, "away", "basalt\n"), "-y")
    ended.refused("INDEX_AWAY", 7, "requirements.txt", "does not answer")
    assert "secret" not in ended.err


def test_a_module_that_no_requirement_names_is_told(cloud: Cloud) -> None:
    file = application(cloud, "missing", "pebble==1.0\n", "import marble")
    cloud.command("deploy", file, "-y").refused("MISSING_MODULE", 2, "app.py:4", "marble", "requirements.txt")
    file = application(cloud, "ending", "pebble==1.0\n", "import os; os._exit(3)")
    cloud.command("deploy", file, "-y").refused("APP_FILE_FAILED", 2, "exit status 3")


def test_what_the_file_prints_does_not_mix_with_data(cloud: Cloud) -> None:
    file = application(cloud, "loud", "pebble==1.0\n", "print('hello from the file')")
    ended = cloud.command("deploy", file, "--dry-run", "--json").succeeded()
    assert "hello" not in ended.out
    assert "hello" in ended.err
    assert ended.json["applied"] is False


def test_versions_are_chosen_once_and_again_on_demand(cloud: Cloud, links: Path) -> None:
    file = application(cloud, "chosen", "chalk\n")
    write_wheel(links, "chalk", "1.0")
    cloud.command("deploy", file, "-y").succeeded()
    first = environment_of(cloud, "chosen")
    write_wheel(links, "chalk", "1.1")
    assert {line["action"] for line in cloud.json("deploy", file, "-y")["plan"]} == {"keep"}
    cloud.command("deploy", file, "-y", "--upgrade").succeeded()
    assert environment_of(cloud, "chosen") != first


def test_a_deploy_that_is_killed_while_it_builds_leaves_nothing_half(cloud: Cloud, links: Path) -> None:
    """At many moments: a folder with an environment's name is a whole environment, and the next one builds it."""
    environments = cloud.home / "environments"
    for moment in range(4):
        name = f"flint{moment}"
        write_wheel(links, name, "1.0")
        file = application(cloud, name, f"{name}\n", f"import {name}")
        arguments = [str(COMMAND), "--home", str(cloud.home), "deploy", str(file), "--dry-run"]
        before = set(environments.glob("?" * 64))
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if moment:
            with contextlib.suppress(AssertionError):
                wait_for(lambda: list(environments.glob("*.new")), "the build", 20)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2 * (moment - 1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for folder in set(environments.glob("?" * 64)) - before:
            assert json.loads((folder / "environment.json").read_bytes())["packages"] == {name: "1.0"}
            assert list(folder.glob(f"lib/*/site-packages/{name}.py"))
        cloud.command("deploy", file, "-y").succeeded()
        whole = environments / environment_of(cloud, name)
        assert list(whole.glob(f"lib/*/site-packages/{name}.py"))
        assert not whole.with_name(f"{whole.name}.new").exists()


def test_two_who_build_the_same_build_it_once(cloud: Cloud, links: Path) -> None:
    write_wheel(links, "quartz", "1.0")
    files = [application(cloud, name, "quartz\n", "import quartz") for name in ("left", "right")]
    arguments = [[str(COMMAND), "--home", str(cloud.home), "deploy", str(f), "-y", "--json"] for f in files]
    running = [subprocess.Popen(a, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for a in arguments]
    for process in running:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    assert environment_of(cloud, "left") == environment_of(cloud, "right")


def test_an_application_file_without_requirements_needs_no_cloud(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("import marble\n")
    ended: Ended = run_command("deploy", file)
    ended.refused("MISSING_MODULE", 2, "requirements.txt beside app.py")
