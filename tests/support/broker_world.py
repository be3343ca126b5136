"""A whole pool in virtual time around a real core: clients and workers that remember what they were told. No socket, no clock."""

from __future__ import annotations

from collections.abc import Iterable

from ragpool.broker.admission import Bounds
from ragpool.broker.commands import CLIENT, PARENT, WORKER, Command, Dispatch, ToClient, ToParent, ToWorker
from ragpool.broker.core import Core
from ragpool.broker.core_settings import CoreSettings
from ragpool.wire import messages
from ragpool.wire.messages import Failure, Heartbeat, Register, Reply, Request


class FakeWorker:
    """Holds requests in the order they came; counts what it received in this session."""

    def __init__(self, peer: bytes, incarnation: str, max_batch: int) -> None:
        self.peer = peer
        self.incarnation = incarnation
        self.max_batch = max_batch
        self.holding: list[bytes] = []
        self.batches: list[list[bytes]] = []
        self.received = 0
        self.draining = False
        self.told_unknown = False
        self.released = False

    def registration(self, state: str = "ready") -> Register:
        return Register(
            incarnation=self.incarnation,
            state=state,
            max_batch=self.max_batch,
            items_max=4096,
            dtype="float32",
            running=tuple(self.holding),
        )


class World:
    """`core` and all that talks to it. Every command is delivered at once, in order."""

    def __init__(self, **settings: object) -> None:
        self.now = 1000.0
        self.settings = settings
        self.epochs = 0
        self.workers: dict[bytes, FakeWorker] = {}
        self.answers: dict[bytes, list[Reply | Failure]] = {}
        self.to_clients: list[tuple[bytes, object]] = []
        self.to_parent: list[object] = []
        self.dispatches: list[tuple[bytes, list[bytes]]] = []
        self._peers = 0
        self._ids = 0
        self.core = self._new_core()

    def _new_core(self) -> Core:
        self.epochs += 1
        given = {"grace_s": 0.0, "bounds": Bounds(window=10_000), **self.settings}
        return Core(CoreSettings(epoch=f"epoch-{self.epochs}", **given), self.now)  # type: ignore[arg-type]

    def new_peer(self) -> bytes:
        self._peers += 1
        return b"peer-%d" % self._peers

    # ---- driving ---------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn of the edge's loop, and the turns that this one causes."""
        self.perform(self.core.handle_timer(self.now))
        while self.core.next_deadline() <= self.now:
            self.perform(self.core.handle_timer(self.now))

    def advance(self, seconds: float) -> None:
        """Time passes, and the loop wakes whenever it wants to."""
        until = self.now + seconds
        while (wake := max(self.core.next_deadline(), self.now)) < until:
            self.now = wake
            self.turn()
        self.now = until
        self.turn()

    def perform(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if isinstance(command, ToClient):
                self.to_clients.append((command.peer, command.record))
                if isinstance(command.record, (Reply, Failure)):
                    self.answers.setdefault(command.record.id, []).append(command.record)
            elif isinstance(command, Dispatch):
                self._dispatched(command)
            elif isinstance(command, ToWorker):
                worker = self.workers.get(command.peer)
                if worker is not None and isinstance(command.record, messages.Unknown):
                    worker.told_unknown = True
            elif isinstance(command, ToParent):
                self.to_parent.append(command.record)

    def _dispatched(self, command: Dispatch) -> None:
        ids = [request.id for request in command.requests]
        for pending in map(self.core.ledger.get, ids):
            if pending is not None and pending.failures > 1 and self.now < pending.retry_at:
                raise AssertionError(f"{pending.id.hex()} is handed out {pending.retry_at - self.now:.2f} s before it is due")
        self.dispatches.append((command.peer, ids))
        worker = self.workers.get(command.peer)
        if worker is not None:
            worker.received += len(ids)
            worker.holding += ids
            worker.batches.append(ids)

    def restart_broker(self) -> None:
        """Another incarnation, which knows nobody."""
        self.core = self._new_core()

    # ---- clients ---------------------------------------------------------------------------------------------------

    def client(self) -> bytes:
        peer = self.new_peer()
        self.from_client(peer, messages.Hello("test", 64))
        return peer

    def from_client(self, peer: bytes, record: messages.Record) -> None:
        self.perform(self.core.receive(CLIENT, peer, record, self.now))

    def request(
        self, client: bytes, *, items: int = 1, remaining_ms: int = 60_000, priority: int = 0, body: bytes = b"x" * 40
    ) -> bytes:
        self._ids += 1
        request_id = self._ids.to_bytes(16, "big")
        record = Request(request_id, "search", items, 5, remaining_ms, priority, "default", body)
        self.from_client(client, record)
        return request_id

    # ---- workers ---------------------------------------------------------------------------------------------------

    def worker(self, max_batch: int = 8, incarnation: str | None = None) -> FakeWorker:
        peer = self.new_peer()
        worker = FakeWorker(peer, incarnation or f"inc-{peer.decode()}", max_batch)
        self.workers[peer] = worker
        self.from_worker(worker, worker.registration())
        return worker

    def from_worker(self, worker: FakeWorker, record: messages.Record) -> None:
        self.perform(self.core.receive(WORKER, worker.peer, record, self.now))

    def beat(self, worker: FakeWorker) -> None:
        state = "draining" if worker.draining else "ready"
        self.from_worker(worker, Heartbeat(state, worker.received, 0, tuple(worker.holding)))

    def answer(self, worker: FakeWorker, request_id: bytes) -> None:
        worker.holding.remove(request_id)
        self.from_worker(worker, Reply(request_id, cost=3, index_version="v"))

    def fail(self, worker: FakeWorker, request_id: bytes, record: messages.Decoded | None = None) -> None:
        """It could not serve this one, or (`record`) what it said of it makes no sense."""
        worker.holding.remove(request_id)
        answer = record or Failure(request_id, "remote_failure", "the worker failed: MemoryError")
        self.perform(self.core.receive(WORKER, worker.peer, answer, self.now))

    def answer_all(self, worker: FakeWorker) -> None:
        for request_id in tuple(worker.holding):
            self.answer(worker, request_id)

    def running(self, worker: FakeWorker) -> tuple[bytes, ...]:
        """Its running batch: the first of its batches that it has not answered."""
        held = set(worker.holding)
        return next((ids for batch in worker.batches if (ids := tuple(i for i in batch if i in held))), ())

    def lose(self, worker: FakeWorker, *, told_by_parent: bool = True, blame: bool = False) -> None:
        """The process ends, by an operator's signal, or (`blame`) of itself while it ran its oldest batch."""
        del self.workers[worker.peer]
        if told_by_parent:
            reason = "killed by SIGSEGV" if blame else "killed by SIGKILL"
            gone = messages.Gone(worker.incarnation, reason, blame, self.running(worker))
            self.perform(self.core.receive(PARENT, b"", gone, self.now))
        else:
            self.perform(self.core.lost(WORKER, worker.peer, self.now))

    def rejoin(self, worker: FakeWorker) -> None:
        """The same process by a fresh socket: it keeps what it runs."""
        self.workers.pop(worker.peer, None)
        worker.peer = self.new_peer()
        worker.received = 0
        worker.told_unknown = False
        self.workers[worker.peer] = worker
        self.from_worker(worker, worker.registration("draining" if worker.draining else "ready"))

    def slots(self, *states: tuple[str, float]) -> None:
        briefs = tuple(messages.SlotBrief(i, "cpu", state, "", wait_s) for i, (state, wait_s) in enumerate(states))
        self.perform(self.core.receive(PARENT, b"", messages.Slots(briefs), self.now))
