"""What a caller gets back: hits, passages. Plain values that can be pickled and compared; never anything of the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from ..wire.record import record


@record
class Hit:
    """One passage that answers a query. `score`: the inner product of query and passage, higher is nearer."""

    id: str
    score: float
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)


@record
class Passage:
    """One passage of the corpus, as it was indexed."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)


class Hits(list[Hit]):
    """The hits of one query, best first: a list that also says where they come from.

    `index_version`: the version of the index that was searched. `timings_ms`: milliseconds by stage (queue, tokenize, encode,
    search, fetch) of the wire request that carried this query. `truncated`: the query was longer than the model reads, its end
    was cut.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        index_version: str = "",
        timings_ms: Mapping[str, float] | None = None,
        truncated: bool = False,
    ) -> None:
        super().__init__(hits)
        self.index_version = index_version
        self.timings_ms: dict[str, float] = dict(timings_ms or {})
        self.truncated = truncated
