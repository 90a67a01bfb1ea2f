"""Declaring a broker: what is understood, and what is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

import skyriver as sr
from skyriver.core.spec import AppSpec, StreamSpec


class Reading(sr.Event):
    number: int
    at: sr.Time
    machine: int


def declare(source: Any) -> StreamSpec:
    app = sr.App("plant")
    app.stream("readings", Reading, id="number", time="at", key="machine", source=source)
    return app.spec.streams[0]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("mqtt://broker.plant", "mqtt://broker.plant:1883"),
        ("mqtts://broker.plant", "mqtts://broker.plant:8883"),
        ("mqtt://10.0.0.7:9000/", "mqtt://10.0.0.7:9000"),
        ("mqtt://[::1]", "mqtt://[::1]:1883"),
    ],
)
def test_an_address_of_mqtt(given: str, url: str) -> None:
    assert sr.Mqtt(given, topic="a/+/b/#", durable="risk").spec.url == url


@pytest.mark.parametrize(
    ("given", "url"), [("nats://h", "nats://h:4222"), ("tls://h", "tls://h:4222"), ("nats://h:5", "nats://h:5")]
)
def test_an_address_of_nats(given: str, url: str) -> None:
    assert sr.Nats(given, subject="a.*.>", durable="risk").spec.url == url


@pytest.mark.parametrize(
    "make", [lambda u: sr.Mqtt(u, topic="a", durable="d"), lambda u: sr.Nats(u, subject="a", durable="d")]
)
@pytest.mark.parametrize("secret", ["tiger:pass-word@", "tiger@", ":pass-word@", "@"])
@pytest.mark.parametrize("scheme", ["mqtt", "nats", "http"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(make: Any, secret: str, scheme: str) -> None:
    with pytest.raises(sr.SkyriverError) as refused:
        make(f"{scheme}://{secret}broker")
    assert refused.value.code == "SECRET_IN_URL"
    assert "tiger" not in str(refused.value)
    assert "pass-word" not in str(refused.value)
    assert "credentials=" in refused.value.next_action


NO_ADDRESSES = """
http://h h:1883 mqtt:// mqtt://h:0x mqtt://h:99999 mqtt://h/topic mqtt://h?a=b mqtt://h#x mqtt://ü
"""


@pytest.mark.parametrize("url", [*NO_ADDRESSES.split(), "mqtt://a b", ""])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(sr.SkyriverError) as refused:
        sr.Mqtt(url, topic="a", durable="d")
    assert refused.value.code == "BAD_SOURCE"
    assert refused.value.next_action


@pytest.mark.parametrize("topic", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a\0b", "x" * 70_000])
def test_what_is_no_topic(topic: str) -> None:
    with pytest.raises(sr.SkyriverError) as refused:
        sr.Mqtt("mqtt://h", topic=topic, durable="d")
    assert refused.value.code == "BAD_SOURCE"


@pytest.mark.parametrize("topic", ["#", "+", "a", "/a", "a//b", "+/+/#", "$share/group/a", "ü/ß"])
def test_what_is_a_topic(topic: str) -> None:
    assert sr.Mqtt("mqtt://h", topic=topic, durable="d").spec.topic == topic


@pytest.mark.parametrize("subject", ["", ".a", "a.", "a..b", "a b", "a*.b", ">.a", "a.b>", "a\tb"])
def test_what_is_no_subject(subject: str) -> None:
    with pytest.raises(sr.SkyriverError) as refused:
        sr.Nats("nats://h", subject=subject, durable="d")
    assert refused.value.code == "BAD_SOURCE"


@pytest.mark.parametrize(
    "wrong",
    [
        {"durable": "no good"},
        {"durable": ""},
        {"credentials": "../x"},
        {"in_flight": 0},
        {"in_flight": 70_000},
        {"version": "4"},
    ],
)
def test_what_does_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(sr.SkyriverError) as refused:
        sr.Mqtt("mqtt://h", **{"topic": "a", "durable": "d", **wrong})
    assert refused.value.code in ("BAD_SOURCE", "BAD_NAME")


def test_a_stream_with_a_source_is_told_and_read_again() -> None:
    for source in (
        sr.Mqtt("mqtt://h", topic="a", durable="d", credentials="plant"),
        sr.Nats("nats://h", subject="a", durable="d"),
    ):
        spec = declare(source)
        assert spec.source == source.spec
        app = AppSpec(name="plant", streams=(spec,))
        assert AppSpec.model_validate(app.to_json()).digest() == app.digest()


def test_what_is_no_source() -> None:
    with pytest.raises(sr.SkyriverError) as refused:
        declare("mqtt://h")
    assert refused.value.code == "BAD_SOURCE"
    assert declare(None).source is None


def test_a_log_in_nats_is_declared_with_what_shows_that_it_syncs() -> None:
    log = sr.NatsLog("nats://h", name="risk", credentials="bus")
    app = sr.App("plant")
    app.stream("readings", Reading, id="number", time="at", key="machine", log=log)
    assert app.spec.streams[0].log == log.spec
    assert log.spec.url == "nats://h:4222"


@pytest.mark.parametrize("wrong", [{"durability": "process"}, {"retention": "30d"}, {"log": "nats://h"}])
def test_what_a_log_in_nats_cannot_be(wrong: dict[str, Any]) -> None:
    given = {"log": sr.NatsLog("nats://h", name="risk", credentials="bus"), **wrong}
    with pytest.raises(sr.SkyriverError) as refused:
        sr.App("plant").stream("readings", Reading, id="number", time="at", key="machine", **given)
    assert refused.value.code == "BAD_STREAM"


@pytest.mark.parametrize("wrong", [{"name": ""}, {"credentials": ""}, {"url": "nats://u:p@h"}])
def test_what_is_no_log(wrong: dict[str, Any]) -> None:
    given = {"url": "nats://h", "name": "risk", "credentials": "bus", **wrong}
    with pytest.raises(sr.SkyriverError):
        sr.NatsLog(given.pop("url"), **given)
