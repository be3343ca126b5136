"""Which fault comes when: decks shuffled by the seed, dealt to a few lanes at once, so that faults meet each other at random.

What may meet is decided by what each takes: two faults never do their work on the same worker, but the parent may well stand
still while the broker is killed and a worker lies.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from random import Random

from .deeds import Fault, Times
from .world import World

PATIENCE = 8
"""A fault that was passed over so often for what it takes is waited for."""
WAIT_S = 0.05


@dataclass
class Done:
    """One fault, as it went. Times in seconds since 1970; `failed`: why it does not count as seen."""

    fault: Fault
    began: float
    ended: float
    times: Times
    failed: str = ""


@dataclass
class Card:
    fault: Fault
    passed_over: int = 0


@dataclass
class Runner:
    """`lanes` faults at a time, until `until` (monotonic) or until `at_most` were dealt; then what has begun is waited for.

    `deck`: what the runs before this one left; a run leaves what it did not come to.
    """

    world: World
    faults: list[Fault]
    deck: list[Card]
    lanes: int
    until: float
    at_most: int | None
    rng: Random
    done: list[Done] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._dealt = 0

    def run(self) -> None:
        lanes = [threading.Thread(target=self._lane, args=(Random(self.rng.random()),), daemon=True) for _ in range(self.lanes)]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def _lane(self, rng: Random) -> None:
        while True:
            with self._lock:
                dealt = self._deal()
            if dealt is None:
                return
            card, slot, takes = dealt
            if card is None:
                time.sleep(WAIT_S)
                continue
            self._do(card.fault, rng, slot)
            with self._lock:
                self._taken -= takes

    def _deal(self) -> tuple[Card | None, int, set[str]] | None:
        """A card that can be played now; (None, ...) when none can; None when it is over."""
        if time.monotonic() >= self.until or (self.at_most is not None and self._dealt >= self.at_most):
            return None
        if not any(card.fault in self.faults for card in self.deck):
            fresh = [Card(fault) for fault in self.faults for _ in range(fault.rounds)]
            self.rng.shuffle(fresh)
            self.deck += fresh
        for position, card in enumerate(self.deck):
            if card.fault not in self.faults:
                continue
            slot, takes = self._place(card.fault)
            if not takes & self._taken:
                del self.deck[position]
                self._taken |= takes
                self._dealt += 1
                return card, slot, takes
            card.passed_over += 1
            if card.passed_over > PATIENCE / WAIT_S:
                break
        return None, 0, set()

    def _place(self, fault: Fault) -> tuple[int, set[str]]:
        """A slot for it, and all that it takes. Workers in turn, free ones first."""
        slots = [f"slot {number}" for number in range(self.world.local)]
        takes = set(fault.takes) - {"slot", "slots"}
        if "slots" in fault.takes:
            return 0, takes | set(slots)
        if "slot" not in fault.takes:
            return 0, takes
        free = [number for number, name in enumerate(slots) if name not in self._taken] or list(range(len(slots)))
        number = self.rng.choice(free)
        return number, takes | {slots[number]}

    def _do(self, fault: Fault, rng: Random, slot: int) -> None:
        began = time.time()
        times, failed = Times(), ""
        try:
            times = fault.do(self.world, rng, slot)
        except Exception as error:  # a fault that fails is a finding; the others go on
            failed = f"{type(error).__name__}: {error}"
        done = Done(fault, began, time.time(), times, failed)
        with self._lock:
            self.done.append(done)
        print(_line(done, slot), flush=True)


def _line(done: Done, slot: int) -> str:
    """What went on, for whoever looks on."""
    measured = [("noticed", done.times.detect_s), ("back", done.times.back_s)]
    words = [time.strftime("%H:%M:%S"), f" {done.fault.name} [{slot}]"]
    words += [f" {name} {seconds:.2f} s" for name, seconds in measured if seconds is not None]
    words += [f" {sentence}" for sentence in [done.failed and f"NOT SEEN: {done.failed}", *done.times.late] if sentence]
    return " ".join(words)
