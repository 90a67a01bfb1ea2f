"""Files of sinks: what may stand in one, and what is told of the others without showing a secret."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

import skyriver as sr
from skyriver.core.errors import InvalidInput, NotAllowed, NotFound, SkyriverError
from skyriver.core.spec import AppSpec
from skyriver.wiring.sinks import SinksOfMachine, read_place, sink_file, unusable_sinks

KEY = "whsec_" + base64.b64encode(b"s3cret-" * 5).decode()
GOOD = f'url = "https://core.bank:8443/decisions?v=1"\nsecrets = ["{KEY}"]\n'


def write(home: Path, text: str, mode: int = 0o600, name: str = "bank") -> Path:
    path = sink_file(home, "t", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_webhook(tmp_path: Path) -> None:
    write(tmp_path, GOOD + 'timeout_s = 3\n[headers]\nauthorization = "Bearer x"\n')
    place = read_place(tmp_path, "t", "bank")
    assert (place.url, place.secrets, place.timeout_s) == ("https://core.bank:8443/decisions?v=1", (b"s3cret-" * 5,), 3)
    assert place.headers == (("authorization", "Bearer x"),)
    assert "s3cret" not in repr(place)
    assert "Bearer" not in repr(place)


def test_a_subject_of_nats(tmp_path: Path) -> None:
    write(tmp_path, 'url = "nats://bus:4222"\nsubject = "d.{stream}.{decision}"\nuser = "u"\npassword = "p4ss"\n')
    place = read_place(tmp_path, "t", "bank")
    assert (place.subject, place.access.user, place.access.password) == ("d.{stream}.{decision}", "u", "p4ss")
    assert "p4ss" not in repr(place)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "BAD_SINK_FILE"),
        ("url = [", "BAD_SINK_FILE"),
        (GOOD.replace("https", "ftp"), "BAD_SINK_FILE"),
        (GOOD.replace("https://", "https://ann:s3cret@"), "BAD_SINK_FILE"),
        (GOOD.replace("/decisions", "/de cisions"), "BAD_SINK_FILE"),
        (GOOD.replace("8443", "99999"), "BAD_SINK_FILE"),
        (GOOD.replace("https", "http"), "INSECURE_SINK"),
        (GOOD.replace("https://core.bank", "http://169.254.169.254"), "INSECURE_SINK"),
        (GOOD.replace("whsec_", ""), "BAD_SINK_FILE"),
        (GOOD.replace(KEY, "whsec_c2hvcnQ="), "BAD_SINK_FILE"),
        (GOOD + f'secret = "{KEY}"\n', "BAD_SINK_FILE"),
        (GOOD + "timeout_s = 0\n", "BAD_SINK_FILE"),
        (GOOD + "timeout_s = true\n", "BAD_SINK_FILE"),
        (GOOD + "timeout_s = 1e9\n", "BAD_SINK_FILE"),
        (GOOD + '[headers]\nHost = "elsewhere"\n', "BAD_SINK_FILE"),
        (GOOD + '[headers]\nwebhook-id = "1"\n', "BAD_SINK_FILE"),
        (GOOD + '[headers]\nx = "a\\r\\nb: c"\n', "BAD_SINK_FILE"),
        (GOOD + '[headers]\n"x: y" = "a"\n', "BAD_SINK_FILE"),
        ('url = "nats://bus:4222"\nsubject = "a.*.b"\n', "BAD_SINK_FILE"),
        ('url = "nats://bus:4222"\nsubject = "a..b"\n', "BAD_SINK_FILE"),
        ('url = "nats://bus:4222"\n', "BAD_SINK_FILE"),
        (f'url = "nats://bus:4222"\nsubject = "a"\nsecrets = ["{KEY}"]\n', "BAD_SINK_FILE"),
    ],
)
def test_what_is_wrong_is_told_without_its_values(tmp_path: Path, text: str, code: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises((InvalidInput, NotAllowed)) as caught:
        read_place(tmp_path, "t", "bank")
    assert (caught.value.code, caught.value.where) == (code, str(path))
    assert caught.value.next_action or "no TOML" in caught.value.message
    for secret in ("s3cret", KEY, base64.b64encode(b"s3cret-").decode()[:8]):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost/", "http://127.9.9.9/"])
def test_plain_http_is_for_this_machine(tmp_path: Path, url: str) -> None:
    write(tmp_path, GOOD.replace("https://core.bank:8443/decisions?v=1", url))
    assert read_place(tmp_path, "t", "bank").url == url


def test_plain_http_elsewhere_is_taken_where_the_operator_says_so(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("https", "http") + "allow_http = true\n")
    assert read_place(tmp_path, "t", "bank").url.startswith("http:")


def test_a_file_that_is_missing_or_open_to_others(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as missing:
        read_place(tmp_path, "t", "bank")
    assert missing.value.code == "NO_SINK_FILE"
    write(tmp_path, GOOD, mode=0o640)
    with pytest.raises(NotAllowed) as exposed:
        read_place(tmp_path, "t", "bank")
    assert exposed.value.code == "SECRET_EXPOSED"


def test_a_changed_file_is_another_sink(tmp_path: Path) -> None:
    sinks = SinksOfMachine(tmp_path, "t", lambda: 0)
    path = write(tmp_path, GOOD)
    first = sinks.open("bank")
    assert sinks.open("bank") is first
    write(tmp_path, GOOD.replace("v=1", "v=22"))
    assert sinks.open("bank") is not first
    path.unlink()
    with pytest.raises(SkyriverError):
        sinks.open("bank")


class Order(sr.Event):
    order: int
    at: sr.Time
    customer: int
    amount: float


def declared(**sink: object) -> AppSpec:
    app = sr.App("shop")
    orders = app.stream("orders", Order, id="order", time="at", key="customer")
    returned = app.labels("returned", of=orders, delay="2d")
    features = app.features("habits", orders, {"amount": orders.amount})

    @app.train(features, label=returned, test="7d")
    def fit(data: sr.TrainingData) -> object: ...

    decisions = app.decide(orders, app.model("m", fit), {"block": "score > 0.5"}, otherwise="ship", fallback="hold")
    given: dict[str, object] = {"to": "bank", "on": "block", **sink}
    decisions.sink(given.pop("to"), on=given.pop("on"), **given)  # type: ignore[arg-type]
    return app.spec


def test_a_deployment_warns_of_sinks_that_this_machine_cannot_use(tmp_path: Path) -> None:
    app = declared()
    [(name, why)] = unusable_sinks(app, tmp_path, "t")
    assert (name, "does not know the sink" in why) == ("bank", True)
    write(tmp_path, GOOD)
    assert list(unusable_sinks(app, tmp_path, "t")) == []


def test_a_sink_says_what_it_is_for() -> None:
    app = declared(on=["block", "hold"], ordered="customer", retry_for="2h", approve_within="3h")
    assert AppSpec.model_validate(app.to_json()) == app
    [sink] = app.decides[0].sinks
    assert (sink.on, sink.ordered, sink.retry_us, sink.approve_us) == (
        ("block", "hold"),
        "customer",
        7_200_000_000,
        10_800_000_000,
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"on": "blocked"}, "blocked"),
        ({"on": []}, "no decision"),
        ({"ordered": "shop"}, "no field of orders"),
        ({"parallel": 0}, "parallel"),
        ({"parked": "wait"}, "parked"),
        ({"retry_for": "soon"}, "soon"),
        ({"to": "../bank"}, "cannot name"),
    ],
)
def test_what_cannot_be_declared(given: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        declared(**given)
    assert told in str(caught.value)
