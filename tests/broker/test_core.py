"""The core with literal times: what comes in, what must go out."""

from __future__ import annotations

import pytest
from broker_world import World
from ragpool.broker.admission import Bounds
from ragpool.broker.commands import PARENT
from ragpool.wire import codec, messages
from ragpool.wire.messages import Failure, Reply, Request


@pytest.fixture
def world():
    world = World()
    yield world
    world.core.check()


def the_answer(world: World, request_id: bytes) -> Reply | Failure:
    (answer,) = world.answers[request_id]
    return answer


def test_a_request_reaches_an_idle_worker_and_its_reply_the_client(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    assert worker.holding == [request_id]
    world.advance(0.25)
    world.answer(worker, request_id)
    assert world.to_clients[-1][0] == client
    assert isinstance(the_answer(world, request_id), Reply)
    assert "queue" in the_answer(world, request_id).timings_ms


def test_a_burst_of_ten_on_two_idle_workers_goes_five_and_five(world: World) -> None:
    client = world.client()
    workers = [world.worker(16), world.worker(16)]
    for _ in range(10):
        world.request(client)
    world.turn()
    assert [len(worker.holding) for worker in workers] == [5, 5]


def test_single_requests_rotate_over_equal_idle_workers(world: World) -> None:
    client = world.client()
    workers = [world.worker() for _ in range(3)]
    for _ in range(6):
        request_id = world.request(client)
        world.turn()
        busy = next(worker for worker in workers if worker.holding)
        world.advance(0.01)
        world.answer(busy, request_id)
    assert [worker.received for worker in workers] == [2, 2, 2]


def test_the_faster_of_two_idle_workers_is_asked(world: World) -> None:
    client, slow, fast = world.client(), world.worker(), world.worker()
    for worker, took in ((slow, 0.5), (fast, 0.05)):
        request_id = world.request(client)
        world.turn()
        assert worker.holding == [request_id]
        world.advance(took)
        world.answer(worker, request_id)
    for _ in range(4):
        request_id = world.request(client)
        world.turn()
        assert fast.holding == [request_id]
        world.advance(0.05)
        world.answer(fast, request_id)


def test_a_busy_worker_gets_only_a_full_batch_to_park_and_only_one(world: World) -> None:
    client, worker = world.client(), world.worker(max_batch=4)
    world.request(client)
    world.turn()
    for _ in range(3):
        world.request(client)
    world.turn()
    assert len(worker.holding) == 1, "three are no full batch of four"
    world.request(client)
    world.turn()
    assert [len(batch) for batch in worker.batches] == [1, 4]
    for _ in range(8):
        world.request(client)
    world.turn()
    assert len(worker.holding) == 5, "one running and one ready is all"


def test_a_lost_workers_requests_go_to_the_front_in_their_order(world: World) -> None:
    client, first = world.client(), world.worker(max_batch=3)
    lost = [world.request(client) for _ in range(3)]
    world.turn()
    waiting = world.request(client)
    world.slots(("backoff", 0.5))
    world.lose(first)
    second = world.worker(max_batch=8)
    world.turn()
    assert second.holding == [*lost, waiting]
    assert world.core.totals.retries == 3


def test_a_late_reply_is_counted_and_dropped(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client, remaining_ms=100)
    world.turn()
    world.advance(0.2)
    assert the_answer(world, request_id).code == "deadline_exceeded"
    world.answer(worker, request_id)
    world.from_worker(worker, Reply(request_id))
    assert len(world.answers[request_id]) == 1
    assert world.core.totals.late_replies == 2


def test_a_worker_cannot_make_a_reply_that_no_client_takes_nor_grow_the_counts_of_errors(world: World) -> None:
    client, worker = world.client(), world.worker()
    crowded, failed = world.request(client), world.request(client)
    world.turn()
    world.from_worker(worker, Reply(crowded, timings_ms={f"stage {n}": 1.0 for n in range(messages.TIMINGS_MAX)}))
    world.from_worker(worker, Failure(failed, "a code of its own", "it says so"))
    assert list(the_answer(world, crowded).timings_ms) == ["queue"]
    assert codec.decode(codec.encode(the_answer(world, crowded)), messages.TO_CLIENT) == [the_answer(world, crowded)]
    assert the_answer(world, failed).code == "a code of its own"
    assert world.core.totals.errors == {"remote_failure": 1}


def test_a_worker_that_overran_keeps_its_credit_until_it_answers(world: World) -> None:
    client, worker = world.client(), world.worker(max_batch=1)
    late = world.request(client, remaining_ms=100)
    world.turn()
    world.advance(0.2)
    nxt = world.request(client)
    world.turn()
    assert worker.holding == [late, nxt], "the next full batch is parked, not started as if it were idle"
    world.request(client)
    world.turn()
    assert len(worker.holding) == 2


@pytest.mark.parametrize("remaining_ms", [1, 50, 1000, 59_999])
def test_a_deadline_fires_by_timer_within_its_resolution(world: World, remaining_ms: int) -> None:
    client = world.client()
    world.slots(("starting", 0.0))
    request_id = world.request(client, remaining_ms=remaining_ms)
    due = world.now + remaining_ms / 1e3
    while request_id not in world.answers:
        world.now = world.core.next_deadline()
        world.turn()
    assert the_answer(world, request_id).code == "deadline_exceeded"
    assert due <= world.now <= due + 0.02


def test_no_worker_and_none_to_come_is_said_at_once(world: World) -> None:
    assert the_answer(world, world.request(world.client())).code == "no_workers"


def test_work_waits_for_a_slot_that_starts(world: World) -> None:
    client = world.client()
    world.slots(("starting", 0.0))
    request_id = world.request(client)
    world.advance(20)
    worker = world.worker()
    world.turn()
    assert worker.holding == [request_id]


def test_work_waits_for_a_probe_that_comes_before_its_deadline_and_not_for_a_later_one(world: World) -> None:
    client = world.client()
    world.slots(("quarantined", 30.0))
    patient = world.request(client, remaining_ms=40_000)
    hasty = world.request(client, remaining_ms=20_000)
    assert the_answer(world, hasty).code == "no_workers"
    assert patient not in world.answers


def test_waiting_work_is_told_when_the_last_hope_goes(world: World) -> None:
    client = world.client()
    world.slots(("starting", 0.0))
    request_id = world.request(client)
    world.slots(("stopped", 0.0))
    assert the_answer(world, request_id).code == "no_workers"


def test_a_full_queue_says_busy_with_a_time_to_come_back() -> None:
    world = World(bounds=Bounds(queue_max=2, window=100))
    client = world.client()
    world.slots(("starting", 0.0))
    kept = [world.request(client) for _ in range(2)]
    refused = the_answer(world, world.request(client))
    assert refused.code == "overloaded"
    assert refused.retry_after_ms > 0
    assert not set(kept) & set(world.answers)


def test_a_window_bounds_one_client_and_not_its_neighbour() -> None:
    world = World(bounds=Bounds(queue_max=100, window=2))
    greedy, modest = world.client(), world.client()
    world.slots(("starting", 0.0))
    refused = [world.request(greedy) for _ in range(3)][-1]
    assert the_answer(world, refused).code == "overloaded"
    assert world.request(modest) not in world.answers


def test_a_wait_longer_than_the_deadline_is_refused_at_once(world: World) -> None:
    client, worker = world.client(), world.worker(max_batch=1)
    first = world.request(client)
    world.turn()
    world.advance(1.0)
    world.answer(worker, first)
    world.advance(0.3)
    for _ in range(10):
        world.request(client)
    world.turn()
    assert the_answer(world, world.request(client, remaining_ms=2_000)).code == "overloaded"


def test_the_same_request_sent_again_is_run_once_and_answered_by_the_new_way(world: World) -> None:
    old, worker = world.client(), world.worker()
    request_id = world.request(old)
    world.turn()
    new = world.client()
    world.from_client(new, Request(request_id, "search", 1, 5, 60_000))
    world.turn()
    assert worker.holding == [request_id]
    world.answer(worker, request_id)
    assert world.to_clients[-1][0] == new


def test_cancel_takes_queued_work_away_and_drops_running_work_on_return(world: World) -> None:
    client, worker = world.client(), world.worker(max_batch=1)
    running, queued = world.request(client), None
    world.turn()
    parked = world.request(client)
    world.turn()
    queued = world.request(client)
    world.turn()
    for request_id in (running, queued):
        world.from_client(client, messages.Cancel(request_id))
    world.answer(worker, running)
    world.answer(worker, parked)
    world.turn()
    assert queued not in worker.holding
    assert running not in world.answers
    assert world.core.totals.cancelled == 2


def test_nobody_cancels_what_is_not_his(world: World) -> None:
    mine, other, worker = world.client(), world.client(), world.worker()
    request_id = world.request(mine)
    world.turn()
    world.from_client(other, messages.Cancel(request_id))
    world.answer(worker, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


def test_a_client_that_leaves_takes_its_queue_along(world: World) -> None:
    client = world.client()
    world.slots(("starting", 0.0))
    world.request(client)
    world.perform(world.core.lost("client", client, world.now))
    assert len(world.core.ledger) == 0


def test_an_unknown_client_and_an_unknown_worker_are_told(world: World) -> None:
    world.from_client(b"stranger", messages.Ping())
    assert world.to_clients == [(b"stranger", messages.Unknown())]
    worker = world.worker()
    world.restart_broker()
    world.beat(worker)
    assert worker.told_unknown


def test_a_silent_worker_gets_no_new_work_then_loses_what_it_has(world: World) -> None:
    client, silent = world.client(), world.worker()
    world.slots(("running", 0.0))
    request_id = world.request(client)
    world.turn()
    for _ in range(32):
        world.advance(0.1)
    assert world.core.registry.at(silent.peer).state.name == "suspect"
    waiting = world.request(client)
    world.turn()
    assert waiting not in silent.holding
    for _ in range(70):
        world.advance(0.1)
    assert world.core.registry.at(silent.peer) is None
    other = world.worker()
    world.turn()
    assert other.holding == [request_id, waiting]


def test_a_suspect_that_speaks_is_ready_again(world: World) -> None:
    worker = world.worker()
    world.advance(4.0)
    world.beat(worker)
    assert world.core.registry.at(worker.peer).state.name == "ready"


def test_a_pause_of_the_broker_is_nobody_elses_silence(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    world.now += 60.0
    world.turn()
    assert world.core.registry.at(worker.peer).state.name == "ready"
    assert the_answer(world, request_id).code == "deadline_exceeded", "its own deadline did pass"


def test_a_worker_that_comes_back_by_another_way_keeps_what_it_runs(world: World) -> None:
    client, worker = world.client(), world.worker()
    ids = [world.request(client) for _ in range(3)]
    world.turn()
    worker.holding.remove(ids[1])  # lost on the way
    other = world.worker()
    world.rejoin(worker)
    world.turn()
    assert set(worker.holding) == {ids[0], ids[2]}
    assert other.holding == [ids[1]]


def test_a_new_broker_adopts_what_workers_run_when_clients_send_it_again(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    world.restart_broker()
    world.from_client(client, messages.Hello())
    world.slots(("running", 0.0))
    world.from_client(client, Request(request_id, "search", 1, 5, 60_000))
    world.rejoin(worker)
    world.turn()
    assert worker.holding == [request_id], "it was not sent a second time"
    world.answer(worker, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


def test_a_request_that_a_heartbeat_no_longer_names_is_given_to_another(world: World) -> None:
    client, forgetful = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    forgetful.holding.clear()
    forgetful.draining = True
    other = world.worker()
    world.beat(forgetful)
    world.turn()
    assert other.holding == [request_id]


def test_a_heartbeat_from_before_the_request_came_returns_no_credit(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    world.from_worker(worker, messages.Heartbeat("ready", received=0))
    world.turn()
    assert [ids for _, ids in world.dispatches] == [[request_id]]


def test_a_draining_pool_refuses_finishes_and_says_so(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    world.perform(world.core.receive(PARENT, b"", messages.Drain(), world.now))
    assert the_answer(world, world.request(client)).code == "overloaded"
    world.turn()
    assert world.to_parent == []
    world.answer(worker, request_id)
    world.turn()
    world.turn()
    assert world.to_parent == [messages.Drained()]


def test_a_worker_of_another_dtype_is_refused(world: World) -> None:
    world.worker()
    stranger = messages.Register("other", "ready", dtype="float16", max_batch=1)
    (command,) = world.core.receive("worker", b"w", stranger, world.now)
    assert isinstance(command.record, Failure)
    assert "float16" in command.record.message


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("op", "drop tables", "bad_request"),
        ("items", 0, "bad_request"),
        ("items", 4097, "too_large"),
        ("top_k", 0, "bad_request"),
        ("top_k", 1001, "bad_request"),
        ("remaining_ms", 0, "bad_request"),
        ("remaining_ms", -5, "bad_request"),
        ("priority", 101, "bad_request"),
        ("collection", "wiki", "bad_request"),
    ],
)
def test_a_header_that_lies_is_answered(world: World, field: str, value: object, code: str) -> None:
    client = world.client()
    world.worker()
    fields = {"id": b"i" * 16, "op": "search", "items": 1, "top_k": 5, field: value}
    world.from_client(client, Request(**fields))
    assert the_answer(world, b"i" * 16).code == code


def test_an_unknown_collection_is_answered_with_those_there_are(world: World) -> None:
    client = world.client()
    world.worker()
    world.from_client(client, Request(b"i" * 16, "search", 1, 5, collection="wiki"))
    assert "there is: default" in the_answer(world, b"i" * 16).message


def test_a_draining_worker_gets_nothing_more_and_is_told_that_nothing_more_will_come(world: World) -> None:
    client, worker = world.client(), world.worker()
    running = world.request(client)
    world.turn()
    worker.draining = True
    commands = world.core.receive("worker", worker.peer, messages.Heartbeat("draining", 1, 0, (running,)), world.now)
    assert [command.record for command in commands] == [messages.Drain()]
    other = world.worker()
    later = world.request(client)
    world.turn()
    assert (worker.holding, other.holding) == ([running], [later])


def test_a_request_that_every_worker_lost_once_still_runs(world: World) -> None:
    client, workers = world.client(), [world.worker(), world.worker()]
    world.slots(("running", 0.0), ("running", 0.0))
    request_id = world.request(client)
    for _ in range(4):
        world.turn()
        holder = next(worker for worker in workers if request_id in worker.holding)
        holder.holding.clear()
        world.perform(world.core.lost("worker", holder.peer, world.now))
        world.rejoin(holder)
    world.turn()
    assert sum(request_id in worker.holding for worker in workers) == 1


def test_what_one_worker_lost_goes_to_another(world: World) -> None:
    client, first = world.client(), world.worker(max_batch=1)
    world.slots(("running", 0.0))
    request_id = world.request(client)
    world.turn()
    first.holding.clear()
    world.perform(world.core.lost("worker", first.peer, world.now))
    world.rejoin(first)
    second = world.worker(max_batch=1)
    world.turn()
    assert (first.holding, second.holding) == ([], [request_id])


@pytest.mark.parametrize("max_batch", [0, -1, 2049, (1 << 64) - 1])
def test_a_worker_that_claims_an_absurd_batch_is_refused(world: World, max_batch: int) -> None:
    (command,) = world.core.receive("worker", b"w", messages.Register("i", "ready", max_batch=max_batch), world.now)
    assert isinstance(command.record, Failure)
    assert len(world.core.registry) == 0


def test_idle_clients_that_vanished_are_found_and_forgotten(world: World) -> None:
    gone = [world.client() for _ in range(50)]
    world.advance(31)
    pinged = {peer for peer, record in world.to_clients if isinstance(record, messages.Ping)}
    assert pinged == set(gone)
    for peer in pinged:
        world.perform(world.core.lost("client", peer, world.now))
    assert len(world.core.clients) == 0


def test_a_pool_that_drained_says_so_again_when_it_is_told_again(world: World) -> None:
    for _ in range(2):
        world.perform(world.core.receive(PARENT, b"", messages.Drain(), world.now))
        world.turn()
    assert world.to_parent == [messages.Drained(), messages.Drained()]


def test_a_pause_teaches_nothing_of_speed(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    world.now += 60.0 - 1e-3
    world.turn()
    world.answer(worker, request_id)
    assert not world.core.registry.at(worker.peer).fit.known


# ---- workers that cannot --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [False, True])
def test_what_one_worker_cannot_serve_another_does(world: World, garbage: bool) -> None:
    client, starved = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    other = world.worker()
    world.fail(starved, request_id, messages.Malformed(request_id, "no map") if garbage else None)
    world.turn()
    assert (starved.holding, other.holding) == ([], [request_id])
    world.answer(other, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


@pytest.mark.parametrize("count", [2, 8])
def test_trouble_of_all_workers_that_passes_costs_no_answer_and_trouble_that_stays_is_told(world: World, count: int) -> None:
    """Two that answer garbage at the same time, a device on which all workers run out of memory for a moment: once a second
    worker failed over a request, it waits for everybody."""
    client, workers = world.client(), [world.worker() for _ in range(count)]
    request_id = world.request(client)
    began = world.now
    for pause_s in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0):
        world.turn()
        (holder,) = [worker for worker in workers if worker.holding]
        world.fail(holder, request_id)
        failed = world.now
        while not any(worker.holding for worker in workers):
            world.advance(0.1)
            for worker in workers:
                world.beat(worker)
        assert pause_s <= world.now - failed < pause_s + 0.4
    (holder,) = [worker for worker in workers if worker.holding]
    world.fail(holder, request_id)
    assert the_answer(world, request_id).code == "remote_failure"
    assert 30.0 < world.now - began < 34.0


def test_a_failure_is_told_at_once_where_trying_again_would_take_longer_than_there_is(world: World) -> None:
    client, worker = world.client(), world.worker()
    request_id = world.request(client, remaining_ms=400)
    world.turn()
    world.fail(worker, request_id)
    assert the_answer(world, request_id).message == "the worker failed: MemoryError"


def test_a_drain_waits_for_nothing_that_failed(world: World) -> None:
    client, worker, other = world.client(), world.worker(), world.worker()
    held, fresh = world.request(client), world.request(client)
    world.turn()
    for request_id, holder in ((held, worker), (held, other)):
        world.advance(0.1)
        if request_id not in holder.holding:
            world.answer_all(holder)
            world.turn()
        world.fail(holder, request_id)
        world.turn()
    assert held not in worker.holding + other.holding
    world.perform(world.core.receive(PARENT, b"", messages.Drain(), world.now))
    world.turn()
    (holder,) = [one for one in (worker, other) if held in one.holding]
    world.fail(holder, held)
    assert the_answer(world, held).code == "remote_failure"
    assert isinstance(the_answer(world, fresh), Reply)


def test_what_waits_to_be_tried_again_keeps_nobody_else_waiting(world: World) -> None:
    """It counts in no share and fills no queue; a suspect of a worker's death waits too before it is tried again."""
    client, workers = world.client(), [world.worker(max_batch=16) for _ in range(2)]
    failing = [world.request(client) for _ in range(8)]
    world.turn()
    for _ in range(2):
        for worker in workers:
            for request_id in tuple(worker.holding):
                world.fail(worker, request_id)
        world.turn()
    assert [worker.holding for worker in workers] == [[], []]
    burst = [world.request(client) for _ in range(10)]
    world.turn()
    assert [len(worker.holding) for worker in workers] == [5, 5]
    for worker in workers:
        world.answer_all(worker)
    assert all(isinstance(the_answer(world, request_id), Reply) for request_id in burst)
    world.advance(1.3)
    assert sorted(workers[0].holding + workers[1].holding) == sorted(failing)


def test_no_more_wait_to_be_tried_again_than_there_is_room_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragpool.broker.registry.LATER_MAX", 2)
    client, worker = world.client(), world.worker(max_batch=4)
    failing = [world.request(client) for _ in range(3)]
    world.turn()
    for request_id in failing:
        world.fail(worker, request_id)
    assert [request_id in world.answers for request_id in failing] == [False, False, True]
    assert the_answer(world, failing[2]).code == "remote_failure"


def test_a_suspect_that_fails_waits_before_it_is_tried_again(world: World) -> None:
    client, dying, other = world.client(), world.worker(), world.worker()
    request_id = world.request(client)
    world.turn()
    assert dying.holding == [request_id]
    world.lose(dying, blame=True)
    world.turn()
    assert other.holding == [request_id]
    world.fail(other, request_id)
    world.turn()
    assert other.holding == []
    world.advance(0.4)
    assert other.holding == []
    world.beat(other)
    world.advance(0.2)
    assert other.holding == [request_id]


def test_the_only_worker_gets_what_it_failed_over_again_after_a_pause(world: World) -> None:
    """Its trouble may pass: one that answers garbage for a moment, while the other loads, costs no answer."""
    client, worker = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    for pause_s in (0.5, 1.0, 2.0, 4.0):
        world.fail(worker, request_id)
        world.advance(pause_s - 0.1)
        assert worker.holding == []
        world.beat(worker)
        world.advance(0.4)
        assert worker.holding == [request_id]
    world.answer(worker, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


def test_a_failure_of_one_run_leaves_a_hedged_request_with_the_other(world: World) -> None:
    client, silent = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    other = world.worker()
    for _ in range(34):
        world.advance(0.1)
        world.beat(other)
    world.fail(other, request_id)
    world.turn()
    assert request_id not in world.answers
    world.answer(silent, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


def test_a_late_failure_does_not_end_what_another_worker_runs_by_now(world: World) -> None:
    client, cut_off = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    other = world.worker()
    world.perform(world.core.lost("worker", cut_off.peer, world.now))
    world.turn()
    world.rejoin(cut_off)
    world.fail(cut_off, request_id)
    assert request_id not in world.answers
    world.answer(other, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


# ---- hedges ------------------------------------------------------------------------------------------------------------


def test_the_work_of_a_suspect_is_run_once_more_elsewhere_and_the_first_answer_wins(world: World) -> None:
    client, silent = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    other = world.worker()
    for _ in range(34):
        world.advance(0.1)
        world.beat(other)
    assert silent.holding == other.holding == [request_id]
    assert world.core.totals.hedges == 1
    world.answer(other, request_id)
    world.answer(silent, request_id)
    assert isinstance(the_answer(world, request_id), Reply)
    assert world.core.totals.late_replies == 1


def test_an_overdue_batch_is_hedged_though_its_worker_beats(world: World) -> None:
    client, stuck = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    other = world.worker()
    for _ in range(14):
        world.advance(0.1)
        world.beat(stuck)
        world.beat(other)
    assert other.holding == [request_id]


def test_hedges_stay_within_their_allowance(world: World) -> None:
    client, silent = world.client(), world.worker(max_batch=500)
    for _ in range(400):
        world.request(client)
    world.turn()
    assert len(silent.holding) == 400
    other = world.worker(max_batch=500)
    for _ in range(40):
        world.advance(0.1)
        world.beat(other)
    assert world.core.totals.hedges <= 16 + 0.05 * 400


def test_a_hedge_whose_first_run_died_is_not_run_a_third_time(world: World) -> None:
    client, silent = world.client(), world.worker()
    request_id = world.request(client)
    world.turn()
    other = world.worker()
    for _ in range(34):
        world.advance(0.1)
        world.beat(other)
    world.lose(silent)
    world.turn()
    third = world.worker()
    world.turn()
    assert (other.holding, third.holding) == ([request_id], [])


# ---- poison ------------------------------------------------------------------------------------------------------------


def serve_with_poison(world: World, poison: bytes, *, steps: int = 100) -> int:
    """Workers answer batch by batch; one that finds `poison` in its batch dies and is replaced. How many died."""
    deaths = 0
    for _ in range(steps):
        for worker in tuple(world.workers.values()):
            batch = world.running(worker)
            if poison in batch:
                world.lose(worker, blame=True)
                world.worker(worker.max_batch)
                deaths += 1
            for request_id in batch:
                if request_id in worker.holding and poison not in batch:
                    world.answer(worker, request_id)
        world.advance(0.05)
        for worker in world.workers.values():
            world.beat(worker)
    return deaths


@pytest.mark.parametrize("size", [1, 2, 16, 256])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_poison_request_ends_at_most_four_workers_and_its_neighbours_are_answered(size: int, workers: int) -> None:
    world = World()
    world.slots(("running", 0.0))
    client = world.client()
    for _ in range(workers):
        world.worker(max_batch=size)
    innocent = [world.request(client) for _ in range(size * workers - 1)]
    poison = world.request(client, body=b"poison")
    innocent += [world.request(client) for _ in range(10)]
    world.turn()
    assert serve_with_poison(world, poison, steps=3 * size + 20) <= 4
    assert the_answer(world, poison).code == "poison_request"
    assert {type(the_answer(world, request_id)) for request_id in innocent} == {Reply}
    again = world.request(client, body=b"poison")
    assert the_answer(world, again).code == "poison_request", "the body is remembered"
    world.advance(601)
    assert world.request(client, body=b"poison") not in world.answers, "for ten minutes"


def test_one_death_on_a_run_alone_proves_nothing(world: World) -> None:
    """Two workers that end for reasons of their own, the second while it tries one of the suspects alone."""
    client, worker = world.client(), world.worker()
    world.slots(("running", 0.0))
    request_id = world.request(client)
    world.turn()
    for _ in range(2):
        world.lose(worker, blame=True)
        worker = world.worker()
        world.turn()
    world.answer(worker, request_id)
    assert isinstance(the_answer(world, request_id), Reply)


def test_an_operators_kill_blames_nobody(world: World) -> None:
    client = world.client()
    world.slots(("running", 0.0))
    request_id = world.request(client)
    for _ in range(6):
        worker = world.worker()
        world.turn()
        assert worker.holding == [request_id]
        world.lose(worker, blame=False)
        world.turn()
    assert request_id not in world.answers


def test_a_death_in_company_is_never_poison(world: World) -> None:
    client, worker = world.client(), world.worker()
    world.slots(("running", 0.0))
    ids = [world.request(client) for _ in range(2)]
    world.turn()
    world.lose(worker, blame=True)
    world.turn()
    assert not set(ids) & set(world.answers)
    replacement = world.worker()
    world.turn()
    assert len(replacement.holding) == 1, "in halves, and nobody beside a suspect"


def test_a_trial_is_held_on_a_pool_that_never_rests(world: World) -> None:
    client, workers = world.client(), [world.worker(max_batch=4) for _ in range(3)]
    world.slots(("running", 0.0))
    for _ in range(40):
        world.request(client, remaining_ms=20_000)
    world.turn()
    suspects = world.running(workers[0])
    world.lose(workers[0], blame=True)
    world.worker(max_batch=4)
    for _ in range(60):
        for worker in tuple(world.workers.values()):
            for request_id in world.running(worker):
                world.answer(worker, request_id)
        for _ in range(12):
            world.request(client, remaining_ms=20_000)
        world.advance(0.1)
    assert {type(the_answer(world, request_id)) for request_id in suspects} == {Reply}


def test_poison_is_spoken_also_when_the_link_is_found_gone_before_the_parent_tells_why(world: World) -> None:
    client = world.client()
    world.slots(("running", 0.0))
    poison = world.request(client)
    deaths = 0
    while poison not in world.answers:
        worker = next((worker for worker in world.workers.values() if poison in worker.holding), None)
        if worker is None:
            world.worker()
            world.turn()
            continue
        world.lose(worker, told_by_parent=False)
        spare = world.worker()
        world.turn()
        gone = messages.Gone(worker.incarnation, "killed by SIGSEGV", True, (poison,))
        world.perform(world.core.receive(PARENT, b"", gone, world.now))
        world.turn()
        deaths += 1
        assert deaths <= 4
        assert spare.peer in world.workers
    assert the_answer(world, poison).code == "poison_request"


def test_a_worker_that_takes_one_request_a_message_gets_its_batch_in_as_many(world: World) -> None:
    client = world.client()
    peer = world.new_peer()
    world.perform(world.core.receive("worker", peer, messages.Register("plain", "ready", max_batch=8), world.now))
    ids = [world.request(client) for _ in range(3)]
    world.turn()
    assert world.dispatches == [(peer, [request_id]) for request_id in ids]
    assert len(world.core.registry.at(peer).batches) == 1


def test_a_broker_whose_parent_stands_still_gives_nobody_up_before_it_knows_who_comes() -> None:
    """A new broker, and the parent stopped before it told its slots: requests waited for nobody, it seemed (`make chaos`)."""
    world = World(has_parent=True)
    client = world.client()
    request_id = world.request(client)
    world.turn()
    world.advance(8.0)
    assert request_id not in world.answers
    worker = world.worker()
    world.turn()
    world.answer(worker, request_id)
    assert isinstance(the_answer(world, request_id), Reply)
