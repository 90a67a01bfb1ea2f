"""What a control plane that has just begun knows of processes that live."""

from __future__ import annotations

import threading

import pytest

from skyriver.core.errors import Unavailable
from skyriver.wiring.simulation import Simulation


def test_a_look_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world, may_look = Simulation(), threading.Event()
    observe = world.compute.observe

    def slow() -> object:
        assert may_look.wait(60)
        return observe()

    monkeypatch.setattr(world.compute, "observe", slow)
    passes, waiting = (threading.Thread(target=t) for t in (world.loop.run, lambda: world.loop.await_look(60)))
    for thread in (passes, waiting):
        thread.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    may_look.set()
    waiting.join(30)
    assert not waiting.is_alive()
    world.loop.stop()
    passes.join(60)


def test_a_pass_that_is_given_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Simulation()

    def away() -> object:
        raise Unavailable("It is away.")

    monkeypatch.setattr(world.compute, "observe", away)
    passes = threading.Thread(target=world.loop.run)
    passes.start()
    waiting = threading.Thread(target=lambda: world.loop.await_look(600))
    waiting.start()
    waiting.join(60)
    assert not waiting.is_alive()
    world.loop.stop()
    passes.join(60)
