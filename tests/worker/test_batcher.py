"""What makes a batch."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from ragpool.wire.bodies import Work
from ragpool.wire.messages import Request
from ragpool.worker.batcher import Budget, Job, next_batch

READS = 512


def job(number: int, lengths: list[int]) -> Job:
    request = Request(number.to_bytes(16, "big"), "search", len(lengths), 5)
    return Job(request, Work(texts=tuple("x" * length for length in lengths)))


def test_all_that_waits_within_the_budget_in_its_order() -> None:
    waiting = deque([job(i, [40]) for i in range(5)])
    batch = next_batch(waiting, Budget(3, 1000, READS))
    assert [j.request.id[-1] for j in batch] == [0, 1, 2]
    assert len(waiting) == 2


def test_one_that_is_over_the_budget_runs_alone() -> None:
    waiting = deque([job(0, [40] * 32), job(1, [40])])
    assert len(next_batch(waiting, Budget(8, 10, READS))) == 1


JOBS = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=8), min_size=1, max_size=30)


@given(JOBS, st.integers(1, 20), st.integers(1, 600))
def test_nothing_is_lost_the_budget_holds_and_nobody_waits_for_ever(lengths: list[list[int]], items: int, tokens: int) -> None:
    jobs, budget = [job(i, each) for i, each in enumerate(lengths)], Budget(items, tokens, READS)
    waiting, batches = deque(jobs), []
    while waiting:
        first = waiting[0]
        batches.append(next_batch(waiting, budget))
        assert batches[-1][0] is first
        assert list(waiting) == sorted(waiting, key=jobs.index)
    assert sorted((j for batch in batches for j in batch), key=jobs.index) == jobs
    for number, batch in enumerate(batches):
        assert all(jobs.index(j) >= number for j in batch), "the one at place p runs with batch p + 1 at the latest"
        assert len(batch) == 1 or sum(j.request.items for j in batch) <= items
        assert len(batch) == 1 or sum(map(budget.tokens_of, batch)) <= tokens


def test_short_ones_do_not_wait_behind_a_long_one_that_does_not_fit() -> None:
    waiting = deque([job(0, [40]), job(1, [400]), job(2, [40]), job(3, [40])])
    assert [j.request.id[-1] for j in next_batch(waiting, Budget(8, 50, READS))] == [0, 2, 3]
    assert [j.request.id[-1] for j in waiting] == [1]


def test_a_text_counts_by_its_bytes_and_for_no_more_than_the_model_reads() -> None:
    """A character of Chinese is a token or more. 8,000 letters counted 2,001 tokens where 256 are read, and ran alone."""
    budget = Budget(items=64, tokens=2_048, text_tokens=256)
    texts = {"word": 2, "x" * 400: 101, "\u6f22" * 200: 151, "x" * 8_000: 256, "\u6f22" * 400: 256}
    for text, tokens in texts.items():
        assert budget.tokens_of(Job(Request(bytes(16), "search"), Work(texts=(text,)))) == tokens
    waiting = deque([job(i, [8_000]) for i in range(9)])
    assert len(next_batch(waiting, budget)) == 8
