"""The restart policy under any order of events: several slots, one clock, laws checked after every step."""

from random import Random

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ragpool.supervisor.exits import FAULT, classify
from ragpool.supervisor.policy import (
    QUARANTINED,
    RUNNING,
    STARTING,
    STOPPED,
    Ended,
    Hold,
    Loaded,
    SlotPolicy,
    Spawned,
    Stop,
    Tick,
    Wanted,
    check_invariants,
    next_deadline,
    next_spawns,
)
from ragpool.supervisor.rules import BROKER_RULES, RestartRules

RETURN_CODES = (0, 1, 70, 75, 78, -6, -9, -11, -15)
LOADING_MAX = 2


class PolicyMachine(RuleBasedStateMachine):
    """Plays the parent: spawns whom it is told to, lets processes load and end, lets time pass."""

    @initialize(count=strategies.integers(1, 4), restarts_max=strategies.integers(0, 3))
    def begin(self, count, restarts_max):
        self.now = 0.0
        rules = RestartRules(restarts_max=restarts_max)
        self.workers = [SlotPolicy(f"worker-{i}", rules, Random(i)) for i in range(count)]
        self.slots = [*self.workers, SlotPolicy("broker", BROKER_RULES, Random(9))]
        self.faults = {slot.name: [] for slot in self.slots}
        for slot in self.slots:
            slot.receive(Wanted(), 0.0)

    def pick(self, number, **wanted):
        found = [slot for slot in self.slots if all(getattr(slot, name) == value for name, value in wanted.items())]
        return found[number % len(found)] if found else None

    @rule()
    def spawn_what_is_due(self):
        chosen = next_spawns(self.workers, LOADING_MAX) + [slot for slot in self.slots[len(self.workers) :] if slot.wants_process]
        for slot in chosen:
            slot.receive(Spawned(), self.now)
        assert sum(slot.loading for slot in self.workers) <= LOADING_MAX

    @rule(number=strategies.integers(0, 9))
    def one_has_loaded(self, number):
        if slot := self.pick(number, loading=True):
            slot.receive(Loaded(), self.now)
            assert slot.state == RUNNING

    @rule(number=strategies.integers(0, 9), returncode=strategies.sampled_from(RETURN_CODES), ours=strategies.booleans())
    def one_ends(self, number, returncode, ours):
        slot = self.pick(number, alive=True)
        if slot is None:
            return
        end, before, left = classify(returncode, was_ours=ours), slot.state, slot.leaving
        slot.receive(Ended(end), self.now)
        assert not slot.alive
        if end.cause == FAULT and before != STOPPED and not left:
            self.faults[slot.name].append(self.now)
        if slot.state == QUARANTINED:
            recent = [at for at in self.faults[slot.name] if at > self.now - slot.rules.restarts_window_s]
            assert end.cause == FAULT
            assert slot.probing or len(recent) > slot.rules.restarts_max
        if before == STOPPED or left:
            assert slot.state == before

    @rule(number=strategies.integers(0, 9))
    def an_operator_wants_one(self, number):
        slot = self.pick(number)
        slot.receive(Wanted(), self.now)
        assert slot.state in (STARTING, RUNNING)

    @rule(number=strategies.integers(0, 9), seconds=strategies.floats(0.0, 300.0))
    def its_device_is_held(self, number, seconds):
        slot = self.workers[number % len(self.workers)]
        before, lived = slot.state, slot.alive
        slot.receive(Hold(self.now + seconds), self.now)
        if lived or before == STOPPED:
            assert slot.state == before
        else:
            assert (slot.state, slot.due_at) == (QUARANTINED, self.now + seconds)

    @rule(number=strategies.integers(0, 9))
    def one_is_stopped(self, number):
        slot = self.pick(number)
        slot.receive(Stop(), self.now)
        assert slot.state == STOPPED

    @rule(seconds=strategies.floats(0.0, 400.0))
    def time_passes(self, seconds):
        self.now += seconds
        self.tick()

    @precondition(lambda self: next_deadline(self.slots) is not None)
    @rule()
    def the_next_deadline_is_worth_its_tick(self):
        due = next_deadline(self.slots)
        waiting = [slot for slot in self.slots if slot.deadline() == due]
        self.now = max(self.now, due)
        self.tick()
        assert all(slot.deadline() is None or slot.deadline() > self.now for slot in waiting)

    def tick(self):
        for slot in self.slots:
            slot.receive(Tick(), self.now)

    @invariant()
    def laws_hold(self):
        for slot in getattr(self, "slots", ()):
            check_invariants(slot)
            assert slot.wait_s(self.now) <= max(slot.rules.backoff_max_s, slot.rules.quarantine_probe_s) + 1e-6

    def teardown(self):
        """Left alone, with processes that live, every slot that is not stopped runs again."""
        for _ in range(400):
            self.spawn_what_is_due()
            for slot in self.slots:
                if slot.loading:
                    slot.receive(Loaded(), self.now)
                elif slot.leaving:
                    slot.receive(Ended(classify(-9, was_ours=True)), self.now)
            self.now = max(self.now, next_deadline(self.slots) or self.now)
            self.tick()
            self.laws_hold()
        assert all(slot.state in (RUNNING, STOPPED) for slot in self.slots)


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
