import re

import pytest

from skyriver.core.errors import Unauthenticated
from skyriver.trust.tokens import Identity, TokenTable, digest_of, new_token

ANN = Identity("acme", "ann", "developer")


def test_a_token_is_256_random_bits_and_only_its_digest_is_kept() -> None:
    text, digest = new_token()
    assert re.fullmatch(r"sky_[A-Za-z0-9_-]{43}", text)
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert digest == digest_of(text)
    assert len({new_token()[0] for _ in range(100)}) == 100


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
def test_the_holder_of_a_token_is_who_it_was_issued_to(header: str) -> None:
    text, digest = new_token()
    assert TokenTable({digest: ANN}).authenticate(header.format(text), now=0) == ANN


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "NO_TOKEN"),
        ("", "NO_TOKEN"),
        ("Bearer", "BAD_TOKEN"),
        ("Bearer ", "BAD_TOKEN"),
        ("Basic c2t5OnNreQ==", "BAD_TOKEN"),
        ("{token}", "BAD_TOKEN"),
        ("Bearer {token}x", "BAD_TOKEN"),
        ("Bearer {token}\n", "BAD_TOKEN"),
        ("Bearer {token}, Bearer {token}", "BAD_TOKEN"),
        ("Bearer {digest}", "BAD_TOKEN"),
        ("Bearer {other}", "UNKNOWN_TOKEN"),
    ],
)
def test_anything_else_is_nobody(header: str | None, code: str) -> None:
    token, digest = new_token()
    other, _ = new_token()
    sent = header.format(token=token, other=other, digest=digest) if header else header
    with pytest.raises(Unauthenticated) as caught:
        TokenTable({digest: ANN}).authenticate(sent, now=0)
    assert caught.value.code == code
    assert caught.value.http_status == 401
    assert caught.value.next_action
    for secret in (token, other, digest):
        assert secret not in str(caught.value)


def test_a_token_ends_when_it_expires() -> None:
    text, digest = new_token()
    table = TokenTable({digest: ANN}, {digest: 1000})
    assert table.authenticate(f"Bearer {text}", now=999) == ANN
    for now in (1000, 1001):
        with pytest.raises(Unauthenticated, match="'ann' has expired") as caught:
            table.authenticate(f"Bearer {text}", now=now)
        assert caught.value.code == "TOKEN_EXPIRED"


def test_a_table_does_not_change_with_what_it_was_made_of() -> None:
    text, digest = new_token()
    given = {digest: ANN}
    table = TokenTable(given)
    given.clear()
    assert table.authenticate(f"Bearer {text}", now=0) == ANN
    with pytest.raises(TypeError):
        table.identities["x"] = ANN  # type: ignore[index]
