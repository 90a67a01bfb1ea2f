"""Jobs as users know them, in a whole cloud: how each of them ends, is tried again, cancelled, followed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_process import COMMAND, Cloud, Ended, kill, wait_for

CHORES = """\
import sys
import time

import skyriver as sr

app = sr.App("chores")


@app.job(params={"rows": 3})
def extract(job: sr.Job) -> dict[str, int]:
    job.progress("write", 1, 2)
    job.save("rows.csv", "".join(f"{n}\\\\n" for n in range(job.params["rows"])))
    return {"rows": job.params["rows"]}


@app.job(needs=[extract])
def report(job: sr.Job) -> dict[str, int]:
    with job.open("rows.csv") as file:
        lines = file.read().decode().split()
    return {"lines": len(lines), "said": job.inputs["extract"]["rows"]}


@app.job(array=4, cpus=0.5, memory="150MB")
def squares(job: sr.Job) -> int:
    return job.index**2


@app.job(needs=[squares])
def total(job: sr.Job) -> int:
    return sum(job.inputs["squares"])


def deep(text: str) -> None:
    raise ValueError(text)


@app.job()
def broken(job: sr.Job) -> None:
    deep("no such\\\\ncustomer")


@app.job(retries=3)
def flaky(job: sr.Job) -> str:
    print(f"this is attempt {job.attempt}")
    if job.attempt < 3:
        raise OSError("the line is busy")
    return "done"


@app.job(memory="200MB")
def hungry(job: sr.Job) -> None:
    held = [bytearray(b"x") * 50_000_000 for _ in range(20)]
    time.sleep(60)
    print(len(held))


@app.job(timeout="2s")
def slow(job: sr.Job) -> None:
    time.sleep(60)


@app.job()
def quits(job: sr.Job) -> None:
    sys.exit(3)


@app.job()
def odd(job: sr.Job) -> dict[str, object]:
    return {"when": [1, {2, 3}]}


@app.job(params={"seconds": 600})
def naps(job: sr.Job) -> str:
    print(f"asleep, attempt {job.attempt}", flush=True)
    for step in (1, 2, 3, 4, 5) if job.attempt == 1 else (3, 4):
        job.report(step, of=5, depth=step * 10 + job.attempt)
    time.sleep(job.params["seconds"] if job.attempt == 1 else 0)
    print("awake")
    return "rested"


@app.job(schedule=sr.Cron("* * * * *", zone="Europe/Berlin", missed="skip"))
def tick(job: sr.Job) -> str:
    return job.slot
"""


@pytest.fixture(scope="module")
def chores(cloud: Cloud) -> Iterator[Cloud]:
    """A cloud with the chores."""
    app = cloud.folder / "chores" / "chores.py"
    app.parent.mkdir()
    app.write_text(CHORES.replace("\\\\", "\\"))
    cloud.command("up", "--port", cloud.port).succeeded()
    cloud.command("deploy", app, "-y").succeeded()
    return cloud


def job(cloud: Cloud, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.json("job", "get", name)
    return found


def started(cloud: Cloud, name: str, *arguments: object) -> str:
    """The operation, once its job runs."""
    operation = str(cloud.json("run", name, "--detach", *arguments)["operation"])
    wait_for(lambda: job(cloud, operation)["state"] == "RUNNING", f"{operation} runs")
    return operation


def process(cloud: Cloud, name: str) -> int:
    """The pid that works on a job, under its watcher."""

    def found() -> int:
        mark = f"default.job.{name}.config.json"
        return next((pid for pid, line in cloud.living().items() if mark in line and "watcher" not in line), 0)

    return int(wait_for(found, f"{name} has a process"))


def test_a_pipeline_hands_on_what_its_jobs_return_and_save(chores: Cloud, tmp_path: Path) -> None:
    done = chores.json("run", "report", "-p", "rows=5")
    assert done["outputs"] == {"result": {"lines": 5, "said": 5}, "artifacts": {}}
    run = done["operation"]["name"]
    found = chores.json("job", "artifacts", run, "--download", tmp_path)
    assert [(a["name"], a["bytes"]) for a in found] == [("rows.csv", 10)]
    assert (tmp_path / "rows.csv").read_text() == "0\n1\n2\n3\n4\n"


def test_an_array_runs_side_by_side_and_gives_a_list(chores: Cloud) -> None:
    done = chores.json("run", "total")
    assert done["outputs"]["result"] == 14
    step = done["operation"]["status"]["steps"][0]
    assert (step["title"], step["progress"]["stage"], step["state"]) == ("squares", "4 of 4", "SUCCEEDED")


def test_an_error_of_the_users_code_is_one_line_outside_and_a_traceback_in_the_log(chores: Cloud) -> None:
    ended = chores.command("run", "broken").refused("USER_ERROR", 100, "chores.py:", "ValueError: no such customer")
    assert "Traceback" not in ended.err
    log = chores.command("logs", "broken-run-1").succeeded().out
    assert "Traceback" in log
    assert "in deep" in log
    assert "skyriver/wiring" not in log, "only the user's own lines"
    assert job(chores, "broken-run-1")["attempts"] == 1


def test_a_job_is_tried_again_and_succeeds_on_its_third_attempt(chores: Cloud) -> None:
    assert chores.json("run", "flaky")["outputs"]["result"] == "done"
    assert job(chores, "flaky-run-1")["attempts"] == 3
    attempts = chores.json("job", "history", "flaky-run-1")
    assert [(a["attempt"], a["reason"]) for a in attempts] == [(1, "USER_ERROR"), (2, "USER_ERROR")]
    assert attempts[1]["started"] - attempts[0]["ended"] >= 1_000_000
    log = chores.command("logs", "flaky-run-1").succeeded().out
    assert [n for n in (1, 2, 3) if f"this is attempt {n}" in log] == [1, 2, 3]


def test_out_of_memory_time_out_exit_status_and_a_result_that_is_no_json(chores: Cloud) -> None:
    chores.command("run", "hungry").refused("OUT_OF_MEMORY", 100, "200 MB that it asked for", 'memory="400MB"')
    chores.command("run", "slow").refused("TIMED_OUT", 100, "time limit of 2 s")
    chores.command("run", "quits").refused("EXITED", 100, "sys.exit(3)", "chores.py:")
    chores.command("run", "odd").refused("USER_ERROR", 100, "the result['when'][1] is of the type set")
    attempts = chores.json("job", "history", "hungry-run-1")
    assert attempts[0]["peak_mb"] > 100


def test_a_job_whose_process_is_killed_goes_on_by_itself(chores: Cloud) -> None:
    run = started(chores, "naps")
    wait_for(lambda: chores.json("job", "curves", run)["step"] == 5, "what it reported is seen")
    kill(process(chores, run))
    wait_for(lambda: job(chores, run)["state"] == "SUCCEEDED", "it succeeded")
    found = job(chores, run)
    assert found["attempts"] == 2
    assert (found["status"]["attempts"][0]["reason"], found["status"]["attempts"][0]["exit_code"]) == ("SIGNALLED", -9)
    told = chores.json("job", "curves", run)["curves"]["depth"]["points"]
    assert [(step, value) for step, value, _ in told] == [(1, 11), (2, 21), (3, 32), (4, 42)]
    assert "step 4/5  depth 42" in chores.command("logs", run).succeeded().out


def test_a_job_is_cancelled_while_it_runs(chores: Cloud) -> None:
    run = started(chores, "naps")
    pid = process(chores, run)
    wait_for(lambda: "asleep" in chores.command("logs", run).succeeded().out, "it printed something")
    with subprocess.Popen(
        [str(COMMAND), "--home", str(chores.home), "logs", run, "-f"], stdout=subprocess.PIPE, text=True
    ) as following:
        chores.command("job", "cancel", run).succeeded()
        out, _ = following.communicate(timeout=300)
    assert "asleep, attempt 1" in out
    assert not Path(f"/proc/{pid}").exists()
    assert (job(chores, run)["state"], job(chores, run)["reason"]) == ("CANCELLED", "CANCELLED")
    chores.command("job", "cancel", run).refused("ALREADY_ENDED", 6)
    chores.command("job", "cancel", "nothing").refused("NOT_FOUND", 3)


def test_waiting_ends_with_the_exit_code_that_says_why(chores: Cloud) -> None:
    ended = chores.command("run", "naps", "--timeout", "1s", "--json")
    assert ended.problem("NOT_FINISHED", 101)
    runs = [j for j in chores.rows("jobs") if j["name"].startswith("naps-run-")]  # the schedule has runs of its own
    [run] = [j["name"] for j in runs if j["state"] not in ("SUCCEEDED", "CANCELLED")]
    waiting = subprocess.Popen(
        [str(COMMAND), "--home", str(chores.home), "run", "naps", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    number = int(run.rpartition("-")[2]) + 1
    wait_for(lambda: any(j["name"] == f"naps-run-{number}" for j in chores.rows("jobs")), "the second one is there")
    chores.command("job", "cancel", f"naps-run-{number}").succeeded()
    out, err = waiting.communicate(timeout=300)
    assert Ended(waiting.returncode, out, err).problem("CANCELLED", 103)
    chores.command("job", "cancel", run).succeeded()


def test_logs_are_followed_over_a_restart_of_the_control_plane_and_the_job_runs_on(chores: Cloud) -> None:
    run = started(chores, "naps", "-p", "seconds=6")
    pid = process(chores, run)
    following = subprocess.Popen(
        [str(COMMAND), "--home", str(chores.home), "logs", run, "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.kill(chores.control_pid(), signal.SIGKILL)
    chores.command("up").succeeded()
    out, err = following.communicate(timeout=300)
    assert following.returncode == 0, err
    lines = out.splitlines()
    assert sum("asleep, attempt 1" in line for line in lines) == 1, "nothing is told twice"
    assert sum("awake" in line for line in lines) == 1, "nothing is left out"
    assert job(chores, run)["attempts"] == 1
    assert job(chores, run)["state"] == "SUCCEEDED"
    assert not Path(f"/proc/{pid}").exists()


def test_a_schedule_begins_runs_and_is_paused(chores: Cloud) -> None:
    def ticks() -> list[dict[str, Any]]:
        return [r for r in chores.json("job", "history", "tick") if r["state"] == "SUCCEEDED"]

    wait_for(ticks, "the schedule has begun a run")
    assert ticks()[0]["status"]["result"]["tick"]["result"].endswith(":00Z")
    chores.command("schedule", "pause", "tick").succeeded()
    listed = chores.command("schedule", "list").succeeded().out
    assert "PAUSED" in listed
    assert "* * * * * Europe/Berlin" in listed
    chores.command("schedule", "pause", "tick").refused("ALREADY_PAUSED", 6)
    chores.command("schedule", "resume", "tick").succeeded()
    assert json.loads(chores.command("schedule", "get", "tick", "--json").out)["state"] == "ACTIVE"


def test_what_can_never_fit_is_refused_at_the_deployment(chores: Cloud, tmp_path: Path) -> None:
    app = tmp_path / "huge.py"
    app.write_text("import skyriver as sr\n\napp = sr.App('huge')\n\n\n@app.job(memory='15TB')\ndef huge(job): ...\n")
    chores.command("deploy", app, "-y").refused("NEVER_FITS", 5, "15,000,000 MB", "this machine gives")


def test_the_function_is_still_a_function(tmp_path: Path) -> None:
    (tmp_path / "chores.py").write_text(CHORES.replace("\\\\", "\\"))
    code = "import chores, skyriver as sr; print(chores.extract(sr.Job(params={'rows': 2})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "{'rows': 2}\n"
