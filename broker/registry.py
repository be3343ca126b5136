"""All workers: who joins, who lives, who is lost, and what returns to the queue when one is."""

from __future__ import annotations

from collections.abc import Iterator

from ..wire.errors import BadRequest, RagpoolError
from ..wire.messages import Heartbeat, Register
from ..wire.retries import TRIES_MAX, pause_s
from . import liveness
from .departed import Departed
from .hedging import Hedging
from .ledger import Ledger
from .lineup import Lineup
from .liveness import Patience
from .metrics import Totals
from .pending import Pending
from .states import DRAINING, HEARD, LOADED, LOADING, LOST, READY, SILENT, SUSPECT
from .workers import Worker

COLLECTIONS = frozenset({"default"})
"""Collections that this pool serves."""

MAX_BATCH = 2048
"""Items: two batches and their ids must fit a heartbeat, one a message."""

LATER_MAX = 1024
"""Requests that workers failed over and that wait to be tried again: beyond, a failure is told at once."""

REGISTER_STATES = (LOADING, READY, DRAINING)


class Registry:
    """Workers by the way to them and by incarnation; those that may get work also stand in `lineup`."""

    def __init__(self, ledger: Ledger, totals: Totals, patience: Patience, mixed_dtypes: bool) -> None:
        self._ledger = ledger
        self._totals = totals
        self._patience = patience
        self._mixed_dtypes = mixed_dtypes
        self._by_peer: dict[bytes, Worker] = {}
        self._by_incarnation: dict[str, Worker] = {}
        self._unclaimed: set[bytes] = set()
        self._hedging = Hedging()
        self.departed = Departed()
        self.lineup = Lineup()
        self.ever_ready = False
        self.rate = 0.0
        """Cost a second of all ready workers together, as of the last tick; 0 while nothing was measured."""

    def __len__(self) -> int:
        return len(self._by_peer)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._by_peer.values())

    def at(self, peer: bytes) -> Worker | None:
        return self._by_peer.get(peer)

    def incarnation(self, name: str) -> Worker | None:
        return self._by_incarnation.get(name)

    def in_flight(self) -> int:
        return sum(len(worker.in_flight) for worker in self)

    # ---- joining ---------------------------------------------------------------------------------------------------

    def refuses(self, record: Register) -> RagpoolError | None:
        """Why this worker may not join, or None."""
        if record.state not in REGISTER_STATES or not record.incarnation:
            return BadRequest("a registration names an incarnation and a state: loading, ready or draining")
        if not 1 <= record.max_batch <= MAX_BATCH or record.items_max < 1:
            return BadRequest(f"a registration names a max_batch of 1 to {MAX_BATCH} and an items_max of at least 1")
        if record.collection not in COLLECTIONS:
            return BadRequest(f"this pool serves the collections {', '.join(sorted(COLLECTIONS))}, not {record.collection!r}")
        others = {w.info.dtype for w in self if w.info.incarnation != record.incarnation} - {"", record.dtype}
        if record.dtype and others and not self._mixed_dtypes:
            return BadRequest(
                f"this pool runs {', '.join(others)}, this worker {record.dtype}: answers would depend on who gives them; "
                "set worker.dtype, or pool.mixed_dtypes = true"
            )
        return None

    def register(self, peer: bytes, record: Register, now: float) -> None:
        """It joins, has loaded, or joins again by another way and keeps what it says that it runs."""
        worker = self._by_peer.get(peer)
        if worker is not None and worker.info.incarnation == record.incarnation:
            self._renewed(worker, record, now)
        else:
            for stale in {worker, self._by_incarnation.get(record.incarnation)} - {None}:
                self._drop(stale, now, died=False)  # type: ignore[arg-type]
            worker = Worker(peer, record, now)
            self._by_peer[peer] = worker
            self._by_incarnation[record.incarnation] = worker
            self.departed.replaced_by(record)
            self._adopt(worker, record.running, now)
        self.lineup.place(worker, now)
        self.ever_ready = self.ever_ready or worker.state.name == READY

    def _renewed(self, worker: Worker, record: Register, now: float) -> None:
        self._heard(worker, now)
        worker.info = record
        if record.state == READY and worker.state.name == LOADING:
            worker.state.on(LOADED, now)
        elif record.state == DRAINING:
            self.leave(worker, now)

    def _adopt(self, worker: Worker, running: tuple[bytes, ...], now: float) -> None:
        """What it runs is a credit, also while nobody here knows the request: its client may send it again."""
        worker.adopted(tuple(dict.fromkeys(running)), now)
        for request_id in worker.in_flight:
            pending = self._ledger.get(request_id)
            if pending is None:
                self._unclaimed.add(request_id)
            else:
                self._ledger.running(pending, worker.peer, now)

    def claim(self, pending: Pending, now: float) -> bool:
        """Whether workers run this newly admitted request already, from before: then it is not run again."""
        if pending.id not in self._unclaimed:
            return False
        self._unclaimed.discard(pending.id)
        for worker in self:
            if pending.id in worker.in_flight:
                self._ledger.running(pending, worker.peer, now)
        return True

    def _unclaim(self, request_ids: list[bytes]) -> None:
        """Some worker runs these no more: what nobody runs can be claimed by nobody."""
        for request_id in self._unclaimed.intersection(request_ids):
            if not any(request_id in worker.in_flight for worker in self):
                self._unclaimed.discard(request_id)

    # ---- living ----------------------------------------------------------------------------------------------------

    def heartbeat(self, peer: bytes, beat: Heartbeat, now: float) -> bool:
        """A sign of life with an account of what it holds; False when nobody is registered at `peer`."""
        worker = self._by_peer.get(peer)
        if worker is None:
            return False
        self._heard(worker, now)
        worker.batch_age_ms = beat.batch_age_ms
        if beat.state == DRAINING:
            self.leave(worker, now)
        if lost := worker.forgotten(beat):
            self.lineup.place(worker, now)
            self._give_back(worker, lost)
        return True

    def answered(self, peer: bytes, request_id: bytes, pending: Pending | None, busy_s: float, now: float) -> bool:
        """An answer came from `peer`, to a request that was pending or not; False when nobody is registered there.

        `busy_s` is how long the worker says that it worked on its batch, 0 where it does not.
        """
        worker = self._by_peer.get(peer)
        if worker is None:
            return False
        self._heard(worker, now)
        batches = len(worker.batches)
        if worker.returned(request_id, busy_s, now) and pending is not None:
            worker.metrics.replied((now - pending.dispatched) * 1e3, pending.request.items, now)
        if len(worker.batches) < batches:
            self.lineup.place(worker, now)
            if worker.last_batch_s:
                self._hedging.took(worker.last_batch_s)
        self._unclaim([request_id])
        return True

    def failed(self, peer: bytes, pending: Pending, now: float, patient: bool) -> bool:
        """The worker at `peer` could not serve `pending`, which waits for another one now, unless somebody runs it already. Where
        nobody else is there, where a second one failed, or where it ran apart as a suspect, it waits for a while first, if
        `patient`: the trouble of many may pass.

        False, and nothing changed, when too many failed over it, or when it would wait for longer than its time. What a worker
        had lost before it failed is with others.
        """
        worker = self._by_peer.get(peer)
        if worker is None:
            return False
        retry_at = None
        if peer in pending.running_on:
            failures = pending.failures + 1
            at = now + pause_s(failures)
            waits = failures > 1 or pending.suspicion > 0 or not self._others(worker, pending)
            hopeless = waits and (not patient or at >= pending.deadline or self._ledger.queue.later >= LATER_MAX)
            if (hopeless or failures >= TRIES_MAX) and pending.running_on == (peer,) and not pending.queued:
                return False
            pending.failures, pending.retry_at = failures, at
            retry_at = at if waits else None
        self.answered(peer, pending.id, None, 0.0, now)
        self._give_back(worker, [pending.id], worker.info.incarnation, retry_at)
        return True

    def _others(self, worker: Worker, pending: Pending) -> bool:
        """Whether some ready worker beside `worker` neither lost `pending` nor failed over it."""
        return any(
            other is not worker and other.state.name == READY and other.info.incarnation not in pending.avoid for other in self
        )

    def hand_over(self, worker: Worker, pendings: list[Pending], now: float, *, trial: bool = False) -> None:
        """`pendings`, just taken from the queue, go to `worker`."""
        for pending in pendings:
            self._ledger.running(pending, worker.peer, now)
        worker.sent(pendings, now, trial=trial)
        batch = worker.batches[-1]
        self._hedging.handed_out(sum(pending.request.items for pending in pendings if not pending.hedged))
        self.lineup.usual(batch.cost)
        self.lineup.place(worker, now)

    def _heard(self, worker: Worker, now: float) -> None:
        worker.heard = now
        if worker.state.name == SUSPECT:
            worker.state.on(HEARD, now)
            self.lineup.place(worker, now)

    def pause(self, gap_s: float, now: float) -> None:
        """The broker stood still for `gap_s`: that much of everybody's silence is its own."""
        for worker in self:
            worker.heard = min(worker.heard + gap_s, now)
            worker.interrupted()

    def should_avoid(self, worker: Worker, pending: Pending, now: float) -> bool:
        """Whether `worker` lost `pending` or failed over it before, and some other ready worker did not, or may come in time."""
        if worker.info.incarnation not in pending.avoid:
            return False
        return self._others(worker, pending) or now < pending.retry_at

    def leave(self, worker: Worker, now: float) -> None:
        """It drains: no new work."""
        worker.leave(now)
        self.lineup.place(worker, now)

    # ---- leaving ---------------------------------------------------------------------------------------------------

    def judge(self, now: float) -> bool:
        """Look at everybody's silence; True when somebody was given up. Also renews `rate`."""
        lost = False
        for worker in tuple(self):
            verdict = liveness.judge(worker, self._patience, now)
            if verdict == "dead":
                self._drop(worker, now)
                lost = True
            elif verdict == "suspect":
                worker.state.on(SILENT, now)
                self.lineup.place(worker, now)
        self.rate = sum(worker.fit.rate for worker in self if worker.state.name == READY)
        return lost

    def hedge(self, now: float) -> int:
        """Queue once more, within the allowance, what hangs with suspects and overdue batches; how many requests that were."""
        overdue_after_s = self._hedging.overdue_after_s()
        due = [worker for worker in self if self._hedging.is_due(worker, overdue_after_s, now)]
        hedged = 0
        for pending in [self._ledger.get(request_id) for worker in due for request_id in worker.in_flight]:
            if pending is None or pending.hedged or pending.queued or pending.suspicion:
                continue
            if not self._hedging.spend(pending.request.items):
                break
            self._ledger.hedge(pending)
            hedged += 1
        return hedged

    def lose(self, peer: bytes, now: float) -> bool:
        """Nobody is at `peer` any more; False when nobody was."""
        worker = self._by_peer.get(peer)
        if worker is not None:
            self._drop(worker, now)
        return worker is not None

    def _drop(self, worker: Worker, now: float, *, died: bool = True) -> None:
        if died and worker.state.name != DRAINING:
            self.departed.add(worker, now)
        worker.state.on(LOST, now)
        self.lineup.remove(worker)
        del self._by_peer[worker.peer]
        if self._by_incarnation.get(worker.info.incarnation) is worker:
            del self._by_incarnation[worker.info.incarnation]
        self._give_back(worker, list(worker.in_flight), worker.info.incarnation if died else "")

    def _give_back(self, worker: Worker, request_ids: list[bytes], avoid: str = "", later: float | None = None) -> None:
        self._unclaim(request_ids)
        self._totals.retries += len(self._ledger.give_back(request_ids, worker.peer, avoid, later))

    def check(self) -> None:
        """Raise `RuntimeError` where a law is broken: for tests, after every step."""
        for worker in self:
            listed = {request_id for batch in worker.batches for request_id in batch.open}
            if listed != set(worker.in_flight) or any(not batch.open for batch in worker.batches):
                raise RuntimeError(f"worker {worker.info.incarnation}: credits {set(worker.in_flight)}, batches {listed}")
            asked = worker.state.name == READY and not worker.on_trial
            if self.lineup.stands(worker) != (("busy" if worker.batches else "idle") if asked else ""):
                raise RuntimeError(f"worker {worker.info.incarnation} stands wrong in the lineup")
        held = {request_id for worker in self for request_id in worker.in_flight}
        if not self._unclaimed <= held or any(self._ledger.get(request_id) for request_id in self._unclaimed):
            raise RuntimeError("what can be claimed is held by nobody, or is known already")
        for pending in self._ledger:
            for peer in pending.running_on:
                worker_there = self._by_peer.get(peer)
                if worker_there is None or pending.id not in worker_there.in_flight:
                    raise RuntimeError(f"{pending.id.hex()} is said to run where nobody holds it")
