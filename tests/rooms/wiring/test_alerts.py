"""Who is told of incidents: files, messages, at least once, each in its order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver

from skyriver.core.errors import NotFound, SkyriverError
from skyriver.core.resources import Resource
from skyriver.core.units import DAY, SECOND
from skyriver.wiring.alerts import AlertFiles, message

BEGAN = 1_800_000_000_000_000
TEXT = "They fail. Likely because: Version 2 came."
HOOK = 'url = "http://127.0.0.1:{port}/hook"\nsecrets = ["whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="]\n'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def write(home: Path, name: str, text: str, mode: int = 0o600, tenant: str = "default") -> Path:
    path = home / "alerts" / tenant / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)
    return path


def incident(*events: str, severity: str = "critical", number: int = 1, **told: Any) -> Resource:
    status = {
        "root": "default:service/risk",
        "severity": severity,
        "conditions": [
            {"subject": "default:service/risk", "kind": "errors", "told": "They fail.", "severity": severity}
        ],
        "causes": [{"subject": "default:rollout/risk-1", "kind": "rollout", "told": "Version 2 came.", "score": 0.5}],
        "healed": [],
        "events": [
            {"event": event, "at": BEGAN + n, "text": TEXT, "severity": severity} for n, event in enumerate(events)
        ],
        **({"told": told} if told else {}),
    }
    about = {"message": TEXT, "next_action": "`skyriver rollback risk`."}
    made = Resource("default", "incident", f"incident-{number}", status=status, state="OPEN", created_at=BEGAN, **about)
    return replace(made, created_at=BEGAN + number)


class Cloud:
    """What the watching does with them, at a time that is set."""

    def __init__(self, home: Path) -> None:
        self.home, self.now = home, BEGAN
        self.alerts = AlertFiles(home, lambda: self.now)
        self.rows: dict[tuple[str, str], Resource] = {}

    def put(self, row: Resource) -> None:
        self.rows[row.tenant, row.name] = row

    def look(self) -> None:
        for key, told in self.alerts.told(self.rows.values()).items():
            row = self.rows[key]
            self.rows[key] = replace(row, status={**row.status, "told": told})

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.01)
            if self.rows:
                self.look()


@pytest.fixture
def cloud(tmp_path: Path, receiver: Receiver) -> Iterator[Cloud]:
    write(tmp_path, "ops", HOOK.format(port=receiver.port))
    made = Cloud(tmp_path)
    yield made
    made.alerts.close()


def texts(receiver: Receiver) -> list[str]:
    return [f"{body['type']} {body['data']['incident']}" for body in receiver.acted]


def test_each_event_is_told_once_in_its_order_and_signed(cloud: Cloud, receiver: Receiver) -> None:
    cloud.put(incident("opened", "worse"))
    cloud.put(incident("opened", number=2))
    cloud.until(lambda: len(receiver.acted) == 3 and "told" in cloud.rows["default", "incident-2"].status)
    assert texts(receiver) == ["incident.opened incident-1", "incident.worse incident-1", "incident.opened incident-2"]
    first = receiver.acted[0]
    assert first["text"].startswith("[critical] incident-1: They fail. Likely because: Version 2 came. Next: `skyriver")
    assert (receiver.unsigned, set(receiver.seen.values())) == (0, {1})
    again = Cloud(cloud.home)  # another control plane
    again.rows = dict(cloud.rows)
    for _ in range(5):
        again.look()
        time.sleep(0.02)
    assert len(receiver.acted) == 3
    again.alerts.close()


def test_an_answer_that_comes_while_it_looks_is_not_asked_for_again(
    cloud: Cloud, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Event()
    receiver.behave = lambda body: "take" if looks.wait(60) else "503"
    cloud.put(incident("opened"))
    cloud.look()
    usable, alerts = AlertFiles._usable, cloud.alerts

    def slowly(self: AlertFiles, tenant: str) -> Any:
        looks.set()
        deadline = time.monotonic() + 60
        while not alerts._results:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return usable(self, tenant)

    with monkeypatch.context() as patched:
        patched.setattr(AlertFiles, "_usable", slowly)
        cloud.look()
    cloud.until(lambda: "told" in cloud.rows["default", "incident-1"].status)
    assert set(receiver.seen.values()) == {1}


def test_an_end_is_told_to_who_was_told_of_the_beginning(cloud: Cloud, receiver: Receiver) -> None:
    cloud.put(incident("opened", "resolved", ops={"done": 1, "ever": True}))
    cloud.put(incident("opened", "resolved", number=2, ops={"done": 1}))
    cloud.until(lambda: len(receiver.acted) == 1)
    assert texts(receiver) == ["incident.resolved incident-1"]


def test_what_is_not_taken_is_tried_again_with_pauses_and_not_for_ever(cloud: Cloud, receiver: Receiver) -> None:
    receiver.behave = lambda body: "503"
    cloud.put(incident("opened"))
    told = lambda: cloud.rows["default", "incident-1"].status.get("told", {}).get("ops", {})  # noqa: E731
    cloud.until(lambda: told().get("tries") == 1)
    [alert] = cloud.alerts.list("default")
    assert (alert["state"], alert["host"]) == ("FAILING", "127.0.0.1")
    assert "503" in alert["message"]
    for _ in range(5):
        cloud.look()
    assert told()["tries"] == 1, "not before its time"
    cloud.now += 6 * SECOND
    cloud.until(lambda: told()["tries"] == 2)
    receiver.behave = lambda body: "take"
    cloud.now += 3_600 * SECOND
    cloud.until(lambda: told().get("ever") is True)
    assert texts(receiver) == ["incident.opened incident-1"]
    assert cloud.alerts.list("default")[0]["state"] == "READY"
    cloud.put(incident("opened", number=2))
    cloud.now += DAY
    for _ in range(5):
        cloud.look()
        time.sleep(0.02)
    assert len(receiver.acted) == 1, "what began a day ago is told to nobody any more"


def test_a_receiver_that_hangs_keeps_nobody_else_waiting(cloud: Cloud, receiver: Receiver) -> None:
    other = Receiver(lambda body: "hang")
    other.hang_s = 60.0
    write(cloud.home, "aaa", HOOK.format(port=other.port) + "timeout_s = 30\n")
    cloud.put(incident("opened"))
    began = time.monotonic()
    cloud.look()
    assert time.monotonic() - began < 20
    cloud.until(lambda: len(receiver.acted) == 1)
    other.close()


def test_one_that_wants_only_what_is_critical(cloud: Cloud, receiver: Receiver) -> None:
    write(cloud.home, "ops", HOOK.format(port=receiver.port) + 'least = "critical"\n')
    cloud.put(incident("opened", severity="warning"))
    cloud.put(incident("opened", number=2))
    cloud.until(lambda: len(receiver.acted) == 1)
    assert texts(receiver) == ["incident.opened incident-2"]


def test_what_cannot_be_written_is_told_all_the_same_and_once(cloud: Cloud, receiver: Receiver) -> None:
    row = incident("opened")

    def told() -> bool:
        """By a look whose rows are not committed."""
        return cloud.alerts.told([row]).get(("default", "incident-1"), {}).get("ops", {}).get("ever") is True

    cloud.until(told)
    for _ in range(5):
        time.sleep(0.02)
        assert told(), "until a row has it"
    assert texts(receiver) == ["incident.opened incident-1"]


def test_a_test_goes_out_at_once(cloud: Cloud, receiver: Receiver) -> None:
    assert cloud.alerts.test("default", "ops") == {"name": "ops", "taken": True, "message": "It took the message."}
    assert receiver.acted[0]["type"] == "alert.test"
    receiver.behave = lambda body: "422"
    told = cloud.alerts.test("default", "ops")
    assert (told["taken"], "422" in told["message"]) == (False, True)
    with pytest.raises(NotFound, match="no alert 'bob'"):
        cloud.alerts.test("default", "bob")
    with pytest.raises(NotFound):
        cloud.alerts.test("default", "../default/ops")


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ('url = "http://127.0.0.1:1/x"', 0o644, "others"),
        ("url = ", 0o600, "no TOML"),
        ('url = "http://127.0.0.1:1/x"\nleast = "loud"', 0o600, "no severity"),
        ('url = "nats://127.0.0.1:1"', 0o600, "no url of http"),
        ('url = "http://127.0.0.1:1/x"\nseverity = "a"', 0o600, "'severity' is not known of an alert"),
        ('url = "http://example.com/x"', 0o600, "http, and not of this machine"),
    ],
    ids=["open", "toml", "least", "nats", "unknown", "insecure"],
)
def test_a_file_that_cannot_be_used_is_told_and_no_secret_of_it(cloud: Cloud, text: str, mode: int, said: str) -> None:
    write(cloud.home, "bad", text + '\n# secrets = ["whsec_topsecret"]\n', mode)
    bad, ops = cloud.alerts.list("default")
    assert (bad["state"], ops["state"]) == ("UNUSABLE", "READY")
    assert said in bad["message"]
    assert bad["next_action"]
    assert "topsecret" not in repr(bad)
    with pytest.raises(SkyriverError):
        cloud.alerts.test("default", "bad")


def test_who_checks_no_signature_needs_no_key(cloud: Cloud, receiver: Receiver) -> None:
    write(cloud.home, "chat", f'url = "http://127.0.0.1:{receiver.port}/hook"')
    assert cloud.alerts.test("default", "chat")["taken"]
    assert receiver.unsigned == 1


def test_a_message_says_what_why_and_what_to_do() -> None:
    told = message(incident("opened"), 0)
    assert told["type"] == "incident.opened"
    assert told["data"]["causes"][0]["told"] == "Version 2 came."
    assert told["data"]["next_action"] == "`skyriver rollback risk`."
