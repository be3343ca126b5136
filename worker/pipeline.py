"""A batch of requests becomes answers: encode, search, fetch. Runs on the one thread that owns model and index.

A request that is wrong gets its own error; its neighbours are served. A device that breaks is not handled here: it raises.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from ..wire.bodies import PASSAGE, QUERY, RawHits, passages_body, results_body, vectors_body
from ..wire.errors import BadRequest, RagpoolError, TooLarge
from ..wire.messages import EMBED, FETCH, SEARCH, SEARCH_VECTOR, Failure, Limits, Reply
from .batcher import Job

if TYPE_CHECKING:
    from ..index.encoder import Encoder
    from ..index.engine import Engine

Floats = NDArray[np.float32]
Answer = Union[Reply, Failure]


class Passages(Protocol):
    """Stored passages, as the MessagePack maps that they travel as."""

    def raw(self, row: int) -> bytes: ...

    def find(self, passage_id: str) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Encodings:
    """Vectors float32 (n, dim) of the distinct texts of a batch, their places, true costs in tokens, and which were cut."""

    place: dict[tuple[str, str], int]
    vectors: Floats
    tokens: list[int]
    truncated: list[bool]

    def places(self, job: Job, kind: str) -> list[int]:
        return [self.place[kind, text] for text in job.work.texts]


class Stages:
    """Milliseconds each stage of a batch took."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._since = time.perf_counter()

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.ms[stage] = round((now - self._since) * 1e3, 3)
        self._since = now


class Pipeline:
    """`encoder` and `engine` are used by the calling thread only."""

    def __init__(self, encoder: Encoder, engine: Engine, passages: Passages, index_version: str) -> None:
        self._encoder = encoder
        self._engine = engine
        self._passages = passages
        self._index_version = index_version

    def run(self, jobs: Sequence[Job], limits: Limits) -> list[Answer]:
        """One answer a job, in any order. Raises what the device raises; then no job was answered."""
        stages = Stages()
        refused: list[Answer] = []
        sound = []
        for job in jobs:
            error = self._problem(job)
            if error is None:
                sound.append(job)
            else:
                refused.append(Failure(job.request.id, error.code, error.message))
        encodings = self._encode(sound)
        stages.done("encode")
        found = self._search([job for job in sound if job.request.op in (SEARCH, SEARCH_VECTOR)], encodings)
        stages.done("search")
        bodies = {job.request.id: self._body(job, encodings, found.get(job.request.id, [])) for job in sound}
        stages.done("fetch")
        return refused + [self._answer(job, bodies[job.request.id], encodings, stages.ms, limits) for job in sound]

    # ---- stages ----------------------------------------------------------------------------------------------------

    def _problem(self, job: Job) -> RagpoolError | None:
        work = job.work
        if job.request.op == SEARCH_VECTOR:
            if work.dim != self._engine.dim:
                return BadRequest(f"the vectors have {work.dim} dimensions, the index has {self._engine.dim}")
            if not np.isfinite(_rows(job)).all():
                return BadRequest("the vectors hold values that are not finite")
        if job.request.op == FETCH:
            for position, passage_id in enumerate(work.ids):
                if self._passages.find(passage_id) is None:
                    return BadRequest(f"ids[{position}]: no passage has the id {passage_id!r}")
        return None

    def _encode(self, jobs: Sequence[Job]) -> Encodings:
        place: dict[tuple[str, str], int] = {}
        vectors: list[Floats] = []
        tokens: list[int] = []
        truncated: list[bool] = []
        for kind in (QUERY, PASSAGE):
            texts = list(dict.fromkeys(text for job in jobs if _kind(job) == kind for text in job.work.texts))
            if not texts:
                continue
            place |= {(kind, text): len(tokens) + i for i, text in enumerate(texts)}
            encoded = self._encoder.encode(texts, "query" if kind == QUERY else "passage")
            vectors.append(encoded.vectors)
            tokens += encoded.tokens
            truncated += encoded.truncated
        empty = np.empty((0, self._engine.dim), np.float32)
        return Encodings(place, np.concatenate(vectors) if vectors else empty, tokens, truncated)

    def _search(self, jobs: Sequence[Job], encodings: Encodings) -> dict[bytes, list[tuple[Floats, NDArray[np.int64]]]]:
        """One product for the whole batch, with the largest top_k; each job gets its own rows of it, cut to its top_k."""
        if not jobs:
            return {}
        blocks = [_rows(job) if job.work.vectors else encodings.vectors[encodings.places(job, QUERY)] for job in jobs]
        scores, rows = self._engine.search(np.concatenate(blocks), max(job.request.top_k for job in jobs))
        found = {}
        start = 0
        for job, block in zip(jobs, blocks, strict=True):
            k = job.request.top_k
            found[job.request.id] = [(scores[i, :k], rows[i, :k]) for i in range(start, start + len(block))]
            start += len(block)
        return found

    def _body(self, job: Job, encodings: Encodings, found: Sequence[tuple[Floats, NDArray[np.int64]]]) -> bytes:
        if job.request.op == FETCH:
            rows = [self._passages.find(passage_id) for passage_id in job.work.ids]
            return passages_body([self._passages.raw(row) for row in rows if row is not None])
        if job.request.op == EMBED:
            vectors = encodings.vectors[encodings.places(job, _kind(job))]
            return vectors_body(np.ascontiguousarray(vectors, "<f4").tobytes(), vectors.shape[1])
        raw = self._passages.raw
        return results_body([RawHits(scores.tolist(), [raw(row) for row in rows.tolist()]) for scores, rows in found])

    def _answer(self, job: Job, body: bytes, encodings: Encodings, timings_ms: dict[str, float], limits: Limits) -> Answer:
        if len(body) > limits.frame_max_bytes:
            error = _too_large(job, len(body), limits)
            return Failure(job.request.id, error.code, error.message)
        places = encodings.places(job, _kind(job))
        return Reply(
            id=job.request.id,
            cost=sum(encodings.tokens[i] for i in places) or job.request.items,
            index_version=self._index_version,
            timings_ms=timings_ms,
            truncated=tuple(position for position, i in enumerate(places) if encodings.truncated[i]),
            body=body,
        )


def _kind(job: Job) -> str:
    return job.work.kind if job.request.op == EMBED else QUERY


def _rows(job: Job) -> Floats:
    return np.frombuffer(job.work.vectors, "<f4").astype(np.float32, copy=False).reshape(-1, job.work.dim)


def _too_large(job: Job, size: int, limits: Limits) -> TooLarge:
    sentence = f"the reply has {size} bytes, the limit is {limits.frame_max_bytes}"
    if job.request.top_k:
        fits = max(1, job.request.top_k * limits.frame_max_bytes // size)
        sentence += f"; about top_k {fits} fits for {job.request.items} queries"
    return TooLarge(sentence)
