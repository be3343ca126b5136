"""One request that is not answered yet. It is in exactly one place: the queue, or with the workers in `running_on`."""

from __future__ import annotations

from ..wire.messages import Request

COST_PER_ITEM = 8.0
"""What an item costs beside its text, in tokens: a search, a fetch, the special tokens."""
BYTES_PER_TOKEN = 4.0


class Pending:
    """`client` is the way back. Times are the core's clock, in seconds; `cost` is estimated tokens."""

    __slots__ = ("arrived", "client", "cost", "deadline", "dispatched", "queued", "request", "running_on")

    def __init__(self, request: Request, client: bytes, now: float) -> None:
        self.request = request
        self.client = client
        self.arrived = now
        self.deadline = now + request.remaining_ms / 1000.0
        self.cost = COST_PER_ITEM * request.items + len(request.body) / BYTES_PER_TOKEN
        self.queued = False
        self.dispatched = 0.0
        self.running_on: tuple[bytes, ...] = ()

    @property
    def id(self) -> bytes:
        return self.request.id
