"""What the commands for versions of rules refuse before anything is asked."""

from __future__ import annotations

import pytest

from skyriver.client.rules import _passing
from skyriver.core.errors import InvalidInput


@pytest.mark.parametrize("reason", ["", "  "])
def test_an_empty_reason_passes_no_gate(reason: str) -> None:
    with pytest.raises(InvalidInput, match="reason for passing the gate is empty") as caught:
        _passing(reason)
    assert (caught.value.code, caught.value.exit_code) == ("NO_REASON", 2)
    assert (_passing(None), _passing("the contract")) == ("", "the contract")
