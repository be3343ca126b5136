"""One request that is not answered yet. It is in one place, the queue or a worker; in two while it is hedged."""

from __future__ import annotations

from ..wire.messages import Request

COST_PER_ITEM = 8.0
"""What an item costs beside its text, in tokens: a search, a fetch, the special tokens."""
BYTES_PER_TOKEN = 4.0


class Pending:
    """`client` is the way back. Times are the core's clock, in seconds; `cost` is estimated tokens.

    `hedged`: it was dispatched, or waits to be, a second time while the first run goes on. `suspicion`: deaths of workers that
    ran it, `solo_deaths`: of those, how many ran nothing else. `failures`: times that a worker could not serve it; until
    `retry_at` none of these gets it. `avoid`: incarnations that lost it, or could not. `solo_on`: those that it ran on alone.
    """

    __slots__ = (
        "arrived", "avoid", "client", "cost", "deadline", "dispatched", "failures", "hedged", "queued", "request", "retry_at",
        "running_on", "solo_deaths", "solo_on", "suspicion",
    )  # fmt: skip

    def __init__(self, request: Request, client: bytes, now: float) -> None:
        self.request = request
        self.client = client
        self.arrived = now
        self.deadline = now + request.remaining_ms / 1000.0
        self.cost = COST_PER_ITEM * request.items + len(request.body) / BYTES_PER_TOKEN
        self.queued = False
        self.hedged = False
        self.solo_on: tuple[str, ...] = ()
        self.suspicion = 0
        self.failures = 0
        self.retry_at = 0.0
        self.solo_deaths = 0
        self.dispatched = 0.0
        self.running_on: tuple[bytes, ...] = ()
        self.avoid: tuple[str, ...] = ()

    @property
    def id(self) -> bytes:
        return self.request.id
