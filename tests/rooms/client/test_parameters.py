"""NAME=VALUE of a command line."""

from __future__ import annotations

from skyriver.client.shell import parameters_of


def test_what_is_no_json_elsewhere_stays_the_text_that_it_is() -> None:
    given = parameters_of(["a=9.5", "b=Infinity", "c=-Infinity", "d=NaN", "e=inf", 'f="x"', "g=null"])
    assert given == {"a": 9.5, "b": "Infinity", "c": "-Infinity", "d": "NaN", "e": "inf", "f": "x", "g": None}
