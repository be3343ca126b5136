"""Which of the waiting requests make the next batch. No timer: a batch is what waited while the device was busy."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..wire.bodies import Work
from ..wire.messages import Request

BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A request with its decoded body."""

    request: Request
    work: Work

    @property
    def tokens(self) -> int:
        """Tokens that its texts make, estimated from their length."""
        return sum(1 + len(text) // BYTES_PER_TOKEN for text in self.work.texts)


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one batch takes: items (queries, vectors or ids), and tokens of text."""

    items: int
    tokens: int


def next_batch(waiting: deque[Job], budget: Budget) -> list[Job]:
    """Take jobs from the front until the next would break the budget; always at least one."""
    batch: list[Job] = []
    items = tokens = 0
    while waiting:
        job = waiting[0]
        if batch and (items + job.request.items > budget.items or tokens + job.tokens > budget.tokens):
            break
        items += job.request.items
        tokens += job.tokens
        batch.append(waiting.popleft())
    return batch
