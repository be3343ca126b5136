"""The broker's decisions: messages in, commands out. No socket, no clock: time is an argument.

`receive` takes one message, `lost` the edge's word that a peer is gone, `handle_timer` does everything that time does. There too
work is dispatched: after all that arrived was received, so that a burst is shared out as one. Nothing else changes state.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..wire import messages
from ..wire.errors import DeadlineExceeded, NoWorkers, PoisonRequest, ProtocolError, RagpoolError, RemoteFailure
from ..wire.messages import Decoded, Failure, Record, Reply, Request
from . import admission, dispatcher, liveness
from .admission import Load
from .clients import Client, Clients
from .commands import CLIENT, PARENT, WORKER, AnswerStatus, Command, ToClient, ToParent, ToWorker, failure_of
from .core_settings import CoreSettings
from .ends import Ends
from .ledger import Ledger
from .metrics import Totals
from .pending import Pending
from .registry import COLLECTIONS, Registry
from .rolling import Rolling
from .slots import Slots

STARTING = "starting"
SERVING = "serving"
DRAINING = "draining"

ROLLING_GRACE_S = 60.0
"""What a restart of one worker may take beside its loading: its drain and its place in the queue of those that load."""


class Core:
    def __init__(self, settings: CoreSettings, now: float) -> None:
        self.settings = settings
        self.started = now
        self.totals = Totals()
        self.clients = Clients()
        self.slots = Slots()
        self.ledger = Ledger(self.clients)
        self.ends = Ends(self.ledger)
        self.rolling = Rolling(settings.patience.load_timeout_s + ROLLING_GRACE_S)
        self.registry = Registry(self.ledger, self.totals, settings.patience, settings.mixed_dtypes)
        self.trouble = ""
        """What the parent cannot do, in words."""
        self.draining = False
        self._drained_told = False
        self._stirred = False
        self._turn = now
        self._next_tick = now + liveness.TICK_S
        self._next_client_ping = now + liveness.CLIENT_PING_S
        self._out: list[Command] = []
        self._doors: dict[str, dict[type, Callable[..., None]]] = {
            CLIENT: {
                messages.Hello: self._hello,
                messages.Ping: self._client_ping,
                Request: self._request,
                messages.Cancel: self._cancel,
                messages.Bye: self._client_bye,
                messages.Malformed: self._malformed_request,
            },
            WORKER: {
                messages.Register: self._register,
                messages.Heartbeat: self._heartbeat,
                Reply: self._reply,
                Failure: self._failure,
                messages.Bye: self._worker_bye,
                messages.Malformed: self._malformed_answer,
            },
            PARENT: {
                messages.Slots: self._slots,
                messages.Gone: self._gone,
                messages.Drain: self._drain,
                messages.Ping: self._ask,
            },
        }

    # ---- the doors -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        if self.draining:
            return DRAINING
        return SERVING if self.registry.ever_ready else STARTING

    def receive(self, source: str, peer: bytes, record: Decoded, now: float) -> list[Command]:
        """One message of a client, a worker or the parent (whose `peer` is empty)."""
        door = self._doors[source].get(type(record))
        if door is not None:
            door(peer, record, now)
        return self._take()

    def lost(self, source: str, peer: bytes, now: float) -> list[Command]:
        """The edge found that nobody is at `peer` any more."""
        if source == CLIENT:
            self._client_bye(peer, None, now)
        elif source == WORKER:
            self._worker_bye(peer, None, now)
        return self._take()

    def handle_timer(self, now: float) -> list[Command]:
        """Deadlines, liveness, and the dispatch of all that waits. Call it after what has arrived was received."""
        pause = liveness.pause_s(self._turn, now)
        self._turn = now
        if pause:
            self.registry.pause(pause, now)
        for pending in self.ledger.expired(now):
            self.totals.expired += 1
            self._answer_error(pending, DeadlineExceeded(f"no answer within {now - pending.arrived:.1f} s"))
        if now >= self._next_tick:
            self._tick(now)
        if self.ledger.release(now) or self._stirred:
            self._stirred = False
            self._out += dispatcher.round_of(self.ledger.queue, self.registry, now)
        if self.draining and not self._drained_told and not len(self.ledger):
            self._drained_told = True
            self._out.append(ToParent(messages.Drained()))
        return self._take()

    def next_deadline(self) -> float:
        """When `handle_timer` wants to be called next; it may lie in the past."""
        if self._stirred:
            return self._turn
        expiry = self.ledger.next_deadline()
        return self._next_tick if expiry is None else min(expiry, self._next_tick)

    def _take(self) -> list[Command]:
        out, self._out = self._out, []
        return out

    # ---- clients ---------------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, record: messages.Hello, now: float) -> None:
        self.clients.welcome(peer, record.items_max, now)
        self._to_client(peer, self.settings.welcome())

    def _client_ping(self, peer: bytes, record: messages.Ping, now: float) -> None:
        if self._known(peer):
            self._to_client(peer, messages.Pong(self.settings.epoch))

    def _request(self, peer: bytes, request: Request, now: float) -> None:
        client = self._known(peer)
        if client is None:
            return
        if request.op == messages.STATUS:
            self._out.append(AnswerStatus(peer, request.id))
            return
        again = self.ledger.get(request.id)
        if again is not None:
            self.ledger.rebind(again, peer)
            return
        self.totals.requests += 1
        if self.ends.poison.knows(request, now):
            self._fail(peer, request.id, PoisonRequest("the same request ended a worker that ran nothing else"))
            return
        load = Load.of(self.ledger.queue, self.registry.rate, self.draining, self._capacity_at(now), len(client.pending))
        error = admission.refusal(request, COLLECTIONS, self.settings.bounds, load, now)
        if error is not None:
            self._fail(peer, request.id, error)
            return
        pending = Pending(request, peer, now)
        self.ledger.admit(pending)
        if not self.registry.claim(pending, now):
            self._stirred = True

    def _cancel(self, peer: bytes, record: messages.Cancel, now: float) -> None:
        pending = self.ledger.get(record.id)
        if self._known(peer) and pending is not None and pending.client == peer:
            self.ledger.close(record.id)
            self.totals.cancelled += 1

    def _client_bye(self, peer: bytes, record: object, now: float) -> None:
        client = self.clients.forget(peer)
        for request_id in tuple(client.pending) if client is not None else ():
            if self.ledger.close(request_id) is not None:
                self.totals.cancelled += 1

    def _malformed_request(self, peer: bytes, record: messages.Malformed, now: float) -> None:
        self._fail(peer, record.id, ProtocolError(record.reason))

    def _known(self, peer: bytes) -> Client | None:
        client = self.clients.at(peer)
        if client is None:
            self._to_client(peer, messages.Unknown())
        return client

    # ---- workers ---------------------------------------------------------------------------------------------------

    def _register(self, peer: bytes, record: messages.Register, now: float) -> None:
        error = self.registry.refuses(record)
        if error is None:
            for gone in record.previous:
                self._gone(b"", gone, now)
            self.registry.register(peer, record, now)
            self._out.append(ToWorker(peer, self.settings.welcome()))
            self._stirred = True
        else:
            self._out.append(ToWorker(peer, failure_of(b"", error)))

    def _heartbeat(self, peer: bytes, record: messages.Heartbeat, now: float) -> None:
        if self.registry.heartbeat(peer, record, now):
            self._stirred = True
            if record.state == DRAINING:
                self._out.append(ToWorker(peer, messages.Drain()))
        else:
            self._out.append(ToWorker(peer, messages.Unknown()))

    def _reply(self, peer: bytes, reply: Reply, now: float) -> None:
        pending = self._answered(peer, reply.id, now, sum(reply.timings_ms.values()) / 1e3)
        if pending is None:
            self.totals.late_replies += 1
            return
        self.totals.replies += 1
        timings = {"queue": round((pending.dispatched - pending.arrived) * 1e3, 3)}
        if len(reply.timings_ms) < messages.TIMINGS_MAX:
            timings |= reply.timings_ms
        answer = Reply(reply.id, reply.cost, reply.index_version, timings, reply.truncated, reply.body)
        self._to_client(pending.client, answer)

    def _failure(self, peer: bytes, failure: Failure, now: float) -> None:
        if failure.code == RemoteFailure.code and self._tries_elsewhere(peer, failure.id, now):
            return
        pending = self._answered(peer, failure.id, now)
        if pending is None:
            self.totals.late_replies += 1
            return
        self.totals.failed(failure.code)
        self._to_client(pending.client, failure)

    def _malformed_answer(self, peer: bytes, record: messages.Malformed, now: float) -> None:
        if self._tries_elsewhere(peer, record.id, now):
            return
        pending = self._answered(peer, record.id, now)
        if pending is not None:
            self._fail(pending.client, pending.id, RemoteFailure(f"the worker's answer is not of this protocol: {record.reason}"))

    def _tries_elsewhere(self, peer: bytes, request_id: bytes, now: float) -> bool:
        """One worker could not serve a request, which may be its own trouble: True where another has it, or will."""
        pending = self.ledger.get(request_id)
        passed_on = pending is not None and self.registry.failed(peer, pending, now, patient=not self.draining)
        self._stirred = self._stirred or passed_on
        return passed_on

    def _answered(self, peer: bytes, request_id: bytes, now: float, busy_s: float = 0.0) -> Pending | None:
        self._stirred = True
        pending = self.ledger.close(request_id)
        if not self.registry.answered(peer, request_id, pending, busy_s, now):
            self._out.append(ToWorker(peer, messages.Unknown()))
        return pending

    def _worker_bye(self, peer: bytes, record: object, now: float) -> None:
        if self.registry.lose(peer, now):
            self._lost_capacity(now)

    # ---- the parent ------------------------------------------------------------------------------------------------

    def _slots(self, peer: bytes, record: messages.Slots, now: float) -> None:
        self.slots.update(record.slots, now)
        self.slots.rollout = record.rollout
        self.trouble = record.trouble
        self._lost_capacity(now)

    def _ask(self, peer: bytes, record: messages.Ping, now: float) -> None:
        """The proof that this loop turns."""
        self._out.append(ToParent(messages.Pong(self.settings.epoch)))

    def _gone(self, peer: bytes, record: messages.Gone, now: float) -> None:
        if not self.ends.is_news(record.incarnation):
            return
        worker = self.registry.incarnation(record.incarnation)
        if worker is not None:
            self._worker_bye(worker.peer, record, now)
        suspects, poison = self.ends.judge(record, now)
        self._stirred = self._stirred or bool(suspects)
        if poison is not None:
            self._answer_error(poison, PoisonRequest(f"it ended a worker that ran nothing else ({record.reason})"))

    def _drain(self, peer: bytes, record: messages.Drain, now: float) -> None:
        self.draining = True
        self._drained_told = False
        self._stirred = self.ledger.release(math.inf) or self._stirred  # once more, and not again

    # ---- time and work ---------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._next_tick = now + liveness.TICK_S
        ping = messages.Ping(self.settings.epoch)
        self._out += [ToWorker(worker.peer, ping) for worker in self.registry]
        if now >= self._next_client_ping:
            self._next_client_ping = now + liveness.CLIENT_PING_S
            self._out += [ToClient(peer, ping) for peer in self.clients.to_ping(now)]
        if self.registry.judge(now):
            self._stirred = True
        if hedged := self.registry.hedge(now):
            self.totals.hedges += hedged
            self._stirred = True
        self._lost_capacity(now)

    def _lost_capacity(self, now: float) -> None:
        """Some worker may be gone: what cannot be served before its deadline any more is told so."""
        self._stirred = True
        capacity_at = self._capacity_at(now)
        if capacity_at is not None and capacity_at <= now:
            return
        for pending in tuple(self.ledger.queue):
            if capacity_at is None or capacity_at > pending.deadline:
                self._answer_error(pending, NoWorkers(admission.no_workers_sentence(capacity_at, now)))

    def _capacity_at(self, now: float) -> float | None:
        """The earliest time at which some worker may take work; None when none is to be expected."""
        if any(worker.state.name != DRAINING for worker in self.registry) or now < self.started + self.settings.grace_s:
            return now
        if self.settings.has_parent and not self.slots.told:
            return now
        return self.slots.capacity_at()

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _answer_error(self, pending: Pending, error: RagpoolError) -> None:
        self.ledger.close(pending.id)
        self._fail(pending.client, pending.id, error)

    def _fail(self, peer: bytes, request_id: bytes, error: RagpoolError) -> None:
        self.totals.failed(error.code)
        self._to_client(peer, failure_of(request_id, error))

    def _to_client(self, peer: bytes, record: Record) -> None:
        self._out.append(ToClient(peer, record))

    def check(self) -> None:
        """Raise `RuntimeError` where a law is broken: for tests, after every step."""
        self.ledger.check()
        self.registry.check()
