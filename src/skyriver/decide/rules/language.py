"""The language of decision rules: from text to a typed tree.

    score >= 0.9
    score >= 0.5 and (amount > 100 or country is missing)
    not night and amount / customer_mean_7d > 3 and channel == "web"
    customer in denied or amount > limits.amount

    rule       = and ("or" and)*
    and        = not ("and" not)*
    not        = "not" not | comparison
    comparison = sum [("<" | "<=" | ">" | ">=" | "==" | "!=") sum | "is" ["not"] "missing" | ["not"] "in" NAME]
    sum        = product (("+" | "-") product)*
    product    = sign (("*" | "/") sign)*
    sign       = "-" sign | NUMBER | "TEXT" | "true" | "false" | NAME ["." NAME] | "(" rule ")"

Every mistake is a BAD_RULE that names its column (from 1). Depth and length are bounded, so that no rule can
exhaust the parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NoReturn

from skyriver.core.errors import InvalidInput
from skyriver.decide.rules.tree import (
    COMPARE,
    Arithmetic,
    Calculate,
    Compare,
    Comparison,
    Fixed,
    Join,
    Missing,
    Name,
    Not,
    Tree,
    Type,
)

MAX_LENGTH = 2_000
MAX_DEPTH = 40

_COMPARISONS: Mapping[str, Comparison] = {sign: sign for sign in COMPARE}
_SUMS: Mapping[str, Arithmetic] = {"+": "+", "-": "-"}
_PRODUCTS: Mapping[str, Arithmetic] = {"*": "*", "/": "/"}
_WORDS = frozenset({"and", "or", "not", "is", "missing", "true", "false"})
_IN = " in "
"""In the name of what is asked of a list, as in `customer in denied`."""

_TokenKind = Literal["number", "name", "text", "sign", "end"]
_KINDS: Mapping[str, _TokenKind] = {"number": "number", "name": "name", "text": "text", "sign": "sign"}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)"
    r"|(?P<text>\"(?:[^\"\\]|\\[\"\\])*\"|'(?:[^'\\]|\\['\\])*')"
    r"|(?P<sign><=|>=|==|!=|[<>()+\-*/]))"
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _TokenKind
    text: str
    column: int

    @property
    def span(self) -> tuple[int, int]:
        return self.column - 1, self.column - 1 + len(self.text)


def parse(text: str, names: Mapping[str, Name | str], wanted: Literal["truth", "number"] = "truth") -> Tree:
    """The tree of a rule, whose type is truth, or of a number that is computed.

    `names` are the names that may be used; one that stands for a text may not, the text says why.
    Raises InvalidInput (BAD_RULE) with the column of the mistake.
    """
    if len(text) > MAX_LENGTH:
        _refuse(
            MAX_LENGTH + 1,
            f"a rule has at most {MAX_LENGTH} characters",
            "Make several rules of it, or compute a part of it as a feature.",
        )
    parser = _Parser(_tokens(text), names)
    tree = parser.rule(0)
    parser.expect_end()
    if wanted == "number" and tree.type != "number":
        _refuse(
            1, f"this is a {tree.type}, not a number", 'Write a number, or a sum of numbers, as in "0.05 * amount".'
        )
    if wanted == "truth" and tree.type != "truth":
        _refuse(1, f"this is a {tree.type}, not a condition", 'Compare it with something, as in "score >= 0.9".')
    return tree


def _refuse(column: int, why: str, next_action: str = "") -> NoReturn:
    raise InvalidInput(f"column {column}: {why}", code="BAD_RULE", next_action=next_action)


def no_name(given: str, names: Mapping[str, Name | str]) -> tuple[str, str]:
    """Why `given` may not be named, and what to do."""
    found = names.get(given)
    if isinstance(found, str):
        return found, ""
    known = [name for name, meaning in names.items() if isinstance(meaning, Name) and _IN not in name]
    close = get_close_matches(given, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown name {given!r}{hint}", f"There are {', '.join(known)}."


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            _refuse_character(text, position)
        kind = found.lastgroup or ""
        tokens.append(_Token(_KINDS[kind], found[kind], found.start(kind) + 1))
        position = found.end()
    tokens.append(_Token("end", "the end", end + 1))
    return tokens


def _refuse_character(text: str, position: int) -> NoReturn:
    character = text[position]
    if character in "\"'":
        _refuse(position + 1, f"this text has no closing {character}", f"Close it with {character}.")
    hints = {"=": "Write == to compare.", "&": "Write `and`.", "|": "Write `or`.", "!": "Write `not`."}
    _refuse(position + 1, f"{character!r} is not understood here", hints.get(character, ""))


class _Parser:
    """Recursive descent, one method a line of the grammar."""

    def __init__(self, tokens: list[_Token], names: Mapping[str, Name | str]) -> None:
        self._tokens = tokens
        self._names = names
        self._at = 0

    def rule(self, depth: int) -> Tree:
        return self._joined("or", depth)

    def expect_end(self) -> None:
        token = self._peek()
        if token.kind != "end":
            if token.text in _COMPARISONS:
                _refuse(token.column, "comparisons cannot be chained", "Join two with `and`: 1 < a and a < 2.")
            _refuse(token.column, f"{token.text!r} is not expected here", "Join conditions with `and` or `or`.")

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> _Token | None:
        """The next token if it is one of these words or signs."""
        token = self._tokens[self._at]
        if token.kind in ("name", "sign") and token.text in texts:
            self._at += 1
            return token
        return None

    def _joined(self, word: Literal["and", "or"], depth: int) -> Tree:
        start = self._peek().column
        parts = [self._joined("and", depth) if word == "or" else self._not(depth)]
        while token := self._take(word):
            self._must(parts[-1], "truth", start, word)
            start = self._peek().column
            parts.append(self._joined("and", depth) if word == "or" else self._not(depth))
            self._must(parts[-1], "truth", start, token.text)
        return parts[0] if len(parts) == 1 else Join(word, tuple(parts))

    def _not(self, depth: int) -> Tree:
        if not self._take("not"):
            return self._comparison(depth)
        self._bound(depth)
        column = self._peek().column
        inner = self._not(depth + 1)
        self._must(inner, "truth", column, "not")
        return Not(inner)

    def _comparison(self, depth: int) -> Tree:
        column = self._peek().column
        left = self._sum(depth)
        if self._take("is"):
            wanted = not self._take("not")
            if not self._take("missing"):
                _refuse(
                    self._peek().column,
                    f"`missing` is expected after `is`, not {self._peek().text!r}",
                    "Write `is missing` or `is not missing`.",
                )
            if isinstance(left, Fixed):
                _refuse(column, "a constant is never missing", "Name a field or a feature before `is missing`.")
            return Missing(left, wanted)
        if word := self._take("in", "not"):
            if word.text == "not" and not self._take("in"):
                _refuse(
                    self._peek().column,
                    f"`in` is expected after `not`, not {self._peek().text!r}",
                    "Write `not in`, or `not` before the whole condition.",
                )
            member = self._member(left, column)
            return member if word.text == "in" else Not(member)
        sign = self._take(*_COMPARISONS)
        if sign is None:
            return left
        right = self._sum(depth)
        if left.type != right.type:
            _refuse(sign.column, f"a {left.type} cannot be compared with a {right.type}", _HINTS.get(right.type, ""))
        if left.type == "truth" and sign.text not in ("==", "!="):
            _refuse(
                sign.column,
                f"truths have no order, {sign.text} cannot compare them",
                "Write == or !=, or the truth alone.",
            )
        return Compare(_COMPARISONS[sign.text], left, right)

    def _member(self, left: Tree, column: int) -> Name:
        token = self._peek()
        lists = dict.fromkeys(name.partition(_IN)[2] for name in self._names if _IN in name)
        if token.kind != "name" or token.text not in lists:
            close = get_close_matches(token.text, lists, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            known = f"There are {', '.join(lists)}." if lists else "The stream has none: app.list(...) declares one."
            _refuse(token.column, f"{token.text!r} is no list{hint}", known)
        if not isinstance(left, Name) or left.place != "field":
            _refuse(column, "what is on a list is a field of the event", "Name the field alone before `in`.")
        found = self._names[f"{left.name}{_IN}{token.text}"]
        if not isinstance(found, Name):
            _refuse(column, found)
        self._at += 1
        return found

    def _sum(self, depth: int) -> Tree:
        column = self._peek().column
        tree = self._product(depth)
        while sign := self._take(*_SUMS):
            self._must(tree, "number", column, sign.text)
            column = self._peek().column
            right = self._product(depth)
            self._must(right, "number", column, sign.text)
            tree = Calculate(_SUMS[sign.text], tree, right)
        return tree

    def _product(self, depth: int) -> Tree:
        column = self._peek().column
        tree = self._sign(depth)
        while sign := self._take(*_PRODUCTS):
            self._must(tree, "number", column, sign.text)
            column = self._peek().column
            right = self._sign(depth)
            self._must(right, "number", column, sign.text)
            tree = Calculate(_PRODUCTS[sign.text], tree, right)
        return tree

    def _sign(self, depth: int) -> Tree:
        minus = self._take("-")
        if not minus:
            return self._primary(depth)
        self._bound(depth)
        column = self._peek().column
        inner = self._sign(depth + 1)
        self._must(inner, "number", column, "-")
        if isinstance(inner, Fixed):
            return Fixed(-float(inner.value), "number", (minus.span[0], self._tokens[self._at - 1].span[1]))
        return Calculate("-", Fixed(0.0, "number"), inner)

    def _primary(self, depth: int) -> Tree:
        token = self._peek()
        if self._take("("):
            self._bound(depth)
            tree = self.rule(depth + 1)
            if not self._take(")"):
                _refuse(self._peek().column, f"the ( of column {token.column} is not closed", "Close it with ).")
            return tree
        if self._take("true", "false"):
            return Fixed(token.text == "true", "truth")
        if token.kind == "end" or token.kind == "sign" or token.text in _WORDS:
            what = "the rule ends" if token.kind == "end" else f"{token.text!r} stands"
            _refuse(
                token.column,
                f"{what} where a name, a number or a text is expected",
                "Write what is missing there, or take the sign before it away.",
            )
        self._at += 1
        match token.kind:
            case "number":
                return Fixed(float(token.text), "number", token.span)
            case "text":
                return Fixed(re.sub(r"\\(.)", r"\1", token.text[1:-1]), "text")
            case _:
                return self._name(token)

    def _name(self, token: _Token) -> Name:
        found = self._names.get(token.text)
        if isinstance(found, Name):
            return found
        _refuse(token.column, *no_name(token.text, self._names))

    def _must(self, tree: Tree, wanted: Type, column: int, sign: str) -> None:
        if tree.type != wanted:
            _refuse(column, f"{sign!r} needs a {wanted} here, this is a {tree.type}", _HINTS.get(tree.type, ""))

    def _bound(self, depth: int) -> None:
        if depth >= MAX_DEPTH:
            _refuse(
                self._peek().column,
                f"a rule is nested at most {MAX_DEPTH} deep",
                "Take parentheses away, or make several rules of it.",
            )


_HINTS: Mapping[Type, str] = {"number": "A text is written in quotes, a number without."}
