"""[GPU] Texts to token ids, and batches of them. One thread owns a tokenizer: fast ones raise "Already borrowed"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of each text, special tokens included and cut at the model's limit; whether it was cut."""

    ids: list[list[int]]
    truncated: list[bool]

    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> Tokenized:
    """The tokens of `texts`, not padded, by a fast tokenizer of transformers."""
    encoded = tokenizer(
        list(texts), truncation="longest_first", max_length=max_length, padding=False, return_attention_mask=False
    )
    return Tokenized(encoded["input_ids"], [bool(encoding.overflowing) for encoding in encoded.encodings])


def padded(tokenizer: Any, ids: Sequence[list[int]], device: torch.device) -> dict[str, Any]:
    """The features of one batch on `device`, padded as the tokenizer pads: int64 (n, longest)."""
    longest = max(map(len, ids))
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    left = tokenizer.padding_side == "left"
    rows, masks = [], []
    for tokens in ids:
        padding = longest - len(tokens)
        rows.append([pad_id] * padding + tokens if left else tokens + [pad_id] * padding)
        masks.append([0] * padding + [1] * len(tokens) if left else [1] * len(tokens) + [0] * padding)
    features: dict[str, Any] = {
        "input_ids": torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True),
        "attention_mask": torch.tensor(masks, dtype=torch.int64).to(device, non_blocking=True),
    }
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return features


def batches(lengths: Sequence[int], budget: int, most: int) -> Iterator[list[int]]:
    """Positions in batches of like length, longest first: at most `budget` padded tokens (but always one text), `most` texts."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    batch: list[int] = []
    for position in order:
        if batch and ((len(batch) + 1) * lengths[batch[0]] > budget or len(batch) == most):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
