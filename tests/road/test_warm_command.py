"""A command that is forked does what one that is started does."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from cloud_process import COMMAND, run_command, wait_for, warm

SLEEPING = """\
import os, pathlib, time

pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize(
    "words", [["table", "list"], ["table", "list", "--json"], ["tabel", "list"], ["table", "get"], ["--home"], []]
)
def test_it_says_what_the_installed_one_says_and_ends_as_it(tmp_path: Path, words: list[str]) -> None:
    arguments = ["--home", str(tmp_path / "none"), *words]
    environment = os.environ | {"COLUMNS": "80"}
    started = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False)
    forked = warm().run([str(COMMAND), *arguments], cwd=tmp_path, env=environment, given=None, timeout=300)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)


def test_each_has_a_folder_and_an_environment_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os\n\nraise ValueError(os.getcwd(), os.environ['NUMBER'], os.getpid())\n")
    told = []
    for number in ("1", "2"):
        folder = tmp_path / number
        folder.mkdir()
        arguments = [str(COMMAND), "deploy", str(tmp_path / "app.py"), "--dry-run"]
        environment = os.environ | {"NUMBER": number, "COLUMNS": "500", "SKYRIVER_HOME": str(tmp_path / "none")}
        ended = warm().run(arguments, cwd=folder, env=environment, given=None, timeout=300)
        assert f"ValueError: ('{folder}', '{number}', " in ended.stderr
        told.append(ended.stderr)
    assert told[0] != told[1]
    assert "NUMBER" not in os.environ


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_a_shell_finds_passes_on_signals_and_the_command_ends_with_it(
    tmp_path: Path, sent: signal.Signals
) -> None:
    (tmp_path / "app.py").write_text(SLEEPING)
    command = [warm().folder / "skyriver", "--home", tmp_path / "none", "deploy", "app.py", "--dry-run"]
    typed = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it runs"))
    typed.send_signal(sent)
    assert typed.wait(300) == (130 if sent == signal.SIGINT else -sent)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the command ended")


def test_what_a_shell_finds_reads_and_writes_as_the_installed_one(tmp_path: Path) -> None:
    path = f"{warm().folder}:{os.environ['PATH']}"
    script = f"skyriver --home {tmp_path} table list 2>&1 >/dev/null | grep -c '^error '; skyriver --version"
    said = subprocess.run(["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert said.stdout.splitlines() == ["1", run_command("--version").out.strip()]
    assert said.stderr == ""
