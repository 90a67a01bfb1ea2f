"""WordPiece as an ONNX graph: strings (n,) become numbers of pieces int64 (n, t).

ONNX has no operator that cuts a string into characters; onnxruntime carries one (`com.microsoft.Tokenizer`, no library
beside it is needed). All that follows is plain ONNX and works on all characters at once:

1. Each character becomes its class: 0 is removed, 1 a space, 2 in no piece, 3 the same and a word of its own, then one
   class for each character that pieces are made of.
2. From every position the pieces are walked as a trie, as long as the longest piece is: the longest that matched is
   remembered, with its length.
3. A position counts if a word starts there, or if it follows a piece that counts: by doubling, 7 jumps reach the end of
   any word of up to 127 characters.
4. A word with a position that counts and matched nothing is [UNK], and so is one of more than 100 characters.
5. What counts is moved to the left, cut, and put between [CLS] and [SEP].
"""

from __future__ import annotations

import sys
import unicodedata
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from skyriver.train.encoders.wordpiece import LONGEST_WORD, WordPiece, is_alone, normal

OPSET: Final = 18
ML_OPSET: Final = 2
IR_VERSION: Final = 10
_REMOVED, _SPACE, _OTHER, _OTHER_ALONE, _FIRST_CLASS = range(5)
_DEAD, _WORD, _WITHIN = range(3)
"""States of the trie: nothing matches; a word starts; a word goes on."""
_DOUBLINGS: Final = 7
_WHOLE: Final[dict[str, Any]] = {"mark": 0, "mincharnum": 1, "pad_value": ""}


def to_onnx(
    tokenizer: WordPiece, text: str = "text", ids: str = "ids", rows: str = "n", *, prefix: str = ""
) -> onnx.ModelProto:
    """The graph that takes `text`, strings (rows,), and gives `ids` as `tokenizer.encode` does."""
    graph = _Graph(f"{prefix}wordpiece")
    pieces = _pieces(tokenizer)
    classes = {char: _FIRST_CLASS + k for k, char in enumerate(sorted({c for piece in pieces for c in piece[2]}))}
    codes = _classes_of_text(graph, text, tokenizer, classes)
    alone = np.array([False, False, False, True, *(is_alone(char) for char in classes)])
    start, spoken = _word_starts(graph, codes, alone)
    found, length = _longest_match(graph, codes, start, pieces, classes)
    kept, number = _cut(graph, start, spoken, found, length, tokenizer.numbers["[UNK]"])
    _frame(graph, kept, number, tokenizer, ids)
    inputs = [helper.make_tensor_value_info(text, TensorProto.STRING, [rows])]
    outputs = [helper.make_tensor_value_info(ids, TensorProto.INT64, [rows, "tokens"])]
    opsets = [
        helper.make_opsetid("", OPSET),
        helper.make_opsetid("ai.onnx.ml", ML_OPSET),
        helper.make_opsetid("com.microsoft", 1),
    ]
    made = helper.make_graph(graph.nodes, "wordpiece", inputs, outputs, graph.constants)
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="skyriver")


class _Graph:
    """Nodes in the order in which they are written, under names that meet no others when graphs are joined."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{self.name}_{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"{self.name}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def zeros_like(self, of: str) -> str:
        return str(self("Mul", of, self.constant(0)))

    def whole(self, of: str) -> str:
        return str(self("Cast", of, to=TensorProto.INT64))

    def sum_so_far(self, of: str) -> str:
        return str(self("CumSum", of, self.constant(1)))

    def to_the_left(self, values: str, kept: str) -> str:
        """(n, m) of those of `values` that are kept, in order, 0 where a row has fewer; m: of the row with most."""
        rank = self.sum_so_far(kept)
        most = self("ReduceMax", self("ReduceMax", rank, self.constant([1])), self.constant([0]), keepdims=1)
        width = self("Reshape", most, self.constant([1]))
        n = self("Shape", values, start=0, end=1)
        board = self("Expand", self.constant([[0]]), self("Concat", n, self("Add", width, self.constant([1])), axis=0))
        place = self("Mul", rank, kept)  # column 0 takes what is not kept
        put = self("ScatterElements", board, place, self("Mul", values, kept), axis=1)
        return str(self("Slice", put, self.constant([1]), self("Add", width, self.constant([1])), self.constant([1])))


def _pieces(tokenizer: WordPiece) -> list[tuple[int, int, str]]:
    """(number, state that it starts from, characters) of what words are made of."""
    return [
        (number, _WITHIN, piece[2:]) if piece.startswith("##") and len(piece) > 2 else (number, _WORD, piece)
        for number, piece in enumerate(tokenizer.vocabulary)
        if piece and not (piece.startswith("[") and piece.endswith("]") and len(piece) > 2)
    ]


def _classes_of_text(graph: _Graph, text: str, tokenizer: WordPiece, classes: dict[str, int]) -> str:
    table = _table(tokenizer.lowercase, classes)
    # What is read of a text is cut off first: one long text would make a row as wide of every other.
    head = graph("Tokenizer", text, domain="com.microsoft", **_WHOLE, tokenexp=_first(tokenizer.max_characters))
    column = graph("Concat", graph("Shape", text), graph.constant([1]), axis=0)
    spaced = graph("Concat", head, graph("Expand", graph.constant([" "], object), column), axis=1)  # never nothing
    chars = graph("Tokenizer", spaced, domain="com.microsoft", **_WHOLE, separators=[""])
    widest = max(len(codes) for codes in table.values())
    parts = [graph("Unsqueeze", _looked_up(graph, chars, table, k), graph.constant([3])) for k in range(widest)]
    flat = graph("Flatten", graph("Concat", *parts, axis=3), axis=1)
    return graph.to_the_left(flat, graph.whole(graph("Greater", flat, graph.constant(_REMOVED))))


def _first(characters: int) -> str:
    """What matches so many from the start; RE2 counts to a thousand at once."""
    thousands, rest = divmod(characters - 1, 1_000)
    return r"(?s)\A." + ".{0,1000}" * thousands + f".{{0,{rest}}}"


def _looked_up(graph: _Graph, chars: str, table: dict[str, tuple[int, ...]], k: int) -> str:
    """The k-th class of what each character becomes."""
    keys = [char for char, codes in table.items() if k == 0 or len(codes) > k]
    values = [(*table[char], _REMOVED)[k] if len(table[char]) >= k else _REMOVED for char in keys]
    return str(
        graph(
            "LabelEncoder",
            chars,
            domain="ai.onnx.ml",
            keys_strings=keys,
            values_int64s=values,
            default_int64=_REMOVED if k else _OTHER,
        )
    )


def _table(lowercase: bool, classes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Of each character that is not simply in no piece: the classes of what it becomes; "" is a missing one."""
    table: dict[str, tuple[int, ...]] = {"": (_REMOVED,)}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in ("Cn", "Co", "Cs"):
            continue
        codes = tuple(_class(c, classes) for c in normal(char, lowercase=lowercase)) or (_REMOVED,)
        if codes != (_OTHER,):
            table[char] = codes
    return table


def _class(char: str, classes: dict[str, int]) -> int:
    if char == " ":
        return _SPACE
    return classes.get(char, _OTHER_ALONE if is_alone(char) else _OTHER)


def _word_starts(graph: _Graph, codes: str, alone: np.ndarray[Any, Any]) -> tuple[str, str]:
    """int64 (n, m): 1 where a word starts, and 1 where there is a word at all."""
    spoken = graph.whole(graph("Greater", codes, graph.constant(_SPACE)))
    single = graph("Gather", graph.constant(alone), codes)
    inside = graph("Mul", spoken, graph("Sub", graph.constant(1), single))
    before = graph("Pad", inside, graph.constant([0, 1, 0, -1]))  # 1 where a word may be gone on with
    goes_on = graph("Mul", inside, before)
    return str(graph("Sub", spoken, goes_on)), spoken


def _longest_match(
    graph: _Graph, codes: str, start: str, pieces: list[tuple[int, int, str]], classes: dict[str, int]
) -> tuple[str, str]:
    """int64 (n, m): number and length of the longest piece from each position; both 0 where there is none."""
    states, ends, edges = 3, {}, {}
    for number, state, piece in pieces:
        for char in piece:
            edge = (state, classes[char])
            if edge not in edges:
                edges[edge] = states
                states += 1
            state = edges[edge]
        ends[state] = number
    width = _FIRST_CLASS + len(classes)
    ending = np.zeros(states, np.int64)
    ending[list(ends)] = list(ends.values())
    longest = max(len(piece) for _, _, piece in pieces)
    body = _step(graph, [state * width + code for state, code in edges], list(edges.values()), ending, width, codes)
    state = graph("Sub", graph.constant(_WITHIN), start)
    goes_on = graph("Mul", codes, graph("Sub", graph.constant(1), start))
    graph.nodes.append(helper.make_node("Pad", [goes_on, graph.constant([0, 0, 0, longest])], [f"{graph.name}_ahead"]))
    none = graph.zeros_like(codes)
    limit, go = graph.constant(longest), graph.constant(True, np.bool_)
    _, found, length = graph("Loop", limit, go, state, none, none, outputs=3, body=body)
    return found, length


def _step(
    graph: _Graph, keys: list[int], states: list[int], ending: np.ndarray[Any, Any], width: int, codes: str
) -> Any:
    """The loop's k-th round: every position's state reads the character k further on. It ends where all are dead."""
    name = f"{graph.name}_step"
    inner = _Graph(name)
    k, zero, one = f"{name}_k", inner.constant(0), inner.constant([1])
    first = inner("Reshape", k, one)
    end = inner("Add", first, inner("Shape", codes, start=1, end=2))
    here = inner("Slice", f"{graph.name}_ahead", first, end, one)
    here = inner("Where", inner("Equal", k, zero), codes, here)
    reached = inner(
        "LabelEncoder",
        inner("Add", inner("Mul", f"{name}_state", inner.constant(width)), here),
        domain="ai.onnx.ml",
        keys_int64s=keys,
        values_int64s=states,
        default_int64=_DEAD,
    )
    ended = inner("Gather", inner.constant(ending), reached)
    matched = inner("Greater", ended, zero)
    found = inner("Where", matched, ended, f"{name}_found")
    length = inner("Where", matched, inner("Add", k, inner.constant(1)), f"{name}_length")
    alive = inner("Greater", inner("ReduceMax", reached, keepdims=0), zero)
    values = [
        helper.make_tensor_value_info(label, kind, shape)
        for label, kind, shape in (
            (k, TensorProto.INT64, []),
            (f"{name}_go", TensorProto.BOOL, []),
            (f"{name}_state", TensorProto.INT64, None),
            (f"{name}_found", TensorProto.INT64, None),
            (f"{name}_length", TensorProto.INT64, None),
            (alive, TensorProto.BOOL, []),
            (reached, TensorProto.INT64, None),
            (found, TensorProto.INT64, None),
            (length, TensorProto.INT64, None),
        )
    ]
    return helper.make_graph(inner.nodes, name, values[:5], values[5:], inner.constants)


def _cut(graph: _Graph, start: str, spoken: str, found: str, length: str, unknown: int) -> tuple[str, str]:
    """int64 (n, m): 1 where a token is, and its number."""
    one = graph.constant(1)
    place = graph("Sub", graph.sum_so_far(graph("Add", graph.zeros_like(start), one)), one)
    last = graph("Sub", graph("Shape", start, start=1, end=2), one)
    after = graph("Min", graph("Add", place, length), last)
    within = graph("Mul", spoken, graph("Sub", one, start))
    jump = graph(
        "Where", graph("Greater", graph("GatherElements", within, after, axis=1), graph.constant(0)), after, place
    )
    counts = start
    for k in range(_DOUBLINGS):
        counts = graph("ScatterElements", counts, jump, counts, axis=1, reduction="max")
        if k + 1 < _DOUBLINGS:
            jump = graph("GatherElements", jump, jump, axis=1)
    word = graph.sum_so_far(start)
    none = graph("Pad", graph.zeros_like(start), graph.constant([0, 0, 0, 1]))
    lost = graph("Mul", counts, graph.whole(graph("Equal", length, graph.constant(0))))
    bad = graph("ScatterElements", none, word, lost, axis=1, reduction="max")
    letters = graph("ScatterElements", none, word, spoken, axis=1, reduction="add")
    bad = graph("Max", bad, graph.whole(graph("Greater", letters, graph.constant(LONGEST_WORD))))
    of_bad = graph("Greater", graph("GatherElements", bad, word, axis=1), graph.constant(0))
    number = graph("Where", of_bad, graph.constant(unknown), found)
    return str(graph("Where", of_bad, start, counts)), str(number)


def _frame(graph: _Graph, kept: str, number: str, tokenizer: WordPiece, ids: str) -> None:
    room = graph.constant(tokenizer.max_tokens - 2)
    fits = graph.whole(graph("LessOrEqual", graph.sum_so_far(kept), room))
    kept = graph("Mul", kept, fits)
    inner = graph("Pad", graph.to_the_left(number, kept), graph.constant([0, 1, 0, 1]))
    count = graph("Add", graph("ReduceSum", kept, graph.constant([1]), keepdims=1), graph.constant(1))
    one = graph("Add", graph.zeros_like(inner), graph.constant(1))
    place = graph("Sub", graph.sum_so_far(one), graph.constant(1))
    ended = graph("Where", graph("Equal", place, count), graph.constant(tokenizer.numbers["[SEP]"]), inner)
    begun = graph("Equal", place, graph.constant(0))
    graph.nodes.append(helper.make_node("Where", [begun, graph.constant(tokenizer.numbers["[CLS]"]), ended], [ids]))
