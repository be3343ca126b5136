"""Who is next: fair shares by cost, priorities that slow and do not starve, and the front of everything."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.broker.pending import Pending
from ragpool.broker.request_queue import PASSED_MAX, RequestQueue
from ragpool.wire.messages import Request


class Maker:
    def __init__(self) -> None:
        self.made = 0

    def __call__(self, client: bytes = b"a", cost: float = 10.0, priority: int = 0) -> Pending:
        self.made += 1
        pending = Pending(Request(self.made.to_bytes(16, "big"), "search", priority=priority), client, 0.0)
        pending.cost = cost
        return pending


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest.fixture
def queue() -> RequestQueue:
    return RequestQueue()


def take(queue: RequestQueue, count: int) -> list[Pending]:
    return [queue.pop() for _ in range(count)]


def test_one_client_is_served_in_its_order(queue: RequestQueue, make: Maker) -> None:
    pushed = [make() for _ in range(5)]
    for pending in pushed:
        queue.push(pending)
    assert take(queue, 5) == pushed


def test_a_client_that_just_came_waits_for_no_backlog_of_another(queue: RequestQueue, make: Maker) -> None:
    for _ in range(1000):
        queue.push(make(b"greedy"))
    take(queue, 100)
    queue.push(late := make(b"modest"))
    assert late in take(queue, 2)


def test_backlogged_clients_get_the_same_cost_not_the_same_count(queue: RequestQueue, make: Maker) -> None:
    for _ in range(400):
        queue.push(make(b"long", cost=40.0))
        queue.push(make(b"short", cost=10.0))
        queue.push(make(b"other", cost=10.0))
    served = Counter()
    for pending in take(queue, 300):
        served[pending.client] += pending.cost
    assert max(served.values()) - min(served.values()) <= 80.0


def test_a_higher_priority_goes_first_and_a_lower_one_is_not_starved(queue: RequestQueue, make: Maker) -> None:
    for _ in range(500):
        queue.push(make(priority=5))
    queue.push(low := make(priority=-5))
    assert low not in take(queue, PASSED_MAX)
    assert low in take(queue, 1)


def test_three_priorities_under_pressure_all_move(queue: RequestQueue, make: Maker) -> None:
    for priority in (10, 0, -10):
        for _ in range(600):
            queue.push(make(priority=priority))
    served = Counter(pending.request.priority for pending in take(queue, 600))
    assert served[10] > served[0] >= served[-10] > 0


def test_what_is_given_back_goes_before_everything_in_its_order(queue: RequestQueue, make: Maker) -> None:
    queue.push(make(priority=100))
    returned = [make(priority=-100) for _ in range(3)]
    queue.push_front(returned)
    assert take(queue, 3) == returned


def test_trials_are_taken_whole_and_never_among_others(queue: RequestQueue, make: Maker) -> None:
    suspects = [make() for _ in range(4)]
    queue.push_trial(suspects)
    queue.push(innocent := make())
    assert (queue.ordinary, queue.count) == (1, 5)
    assert queue.pop() is innocent
    queue.remove(suspects[1])
    assert queue.pop_trial() == [suspects[0], *suspects[2:]]
    assert queue.pop_trial() == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "front", "trial", "pop", "pop_trial", "remove", "rebind"]),
            st.integers(0, 2),
            st.sampled_from([-1, 0, 3]),
            st.integers(0, 1000),
        ),
        max_size=80,
    )
)
def test_nothing_is_lost_doubled_or_miscounted(steps: list[tuple[str, int, int, int]]) -> None:
    queue, make, waiting = RequestQueue(), Maker(), {}
    for step, client, priority, pick in steps:
        made = make(bytes([client]), cost=1.0 + pick, priority=priority)
        chosen = list(waiting.values())[pick % len(waiting)] if waiting else None
        if step == "push":
            queue.push(made)
            waiting[made.id] = made
        elif step in ("front", "trial"):
            (queue.push_front if step == "front" else queue.push_trial)([made])
            waiting[made.id] = made
        elif step == "pop" and queue.ordinary:
            del waiting[queue.pop().id]
        elif step == "pop_trial":
            for popped in queue.pop_trial():
                del waiting[popped.id]
        elif step == "remove" and chosen is not None:
            queue.remove(chosen)
            del waiting[chosen.id]
        elif step == "rebind" and chosen is not None:
            queue.rebind(chosen, bytes([client]))
        assert {pending.id for pending in queue} == set(waiting)
        assert all(pending.queued for pending in waiting.values())
        assert (queue.count, queue.items) == (len(waiting), len(waiting))
        assert queue.cost == pytest.approx(sum(pending.cost for pending in waiting.values()))
