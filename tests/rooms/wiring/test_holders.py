"""Who is told of as the holder of what there is too little of."""

from __future__ import annotations

from skyriver.wiring.holders import holders

HELD = {"t/rent": 1.0, "t/sale": 2.5, "t/idle": 0.0, "t/tiny": 0.25, "t/more": 0.5, "u/secret": 0.75}


def test_the_largest_of_the_same_tenant_are_named_and_all_else_is_others() -> None:
    assert holders("t", HELD, "cores", 8.0) == " Cores are held by sale 2.5, rent 1, more 0.5, others 1."
    assert holders("u", HELD, "cores", 8.0) == " Cores are held by secret 0.75, others 4.25."
    assert holders("v", HELD, "cores", 8.0) == " Cores are held by others than yours 5."


def test_memory_is_told_in_mb_and_nobody_is_told_of_nothing() -> None:
    assert holders("t", {"t/sale": 1_536.0}, "memory", 16_000.0) == " MB are held by sale 1,536."
    assert holders("t", {"t/sale": 0.0}, "cores", 8.0) == ""


def test_who_declares_more_than_the_whole_machine_has_is_told_of_as_that() -> None:
    held = {"t/huge": 64.0, "t/quote": 0.5, "u/secret": 90.0}
    told = " Cores are held by huge 64 (more than the machine's 2), quote 0.5, others 90."
    assert holders("t", held, "cores", 2.0) == told
