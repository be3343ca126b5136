"""[GPU] Texts to vectors: the encoder of a worker and of a build. Never moves to another device by itself.

One thread at a time may tokenize. On a CUDA device several may encode, each on a stream of its own; elsewhere one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from . import runtimes
from .backends import start
from .calibration import Choice, preferred, recall, setup
from .devices import bind, resolve_device
from .errors import ModelUnusable
from .manifest import Manifest
from .model_loading import LoadedModel, choose_dtype, load_model
from .models import Prefixes
from .running import Features, Running
from .tokens import Tokenized, padded, tokenize

Kind = Literal["query", "passage"]

MAX_BATCH_TOKENS = 16_384

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Encoded:
    """`vectors` float32 (n, dim); `tokens` of each text as encoded, prefix and special tokens included; whether it was cut."""

    vectors: NDArray[np.float32]
    tokens: list[int]
    truncated: list[bool]


class Encoder(Protocol):
    """Texts to vectors of `dim` values, of length 1 if `normalize`. `fingerprint` identifies the weights, `settings`
    (see `model_settings`) what else decides them."""

    model: str
    fingerprint: str
    settings: Mapping[str, str]
    dim: int
    max_length: int
    device: str
    dtype: str
    backend: str
    normalize: bool
    prefixes: Prefixes

    @property
    def kinds_alike(self) -> bool:
        """Whether a text has the same vector as a query and as a passage."""
        ...

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> Encoded: ...

    def tokenize(self, texts: Sequence[str], kind: Kind = "query") -> Tokenized: ...

    def encode_tokens(self, tokenized: Tokenized) -> Encoded: ...


class SentenceEncoder:
    """A sentence-transformers model on one of the backends: the vectors of its own `encode`, without what that does around it.

    `choice` is what calibration found for it here, None where nothing was measured.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        running: Running,
        device: torch.device,
        dtype: str,
        prefixes: Prefixes,
        max_batch_tokens: int,
        choice: Choice | None = None,
    ) -> None:
        self.model = loaded.name
        self.fingerprint = loaded.fingerprint
        self.settings = loaded.settings
        self.dim = loaded.dim
        self.max_length = loaded.max_length
        self.device = str(device)
        self.dtype = dtype
        self.backend = running.name
        self.normalize = loaded.normalize
        self.prefixes = prefixes
        self.choice = choice
        self.max_batch_tokens = max_batch_tokens
        self._device = device
        self._running = running
        self._renormalize = loaded.normalize and not (loaded.normalizes_itself and dtype == runtimes.FLOAT32)
        self._tokenizer = plain_tokenizer(loaded.model)
        self._library = loaded.model if self._tokenizer is None else None

    @property
    def kinds_alike(self) -> bool:
        return self._tokenizer is not None and self.prefixes.query == self.prefixes.passage

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> Encoded:
        """The vectors of `texts` in their order. Raises `ModelUnusable` where the dtype is too narrow for the model."""
        return self.encode_tokens(self.tokenize(texts, kind))

    def tokenize(self, texts: Sequence[str], kind: Kind = "query") -> Tokenized:
        """The first half of `encode`: needs no device."""
        prefix = self._prefix(kind)
        whole = [prefix + text for text in texts] if prefix else list(texts)
        if self._tokenizer is not None:
            return tokenize(self._tokenizer, whole, self.max_length, kind)
        lengths = _lengths(getattr(self._library, "tokenizer", None), whole)
        counted = [[0] * min(length, self.max_length) for length in lengths]
        return Tokenized(counted, [length > self.max_length for length in lengths], kind, tuple(texts))

    def encode_tokens(self, tokenized: Tokenized) -> Encoded:
        """The second half of `encode`."""
        lengths = tokenized.lengths()
        if not lengths:
            return Encoded(np.zeros((0, self.dim), dtype=np.float32), [], [])
        with torch.inference_mode():
            if tokenized.texts is not None:
                rows = self._finite(self._by_library(tokenized.texts, tokenized.kind))
            else:
                rows = self._by_passes(tokenized, lengths)
        return Encoded(rows, lengths, tokenized.truncated)

    def _prefix(self, kind: str) -> str:
        return self.prefixes.query if kind == "query" else self.prefixes.passage

    def _by_passes(self, tokenized: Tokenized, lengths: list[int]) -> NDArray[np.float32]:
        """float32 (n, dim) of all texts, in their order. Where a pass finds no memory on the device, the rest is cut anew."""
        embedded: list[torch.Tensor] = []
        order: list[int] = []
        left = list(range(len(lengths)))
        while left:
            for places in self._running.passes([lengths[position] for position in left], self.max_batch_tokens):
                positions = [left[place] for place in places]
                found = self._embed_if_it_fits(tokenized, positions)
                if found is None:
                    self._narrow(positions, lengths)
                    break
                embedded.append(found)
                order += positions
            done = set(order)
            left = [position for position in left if position not in done]
        rows = np.empty((len(lengths), self.dim), dtype=np.float32)
        rows[order] = self._finite(torch.cat(embedded))
        return rows

    def _embed_if_it_fits(self, tokenized: Tokenized, positions: list[int]) -> torch.Tensor | None:
        """The rows of one pass, on the device; None where it finds no memory. Raises what a text alone fails over."""
        try:
            return self._embed(padded(self._tokenizer, [tokenized.ids[position] for position in positions], self._device))
        except torch.cuda.OutOfMemoryError:
            if len(positions) == 1:
                raise
            return None

    def _narrow(self, positions: list[int], lengths: list[int]) -> None:
        """No pass is as large again as the one at `positions`, which found no memory."""
        torch.cuda.empty_cache()
        padded_tokens = len(positions) * max(lengths[position] for position in positions)
        self.max_batch_tokens = max(1, min(self.max_batch_tokens, padded_tokens) // 2)
        log.warning(
            "%s has no memory for %d texts of up to %d tokens: passes of at most %d tokens from now on",
            self.device,
            len(positions),
            padded_tokens // len(positions),
            self.max_batch_tokens,
        )

    def _embed(self, features: Features) -> torch.Tensor:
        embedding = self._running.run(features)[:, : self.dim]
        return torch.nn.functional.normalize(embedding, dim=1) if self._renormalize else embedding

    def _finite(self, vectors: torch.Tensor) -> NDArray[np.float32]:
        """`vectors` on the host, in one copy."""
        rows: NDArray[np.float32] = vectors.cpu().numpy()
        if not np.isfinite(rows).all():
            raise ModelUnusable(
                f"the model {self.model} gives values that are not finite in {self.dtype}: use dtype float32 or bfloat16"
            )
        return rows

    def _by_library(self, texts: Sequence[str], kind: str) -> torch.Tensor:
        """For models without a plain tokenizer (routers, chat templates, static embeddings): whatever the library does."""
        library: Any = self._library
        encode = library.encode_query if kind == "query" else library.encode_document
        vectors: torch.Tensor = encode(
            list(texts), prompt=self._prefix(kind), convert_to_tensor=True, show_progress_bar=False
        ).float()
        return torch.nn.functional.normalize(vectors, dim=1) if self._renormalize else vectors


def load_encoder(
    model: str,
    device: str,
    dtype: str = "auto",
    *,
    backend: str = runtimes.AUTO,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    normalize: bool | None = None,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> SentenceEncoder:
    """The encoder `model` on `device`. Prefixes and `normalize` that are None are the model's own. `backend` auto is the one that
    calibration found best here, else torch; one that cannot serve the model is then passed over.

    Raises `ModelUnusable`, `DeviceUnavailable`, or `ConfigurationError` for a backend or dtype that is not to be had.
    """
    where = resolve_device(device)
    chosen = choose_dtype(dtype, where)
    able = runtimes.candidates(backend, chosen, where.type == "cuda")
    bind(where)
    loaded = load_model(model, where, chosen if able[0] == runtimes.TORCH else runtimes.FLOAT32, normalize)
    choice = recall(setup(loaded.fingerprint, str(where), chosen, backend, torch.get_num_threads()))
    running = start(loaded, plain_tokenizer(loaded.model), where, chosen, preferred(able, choice))
    own = loaded.prefixes
    prefixes = Prefixes(
        own.query if query_prefix is None else query_prefix, own.passage if passage_prefix is None else passage_prefix
    )
    return SentenceEncoder(loaded, running, where, chosen, prefixes, max_batch_tokens, choice)


def load_index_encoder(
    manifest: Manifest,
    device: str,
    dtype: str = "auto",
    model: str = "",
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    backend: str = runtimes.AUTO,
) -> SentenceEncoder:
    """The encoder that the index `manifest` was built with; `model` says where it is on this host, "" = by the same name.

    Raises as `load_encoder`, and `ModelUnusable` where it has other weights, or reads more or less of a text. Whether its other
    files make it another model is for `own_rows` to say, who has the index.
    """
    name = model or manifest.model.name
    encoder = load_encoder(
        name,
        device,
        dtype,
        backend=backend,
        query_prefix=manifest.query_prefix,
        passage_prefix=manifest.passage_prefix,
        normalize=manifest.normalized,
        max_batch_tokens=max_batch_tokens,
    )
    if encoder.fingerprint == manifest.model.sha256 and encoder.dim != manifest.dim:
        raise ModelUnusable(
            f"the index was built with {manifest.dim} values of each vector of the model {manifest.model.name}, "
            f"and {name} gives {encoder.dim} here (truncate_dim in its configuration)"
        )
    if encoder.fingerprint != manifest.model.sha256:
        raise ModelUnusable(
            f"the index was built with the model {manifest.model.name} (sha256 {manifest.model.sha256[:12]}…), "
            f"and {name} is another one here (sha256 {encoder.fingerprint[:12]}…)"
        )
    if encoder.max_length != manifest.max_length:
        raise ModelUnusable(
            f"the index was built with the model {manifest.model.name}, reading {manifest.max_length} tokens of a text, "
            f"and {name} reads {encoder.max_length} here"
        )
    return encoder


def plain_tokenizer(model: Any) -> Any:
    """The fast tokenizer of a model that is given nothing but tokens of texts; None for any other."""
    tokenizer = getattr(model, "tokenizer", None)
    modalities = getattr(model[0], "modality_config", {"text": None})
    prompt_matters = any(not getattr(module, "include_prompt", True) for module in model)
    own_lengths = any(getattr(model[0], name, None) for name in ("query_length", "document_length", "processing_kwargs"))
    plain = type(model[0]).__name__ == "Transformer" and set(modalities) == {"text"} and not prompt_matters and not own_lengths
    return tokenizer if plain and getattr(tokenizer, "is_fast", False) else None


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    try:
        if hasattr(tokenizer, "encode_batch"):
            return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [len(ids) for ids in tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]]
    except Exception:  # a tokenizer of another kind: counts are for reports, words come close enough
        return [len(text.split()) for text in texts]
