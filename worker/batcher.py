"""Which of the waiting requests make the next batch. No timer: a batch is what waited while the device was busy.

The one that waits longest always goes; of those behind it all that fit beside it, in their order. So one that does not fit is
passed by shorter ones, but moves up with every batch: the one at place p runs with batch p + 1 at the latest.
"""

from __future__ import annotations

from collections import deque

from ..wire.bodies import Work
from ..wire.messages import Request
from ..wire.record import record

BYTES_PER_TOKEN = 4


@record
class Job:
    """A request with its decoded body."""

    request: Request
    work: Work


@record
class Budget:
    """The most that one batch takes: items (queries, vectors or ids), and tokens of text, of which the model reads `text_tokens`
    of one text at the most."""

    items: int
    tokens: int
    text_tokens: int

    def tokens_of(self, job: Job) -> int:
        """Tokens that the texts of `job` make, estimated from their length in UTF-8."""
        return sum(min(self.text_tokens, 1 + _bytes(text) // BYTES_PER_TOKEN) for text in job.work.texts)


def next_batch(waiting: deque[Job], budget: Budget) -> list[Job]:
    """Take the first job whatever its size, and those behind it that fit the budget with what was taken before them."""
    batch: list[Job] = []
    passed: list[Job] = []
    items = tokens = 0
    while waiting and items < budget.items and tokens < budget.tokens:
        job = waiting.popleft()
        its_tokens = budget.tokens_of(job)
        if batch and (items + job.request.items > budget.items or tokens + its_tokens > budget.tokens):
            passed.append(job)
            continue
        items += job.request.items
        tokens += its_tokens
        batch.append(job)
    waiting.extendleft(reversed(passed))
    return batch


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
