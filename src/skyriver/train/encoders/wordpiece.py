"""WordPiece, the tokenizer of BERT: texts become numbers of pieces of a vocabulary.

Text is cleaned, lower-cased and freed of accents, split at white space and around punctuation and CJK characters, and
each word is cut greedily into the longest pieces that the vocabulary has (Devlin et al. 2019; Wu et al. 2016). What a
character becomes is one table, from which the ONNX graph of `wordpiece_onnx` is made as well: both give the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skyriver.core.errors import InvalidInput

LONGEST_WORD: Final = 100
"""Characters; a longer word is unknown."""
CHARACTERS_PER_TOKEN: Final = 10
"""Of a text at most so many times `max_tokens` characters are read."""
_CONTINUES: Final = "##"
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CJK: Final = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


def is_alone(char: str) -> bool:
    """Whether it is a word of its own: punctuation, and characters of scripts that are written without spaces."""
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char).startswith("P") or any(low <= code <= high for low, high in _CJK)


def normal(char: str, *, lowercase: bool) -> str:
    """What a character becomes: nothing, a space, or one or more characters."""
    if char in "\t\n\r" or unicodedata.category(char) in ("Zs", "Zl", "Zp"):
        return " "
    if char in "\0\ufffd" or unicodedata.category(char) in ("Cc", "Cf"):
        return ""
    if not lowercase:
        return char
    bare = "".join(c for c in unicodedata.normalize("NFD", char) if unicodedata.category(c) != "Mn")
    return "".join(c.lower() for c in bare)


@dataclass(frozen=True)
class WordPiece:
    """`vocabulary`: pieces, each at its number; those that go on a word begin with ##. At most `max_tokens` a text,
    with [CLS] and [SEP]."""

    vocabulary: tuple[str, ...]
    lowercase: bool = True
    max_tokens: int = 128

    def __post_init__(self) -> None:
        missing = [piece for piece in _SPECIAL if piece not in self.numbers]
        if missing or self.vocabulary[0] != "[PAD]":
            raise InvalidInput(
                f"The vocabulary has no {missing[0]}." if missing else "The vocabulary does not begin with [PAD].",
                code="BAD_VOCABULARY",
                next_action="Give the vocab.txt of a BERT model: a piece a line, [PAD] first.",
            )
        if self.max_tokens < 3:
            raise InvalidInput(
                f"max_tokens is {self.max_tokens}: [CLS], [SEP] and one piece are the least.",
                code="BAD_VOCABULARY",
                next_action="Give max_tokens=128, or what the texts need.",
            )

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.vocabulary)}

    @cached_property
    def longest_piece(self) -> int:
        """In characters, without ##."""
        return max(len(piece.removeprefix(_CONTINUES)) for piece in self.vocabulary if piece not in _SPECIAL)

    @property
    def max_characters(self) -> int:
        return CHARACTERS_PER_TOKEN * self.max_tokens

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(n, t) of the longest text; shorter ones end with zeros."""
        rows = [self._tokens(text) for text in texts]
        ids = np.zeros((len(rows), max((len(row) for row in rows), default=2)), np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids

    def words(self, text: str) -> list[str]:
        clean = "".join(normal(char, lowercase=self.lowercase) for char in text[: self.max_characters])
        return "".join(f" {char} " if is_alone(char) else char for char in clean).split(" ")

    def _tokens(self, text: str) -> list[int]:
        pieces = [number for word in self.words(text) if word for number in self._pieces(word)]
        room = self.max_tokens - 2
        return [self.numbers["[CLS]"], *pieces[:room], self.numbers["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        unknown = [self.numbers["[UNK]"]]
        if len(word) > LONGEST_WORD:
            return unknown
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = _CONTINUES if start else ""
            ends = range(min(len(word), start + self.longest_piece), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.numbers), 0)
            if not end:
                return unknown
            found.append(self.numbers[prefix + word[start:end]])
            start = end
        return found


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Of a vocab.txt. Raises InvalidInput (BAD_VOCABULARY) where it is no text."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} is no vocabulary: {error}.",
            code="BAD_VOCABULARY",
            next_action="Give the vocab.txt of a BERT model: a piece a line, [PAD] first.",
        ) from error
    return tuple(line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines))
