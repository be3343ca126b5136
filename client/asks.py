"""Arguments become chunks. Whatever is wrong with an argument is a `BadRequest` of one sentence here, before anything is sent."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..wire import bodies, messages
from ..wire.errors import BadRequest
from ..wire.record import record
from . import answers
from .chunks import NOUNS, Chunk, plan
from .hit import Hits, Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_BROKER = "tcp://127.0.0.1:5555"
PRIORITY_MAX = 100
COLLECTION_MAX_BYTES = 255

_ADDRESS = re.compile(r"tcp://[^\s/]+:[0-9]{1,5}|(?:ipc|inproc)://\S.*", re.DOTALL)

T = TypeVar("T")


@record
class Ask(Generic[T]):
    """One call: what to ask, and how the parts of the answer become one."""

    chunks: Sequence[Chunk]
    join: Callable[[list[Any]], T]


@record
class Options:
    """How a client was made: its address and its timeouts in seconds."""

    url: str
    timeout: float
    connect_timeout: float


def options(url: str | None, default_url: str, timeout: float, connect_timeout: float) -> Options:
    chosen = default_url if url is None else url
    if not isinstance(chosen, str) or not _ADDRESS.fullmatch(chosen):
        raise BadRequest(f"{chosen!r} is not an address like tcp://host:port or ipc://path")
    return Options(chosen, seconds(timeout, "timeout"), seconds(connect_timeout, "connect_timeout"))


def seconds(value: object, name: str) -> float:
    """A positive, finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise BadRequest(f"{name} is a positive, finite number of seconds, not {value!r}")
    return float(value)


# ---- the operations -------------------------------------------------------------------------------------------------


def search(query: str, top_k: int | None, priority: int, collection: str) -> Ask[Hits]:
    if not isinstance(query, str):
        raise BadRequest(f"a query is a str, not {_type(query)}")
    _check_text(query, "the query")
    whole = _whole(messages.SEARCH, (query,), priority, collection, top_k)
    return Ask([whole], answers.only)


def search_many(queries: Iterable[str], top_k: int | None, priority: int, collection: str) -> Ask[list[Hits]]:
    texts = _texts(queries, NOUNS[messages.SEARCH])
    return Ask(plan(_whole(messages.SEARCH, texts, priority, collection, top_k)), list)


def search_vector(vector: NDArray[np.float32], top_k: int | None, priority: int, collection: str) -> Ask[Hits]:
    whole = _whole(messages.SEARCH_VECTOR, (_vector_bytes(vector),), priority, collection, top_k, dim=len(vector))
    return Ask([whole], answers.only)


def embed(texts: Iterable[str], kind: str, priority: int, collection: str) -> Ask[NDArray[np.float32]]:
    if kind not in (bodies.QUERY, bodies.PASSAGE):
        raise BadRequest(f'kind is "{bodies.QUERY}" or "{bodies.PASSAGE}", not {kind!r}')
    checked = _texts(texts, NOUNS[messages.EMBED])
    return Ask(plan(_whole(messages.EMBED, checked, priority, collection, kind=kind)), answers.matrix)


def fetch(ids: Iterable[str], priority: int, collection: str) -> Ask[list[Passage]]:
    return Ask(plan(_whole(messages.FETCH, _texts(ids, NOUNS[messages.FETCH]), priority, collection)), list)


def status(priority: int, collection: str) -> Ask[dict[str, Any]]:
    return Ask([_whole(messages.STATUS, (), priority, collection)], answers.only)


# ---- arguments ------------------------------------------------------------------------------------------------------


def _whole(
    op: str,
    items: Sequence[str] | Sequence[bytes],
    priority: int,
    collection: str,
    top_k: int | None = None,
    kind: str = bodies.QUERY,
    dim: int = 0,
) -> Chunk:
    hits = 0 if top_k is None else _int(top_k)
    if hits is None or (top_k is not None and hits < 1):
        raise BadRequest(f"top_k is an int of at least 1, not {top_k!r}")
    rank = _int(priority)
    if rank is None or abs(rank) > PRIORITY_MAX:
        raise BadRequest(f"priority is an int from -{PRIORITY_MAX} to {PRIORITY_MAX}, not {priority!r}")
    if not isinstance(collection, str):
        raise BadRequest(f"a collection is a str, not {_type(collection)}")
    _check_text(collection, "the collection")
    if len(collection.encode()) > COLLECTION_MAX_BYTES:
        raise BadRequest(f"the name of a collection has at most {COLLECTION_MAX_BYTES} bytes")
    return Chunk(op, items, 0, min(hits, 2**31), rank, collection, kind, dim)


def _texts(texts: Iterable[str], noun: str) -> list[str]:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise BadRequest(f"{noun} is a list of str, not {_type(texts)}")
    found = list(texts)
    for position, text in enumerate(found):
        if not isinstance(text, str):
            raise BadRequest(f"{noun}[{position}] is a str, not {_type(text)}")
        _check_text(text, f"{noun}[{position}]")
    return found


def _check_text(text: str, name: str) -> None:
    if not text or text.isspace():
        raise BadRequest(f"{name} is empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRequest(f"{name} is not text that UTF-8 can carry") from None


def _vector_bytes(vector: object) -> bytes:
    import numpy as np

    if not isinstance(vector, np.ndarray):
        raise BadRequest(f"a vector is a numpy array of float32, not {_type(vector)}")
    if vector.dtype != np.float32 or vector.ndim != 1 or not len(vector):
        raise BadRequest(f"a vector is float32 of shape (dim,), not {vector.dtype} of shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise BadRequest("the vector holds a value that is not finite")
    return vector.astype("<f4", copy=False).tobytes()


def _int(value: Any) -> int | None:
    """An int of Python's or numpy's; None for anything else, True and False among it."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _type(value: object) -> str:
    return type(value).__name__
