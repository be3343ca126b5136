"""What is inside request and reply bodies, checked field by field. The broker never looks in here.

| operation     | request body                                   | reply body                                               |
|---------------|------------------------------------------------|----------------------------------------------------------|
| search        | {"queries": [str]}                             | {"results": [{"scores": [float], "passages": [passage]}]} |
| search_vector | {"vectors": float32 rows, "dim": int}          | the same                                                 |
| embed         | {"texts": [str], "kind": "query" or "passage"} | {"vectors": float32 rows, "dim": int}                    |
| fetch         | {"ids": [str]}                                 | {"passages": [passage]}                                  |
| status        | {}                                             | the status map                                           |

A passage is the map {id, title, text, metadata}. Rows are little-endian float32, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import codec, messages
from .errors import BadRequest, ProtocolError, TooLarge
from .record import record

QUERY = "query"
PASSAGE = "passage"

_KEY_RESULTS = codec.pack("results")
_KEY_SCORES = codec.pack("scores")
_KEY_PASSAGES = codec.pack("passages")
_NUMBERS = frozenset({int, float})
_NOTHING: dict[str, Any] = {}


@record
class Work:
    """The decoded body of a request: exactly one of `texts`, `vectors`, `ids` is filled."""

    texts: tuple[str, ...] = ()
    kind: str = QUERY
    vectors: bytes = b""
    dim: int = 0
    ids: tuple[str, ...] = ()


@record
class RawHits:
    """Hits of one query as they leave the store: passages are MessagePack maps already."""

    scores: Sequence[float]
    passages: Sequence[bytes]


# ---- requests ------------------------------------------------------------------------------------------------------


def search_body(queries: Sequence[str]) -> bytes:
    """Raises `BadRequest` naming the position of a text that cannot travel (a lone surrogate)."""
    return _texts_body("queries", queries, {})


def embed_body(texts: Sequence[str], kind: str) -> bytes:
    return _texts_body("texts", texts, {"kind": kind})


def vectors_body(vectors: bytes, dim: int) -> bytes:
    return codec.pack({"vectors": vectors, "dim": dim})


def fetch_body(ids: Sequence[str]) -> bytes:
    return _texts_body("ids", ids, {})


def _texts_body(name: str, texts: Sequence[str], more: dict[str, object]) -> bytes:
    try:
        return codec.pack({name: list(texts), **more})
    except ProtocolError:
        for position, text in enumerate(texts):
            try:
                text.encode()
            except (AttributeError, UnicodeEncodeError):
                raise BadRequest(f"{name}[{position}] is not text that UTF-8 can carry") from None
        raise


def decode_work(request: messages.Request, limits: messages.Limits) -> Work:
    """The body of `request`, checked against its own header and the limits. Raises `BadRequest` or `TooLarge`, position named."""
    fields = codec.unpack(request.body)
    if type(fields) is not dict:
        raise BadRequest("the body is not a map")
    if codec.depth(fields) > codec.DEPTH_MAX:
        raise BadRequest(f"the body nests deeper than {codec.DEPTH_MAX}")
    if request.op == messages.SEARCH:
        work = Work(texts=_texts(fields, "queries", limits))
    elif request.op == messages.EMBED:
        work = Work(texts=_texts(fields, "texts", limits), kind=_kind(fields))
    elif request.op == messages.FETCH:
        work = Work(ids=_texts(fields, "ids", limits))
    elif request.op == messages.SEARCH_VECTOR:
        work = _vectors(fields)
    else:
        raise BadRequest(f"unknown operation {request.op!r}")
    count = len(work.texts) or len(work.ids) or (len(work.vectors) // (4 * work.dim) if work.dim else 0)
    if count != request.items:
        raise BadRequest(f"the header says {request.items} items, the body holds {count}")
    return work


def _texts(fields: dict[str, Any], name: str, limits: messages.Limits) -> tuple[str, ...]:
    texts = fields.get(name)
    if type(texts) is not list or not texts:
        raise BadRequest(f"{name} is not a list with at least one text")
    for position, text in enumerate(texts):
        if type(text) is not str:
            raise BadRequest(f"{name}[{position}] is not text")
        if not text.strip():
            raise BadRequest(f"{name}[{position}] is empty")
        if 4 * len(text) > limits.query_max_bytes and len(text.encode()) > limits.query_max_bytes:
            raise TooLarge(f"{name}[{position}] has {len(text.encode())} bytes, the limit is {limits.query_max_bytes}")
    return tuple(texts)


def _kind(fields: dict[str, Any]) -> str:
    kind = fields.get("kind", QUERY)
    if kind not in (QUERY, PASSAGE):
        raise BadRequest(f'kind is "{QUERY}" or "{PASSAGE}", not {kind!r}')
    return str(kind)


def _vectors(fields: dict[str, Any]) -> Work:
    vectors, dim = fields.get("vectors"), fields.get("dim")
    if type(vectors) is not bytes or type(dim) is not int or dim < 1 or not vectors or len(vectors) % (4 * dim):
        raise BadRequest("vectors is not a whole number of float32 rows of dim values")
    return Work(vectors=vectors, dim=dim)


# ---- replies -------------------------------------------------------------------------------------------------------


def results_body(results: Sequence[RawHits]) -> bytes:
    """The reply of a search: stored passages are spliced in as they are, nothing is decoded and encoded again."""
    parts = [codec.map_header(1), _KEY_RESULTS, codec.array_header(len(results))]
    for hits in results:
        parts += (codec.map_header(2), _KEY_SCORES, codec.array_header(len(hits.scores)))
        parts += [codec.float32(score) for score in hits.scores]
        parts += (_KEY_PASSAGES, codec.array_header(len(hits.passages)), *hits.passages)
    return b"".join(parts)


def passages_body(passages: Sequence[bytes]) -> bytes:
    """The reply of a fetch."""
    return b"".join((codec.map_header(1), _KEY_PASSAGES, codec.array_header(len(passages)), *passages))


def decode_results(body: bytes) -> list[tuple[list[float], list[dict[str, Any]]]]:
    """(scores, passages) of each query; raises `ProtocolError` where the shape is not that of a search reply."""
    results = _list(codec.unpack(body), "results")
    decoded = []
    for result in results:
        scores, passages = _list(result, "scores"), _list(result, "passages")
        if len(scores) != len(passages) or not _NUMBERS.issuperset(map(type, scores)):
            raise ProtocolError("a result does not pair each passage with a score")
        decoded.append((list(map(float, scores)), list(map(check_passage, passages))))
    return decoded


def decode_passages(body: bytes) -> list[dict[str, Any]]:
    return [check_passage(passage) for passage in _list(codec.unpack(body), "passages")]


def decode_vectors(body: bytes) -> tuple[bytes, int]:
    """(little-endian float32 rows, dim) of an embed reply."""
    try:
        work = _vectors(codec.unpack(body))
    except (BadRequest, AttributeError):
        raise ProtocolError("not the reply of an embed request") from None
    return work.vectors, work.dim


def decode_map(body: bytes) -> dict[str, Any]:
    fields = codec.unpack(body)
    if type(fields) is not dict:
        raise ProtocolError("the body is not a map")
    return fields


def _list(fields: Any, name: str) -> list[Any]:
    if type(fields) is not dict or type(fields.get(name)) is not list:
        raise ProtocolError(f"{name} is not a list")
    found: list[Any] = fields[name]
    return found


def check_passage(passage: Any) -> dict[str, Any]:
    """A passage map as the store wrote it; raises `ProtocolError` for anything else."""
    if type(passage) is dict:
        get = passage.get
        if type(get("id")) is type(get("text")) is type(get("title", "")) is str and type(get("metadata", _NOTHING)) is dict:
            return passage
    raise ProtocolError("a passage is not a map of id, title, text and metadata")
