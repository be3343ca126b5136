"""Replies become what a caller gets. Raises `ProtocolError` for a reply that does not fit its request, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..wire import bodies, messages
from ..wire.errors import ProtocolError
from ..wire.messages import Reply
from .chunks import Chunk
from .hit import Hit, Hits, Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Part = list[Any]
"""What one chunk contributes to the answer of its call, in order."""


def read(chunk: Chunk, reply: Reply) -> Part:
    """The part of the answer that `reply` to `chunk` holds."""
    return _READERS[chunk.op](chunk, reply)


def _hits(chunk: Chunk, reply: Reply) -> Part:
    results = bodies.decode_results(reply.body)
    if len(results) != chunk.count:
        raise ProtocolError(f"{len(results)} results for {chunk.count} queries")
    truncated = frozenset(reply.truncated)
    return [
        Hits(
            [
                Hit(passage["id"], score, passage["text"], passage.get("title", ""), passage.get("metadata", {}))
                for score, passage in zip(scores, passages, strict=True)
            ],
            reply.index_version,
            reply.timings_ms,
            position in truncated,
        )
        for position, (scores, passages) in enumerate(results)
    ]


def _vectors(chunk: Chunk, reply: Reply) -> Part:
    rows, dim = bodies.decode_vectors(reply.body)
    if len(rows) != 4 * dim * chunk.count:
        raise ProtocolError(f"{len(rows) // (4 * dim)} vectors for {chunk.count} texts")
    return [(rows, dim)]


def _passages(chunk: Chunk, reply: Reply) -> Part:
    passages = bodies.decode_passages(reply.body)
    if len(passages) != chunk.count:
        raise ProtocolError(f"{len(passages)} passages for {chunk.count} ids")
    return [Passage(p["id"], p["text"], p.get("title", ""), p.get("metadata", {})) for p in passages]


def _status(chunk: Chunk, reply: Reply) -> Part:
    return [bodies.decode_map(reply.body)]


_READERS: dict[str, Callable[[Chunk, Reply], Part]] = {
    messages.SEARCH: _hits,
    messages.SEARCH_VECTOR: _hits,
    messages.EMBED: _vectors,
    messages.FETCH: _passages,
    messages.STATUS: _status,
}


# ---- all parts of a call, in order ----------------------------------------------------------------------------------


def only(parts: Sequence[Any]) -> Any:
    """The answer of a call with one item."""
    return parts[0]


def matrix(parts: Sequence[tuple[bytes, int]]) -> NDArray[np.float32]:
    """float32 (n, dim); (0, 0) when nothing was asked. Raises `ProtocolError` where chunks disagree about dim."""
    import numpy as np

    dims = {dim for _, dim in parts} or {0}
    if len(dims) != 1:
        raise ProtocolError(f"vectors of different dimensions came back: {sorted(dims)}")
    (dim,) = dims
    rows = np.frombuffer(bytearray().join(rows for rows, _ in parts), dtype="<f4")
    return rows.astype(np.float32, copy=False).reshape(-1, dim) if dim else np.zeros((0, 0), np.float32)
