"""All slots of a parent: filled when policy says so, emptied when their process ends. What else follows is decided elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from ..conf.settings import SupervisorSettings
from ..wire.messages import Gone
from .children import Children
from .exits import EndRecord, find_stack, not_started
from .journal import Journal
from .link import BrokerLink
from .policy import STARTING, STOPPED, Ended, Loaded, SlotPolicy, Spawned, Stop, Tick, Wanted, next_deadline, next_spawns
from .process import Child, ChildSpec, tail
from .rules import BROKER_RULES, worker_rules
from .slots import Slot

BROKER_START_S = 60.0
"""A broker that has not bound its sockets by then never will."""
REASON_MAX_CHARACTERS = 500

Told = Callable[[Slot, EndRecord], None]


class Fleet:
    """`told` gets each end, after policy has judged it."""

    def __init__(
        self,
        broker: ChildSpec | None,
        workers: Sequence[ChildSpec],
        settings: SupervisorSettings,
        load_timeout_s: float,
        children: Children,
        link: BrokerLink,
        journal: Journal,
        told: Told,
    ) -> None:
        self._rng = Random()
        self._rules = worker_rules(settings)
        self._loading_max = settings.loading_max
        self._load_timeout_s = load_timeout_s
        self._children = children
        self._link = link
        self._journal = journal
        self._told = told
        self.broker = Slot(broker, SlotPolicy(broker.name, BROKER_RULES, self._rng)) if broker else None
        self.workers = [self._worker(spec) for spec in workers]

    def _worker(self, spec: ChildSpec) -> Slot:
        return Slot(spec, SlotPolicy(spec.name, self._rules, self._rng))

    @property
    def slots(self) -> list[Slot]:
        return [self.broker, *self.workers] if self.broker else list(self.workers)

    def want(self, now: float) -> None:
        """Every slot shall have a process."""
        for slot in self.slots:
            slot.policy.receive(Wanted(), now)

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        for slot in self.slots:
            slot.policy.receive(Tick(), now)
            limit = self._start_limit(slot)
            if limit is not None and now >= limit and slot.child is not None:
                self._journal.warn(f"{slot.name}: not ready in time, is aborted")
                self._children.abort(slot.child, now, "did not get ready in time")

    def _start_limit(self, slot: Slot) -> float | None:
        """When loading has taken too long."""
        if not slot.policy.loading or slot.child is None or slot.child.doom or slot.child.ours:
            return None
        return slot.started_at + (BROKER_START_S if slot.is_broker else self._load_timeout_s)

    def deadline(self) -> float | None:
        limits = (self._start_limit(slot) for slot in self.slots)
        found = (next_deadline(slot.policy for slot in self.slots), *limits)
        return min((at for at in found if at is not None), default=None)

    # ---- starts -----------------------------------------------------------------------------------------------------

    def fill(self, now: float, *, broker: bool) -> None:
        """Start what policy wants started; the broker only where `broker` says so."""
        if broker and self.broker is not None and self.broker.policy.wants_process:
            self._start(self.broker, now)
        chosen = next_spawns((slot.policy for slot in self.workers), self._loading_max)
        for slot in self.workers:
            if slot.policy in chosen:
                self._start(slot, now)

    def _start(self, slot: Slot, now: float) -> None:
        try:
            channel_fd = self._link.open() if slot.is_broker else None
            child = self._children.start(slot.spec, partial(self._ended, slot), partial(self.loaded, slot), channel_fd)
        except OSError as error:
            if slot.is_broker:
                self._link.close()
            self._judge(slot, EndRecord(time.time(), not_started(str(error))), now)
            return
        if slot.is_broker:
            self._link.handed_over()
        slot.took(child, now)
        slot.policy.receive(Spawned(), now)
        self._journal.note(f"{slot.name}: process {child.pid} started {child.incarnation}".rstrip())

    def loaded(self, slot: Slot, child: Child) -> None:
        """The process in the slot serves."""
        if slot.child is child and slot.policy.state == STARTING:
            now = time.monotonic()
            self._journal.note(f"{slot.name}: process {child.pid} serves after {now - slot.started_at:.1f} s")
            slot.policy.receive(Loaded(), now)

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _ended(self, slot: Slot, child: Child) -> None:
        if slot.child is not child:
            return
        end = self._children.reap(child)
        if end is None:
            return
        running = child.running()
        slot.child = None
        if slot.is_broker:
            self._link.close()
        else:
            self._link.put(Gone(child.incarnation, end.reason[:REASON_MAX_CHARACTERS], end.blame, running))
        text = child.last_log()
        child.close()
        self._judge(
            slot,
            EndRecord(time.time(), end, child.pid, child.incarnation, tail(text), running, find_stack(text)),
            time.monotonic(),
        )

    def _judge(self, slot: Slot, record: EndRecord, now: float) -> None:
        slot.exits.appendleft(record)
        slot.policy.receive(Ended(record.exit), now)
        wait = f", next try in {slot.policy.wait_s(now):.1f} s" if slot.policy.due_at is not None else ""
        line = f"{slot.name}: {record.exit.reason} (process {record.pid}); {slot.policy.state}{wait}"
        (self._journal.warn if record.exit.blame else self._journal.note)(line)
        self._told(slot, record)

    # ---- stops ------------------------------------------------------------------------------------------------------

    def stop(self, slot: Slot, now: float, grace_s: float) -> None:
        """No process in this slot any more: SIGTERM, after `grace_s` SIGKILL."""
        slot.policy.receive(Stop(), now)
        if slot.child is not None:
            self._children.terminate(slot.child, now, grace_s)

    def kill(self, now: float) -> None:
        """No process in any slot any more, at once."""
        for slot in self.slots:
            slot.policy.receive(Stop(), now)
            if slot.child is not None:
                self._children.kill(slot.child)

    def restart(self, name: str, now: float, grace_s: float) -> bool:
        """A new process in the slot of that number or incarnation, also where policy had given up. False: no such slot."""
        slot = self._find(name)
        if slot is None:
            return False
        if slot.child is not None:
            self._children.terminate(slot.child, now, grace_s)
        else:
            slot.policy.receive(Wanted(), now)
        return True

    def drain(self, name: str, now: float, grace_s: float) -> bool:
        """That slot's process finishes what it holds; none follows it until `restart` or `scale`. False: no such slot."""
        slot = self._find(name)
        if slot is not None:
            self.stop(slot, now, grace_s)
        return slot is not None

    def _find(self, name: str) -> Slot | None:
        return next((slot for slot in self.workers if name in (str(slot.spec.slot), slot.name, slot.incarnation)), None)

    def scale(self, count: int, grow: Callable[[int], ChildSpec] | None, now: float, grace_s: float) -> bool:
        """`count` slots with a process: new ones come from `grow`, the last ones are stopped. False: cannot grow."""
        if count > len(self.workers) and grow is None:
            return False
        while grow is not None and len(self.workers) < count:
            self.workers.append(self._worker(grow(len(self.workers))))
        for position, slot in enumerate(self.workers):
            if position >= count:
                self.stop(slot, now, grace_s)
            elif slot.policy.state == STOPPED:
                slot.policy.receive(Wanted(), now)
        return True
