"""A CUDA device that breaks its processes: all its slots wait together, one goes first."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from ragpool.supervisor.device_quarantine import CudaDevice
from ragpool.supervisor.exits import classify
from ragpool.supervisor.policy import (
    BACKOFF,
    QUARANTINED,
    RUNNING,
    STARTING,
    Ended,
    Loaded,
    SlotPolicy,
    Spawned,
    Tick,
    Wanted,
    check_invariants,
)
from ragpool.supervisor.rules import RestartRules

RULES = RestartRules(backoff_jitter=0.0, restarts_max=5, quarantine_probe_s=300.0)
CUDA_ERROR = classify(70)


class Device:
    """Four slots on one device, driven as the fleet does."""

    def __init__(self, count=4):
        self.device = CudaDevice(RULES)
        self.slots = [SlotPolicy(f"worker-{i}", RULES, Random(i)) for i in range(count)]
        self.device.slots += self.slots
        for slot in self.slots:
            slot.receive(Wanted(), 0.0)
            self.run(slot, 0.0)

    def run(self, slot, now):
        if slot.wants_process:
            slot.receive(Spawned(), now)
        if slot.loading:
            slot.receive(Loaded(), now)
            self.device.loaded(now)

    def end(self, slot, now, ended=CUDA_ERROR):
        slot.receive(Ended(ended), now)
        self.device.ended(slot, ended, now)
        self.check()

    def tick(self, now):
        self.device.tick(now)
        for slot in self.slots:
            slot.receive(Tick(), now)
        self.check()

    def check(self):
        for slot in self.slots:
            check_invariants(slot)

    def break_it(self, now):
        """Six CUDA errors, by two of its slots."""
        for i in range(6):
            slot = self.slots[i % 2]
            now += 5.0
            self.tick(now)
            self.run(slot, now)
            self.end(slot, now)
        return now

    def states(self):
        return [slot.state for slot in self.slots]


def test_six_errors_by_any_slots_hold_all_that_have_no_process():
    device = Device()
    now = device.break_it(0.0)
    assert device.states() == [QUARANTINED, QUARANTINED, RUNNING, RUNNING], "those that run serve on"
    device.end(device.slots[2], now + 1, classify(-9))
    assert device.states()[2] == QUARANTINED, "whatever its end was, nobody starts there now"
    assert [slot.wait_s(now + 1) for slot in device.slots[:3]] == [299.0] * 3


def test_errors_of_another_kind_do_not_count_for_the_device():
    device = Device()
    for i in range(6):
        now = 5.0 * i + 5.0
        device.tick(now)
        device.run(device.slots[i % 2], now)
        device.end(device.slots[i % 2], now, classify(-11))
    assert not device.device.held
    assert QUARANTINED not in device.states()


def test_one_goes_first_and_the_others_follow_when_it_has_loaded():
    device = Device()
    now = device.break_it(0.0) + 300.0
    device.tick(now)
    assert sorted(device.states()) == sorted([STARTING, QUARANTINED, RUNNING, RUNNING])
    device.run(device.slots[0], now)
    device.tick(now)
    assert device.states() == [RUNNING, STARTING, RUNNING, RUNNING]


def test_one_error_after_the_probe_holds_them_all_again():
    device = Device()
    now = device.break_it(0.0) + 300.0
    device.tick(now)
    device.run(device.slots[0], now)
    device.tick(now)
    device.end(device.slots[0], now + 1)
    assert device.states()[:2] == [QUARANTINED, QUARANTINED]
    assert device.slots[1].wait_s(now + 1) == 300.0


def test_a_probe_that_fails_costs_one_process_and_the_others_wait_on():
    device = Device()
    now = device.break_it(0.0)
    for _ in range(3):
        now += 300.0
        device.tick(now)
        starting = [slot for slot in device.slots if slot.state == STARTING]
        assert len(starting) == 1
        starting[0].receive(Spawned(), now)
        device.end(starting[0], now)


def test_after_a_healthy_while_it_takes_six_errors_again():
    device = Device()
    now = device.break_it(0.0) + 300.0
    device.tick(now)
    device.run(device.slots[0], now)
    device.tick(now)
    device.run(device.slots[1], now)
    now += 61.0
    device.tick(now)
    device.end(device.slots[0], now)
    assert device.states()[0] == BACKOFF


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((70, 70, -9, 1)), st.floats(0, 90)), max_size=60))
def test_left_alone_every_slot_runs_again(ends):
    device = Device()
    now = 0.0
    for number, code, pause in ends:
        now += pause
        device.tick(now)
        slot = device.slots[number]
        if slot.wants_process:
            slot.receive(Spawned(), now)
        if slot.alive:
            device.end(slot, now, classify(code))
    for _ in range(40):
        now += 301.0
        device.tick(now)
        for slot in device.slots:
            device.run(slot, now)
    assert device.states() == [RUNNING] * 4
