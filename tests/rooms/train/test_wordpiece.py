"""Texts become the same numbers in Python, in ONNX and in what they were trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyriver.core.errors import InvalidInput
from skyriver.release.onnx_check import check_onnx
from skyriver.serve.runner import Runner
from skyriver.train.encoders.wordpiece import WordPiece
from skyriver.train.encoders.wordpiece_onnx import to_onnx

PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "un",
    "##aff",
    "##able",
    "##a",
    "hello",
    "world",
    "cafe",
    "##s",
    "!",
    "日",
)
MORE = ("ᄀ", "##ᅡ", "##ᆨ", "a", "##b", "##ab", "b")
TOKENIZER = WordPiece(PIECES + MORE, max_tokens=12)
RUNNER = Runner(to_onnx(TOKENIZER).SerializeToString())


def in_onnx(texts: list[str]) -> Any:
    return RUNNER.run({"text": np.array(texts, dtype=object)})["ids"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("Hello, WORLD!", ["hello", "[UNK]", "world", "!"]),
        ("Cafés\u200b", ["cafe", "##s"]),
        ("日日hello", ["日", "日", "hello"]),
        ("각", ["ᄀ", "##ᅡ", "##ᆨ"]),
        ("abab unx", ["a", "##b", "##ab", "[UNK]"]),
        ("a\u2028b\tb", ["a", "b", "b"]),
        ("", []),
    ],
    ids=["pieces", "case", "accents", "alone", "many-of-one", "greedy", "spaces", "empty"],
)
def test_pieces_of_a_text(text: str, pieces: list[str]) -> None:
    found = [TOKENIZER.vocabulary[number] for number in TOKENIZER.encode([text])[0]]
    assert found == ["[CLS]", *pieces, "[SEP]"]
    assert in_onnx([text]).tolist() == TOKENIZER.encode([text]).tolist()


def test_a_long_word_is_unknown_and_a_long_text_is_cut() -> None:
    texts = ["a" + "b" * 99, "a" + "b" * 100, "hello " * 50, " " * 119 + "ab", "", "a" + "b" * 5_000, "ab " * 100]
    assert in_onnx(texts).tolist() == TOKENIZER.encode(texts).tolist()
    assert in_onnx(texts).shape == (7, 12)
    assert TOKENIZER.encode(texts)[1, 1] == 1
    assert TOKENIZER.encode(texts)[3].tolist()[:4] == [
        2,
        TOKENIZER.numbers["a"],
        3,
        0,
    ]  # the 120th character is the last


LETTERS = st.sampled_from("ab unaffable hello世界日각é!\u0301\t\n.,AB\u00a0\U0001f600\0ßİ")


@given(
    st.lists(
        st.text(LETTERS | st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=40), min_size=1, max_size=4
    )
)
@settings(max_examples=150, deadline=None)
def test_onnx_gives_what_python_gives(texts: list[str]) -> None:
    assert in_onnx(texts).tolist() == TOKENIZER.encode(texts).tolist()


def test_it_may_come_in_from_outside_and_its_rows_share_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyriver.serve.runner.LONG_ROW_S", 60.0)  # however slow this machine is
    made = to_onnx(TOKENIZER).SerializeToString()
    summary = check_onnx(made)
    assert [(t.name, t.datatype, t.shape) for t in summary.signature.inputs] == [("text", "BYTES", (-1,))]
    assert Runner(made).batching


@pytest.mark.parametrize(
    ("pieces", "tokens", "told"),
    [
        (("[PAD]", "[UNK]", "[CLS]"), 8, "no [SEP]"),
        (("a", *PIECES), 8, "does not begin with [PAD]"),
        (PIECES, 2, "max_tokens is 2"),
    ],
    ids=["special", "order", "room"],
)
def test_a_wrong_vocabulary_is_refused(pieces: tuple[str, ...], tokens: int, told: str) -> None:
    with pytest.raises(InvalidInput, match=told.replace("[", r"\[")) as refused:
        WordPiece(pieces, max_tokens=tokens)
    assert refused.value.code == "BAD_VOCABULARY"
