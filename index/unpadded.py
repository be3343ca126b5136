"""[GPU] BERT without its padding: the tokens of a batch in one long row, so that a text beside longer ones costs little more.

What works on single tokens, which is nearly all arithmetic, sees (tokens, hidden); only attention, which looks along a text,
sees a padded grid. Linear layers are those of `packed`, with query, key and value in one. Pooling and what follows are the
model's own. Float32 on a CPU alone. Method: "unpadding", as in Portes et al., MosaicBERT, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .model_loading import first_line
from .packed import PackedLinear
from .running import Features
from .runtimes import TORCH

GRID_MIN = 16
"""Columns of the grid at least: torch's softmax takes three times as long over rows that are shorter than a vector register."""

FORWARD_TOKENS = 256
"""What a further pass costs, in cells of padding: a cell costs attention alone. At 64 questions of MiniLM are cut too often, from
128 on the difference is less than the noise (32 and 16 questions, 600 passages)."""

TOKENS_MAX = 512
"""Cells of one pass, a longer text aside. 2,048 are no faster for MiniLM, and see `_rows`."""

EVEN_TOKENS = 256
"""Of each pass of a batch: a pass that fills the cells and a small one behind it take 6 % longer than two of a size (32 questions
of MiniLM; 192 and 320 are as good, passages do not mind)."""

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
    forward_tokens = FORWARD_TOKENS
    tokens_max: int | None = TOKENS_MAX
    even_tokens: int | None = EVEN_TOKENS

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

    def run(self, features: Features) -> torch.Tensor:
        """See `Running.run`."""
        there = features["attention_mask"].bool()
        count, longest = there.shape
        lengths = there.sum(1, keepdim=True)
        places = (there.cumsum(1) - 1)[there]
        tokens = len(places)
        columns = max(GRID_MIN, longest)
        cells = torch.arange(count).repeat_interleave(lengths[:, 0]) * columns + places
        beyond = torch.arange(columns) >= lengths
        bias = torch.zeros(count, columns).masked_fill_(beyond, -torch.inf)[:, None, None, :]
        hidden = torch.zeros(_rows(tokens), self._words.shape[1])
        hidden[:tokens] = self._norm(self._words[features["input_ids"][there]] + self._places[places])
        context = torch.zeros_like(hidden)
        grid = torch.zeros(count * columns, 3 * hidden.shape[1])
        for layer in self._layers:
            grid.index_copy_(0, cells, layer.projected(hidden)[:tokens])
            attention = self._attention(grid.view(count, columns, -1), bias)
            torch.index_select(attention, 0, cells, out=context[:tokens])
            hidden = layer.attended_norm(layer.attended(context).add_(hidden))
            hidden = layer.narrowed_norm(layer.narrowed(layer.widened(hidden)).add_(hidden))
        embeddings = torch.zeros(count * longest, hidden.shape[1])
        embeddings[there.flatten()] = hidden[:tokens]
        made: dict[str, Any] = {**features, "token_embeddings": embeddings.view(count, longest, -1)}
        for module in self._after:
            made = module(made)
        vectors: torch.Tensor = made["sentence_embedding"]
        return vectors

    def _attention(self, grid: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Of all heads, (count, columns, 3 * hidden) -> (count * columns, hidden)."""
        count, columns, wide = grid.shape
        query, key, value = grid.view(count, columns, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax((query @ key.transpose(-1, -2)).add_(bias), -1)
        context: torch.Tensor = weights @ value
        return context.transpose(1, 2).reshape(count * columns, wide // 3)


def _rows(tokens: int) -> int:
    """Rows for so many tokens, a few of them empty: oneDNN keeps memory for each number of rows that it has seen (256 rows of
    MiniLM: 3.5 MB), and takes a millisecond more the first time."""
    step = 4 if tokens <= 64 else 8 if tokens <= 256 else 32
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
