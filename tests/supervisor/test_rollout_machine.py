"""A rollout while anything happens to the slots: laws after every step, and how it must end."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ragpool.supervisor.policy import BACKOFF, RUNNING, STARTING, STOPPED
from ragpool.supervisor.rollout import DONE, FAILED, RELOAD, Abandon, Commit, Open, Place, Promote, Rollout


@dataclass
class Process:
    number: int
    ready: bool = False


@dataclass
class Slot:
    aim: int = 0
    process: Process | None = field(default_factory=lambda: Process(0, ready=True))
    beside: Process | None = None
    leaving: list[Process] = field(default_factory=list)
    draining_first: bool = False
    dismissed: bool = False

    @property
    def ready(self) -> bool:
        return self.process is not None and self.process.ready and not self.draining_first


class RolloutMachine(RuleBasedStateMachine):
    """Plays the parent and its children: slots with a process, perhaps another one beside it, and those that leave."""

    @initialize(count=strategies.integers(1, 4), room=strategies.lists(strategies.booleans(), min_size=1, max_size=8))
    def begin(self, count: int, room: list[bool]) -> None:
        self.slots = {number: Slot() for number in range(count)}
        self.room = room
        self.wanted = 0
        self.taken: int | None = None
        """The slot whose ready process the rollout took away before another was there."""
        self.hopeless_late = False
        self.rollout = Rollout(RELOAD, 1, "new", ("old", "v0"))
        self.advance()

    def places(self) -> list[Place]:
        found = []
        for number, slot in self.slots.items():
            process = slot.process
            state = STOPPED if slot.dismissed else BACKOFF if process is None else RUNNING if process.ready else STARTING
            found.append(
                Place(
                    number,
                    state,
                    process.number if process else None,
                    f"v{process.number}" if process and process.ready else "",
                    ("" if slot.beside is None else RUNNING if slot.beside.ready else STARTING),
                    f"v{slot.beside.number}" if slot.beside else "",
                    bool(slot.leaving),
                    slot.dismissed,
                )
            )
        return found

    def advance(self) -> None:
        for _ in range(10):
            actions = self.rollout.advance(self.places())
            if not actions:
                return
            for action in actions:
                self.perform(action)
        raise AssertionError("it says ever more")

    def perform(self, action: object) -> None:
        if isinstance(action, Commit):
            self.wanted = 1
            for slot in self.slots.values():
                slot.aim = 1
            return
        assert isinstance(action, Open | Promote | Abandon)
        slot = self.slots.get(action.place)
        if slot is None:
            assert isinstance(action, Abandon)
        elif isinstance(action, Open):
            assert all(other.beside is None for other in self.slots.values()), "one at a time"
            self.room.append(self.room.pop(0))
            if slot.process is None or self.room[0]:
                slot.beside = Process(1)
            else:
                assert self.taken is None, "one at a time"
                slot.aim, slot.draining_first, self.taken = 1, True, action.place
        elif isinstance(action, Promote):
            assert slot.beside is not None
            if slot.process is not None:
                assert slot.beside.ready or not slot.process.ready, "a ready process only for a ready one"
                slot.leaving.append(slot.process)
            slot.process, slot.beside = slot.beside, None
        else:
            if slot.beside is not None:
                slot.leaving.append(slot.beside)
                slot.beside = None
            if slot.aim != self.wanted:
                slot.aim, slot.draining_first = self.wanted, False
                if slot.process is not None and slot.process.number != self.wanted:
                    slot.process = None

    def fails(self, number: int, hopeless: bool) -> None:
        late = self.wanted == 1 and hopeless and number == self.rollout.open and self.rollout.active
        self.hopeless_late = self.hopeless_late or late
        for action in self.rollout.failed(number, "no luck", hopeless=hopeless):
            self.perform(action)

    def pick(self, number: int) -> tuple[int, Slot] | None:
        chosen = sorted(self.slots)
        return (chosen[number % len(chosen)], self.slots[chosen[number % len(chosen)]]) if chosen else None

    @rule()
    def what_leaves_is_gone(self) -> None:
        for slot in self.slots.values():
            slot.leaving.clear()
            if slot.draining_first:
                slot.process, slot.draining_first = None, False
        self.advance()

    @rule()
    def slots_without_a_process_get_one(self) -> None:
        for slot in self.slots.values():
            if slot.process is None and not slot.dismissed:
                slot.process = Process(slot.aim)
        self.advance()

    @rule(number=strategies.integers(0, 9))
    def one_loads(self, number: int) -> None:
        found = self.pick(number)
        if found is not None:
            for process in (found[1].process, found[1].beside):
                if process is not None:
                    process.ready = True
            if self.taken == found[0] and found[1].ready:
                self.taken = None
        self.advance()

    @rule(number=strategies.integers(0, 9), hopeless=strategies.booleans())
    def a_new_one_fails(self, number: int, hopeless: bool) -> None:
        found = self.pick(number)
        if found is not None and found[1].beside is not None and not found[1].beside.ready:
            self.fails(found[0], hopeless)
        elif found is not None and found[1].process is not None and not found[1].process.ready and found[1].process.number:
            found[1].process = None
            self.fails(found[0], hopeless)
        self.advance()

    @rule(number=strategies.integers(0, 9))
    def one_crashes(self, number: int) -> None:
        found = self.pick(number)
        if found is not None:
            found[1].process, found[1].draining_first = None, False
            if self.taken == found[0]:
                self.taken = None
        self.advance()

    @rule(number=strategies.integers(0, 9))
    def an_operator_drains_one(self, number: int) -> None:
        found = self.pick(number)
        if found is not None:
            found[1].dismissed, found[1].process, found[1].draining_first = True, None, False
            if self.taken == found[0]:
                self.taken = None
        self.advance()

    @rule()
    def an_operator_wants_one_more(self) -> None:
        if len(self.slots) < 6:
            self.slots[max(self.slots, default=-1) + 1] = Slot(aim=self.wanted, process=None)
        self.advance()

    @invariant()
    def laws_hold(self) -> None:
        if not hasattr(self, "slots"):
            return
        beside = [number for number, slot in self.slots.items() if slot.beside is not None]
        assert len(beside) <= 1
        assert not beside or self.rollout.active, "what nobody needs does not go on loading"
        if self.wanted == 0:
            odd = [number for number, slot in self.slots.items() if slot.aim == 1]
            assert len(odd) <= 1, "before the first is ready one slot at most is risked"
            assert not odd or self.rollout.active

    def teardown(self) -> None:
        """Left alone, with processes that load, it ends: all serve the new version, or all the old one."""
        if not hasattr(self, "slots"):
            return
        for _ in range(60):
            self.what_leaves_is_gone()
            self.slots_without_a_process_get_one()
            for number in range(10):
                self.one_loads(number)
            self.laws_hold()
        assert self.rollout.state in (DONE, FAILED)
        serving = {slot.process.number for slot in self.slots.values() if slot.process is not None}
        if not self.hopeless_late:
            assert serving <= {self.wanted}, (serving, self.wanted)
        if self.rollout.state == DONE:
            assert self.wanted == 1
            assert serving <= {1}


TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
