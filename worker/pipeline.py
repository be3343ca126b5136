"""A batch of requests becomes answers in stages: prepare (check, tokenise), compute (encode, search), finish (fetch, reply).

Each stage may run on a thread of its own, on different batches at the same time; the tokenizer is held by one at a time.
Vectors, scores and ids leave the device once a batch.

A request that is wrong gets its own error; its neighbours are served. A device that breaks is not handled here: it raises.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..index.streams import own_stream
from ..wire.bodies import PASSAGE, RawHits, Work, passages_body, results_body, vectors_body
from ..wire.errors import BadRequest, RagpoolError, TooLarge
from ..wire.messages import EMBED, FETCH, SEARCH, SEARCH_VECTOR, Failure, Limits, Reply, Request
from ..wire.record import record
from .batcher import Job
from .stages import Answer

if TYPE_CHECKING:
    from ..index.encoder import Encoder
    from ..index.engine import Engine
    from ..index.tokens import Tokenized

Kind = Literal["query", "passage"]
KINDS: tuple[Kind, ...] = ("query", "passage")
Key = tuple[Kind, str]
Floats = NDArray[np.float32]
Found = tuple[list[float], list[int]]
"""Scores and rows of one query, best first."""

WARM_UP = "what is the first question"


class Passages(Protocol):
    """Stored passages, as the MessagePack maps that they travel as."""

    def raw(self, row: int) -> bytes: ...

    def find(self, passage_id: str) -> int | None: ...


@record
class Encodings:
    """Vectors float32 (n, dim) of the distinct texts of a batch, their places, true costs in tokens, and which were cut."""

    place: dict[Key, int]
    vectors: Floats
    tokens: list[int]
    truncated: list[bool]

    def places(self, job: Job) -> list[int]:
        return [self.place[key] for key in _keys(job)]


@record
class Prepared:
    """`sound` jobs and the answers to the others; the tokens of the distinct texts of each kind, and their places."""

    sound: list[Job]
    refused: list[Answer]
    place: dict[Key, int]
    tokenized: list[Tokenized]
    ms: dict[str, float]


@record
class Computed:
    """What the device made of it; `found`: scores and rows of each query of a job, by its id."""

    prepared: Prepared
    encodings: Encodings
    found: dict[bytes, list[Found]]


class Stopwatch:
    """Adds the milliseconds since it was made, or since the last stage, to `ms`."""

    def __init__(self, ms: dict[str, float]) -> None:
        self._ms = ms
        self._since = time.perf_counter()

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self._ms[stage] = round((now - self._since) * 1e3, 3)
        self._since = now


class Pipeline:
    """`stream` gives each thread that computes its own queue on the device."""

    def __init__(self, encoder: Encoder, engine: Engine, passages: Passages, index_version: str) -> None:
        self._encoder = encoder
        self._engine = engine
        self._passages = passages
        self._index_version = index_version
        self._tokenizing = threading.Lock()
        self._searching: AbstractContextManager[Any] = threading.Lock() if engine.one_at_a_time else nullcontext()

    def stream(self) -> AbstractContextManager[Any]:
        """For as long as a thread computes."""
        return own_stream(self._encoder.device)

    def warm_up(self) -> None:
        """One real search; raises what it failed with."""
        request = Request(id=bytes(16), op=SEARCH, items=1, top_k=1)
        (answer,) = self.run([Job(request, Work(texts=(WARM_UP,)))], Limits())
        if isinstance(answer, Failure):
            raise RagpoolError(f"the warm-up query failed: {answer.message}")

    def run(self, jobs: Sequence[Job], limits: Limits) -> list[Answer]:
        """One answer a job, in any order. Raises what the device raises; then no job was answered."""
        return self.finish(self.compute(self.prepare(jobs)), limits)

    def prepare(self, jobs: Sequence[Job]) -> Prepared:
        """Needs no device."""
        refused: list[Answer] = []
        sound = []
        for job in jobs:
            error = self._problem(job)
            if error is None:
                sound.append(job)
            else:
                refused.append(Failure(job.request.id, error.code, error.message))
        prepared = Prepared(sound, refused, {}, [], {})
        watch = Stopwatch(prepared.ms)
        self._tokenize(prepared)
        watch.done("tokenize")
        return prepared

    def compute(self, prepared: Prepared) -> Computed:
        """On the device, and back from it."""
        watch = Stopwatch(prepared.ms)
        encodings = self._encode(prepared)
        watch.done("encode")
        found = self._search([job for job in prepared.sound if job.request.op in (SEARCH, SEARCH_VECTOR)], encodings)
        watch.done("search")
        return Computed(prepared, encodings, found)

    def finish(self, computed: Computed, limits: Limits) -> list[Answer]:
        """Needs no device."""
        prepared, encodings = computed.prepared, computed.encodings
        watch = Stopwatch(prepared.ms)
        bodies = [self._body(job, encodings, computed.found.get(job.request.id, [])) for job in prepared.sound]
        watch.done("fetch")
        answers = zip(prepared.sound, bodies, strict=True)
        return prepared.refused + [self._answer(job, body, encodings, prepared.ms, limits) for job, body in answers]

    # ---- stages ----------------------------------------------------------------------------------------------------

    def _problem(self, job: Job) -> RagpoolError | None:
        work = job.work
        if job.request.op == SEARCH_VECTOR:
            if work.dim != self._engine.dim:
                return BadRequest(f"the vectors have {work.dim} dimensions, the index has {self._engine.dim}")
            if not np.isfinite(_rows(job)).all():
                return BadRequest("the vectors hold values that are not finite")
        k_max = self._engine.k_max
        if k_max is not None and min(job.request.top_k, self._engine.count) > k_max:
            return BadRequest(f"top_k is {job.request.top_k}; this index gives at most {k_max} passages on {self._engine.device}")
        if job.request.op == FETCH:
            for position, passage_id in enumerate(work.ids):
                if self._passages.find(passage_id) is None:
                    return BadRequest(f"ids[{position}]: no passage has the id {passage_id!r}")
        return None

    def _tokenize(self, prepared: Prepared) -> None:
        """The texts of all jobs, each once, and once for both kinds where the model makes no difference between them."""
        keys = dict.fromkeys(key for job in prepared.sound for key in _keys(job))
        known: dict[str, int] = {}
        count = 0
        for kind in KINDS:
            fresh = [text for its_kind, text in keys if its_kind == kind and text not in known]
            known |= {text: count + i for i, text in enumerate(fresh)}
            prepared.place.update(((kind, text), known[text]) for its_kind, text in keys if its_kind == kind)
            if fresh:
                with self._tokenizing:
                    prepared.tokenized.append(self._encoder.tokenize(fresh, kind))
                count += len(fresh)
            if not self._encoder.kinds_alike:
                known = {}

    def _encode(self, prepared: Prepared) -> Encodings:
        vectors: list[Floats] = []
        tokens: list[int] = []
        truncated: list[bool] = []
        for tokenized in prepared.tokenized:
            encoded = self._encoder.encode_tokens(tokenized)
            vectors.append(encoded.vectors)
            tokens += encoded.tokens
            truncated += encoded.truncated
        empty = np.empty((0, self._engine.dim), np.float32)
        return Encodings(prepared.place, np.concatenate(vectors) if vectors else empty, tokens, truncated)

    def _search(self, jobs: Sequence[Job], encodings: Encodings) -> dict[bytes, list[Found]]:
        """One product for the whole batch, with the largest top_k; each job gets its own rows of it, cut to its top_k. An engine
        that looks further for more searches once for each top_k: no answer depends on how much is asked for beside it."""
        found = {}
        for k_max, some in _searched_together(jobs, self._engine.exact):
            blocks = [_rows(job) if job.work.vectors else encodings.vectors[encodings.places(job)] for job in some]
            with self._searching:
                scores, rows = self._engine.search(np.concatenate(blocks), k_max)
            left = iter(_found(scores, rows))
            for job in some:
                k = job.request.top_k
                found[job.request.id] = [(of[:k], at[:k]) for of, at in itertools.islice(left, job.request.items)]
        return found

    def _body(self, job: Job, encodings: Encodings, found: Sequence[Found]) -> bytes:
        if job.request.op == FETCH:
            rows = [self._passages.find(passage_id) for passage_id in job.work.ids]
            return passages_body([self._passages.raw(row) for row in rows if row is not None])
        if job.request.op == EMBED:
            vectors = encodings.vectors[encodings.places(job)]
            return vectors_body(np.ascontiguousarray(vectors, "<f4").tobytes(), vectors.shape[1])
        raw = self._passages.raw
        return results_body([RawHits(scores, list(map(raw, rows))) for scores, rows in found])

    def _answer(self, job: Job, body: bytes, encodings: Encodings, timings_ms: dict[str, float], limits: Limits) -> Answer:
        if len(body) > limits.frame_max_bytes:
            error = _too_large(job, len(body), limits)
            return Failure(job.request.id, error.code, error.message)
        places = encodings.places(job)
        return Reply(
            id=job.request.id,
            cost=sum(encodings.tokens[i] for i in places) or job.request.items,
            index_version=self._index_version,
            timings_ms=timings_ms,
            truncated=tuple(position for position, i in enumerate(places) if encodings.truncated[i]),
            body=body,
        )


def _searched_together(jobs: Sequence[Job], exact: bool) -> list[tuple[int, list[Job]]]:
    """(k, the jobs of one search for so many)."""
    if exact and jobs:
        return [(max(job.request.top_k for job in jobs), list(jobs))]
    by_k: dict[int, list[Job]] = {}
    for job in jobs:
        by_k.setdefault(job.request.top_k, []).append(job)
    return list(by_k.items())


def _keys(job: Job) -> list[Key]:
    """Kind and text of what is to be encoded."""
    kind: Kind = "passage" if job.request.op == EMBED and job.work.kind == PASSAGE else "query"
    return [(kind, text) for text in job.work.texts]


def _rows(job: Job) -> Floats:
    return np.frombuffer(job.work.vectors, "<f4").astype(np.float32, copy=False).reshape(-1, job.work.dim)


def _found(scores: Floats, rows: NDArray[np.int64]) -> list[Found]:
    """Of each query, without the places that an approximate search could not fill (row -1)."""
    there = rows >= 0
    if there.all():
        return list(zip(scores.tolist(), rows.tolist(), strict=True))
    return [(of[full].tolist(), at[full].tolist()) for of, at, full in zip(scores, rows, there, strict=True)]


def _too_large(job: Job, size: int, limits: Limits) -> TooLarge:
    sentence = f"the reply has {size} bytes, the limit is {limits.frame_max_bytes}"
    if job.request.top_k:
        fits = max(1, job.request.top_k * limits.frame_max_bytes // size)
        sentence += f"; about top_k {fits} fits for {job.request.items} queries"
    return TooLarge(sentence)
