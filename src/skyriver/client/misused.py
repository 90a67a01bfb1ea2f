"""What was given on a command line and does not fit, in words for people. Typer tells it as a text, and not as what
`skyriver.core.misread` takes."""

from __future__ import annotations

import re

_WORDS = tuple(
    (re.compile(found), said)
    for found, said in (
        (r"Input should be a valid integer.*", "it must be a whole number"),
        (r"Input should be a valid number.*", "it must be a number"),
        (r"Input should be a valid boolean.*", "it must be true or false"),
        (r"Input should be a valid string", "it must be a text"),
        (r"Input should be a valid list", "it must be a list"),
        (r"Input should be a valid dictionary.*", "it must be an object"),
        (r"Input should be greater than or equal to (\S+)", r"it must be at least \1"),
        (r"Input should be less than or equal to (\S+)", r"it must be at most \1"),
        (r"Input should be greater than (\S+)", r"it must be above \1"),
        (r"Input should be less than (\S+)", r"it must be below \1"),
        (r"String should have at most (\d+) characters?", r"it may have \1 characters at most"),
        (r"String should have at least (\d+) characters?", r"it must have at least \1 characters"),
        (r"List should have at most (\d+) items? after validation.*", r"it may have \1 items at most"),
        (r"Field required", "it is missing"),
        (r"Extra inputs are not permitted", "it is not known here"),
    )
)


def plain(message: str) -> str:
    """The same, where it holds words that are known here."""
    for found, said in _WORDS:
        message = found.sub(said, message)
    return message
