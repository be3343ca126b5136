"""[GPU] BERT without its padding: the tokens of a batch in one long row, so that a text beside longer ones costs little more.

What works on single tokens, which is nearly all arithmetic, sees (tokens, hidden); attention, which looks along a text, sees
them in a `Grid`. Linear layers are those of `packed`, with query, key and value in one. Pooling and what follows are the model's
own. Float32 on a CPU alone. Method: "unpadding", as in Portes et al., MosaicBERT, 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .grid import Grid
from .model_loading import first_line
from .packed import PackedLinear
from .running import Features
from .runtimes import TORCH
from .tokens import even_batches

PASS_TOKENS = 384
"""Of one pass, a longer text aside. A batch of more is shared out evenly: a full pass and a small one behind it take longer.
Questions of MiniLM, 16 and 32 of them, take within 1 % of the same from 256 to 512, passages 2 % longer at 256."""

POSITIONS_MAX = 1_024
"""Longer texts are left to the model's own attention, which need not hold the scores of all pairs of tokens."""


class NotUnpadded(Exception):
    """This model cannot be run so, or not by this torch."""


_PLAIN = {"hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
"""Settings of a BERT that this module takes for granted."""


@dataclass(frozen=True, slots=True)
class _Norm:
    """Layer normalisation of the last dimension."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer; `projected`: query (scaled), key and value, (tokens, hidden) -> (tokens, 3 * hidden)."""

    projected: PackedLinear
    attended: PackedLinear
    attended_norm: _Norm
    widened: PackedLinear
    narrowed: PackedLinear
    narrowed_norm: _Norm


class RunningUnpadded:
    """A BERT of sentence-transformers, float32 on the CPU. Raises `NotUnpadded`."""

    name = TORCH

    def __init__(self, model: Any) -> None:
        bert = _bert(model)
        try:
            self._take(model, bert)
        except Exception as error:  # whatever another release makes of a BERT
            raise NotUnpadded(f"its layers cannot be laid out anew: {first_line(error)}") from None

    def _take(self, model: Any, bert: Any) -> None:
        self._after = list(model)[1:]
        self._heads = bert.config.num_attention_heads
        table = bert.embeddings
        self._words = table.word_embeddings.weight.detach()
        self._places = (table.position_embeddings.weight + table.token_type_embeddings.weight[0]).detach()
        self._norm = _norm(table.LayerNorm)
        self._layers = [_layer(layer) for layer in bert.encoder.layer]

    def passes(self, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
        """See `Running.passes`."""
        return even_batches(lengths, min(budget, PASS_TOKENS))

    def run(self, features: Features) -> torch.Tensor:
        """See `Running.run`."""
        there = features["attention_mask"].bool()
        width = self._words.shape[1]
        grid = Grid(there.sum(1).tolist(), self._heads, width // self._heads)
        tokens = len(grid.places)
        hidden = torch.zeros(_rows(tokens), width)
        hidden[:tokens] = self._norm(self._words[features["input_ids"][there]] + self._places[grid.places])
        context = torch.zeros_like(hidden)
        for layer in self._layers:
            grid.attend(layer.projected(hidden), context[:tokens])
            hidden = layer.attended_norm(layer.attended(context).add_(hidden))
            hidden = layer.narrowed_norm(layer.narrowed(layer.widened(hidden)).add_(hidden))
        embeddings = torch.zeros(there.numel(), width)
        embeddings[there.flatten()] = hidden[:tokens]
        made: dict[str, Any] = {**features, "token_embeddings": embeddings.view(*there.shape, width)}
        for module in self._after:
            made = module(made)
        vectors: torch.Tensor = made["sentence_embedding"]
        return vectors


def _rows(tokens: int) -> int:
    """Rows for so many tokens, a few of them empty: oneDNN keeps memory for each number of rows that it has seen (256 rows of
    MiniLM: 3.5 MB), and takes a millisecond more the first time."""
    step = 4 if tokens <= 64 else 8 if tokens <= 256 else 32 if tokens <= 512 else 64
    return -(-tokens // step) * step


def _bert(model: Any) -> Any:
    """The encoder inside, which must be a plain BERT."""
    inner: Any = getattr(model[0], "auto_model", None)
    if type(inner).__name__ != "BertModel":
        raise NotUnpadded(f"it is a {type(inner).__name__}, not a BertModel")
    if inner.config.max_position_embeddings > POSITIONS_MAX:
        raise NotUnpadded(f"it takes texts of more than {POSITIONS_MAX} tokens")
    if getattr(model.tokenizer, "padding_side", "right") != "right":
        raise NotUnpadded("its texts are padded on the left")
    for name, wanted in _PLAIN.items():
        found = getattr(inner.config, name, wanted)
        if found != wanted:
            raise NotUnpadded(f"its {name} is {found!r}, not {wanted!r}")
    return inner


def _layer(layer: Any) -> _Layer:
    attention, out = layer.attention.self, layer.attention.output
    scale = attention.attention_head_size**-0.5
    heads = (attention.query, attention.key, attention.value)
    together = torch.nn.Linear(attention.query.in_features, 3 * attention.query.out_features)
    with torch.no_grad():
        for name in ("weight", "bias"):
            scaled = [getattr(part, name) * by for part, by in zip(heads, (scale, 1.0, 1.0), strict=True)]
            getattr(together, name).copy_(torch.cat(scaled))
    return _Layer(
        projected=PackedLinear(together),
        attended=PackedLinear(out.dense),
        attended_norm=_norm(out.LayerNorm),
        widened=PackedLinear(layer.intermediate.dense, gelu=True),
        narrowed=PackedLinear(layer.output.dense),
        narrowed_norm=_norm(layer.output.LayerNorm),
    )


def _norm(module: Any) -> _Norm:
    return _Norm(module.weight.detach(), module.bias.detach(), module.eps)
