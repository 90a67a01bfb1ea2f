"""BERT as an encoder of sentences: the mean over its last layer's tokens, of length 1 (Devlin et al. 2019; Reimers and
Gurevych 2019). MiniLM is a narrow one (Wang et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from skyriver.core.errors import InvalidInput
from skyriver.train.encoders.encoder import Encoder
from skyriver.train.encoders.wordpiece import WordPiece

_OF_LAYER: Final = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "narrow_norm",
}
"""What a file calls the parts of a layer: what they are called here."""
_EMBEDDINGS: Final = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "types",
    "LayerNorm": "norm",
}


@dataclass(frozen=True, slots=True)
class BertShape:
    vocabulary: int
    width: int = 384
    layers: int = 6
    heads: int = 12
    wide: int = 1536
    positions: int = 512
    types: int = 2
    eps: float = 1e-12

    @classmethod
    def of_config(cls, config: Mapping[str, Any], where: str) -> BertShape:
        """Of a config.json. Raises InvalidInput (BAD_ENCODER) where it is none that can be built here."""
        wanted = {
            "vocabulary": "vocab_size",
            "width": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "wide": "intermediate_size",
            "positions": "max_position_embeddings",
            "types": "type_vocab_size",
        }
        sizes: dict[str, int] = {}
        for ours, theirs in wanted.items():
            size = config.get(theirs)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise _bad(f"{where}: {theirs} is {size!r}, a whole number from 1 is wanted")
            sizes[ours] = size
        if config.get("hidden_act", "gelu") != "gelu":
            raise _bad(f"{where}: hidden_act is {config['hidden_act']!r}, only gelu is built")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise _bad(f"{where}: position_embedding_type is not absolute")
        if sizes["width"] % sizes["heads"]:
            raise _bad(f"{where}: hidden_size {sizes['width']} is no multiple of {sizes['heads']} heads")
        return cls(**sizes, eps=float(config.get("layer_norm_eps", 1e-12)))


class TextEncoder(Encoder):
    """Takes numbers of pieces int64 (n, t), 0 where a row has no more; gives (n, width) of length 1."""

    kind = "text"

    def __init__(self, shape: BertShape, tokenizer: WordPiece) -> None:
        super().__init__()
        if len(tokenizer.vocabulary) != shape.vocabulary:
            raise _bad(
                f"The vocabulary has {len(tokenizer.vocabulary)} pieces, the encoder was made for {shape.vocabulary}"
            )
        if tokenizer.max_tokens > shape.positions:
            raise _bad(f"max_tokens is {tokenizer.max_tokens}, the encoder has {shape.positions} positions")
        self.shape, self.tokenizer, self.width = shape, tokenizer, shape.width
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.types = nn.Embedding(shape.types, shape.width)
        self.norm = nn.LayerNorm(shape.width, shape.eps)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.eval()

    def prepared(self, rows: Sequence[str | None]) -> Tensor:
        return torch.from_numpy(self.tokenizer.encode(["" if row is None else row for row in rows]))

    def present(self, batch: Tensor) -> Tensor:
        return (batch != 0).sum(1) > 2  # more than [CLS] and [SEP]

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, batch: Tensor) -> Tensor:
        spoken = (batch != 0).to(self.words.weight.dtype)
        place = torch.arange(batch.shape[1], device=batch.device)
        hidden = self.norm(self.words(batch) + self.positions(place) + self.types.weight[0])
        away = (spoken[:, None, None, :] - 1) * 1e9
        for layer in self.layers:
            hidden = layer(hidden, away)
        mean = (hidden * spoken[:, :, None]).sum(1) / spoken.sum(1, keepdim=True).clamp(min=1)
        return functional.normalize(mean, dim=1, eps=1e-12)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.tokenizer.max_tokens}, {self.tokenizer.lowercase}"

    @staticmethod
    def named(tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a file by the names they have here; those that an encoder of sentences has no use for are
        left out."""
        found = {}
        for full, tensor in tensors.items():
            name = full.removeprefix("bert.")
            part, _, last = name.rpartition(".")
            if part.startswith("embeddings.") and part[11:] in _EMBEDDINGS:
                found[f"{_EMBEDDINGS[part[11:]]}.{last}"] = tensor
            elif part.startswith("encoder.layer."):
                number, _, of_layer = part[14:].partition(".")
                found[f"layers.{number}.{_OF_LAYER.get(of_layer, of_layer)}.{last}"] = tensor
            elif not name.startswith(("pooler.", "cls.", "classifier.")) and name != "embeddings.position_ids":
                found[name] = tensor
        return found

    def filed(self) -> dict[str, Tensor]:
        """Its tensors by the names that files use."""
        parts = {ours: theirs for theirs, ours in _OF_LAYER.items()}
        top = {ours: theirs for theirs, ours in _EMBEDDINGS.items()}
        found = {}
        for name, tensor in self.state_dict().items():
            part, _, last = name.rpartition(".")
            if part in top:
                found[f"embeddings.{top[part]}.{last}"] = tensor
            else:
                _, number, of_layer = part.split(".", 2)
                found[f"encoder.layer.{number}.{parts[of_layer]}.{last}"] = tensor
        return found

    def config(self) -> dict[str, Any]:
        return {
            "model_type": "bert",
            "vocab_size": self.shape.vocabulary,
            "hidden_size": self.shape.width,
            "num_hidden_layers": self.shape.layers,
            "num_attention_heads": self.shape.heads,
            "intermediate_size": self.shape.wide,
            "max_position_embeddings": self.shape.positions,
            "type_vocab_size": self.shape.types,
            "layer_norm_eps": self.shape.eps,
        }


class _Layer(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query, self.key, self.value, self.attended = (nn.Linear(shape.width, shape.width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(shape.width, shape.wide), nn.Linear(shape.wide, shape.width)
        self.attended_norm = nn.LayerNorm(shape.width, shape.eps)
        self.narrow_norm = nn.LayerNorm(shape.width, shape.eps)

    def forward(self, hidden: Tensor, away: Tensor) -> Tensor:
        query, key, value = (self._split(part(hidden)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3]) + away
        seen = (torch.softmax(scores, 3) @ value).transpose(1, 2).flatten(2)
        hidden = self.attended_norm(hidden + self.attended(seen))
        wide = functional.gelu(self.wide(hidden))
        narrowed: Tensor = self.narrow_norm(hidden + self.narrow(wide))
        return narrowed

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(2, (self.heads, -1)).transpose(1, 2)


def random_text_encoder(vocabulary: Sequence[str], *, seed: int, **shape: Any) -> TextEncoder:
    """One that knows nothing yet: to try code with, or to train from the start."""
    tokenizer = WordPiece(tuple(vocabulary), max_tokens=int(shape.pop("max_tokens", 16)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TextEncoder(BertShape(vocabulary=len(vocabulary), **shape), tokenizer)


def _bad(what: str) -> InvalidInput:
    return InvalidInput(
        f"{what}.",
        code="BAD_ENCODER",
        next_action="Give the folder of a BERT model: config.json, vocab.txt and model.safetensors of one model.",
    )
