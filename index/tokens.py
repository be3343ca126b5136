"""[GPU] Texts to token ids, and batches of them. One thread owns a tokenizer: fast ones raise "Already borrowed"."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of each text, special tokens included and cut at the model's limit; whether it was cut. `kind`: query or passage.

    Of a model that tokenizes by itself `texts` are kept, prefix included, and `ids` are only counted.
    """

    ids: list[list[int]]
    truncated: list[bool]
    kind: str = "query"
    texts: tuple[str, ...] | None = None

    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int, kind: str = "query") -> Tokenized:
    """The tokens of `texts`, not padded, by the Rust tokenizer inside a fast tokenizer of transformers.

    Asked directly, and without the offsets that nobody reads.
    """
    core = tokenizer.backend_tokenizer
    cut = core.truncation
    if cut is None or (cut["max_length"], cut["strategy"]) != (max_length, "longest_first"):
        core.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    if core.padding is not None:
        core.no_padding()
    encodings = core.encode_batch_fast(list(texts))
    return Tokenized([encoding.ids for encoding in encodings], [bool(encoding.overflowing) for encoding in encodings], kind)


def padded(tokenizer: Any, ids: Sequence[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    """The features of one batch on `device`, padded as the tokenizer pads: int64 (n, longest)."""
    lengths = np.array([len(tokens) for tokens in ids])
    longest = int(lengths.max())
    rows = np.full((len(ids), longest), tokenizer.pad_token_id or 0, dtype=np.int64)
    places = np.arange(longest)
    left = tokenizer.padding_side == "left"
    mask = places >= longest - lengths[:, None] if left else places < lengths[:, None]
    rows[mask] = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum()))
    features = {"input_ids": torch.from_numpy(rows), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    if device.type == "cuda":  # from pinned memory the copy does not hold up this thread
        features = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in features.items()}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return features


def padded_batches(lengths: Sequence[int], budget: int, most: int, forward_tokens: int) -> Iterator[list[int]]:
    """Positions in batches of like length, longest first: at most `budget` padded tokens (but always one text), `most` texts.

    A batch ends also where padding the next text would waste more than a forward pass of its own costs, as `forward_tokens`.
    """
    batch: list[int] = []
    wasted = 0
    for position in _longest_first(lengths):
        longest = lengths[batch[0]] if batch else 0
        wasted += max(0, longest - lengths[position])
        if batch and ((len(batch) + 1) * longest > budget or len(batch) == most or wasted > forward_tokens):
            yield batch
            batch, wasted = [], 0
        batch.append(position)
    if batch:
        yield batch


def even_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions, longest first, in as few batches as have about `budget` tokens each, all of about the same number of tokens.

    Each text goes where its middle lies: no batch has more than `budget` and its longest text together.
    """
    total = sum(lengths)
    count = max(1, -(-total // budget))
    order = _longest_first(lengths)
    before = itertools.accumulate((lengths[position] for position in order), initial=0)
    middles = {position: first + lengths[position] / 2 for position, first in zip(order, before, strict=False)}
    number = {position: min(count - 1, int(middle * count / max(1, total))) for position, middle in middles.items()}
    for _, batch in itertools.groupby(order, key=number.__getitem__):
        yield list(batch)


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda position: -lengths[position])
