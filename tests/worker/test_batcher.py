"""What makes a batch."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from ragpool.wire.bodies import Work
from ragpool.wire.messages import Request
from ragpool.worker.batcher import Budget, Job, next_batch


def job(number: int, lengths: list[int]) -> Job:
    request = Request(number.to_bytes(16, "big"), "search", len(lengths), 5)
    return Job(request, Work(texts=tuple("x" * length for length in lengths)))


def test_all_that_waits_within_the_budget_in_its_order() -> None:
    waiting = deque([job(i, [40]) for i in range(5)])
    batch = next_batch(waiting, Budget(items=3, tokens=1000))
    assert [j.request.id[-1] for j in batch] == [0, 1, 2]
    assert len(waiting) == 2


def test_one_that_is_over_the_budget_runs_alone() -> None:
    waiting = deque([job(0, [40] * 32), job(1, [40])])
    assert len(next_batch(waiting, Budget(items=8, tokens=10))) == 1


JOBS = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=8), min_size=1, max_size=30)


@given(JOBS, st.integers(1, 20), st.integers(1, 600))
def test_nothing_is_lost_the_budget_holds_and_nobody_waits_for_ever(lengths: list[list[int]], items: int, tokens: int) -> None:
    jobs = [job(i, each) for i, each in enumerate(lengths)]
    waiting, batches = deque(jobs), []
    while waiting:
        first = waiting[0]
        batches.append(next_batch(waiting, Budget(items, tokens)))
        assert batches[-1][0] is first
        assert list(waiting) == sorted(waiting, key=jobs.index)
    assert sorted((j for batch in batches for j in batch), key=jobs.index) == jobs
    for number, batch in enumerate(batches):
        assert all(jobs.index(j) >= number for j in batch), "the one at place p runs with batch p + 1 at the latest"
        assert len(batch) == 1 or sum(j.request.items for j in batch) <= items
        assert len(batch) == 1 or sum(j.tokens for j in batch) <= tokens


def test_short_ones_do_not_wait_behind_a_long_one_that_does_not_fit() -> None:
    waiting = deque([job(0, [40]), job(1, [400]), job(2, [40]), job(3, [40])])
    assert [j.request.id[-1] for j in next_batch(waiting, Budget(items=8, tokens=50))] == [0, 2, 3]
    assert [j.request.id[-1] for j in waiting] == [1]
