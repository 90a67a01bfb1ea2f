"""Every gateway passes the exam of its port."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from free_ports import free_port

from skyriver.adapters.haproxy.gateway import HaproxyGateway
from skyriver.adapters.haproxy.process import recorded
from skyriver.adapters.memory.gateway import MemoryGateway
from skyriver.control import gateway_exam
from skyriver.control.gateway import Gateway
from skyriver.control.gateway_stage import Stage, send, wait_for
from skyriver.core.errors import Conflict

CHECKS = [getattr(gateway_exam, name) for name in dir(gateway_exam) if name.startswith("check_")]


@contextmanager
def haproxy_stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="sky") as name:
        home, port = Path(name), free_port()
        gateway = HaproxyGateway(home / "gateway", port=port, control_socket=home / "control.sock")

        def kill() -> None:
            run = recorded(home / "gateway")
            assert run is not None
            descriptor = os.pidfd_open(run.pid)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
            wait_for("it is gone", lambda: not run.identity.alive())

        gateway.start()
        try:
            yield Stage(gateway, ("127.0.0.1", port), home / "control.sock", home, kill)
        finally:
            gateway.stop()


@contextmanager
def memory_stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="sky") as name:
        home, port = Path(name), free_port()
        gateway = MemoryGateway(port=port, control_socket=home / "control.sock")
        gateway.start()
        try:
            yield Stage(gateway, ("127.0.0.1", port), home / "control.sock", home, gateway.crash)
        finally:
            gateway.stop()


MAKES = {"haproxy": haproxy_stage, "memory": memory_stage}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
@pytest.mark.parametrize(
    "check", [c for c in CHECKS if c is not gateway_exam.check_gateway], ids=lambda check: check.__name__
)
def test_exam(check, make) -> None:
    with make() as stage:
        check(stage)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_a_port_in_use_is_named(make, tmp_path) -> None:
    with make() as stage:
        port = stage.address[1]
        others: list[Gateway] = [
            HaproxyGateway(tmp_path / "other", port=port, control_socket=Path("/nowhere/control.sock")),
            MemoryGateway(port=port, control_socket=Path("/nowhere/control.sock")),
        ]
        for other in others:
            with pytest.raises(Conflict, match=str(port)) as refused:
                other.start()
            assert refused.value.code == "PORT_IN_USE"
            assert "--port" in refused.value.next_action
            other.stop()
        assert send(stage, "/livez", token=None).status == 200


def test_the_exam_as_one_call() -> None:
    gateway_exam.check_gateway(memory_stage)
