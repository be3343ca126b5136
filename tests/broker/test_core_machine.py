"""The core against all that may happen, in any order: its laws hold after each step, and in the end nothing is left over."""

from __future__ import annotations

import os

from broker_world import FakeWorker, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ragpool.broker.admission import Bounds
from ragpool.wire import messages
from ragpool.wire.messages import Malformed, Reply, Request

CLIENTS = st.integers(0, 2)
PICK = st.integers(0, 1_000)


class BrokerMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World(bounds=Bounds(queue_max=40, window=30))
        self.clients = [self.world.client() for _ in range(3)]
        self.world.slots(("running", 0.0), ("backoff", 1.0))
        self.owner: dict[bytes, int] = {}
        self.deadline: dict[bytes, float] = {}
        self.cancelled: set[bytes] = set()
        self.checked = 0

    # ---- what may happen -------------------------------------------------------------------------------------------

    @rule(client=CLIENTS, items=st.sampled_from([1, 1, 1, 5, 32]), remaining_ms=st.sampled_from([50, 2_000, 60_000]),
          priority=st.sampled_from([0, 0, 5, -5]), burst=st.integers(1, 12))  # fmt: skip
    def ask(self, client: int, items: int, remaining_ms: int, priority: int, burst: int) -> None:
        for _ in range(burst):
            request_id = self.world.request(
                self.clients[client], items=items, remaining_ms=remaining_ms, priority=priority, body=b"x" * (20 * items)
            )
            self.owner[request_id] = client
            self.deadline[request_id] = self.world.now + remaining_ms / 1e3
        self.world.turn()

    @rule(client=CLIENTS, pick=PICK)
    def ask_again(self, client: int, pick: int) -> None:
        pending = self.unanswered()
        if pending:
            request_id = pending[pick % len(pending)]
            self.owner[request_id] = client
            remaining_ms = max(1, round((self.deadline[request_id] - self.world.now) * 1e3))
            self.world.from_client(self.clients[client], Request(request_id, "search", 1, 5, remaining_ms, body=b"x" * 20))
            self.world.turn()

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        pending = self.unanswered()
        if pending:
            request_id = pending[pick % len(pending)]
            self.world.from_client(self.clients[self.owner[request_id]], messages.Cancel(request_id))
            self.cancelled.add(request_id)
            self.world.turn()

    @rule(client=CLIENTS)
    def client_vanishes(self, client: int) -> None:
        self.world.perform(self.world.core.lost("client", self.clients[client], self.world.now))
        self.cancelled |= {request_id for request_id in self.unanswered() if self.owner[request_id] == client}
        self.clients[client] = self.world.client()
        self.world.turn()

    @precondition(lambda self: len(self.world.workers) < 5)
    @rule(max_batch=st.sampled_from([1, 4, 16]))
    def worker_joins(self, max_batch: int) -> None:
        self.world.worker(max_batch)
        self.world.turn()

    @rule(pick=PICK, took=st.floats(0.001, 0.8))
    def worker_answers_its_batch(self, pick: int, took: float) -> None:
        worker = self.worker(pick)
        if worker is not None and worker.holding:
            self.advance(took)
            for request_id in tuple(worker.holding[: worker.max_batch]):
                if request_id in worker.holding:
                    self.world.answer(worker, request_id)
            self.world.turn()

    @rule(pick=PICK)
    def worker_answers_one(self, pick: int) -> None:
        worker = self.worker(pick)
        if worker is not None and worker.holding:
            self.world.answer(worker, worker.holding[pick % len(worker.holding)])
            self.world.turn()

    @rule(pick=PICK, garbage=st.booleans())
    def worker_fails_over_one(self, pick: int, garbage: bool) -> None:
        worker = self.worker(pick)
        if worker is not None and worker.holding:
            request_id = worker.holding[pick % len(worker.holding)]
            self.world.fail(worker, request_id, Malformed(request_id, "no map") if garbage else None)
            self.world.turn()

    @rule(pick=PICK)
    def worker_answers_twice_and_what_nobody_asked(self, pick: int) -> None:
        worker = self.worker(pick)
        if worker is not None:
            answered = [request_id for request_id in self.world.answers if request_id not in worker.holding]
            for request_id in [*answered[-2:], b"nobody asked me."]:
                self.world.from_worker(worker, Reply(request_id))
            self.world.turn()

    @rule(pick=PICK, told=st.booleans())
    def worker_dies(self, pick: int, told: bool) -> None:
        worker = self.worker(pick)
        if worker is not None:
            self.world.lose(worker, told_by_parent=told)
            self.world.turn()

    @rule(pick=PICK)
    def worker_dies_of_itself(self, pick: int) -> None:
        worker = self.worker(pick)
        if worker is not None:
            ran = self.world.running(worker)
            self.world.lose(worker, blame=True)
            self.world.turn()
            for request_id in ran:
                for answer in self.world.answers.get(request_id, []):
                    assert getattr(answer, "code", "") != "poison_request" or len(ran) == 1, "poison is spoken after a solo run"

    @rule(pick=PICK, forgets=st.booleans())
    def worker_comes_by_another_way(self, pick: int, forgets: bool) -> None:
        worker = self.worker(pick)
        if worker is not None:
            if forgets and worker.holding:
                worker.holding.pop()
            self.world.rejoin(worker)
            self.world.turn()

    @rule(pick=PICK)
    def worker_drains(self, pick: int) -> None:
        worker = self.worker(pick)
        if worker is not None:
            worker.draining = True
            self.world.beat(worker)
            self.world.turn()

    @rule(pick=PICK)
    def worker_loses_a_request_inside(self, pick: int) -> None:
        worker = self.worker(pick)
        if worker is not None and worker.holding:
            worker.holding.pop(pick % len(worker.holding))
            self.world.beat(worker)
            self.world.turn()

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(seconds=st.floats(2.9, 12.0))
    def all_workers_are_silent(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.drop_forgotten_workers()

    @rule(seconds=st.floats(1.01, 60.0))
    def the_broker_stands_still(self, seconds: float) -> None:
        registry, now = self.world.core.registry, self.world.now
        alive = {worker.peer for worker in registry if now - worker.heard <= 10.0}
        self.world.now += seconds
        self.world.turn()
        assert alive <= {worker.peer for worker in registry}, "a pause of the broker is nobody else's silence"

    @rule()
    def the_broker_dies(self) -> None:
        pending = self.unanswered()
        self.world.restart_broker()
        self.world.slots(("running", 0.0))
        self.clients = [self.world.client() for _ in range(3)]
        for worker in tuple(self.world.workers.values()):
            self.world.rejoin(worker)
        for request_id in pending:
            remaining_ms = max(1, round((self.deadline[request_id] - self.world.now) * 1e3))
            self.world.from_client(
                self.clients[self.owner[request_id]], Request(request_id, "search", 1, 5, remaining_ms, body=b"x" * 20)
            )
        self.world.turn()

    # ---- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def laws(self) -> None:
        core = self.world.core
        core.check()
        for request_id, answers in self.world.answers.items():
            assert len(answers) == 1, f"{request_id.hex()} was answered {len(answers)} times"
            assert request_id not in self.cancelled or core.ledger.get(request_id) is None
        for request_id in self.unanswered():
            assert core.ledger.get(request_id) is not None, f"{request_id.hex()} is lost"
        held = {peer: set(worker.holding) for peer, worker in self.world.workers.items()}
        for worker in core.registry:
            assert held[worker.peer] <= set(worker.in_flight), "a worker holds what it has no credit for"
            assert len(worker.batches) <= 2 or worker.batches[0].cost == 0.0
        if len(core.ledger.queue):
            for worker in (worker for worker in core.registry if worker.state.name == "ready"):
                free = [
                    p for p in core.ledger.queue if worker.peer not in p.running_on and worker.info.incarnation not in p.avoid
                ]
                assert worker.batches or not free, "work waits beside an idle worker that may take it"
        for pending in core.ledger:
            assert len(pending.running_on) <= 1 or pending.hedged, "only a hedge runs twice"

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for _ in range(200):
            if not self.unanswered():
                break
            if not any(not worker.draining for worker in self.world.workers.values()):
                self.world.worker(16)
            self.advance(0.05)
            for worker in tuple(self.world.workers.values()):
                self.world.answer_all(worker)
            self.world.turn()
        assert not self.unanswered(), "every request is answered in the end"
        assert len(self.world.core.ledger) == 0
        for worker in tuple(self.world.workers.values()):
            self.world.answer_all(worker)
        assert sum(len(worker.in_flight) for worker in self.world.core.registry) == 0, "every credit has come back"

    # ---- small steps -----------------------------------------------------------------------------------------------

    def unanswered(self) -> list[bytes]:
        return [i for i in self.owner if i not in self.world.answers and i not in self.cancelled]

    def worker(self, pick: int) -> FakeWorker | None:
        workers = list(self.world.workers.values())
        return workers[pick % len(workers)] if workers else None

    def advance(self, seconds: float) -> None:
        """Time passes and workers beat."""
        while seconds > 0:
            self.world.advance(min(seconds, 1.0))
            seconds -= 1.0
            for worker in tuple(self.world.workers.values()):
                self.world.beat(worker)
            self.drop_forgotten_workers()
            self.world.turn()

    def drop_forgotten_workers(self) -> None:
        """Who was given up as dead comes back as its session would: by another way, with all it runs."""
        for worker in tuple(self.world.workers.values()):
            if self.world.core.registry.at(worker.peer) is None:
                self.world.rejoin(worker)
        self.world.turn()


LONG = os.environ.get("RAGPOOL_TEST_LONG") == "1"
TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(
    max_examples=1_500 if LONG else 100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
