"""Several records of one kind in as few messages as is reasonable. Pure bytes; never sends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..wire import codec
from ..wire.messages import Cancel, Request

ITEMS_MAX = 64
"""Items that travel in one message, in both directions."""

MESSAGE_BYTES = 1024 * 1024
"""Bodies in one message of ours; a larger one travels alone."""


def packed(records: Sequence[Request | Cancel]) -> Iterator[list[bytes]]:
    """The frames of each message, for records of one kind, in their order."""
    batch: list[Request | Cancel] = []
    size = 0
    for record in records:
        more = len(record.body) if isinstance(record, Request) else 0
        if batch and (len(batch) == ITEMS_MAX or size + more > MESSAGE_BYTES):
            yield codec.encode_many(batch)
            batch, size = [], 0
        batch.append(record)
        size += more
    if batch:
        yield codec.encode_many(batch)
