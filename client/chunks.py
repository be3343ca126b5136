"""One call becomes wire requests of a bounded size, and each is held against the broker's limits. Never sends anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ..wire import bodies, messages
from ..wire.errors import BadRequest, RagpoolError, TooLarge
from ..wire.messages import Limits, Request
from ..wire.record import record

CHUNK_ITEMS = 32
"""Items in one wire request: enough for a good batch, few enough that one call of thousands spreads over every worker."""

CHUNK_HITS = 3200
"""Hits that one wire request may ask for, so that its reply stays well below the frame limit."""

FETCH_ITEMS = 100

REMAINING_MAX_MS = 24 * 3600 * 1000
"""A longer timeout is told to the broker as this one."""

NOUNS = {
    messages.SEARCH: "queries",
    messages.SEARCH_VECTOR: "vectors",
    messages.EMBED: "texts",
    messages.FETCH: "ids",
    messages.STATUS: "status",
}


@record
class Chunk:
    """What one wire request asks. `items`: texts, ids, or vectors as float32 bytes; `start`: the place of the first in its call.

    `top_k` 0 means the broker's default. `dim` is that of the vectors, `kind` what embed encodes the texts as.
    """

    op: str
    items: Sequence[str] | Sequence[bytes]
    start: int = 0
    top_k: int = 0
    priority: int = 0
    collection: str = "default"
    kind: str = bodies.QUERY
    dim: int = 0

    @property
    def count(self) -> int:
        return len(self.items) or 1

    def body(self) -> bytes:
        """The request body. Built anew for each sending: bodies of thousands of waiting chunks are not kept."""
        texts = [item for item in self.items if isinstance(item, str)]
        if self.op == messages.SEARCH:
            return bodies.search_body(texts)
        if self.op == messages.EMBED:
            return bodies.embed_body(texts, self.kind)
        if self.op == messages.FETCH:
            return bodies.fetch_body(texts)
        if self.op == messages.SEARCH_VECTOR:
            return bodies.vectors_body(b"".join(item for item in self.items if isinstance(item, bytes)), self.dim)
        return messages.EMPTY_BODY

    def halves(self) -> tuple[Chunk, Chunk]:
        """Two chunks that ask the same as this one, which holds at least two items."""
        middle = len(self.items) // 2
        return replace(self, items=self.items[:middle]), replace(self, items=self.items[middle:], start=self.start + middle)


def plan(whole: Chunk) -> list[Chunk]:
    """`whole` cut into chunks of nearly equal size. No items, no chunks."""
    most = FETCH_ITEMS if whole.op == messages.FETCH else max(1, min(CHUNK_ITEMS, CHUNK_HITS // max(1, whole.top_k)))
    total = len(whole.items)
    count = -(-total // most)
    cuts = [total * i // count for i in range(count + 1)] if count else []
    return [replace(whole, items=whole.items[start:stop], start=start) for start, stop in pairwise(cuts)]


def wire_request(identity: bytes, chunk: Chunk, limits: Limits, default_top_k: int, remaining_s: float) -> Request:
    """The request to send now, `remaining_s` before its deadline. Raises `TooLarge` or `BadRequest` where a limit forbids it."""
    wants_hits = chunk.op in (messages.SEARCH, messages.SEARCH_VECTOR)
    top_k = (chunk.top_k or default_top_k) if wants_hits else 0
    body = chunk.body()
    error = _over_limit(chunk, top_k, len(body), limits)
    if error is not None:
        raise error
    return Request(
        id=identity,
        op=chunk.op,
        items=chunk.count,
        top_k=top_k,
        remaining_ms=min(max(1, int(remaining_s * 1e3 + 0.999)), REMAINING_MAX_MS),
        priority=chunk.priority,
        collection=chunk.collection,
        body=body,
    )


def _over_limit(chunk: Chunk, top_k: int, body_bytes: int, limits: Limits) -> RagpoolError | None:
    noun = NOUNS[chunk.op]
    if top_k > limits.top_k_max:
        return BadRequest(f"top_k is {top_k}, this broker allows at most {limits.top_k_max}")
    for position, item in enumerate(chunk.items):
        # four bytes a character at most: only texts that may be over the limit are measured
        if isinstance(item, str) and 4 * len(item) > limits.query_max_bytes and len(item.encode()) > limits.query_max_bytes:
            return TooLarge(f"{noun}[{position}] has {len(item.encode())} bytes, the limit is {limits.query_max_bytes}")
    if chunk.count > limits.queries_max:
        return TooLarge(f"{chunk.count} {noun} in one request, the limit is {limits.queries_max}")
    if body_bytes > limits.frame_max_bytes:
        return TooLarge(f"{chunk.count} {noun} take {body_bytes} bytes, the limit of a frame is {limits.frame_max_bytes}")
    return None
