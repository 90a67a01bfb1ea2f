"""What is said of values that do not fit."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skyriver.client.misused import plain


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, lt=10)] = 1
    name: str = Field(default="", max_length=3)
    many: list[int] = Field(default_factory=list, max_length=1)
    truth: bool = False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "x"}, "it must be a whole number"),
        ({"count": 0}, "it must be at least 1"),
        ({"count": 10}, "it must be below 10"),
        ({"name": "four"}, "it may have 3 characters at most"),
        ({"name": 4}, "it must be a text"),
        ({"many": [1, 2]}, "it may have 1 items at most"),
        ({"truth": "maybe"}, "it must be true or false"),
        ({"other": 1}, "it is not known here"),
    ],
)
def test_the_words_of_the_library_are_not_ours(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Given.model_validate(given)
    [error] = caught.value.errors()
    assert plain(error["msg"]) == said
    assert plain(f"Invalid value for '--limit': {error['msg']}") == f"Invalid value for '--limit': {said}"
