"""Environments where builders are killed, the power goes, or the disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from wheels import from_folder, write_wheel

from skyriver.adapters.processes.identity import boot_id
from skyriver.adapters.uv import building
from skyriver.adapters.uv.building import build_environment, is_whole, remove_environment
from skyriver.adapters.uv.cache import cache_in_use
from skyriver.adapters.uv.locking import lock_requirements
from skyriver.adapters.uv.product import Product, this_product
from skyriver.adapters.uv.running import Uv
from skyriver.core.environments import Lock, Locked, apart
from skyriver.core.errors import Conflict, Unavailable


def silent(stage: str, done: int, total: int) -> None:
    pass


def uv_of(home: Path, product: Product | None = None) -> Uv:
    variables: Mapping[str, str] = {**os.environ, **from_folder(home / "links")}
    return Uv(home / "cache" / "uv", product or this_product(), variables)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_wheel(tmp_path / "links", "pebble", "1.0")
    (tmp_path / "requirements.txt").write_text("pebble\n")
    return tmp_path


def lock_of(home: Path) -> Lock:
    return lock_requirements(uv_of(home), home / "requirements.txt", home / "locks", silent, anew=False)


def imported(folder: Path, code: str) -> str:
    command = [str(folder / "bin" / "python"), "-c", code]
    done = subprocess.run(command, env=apart(os.environ), capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("step", ["make_folder", "sync_folder", "_join", "_run", "_bytes_of"])
def test_a_builder_that_dies_at_any_step_leaves_nothing_half(
    home: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(home)
    folder = home / "environments" / lock.digest
    child = os.fork()
    if child == 0:
        original = getattr(building, step)

        def die(*arguments: object) -> object:
            original(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        monkeypatch.setattr(building, step, die)
        build_environment(uv_of(home), lock, folder, silent)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    whole = is_whole(folder, this_product())
    assert folder.exists() == whole == (step == "sync_folder"), "the name is given last"
    build_environment(uv_of(home), lock, folder, silent)
    assert imported(folder, "import pebble; print(pebble.VERSION)") == "1.0"
    assert sorted(p.suffix for p in folder.parent.iterdir() if p != folder) == [".lock"]


def test_after_a_power_cut_what_uv_kept_is_given_up(home: Path) -> None:
    """Its files were not synced when the power went: there may be holes in them."""
    lock = lock_of(home)
    folder = home / "environments" / lock.digest
    build_environment(uv_of(home), lock, folder, silent)
    using = home / "cache" / "uv.using"
    assert using.read_text() == "", "all of it is on the disk"
    cached = [p for p in (home / "cache" / "uv").rglob("pebble.py") if p.is_file()]
    assert cached
    remove_environment(folder)
    using.write_text(boot_id()[::-1])
    for file in cached:
        file.write_bytes(b"\0" * 18)
    build_environment(uv_of(home), lock, folder, silent)
    assert imported(folder, "import pebble; print(pebble.VERSION)") == "1.0"


def test_the_cache_is_not_given_up_under_who_uses_it(home: Path) -> None:
    cache = home / "cache" / "uv"
    with cache_in_use(cache, settle=False):
        (cache / "part").touch()
        (home / "cache" / "uv.using").write_text("another boot")
        with cache_in_use(cache, settle=False):
            assert (cache / "part").exists()
    with cache_in_use(cache, settle=False):
        assert not (cache / "part").exists()


def test_another_installation_of_skyriver_builds_it_anew(home: Path) -> None:
    lock = lock_of(home)
    folder = home / "environments" / lock.digest
    build_environment(uv_of(home), lock, folder, silent)
    newer = Product(this_product().python, this_product().platform, {**this_product().held, "numpy": "99.0"})
    assert not is_whole(folder, newer)
    held = Lock(lock.python, lock.platform, lock.packages)
    build_environment(uv_of(home, newer), held, folder, silent)
    assert is_whole(folder, newer)
    with pytest.raises(Conflict) as refused:
        build_environment(uv_of(home), Lock("2.7", lock.platform, ()), home / "environments" / "old", silent)
    assert refused.value.code == "OTHER_PLATFORM"


@pytest.mark.parametrize(
    "package",
    [
        Locked("pebble", "1.0", ()),
        Locked("numpy", "1.0", ()),
        Locked("torch", "0.1", ()),
        Locked("numpy", "1.0", ("ab" * 32,)),
    ],
    ids=["nobody's", "not this one", "not this one beside", "in place of ours"],
)
def test_a_lock_is_not_believed_what_skyriver_brings(home: Path, package: Locked) -> None:
    product = this_product()
    lock = Lock(product.python, product.platform, (package,))
    with pytest.raises(Conflict, match=f"locked with {package.name} {package.version}") as refused:
        build_environment(uv_of(home), lock, home / "environments" / lock.digest, silent)
    assert refused.value.code == "PRODUCT_CONFLICT"


def test_a_lock_that_says_where_a_package_of_ours_could_be_had_fetches_none(home: Path) -> None:
    product, at = this_product(), this_product().versions
    packages = tuple(Locked(name, at[name], ("ab" * 32,)) for name in ("numpy", "torch"))
    lock = Lock(product.python, product.platform, packages)
    folder = home / "environments" / lock.digest
    assert build_environment(uv_of(home), lock, folder, silent)["installed"] == 0
    code = "import importlib.metadata as m; print(m.version('numpy'), m.version('torch'))"
    assert imported(folder, code) == f"{at['numpy']} {at['torch']}"


def test_a_full_disk_is_told_as_one_that_may_pass(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = lock_of(home)
    folder = home / "environments" / lock.digest

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "_join", full)
    with pytest.raises(Unavailable) as refused:
        build_environment(uv_of(home), lock, folder, silent)
    assert refused.value.code == "DISK_FULL"
    assert not folder.exists()


def test_only_what_skyriver_needs_is_seen_beside_the_own_packages(home: Path) -> None:
    lock = lock_of(home)
    folder = home / "environments" / lock.digest
    build_environment(uv_of(home), lock, folder, silent)
    names = ("pebble", "skyriver", "numpy", "pytest", "pip")
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert imported(folder, code) == "['pebble', 'skyriver', 'numpy']"
    moved = folder.parents[1] / "moved"
    folder.parent.rename(moved)
    assert imported(moved / folder.name, code) == "['pebble', 'skyriver', 'numpy']", "a home can be moved"
    assert sys.prefix not in imported(moved / folder.name, "import sys; print(sys.path)")
