"""All slots of a parent: filled when policy says so, emptied when their process ends. What else follows is decided elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from ..conf.settings import SupervisorSettings
from ..wire.codec import encode_datagram
from .aims import Aim
from .children import Children
from .device_memory import BACK, HELD, DeviceMemory, Reading
from .device_quarantine import CudaDevice
from .exits import EndRecord, find_stack, not_started
from .journal import Journal
from .link import BrokerLink
from .logs import tail
from .policy import STARTING, STOPPED, Ended, Hold, Loaded, SlotPolicy, Spawned, Stop, Tick, Wanted, next_deadline, next_spawns
from .process import Child, ChildSpec
from .rules import BROKER_RULES, worker_rules
from .slots import Slot
from .watch import LOOK_S, Verdict, WatchRules

BROKER_START_S = 60.0
"""A broker that has not bound its sockets by then never will."""
PAUSE_S = 2.0
"""Looks that far apart mean that the parent stood still: nobody loaded late for that."""

Told = Callable[[Slot, EndRecord], None]


class Fleet:
    """`told` gets each end, after policy has judged it. `stopped_max_s`: for how long a worker may be stopped by a signal.
    `memory`: where readings of CUDA devices come from; None: nobody waits for a dead process's memory.

    `beside`: by number of the slot, a second one for the process that is to replace the first; `retiring`: those that were
    replaced, until their process is gone."""

    def __init__(
        self,
        broker: ChildSpec | None,
        workers: Sequence[ChildSpec],
        aim: Aim,
        settings: SupervisorSettings,
        load_timeout_s: float,
        stopped_max_s: float,
        memory: DeviceMemory | None,
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
        self._memory = memory
        self._devices: dict[str, CudaDevice] = {}
        self._looked_at = 0.0
        self._watch_rules = WatchRules(settings.stuck_min_s, stopped_max_s)
        broker_watch = WatchRules(settings.stuck_min_s, stopped_max_s=None)
        self.broker = Slot(broker, SlotPolicy(broker.name, BROKER_RULES, self._rng), broker_watch) if broker else None
        self.workers = [self.new_slot(spec, aim) for spec in workers]
        self.beside: dict[int, Slot] = {}
        self.retiring: list[Slot] = []

    def new_slot(self, spec: ChildSpec, aim: Aim) -> Slot:
        slot = Slot(spec, SlotPolicy(spec.name, self._rules, self._rng), self._watch_rules, aim)
        if slot.on_cuda:
            self._devices.setdefault(spec.device, CudaDevice(self._rules)).slots.append(slot.policy)
        return slot

    @property
    def slots(self) -> list[Slot]:
        workers = [*self.workers, *self.beside.values(), *self.retiring]
        return [self.broker, *workers] if self.broker else workers

    def want(self, now: float) -> None:
        """Every slot shall have a process."""
        for slot in self.slots:
            slot.policy.receive(Wanted(), now)

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        self._look(now)
        for device in self._devices.values():
            device.tick(now)
        for slot in self.slots:
            slot.policy.receive(Tick(), now)
            limit = self._start_limit(slot)
            if limit is not None and now >= limit and slot.child is not None:
                self._journal.warn(f"{slot.name}: not ready in time, is aborted")
                self._children.abort(slot.child, now, "did not get ready in time")

    def _look(self, now: float) -> None:
        """Whether each process gets anywhere. One that does not is ended."""
        if now < self._looked_at + LOOK_S:
            return
        since_s = now - self._looked_at if self._looked_at else 0.0
        self._looked_at = now
        self._link.ask()
        for slot in self.slots:
            if slot.child is None:
                continue
            watch = slot.watch
            if since_s > PAUSE_S or watch.stopped or watch.traced or watch.hashes:  # none of that is loading
                slot.started_at += min(since_s, now - slot.started_at)
            slot.child.log.bound()
            if self._memory is not None and slot.on_cuda:
                slot.reading = self._memory.reading(slot.spec.device) or slot.reading
            look = slot.child.look(self._link.answers if slot.is_broker else None)
            verdict = slot.watch.look(look, now, loading=slot.policy.loading)
            if verdict is not None and not slot.child.doom and not slot.child.ours:
                self._end(slot, slot.child, verdict, now)

    def readings(self, spec: ChildSpec) -> list[Reading | None]:
        """Of each CUDA device that such a process uses; None where nobody can read it."""
        return [self._memory.reading(device) if self._memory else None for device in spec.devices]

    def _end(self, slot: Slot, child: Child, verdict: Verdict, now: float) -> None:
        self._journal.warn(f"{slot.name}: {verdict.reason} (process {child.pid}); it is ended")
        if verdict.hung:
            self._children.abort(child, now, verdict.reason)
        else:
            self._children.doom(child, verdict.reason, blamed=False)

    def _start_limit(self, slot: Slot) -> float | None:
        """When loading has taken too long."""
        if not slot.policy.loading or slot.child is None or slot.child.doom or slot.child.ours:
            return None
        return slot.started_at + (BROKER_START_S if slot.is_broker else self._load_timeout_s)

    def deadline(self) -> float | None:
        limits = (self._start_limit(slot) for slot in self.slots)
        look_at = self._looked_at + LOOK_S if any(slot.child or slot.memory for slot in self.slots) else None
        found = (next_deadline(slot.policy for slot in self.slots), look_at, *limits)
        return min((at for at in found if at is not None), default=None)

    # ---- starts -----------------------------------------------------------------------------------------------------

    def fill(self, now: float, *, broker: bool) -> None:
        """Start what policy wants started; the broker only where `broker` says so."""
        if broker and self.broker is not None and self.broker.policy.wants_process:
            self._start(self.broker, now)
        workers = [*self.workers, *self.beside.values()]
        barred = [slot.policy for slot in workers if slot.memory is not None and not self._memory_is_back(slot, now)]
        chosen = next_spawns((slot.policy for slot in workers), self._loading_max, barred)
        for slot in workers:
            if slot.policy in chosen:
                self._start(slot, now)

    def _memory_is_back(self, slot: Slot, now: float) -> bool:
        """Whether what the slot's last process held on its device is free again; for too long not, and the slot has to wait."""
        wait = slot.memory
        if self._memory is None or wait is None:
            return True
        if not slot.policy.wants_process:
            return False
        verdict = wait.judge(self._memory.reading(slot.spec.device), slot.policy.since, now)
        if verdict == BACK:
            slot.memory = None
            return True
        slot.held = f"waits for the memory of process {wait.pid} on {slot.spec.device}"
        if verdict == HELD:
            slot.held = f"{wait.held / 2**30:.1f} GiB of {slot.spec.device} are still held by process {wait.pid}, which has ended"
            self._journal.warn(f"{slot.name}: {slot.held}; tried again in {self._rules.quarantine_probe_s:.0f} s")
            slot.policy.receive(Hold(now + self._rules.quarantine_probe_s), now)
        return False

    def _start(self, slot: Slot, now: float) -> None:
        try:
            channel_fd = self._link.open() if slot.is_broker else None
            told = [encode_datagram(gone) for gone in slot.untold]
            child = self._children.start(slot.spec, partial(self._ended, slot), partial(self.loaded, slot), channel_fd, told)
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
            slot.untold = []
            slot.version = child.said
            if slot.on_cuda:
                self._devices[slot.spec.device].loaded(now)

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _ended(self, slot: Slot, child: Child) -> None:
        if slot.child is not child:
            return
        end = self._children.reap(child)
        if end is None:
            return
        text, running, memory = child.last_log(), child.progress().running, slot.device_memory()
        now = time.monotonic()
        record = EndRecord(time.time(), end, child.pid, child.incarnation, tail(text), running, find_stack(text), memory)
        gone = slot.lost(record, now)
        if slot.is_broker:
            self._link.close()
        else:
            self._link.put(gone)
        child.close()
        self._judge(slot, record, now)

    def _judge(self, slot: Slot, record: EndRecord, now: float) -> None:
        slot.exits.appendleft(record)
        slot.policy.receive(Ended(record.exit), now)
        if slot.on_cuda:
            self._devices[slot.spec.device].ended(slot.policy, record.exit, now)
        wait = f", next try in {slot.policy.wait_s(now):.1f} s" if slot.policy.due_at is not None else ""
        line = f"{slot.name}: {record.exit.reason} (process {record.pid}); {slot.policy.state}{wait}"
        (self._journal.warn if record.exit.blame else self._journal.note)(line)
        self._told(slot, record)
        if slot in self.retiring:
            self._forget(slot)

    # ---- two processes in one place ---------------------------------------------------------------------------------

    def open_beside(self, slot: Slot, spec: ChildSpec, aim: Aim, now: float) -> None:
        """A second slot of the same number, wanted from now on."""
        new = self.beside[slot.spec.slot] = self.new_slot(spec, aim)
        new.stands_beside(slot)
        new.policy.receive(Wanted(), now)

    def promote(self, number: int, now: float, grace_s: float) -> None:
        """The slot beside becomes the one of that number; what stood there drains and leaves."""
        new = self.beside.pop(number)
        position = next(position for position, slot in enumerate(self.workers) if slot.spec.slot == number)
        old, self.workers[position] = self.workers[position], new
        self._retire(old, now, grace_s)

    def leave_beside(self, number: int, now: float, grace_s: float) -> None:
        """The slot beside is not wanted any more, if there is one."""
        slot = self.beside.pop(number, None)
        if slot is not None:
            self._retire(slot, now, grace_s)

    def _retire(self, slot: Slot, now: float, grace_s: float) -> None:
        self.retiring.append(slot)
        self.stop(slot, now, grace_s)
        if slot.child is None:
            self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        self.retiring.remove(slot)
        if slot.on_cuda:
            self._devices[slot.spec.device].slots.remove(slot.policy)

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
        if slot.child is None or slot.policy.state == STOPPED:
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

    def scale(self, count: int, grow: Callable[[int], Slot | None], now: float, grace_s: float) -> bool:
        """`count` slots with a process: new ones come from `grow`, the last ones are stopped. False: cannot grow."""
        while len(self.workers) < count:
            slot = grow(len(self.workers))
            if slot is None:
                return False
            self.workers.append(slot)
        for position, slot in enumerate(self.workers):
            if position >= count:
                self.stop(slot, now, grace_s)
            elif slot.policy.state == STOPPED:
                slot.policy.receive(Wanted(), now)
        return True
