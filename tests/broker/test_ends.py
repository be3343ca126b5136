"""How workers ended: told once or twice, by the parent or by a successor; who is dead; and a restart of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from broker_world import FakeWorker, World
from ragpool.broker.commands import PARENT, WORKER
from ragpool.broker.operator import obey, roll
from ragpool.wire import messages
from ragpool.wire.errors import BadRequest
from ragpool.wire.messages import Control, Gone, Reply


@pytest.fixture
def world():
    world = World()
    yield world
    world.core.check()


def end_of(worker: FakeWorker, world: World, *, blame: bool = True) -> Gone:
    return Gone(worker.incarnation, "killed by SIGSEGV", blame, world.running(worker))


def successor(world: World, incarnation: str, *ends: Gone, state: str = "ready", **fields: object) -> FakeWorker:
    """A worker of another host that joins and tells how those before it ended."""
    worker = FakeWorker(world.new_peer(), incarnation, 8)
    world.workers[worker.peer] = worker
    world.from_worker(worker, replace(worker.registration(state), previous=ends, **fields))
    return worker


def test_a_remote_death_makes_suspects_when_the_successor_tells_it(world: World) -> None:
    client, worker = world.client(), world.worker()
    world.slots(("running", 0.0))
    ids = [world.request(client) for _ in range(2)]
    world.turn()
    end = end_of(worker, world)
    world.lose(worker, told_by_parent=False)
    assert not any(world.core.ledger.get(request_id).suspicion for request_id in ids)
    then = successor(world, "next", end)
    assert [world.core.ledger.get(request_id).suspicion for request_id in ids] == [1, 1]
    world.turn()
    assert len(then.holding) == 1, "in halves, apart from all others"


def test_a_remote_death_on_a_run_alone_is_poison(world: World) -> None:
    client, worker = world.client(), world.worker()
    world.slots(("running", 0.0))
    request_id = world.request(client)
    world.turn()
    for name in ("second", "third", "fourth"):
        end = end_of(worker, world)
        world.lose(worker, told_by_parent=False)
        worker = successor(world, name, end)
        world.turn()
    (answer,) = world.answers[request_id]
    assert answer.code == "poison_request"


def test_an_end_told_by_the_parent_and_by_the_successor_counts_once(world: World) -> None:
    client, worker = world.client(), world.worker()
    world.slots(("running", 0.0))
    request_id = world.request(client)
    world.turn()
    end = end_of(worker, world)
    world.lose(worker, blame=True)
    successor(world, "next", end)
    assert world.core.ledger.get(request_id).suspicion == 1


def test_a_remote_kill_from_outside_blames_nobody(world: World) -> None:
    client, worker = world.client(), world.worker()
    world.slots(("running", 0.0))
    request_id = world.request(client)
    world.turn()
    end = end_of(worker, world, blame=False)
    world.lose(worker, told_by_parent=False)
    then = successor(world, "next", end)
    world.turn()
    world.answer_all(then)
    assert isinstance(world.answers[request_id][0], Reply)


def test_the_dead_are_shown_until_somebody_takes_their_place(world: World) -> None:
    worker, other = world.worker(), successor(world, "elsewhere", host="b", slot=1)
    world.lose(worker, told_by_parent=False)
    world.lose(other, told_by_parent=False)
    departed = world.core.registry.departed
    assert {dead.info.incarnation: dead.state.name for dead in departed.shown(world.now)} == {
        worker.incarnation: "dead",
        "elsewhere": "dead",
    }
    successor(world, "elsewhere again", host="b", slot=1, state="loading")
    assert [dead.info.incarnation for dead in departed.shown(world.now)] == [worker.incarnation]
    assert departed.shown(world.now + 601) == []


def test_one_that_drained_is_not_called_dead(world: World) -> None:
    worker = world.worker()
    worker.draining = True
    world.beat(worker)
    world.from_worker(worker, messages.Bye())
    assert world.core.registry.departed.shown(world.now) == []


def test_the_parent_hears_that_the_loop_turns(world: World) -> None:
    world.perform(world.core.receive(PARENT, b"", messages.Ping(), world.now))
    assert world.to_parent == [messages.Pong("epoch-1")]


class Restart:
    """Two workers of our own, two of another host, one that nobody would start again; and the restart of all of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        for slot, name in enumerate("ab"):
            successor(world, name, host="h", slot=slot)
        self.hear_slots()
        self.far = [successor(world, name, host="g", slot=slot) for slot, name in enumerate(("far", "off"))]
        successor(world, "alone", host="g")
        self.sent: list[object] = []

    def hear_slots(self, **rollout: str) -> None:
        briefs = tuple(messages.SlotBrief(i, "cpu", "running", name) for i, name in enumerate("ab"))
        slots = messages.Slots(briefs, rollout=messages.Rollout(**rollout))
        self.world.perform(self.world.core.receive(PARENT, b"", slots, self.world.now))

    def begin(self) -> None:
        self.perform(obey(self.world.core, "restart", "", True, self.world.now, "ticket"))

    def turn(self) -> None:
        self.perform(roll(self.world.core, True, self.world.now))

    def perform(self, commands: list) -> None:
        self.sent += [command.record for command in commands if isinstance(command.record, Control | messages.Drain)]
        self.world.perform(commands)

    def replace(self, worker: FakeWorker, name: str, **place: object) -> None:
        self.world.perform(self.world.core.lost(WORKER, worker.peer, self.world.now))
        self.turn()
        successor(self.world, name, state="loading", **place)
        self.turn()
        self.world.from_worker(
            next(w for w in self.world.workers.values() if w.incarnation == name),
            replace(FakeWorker(b"", name, 8).registration("ready"), **place),
        )


def test_a_restart_of_all_is_the_parents_for_its_own_and_told_to_others_one_at_a_time(world: World) -> None:
    restart = Restart(world)
    restart.begin()
    assert restart.sent == [messages.Drain(again=True), Control("restart", "", "ticket")]
    restart.turn()
    restart.replace(restart.far[0], "far2", host="g", slot=0)
    assert len(restart.sent) == 2, "not while the next loads"
    restart.turn()
    assert restart.sent[2:] == [messages.Drain(again=True)]
    restart.replace(restart.far[1], "off2", host="g", slot=1)
    restart.turn()
    assert world.core.rolling.told == "done"
    assert not world.core.rolling.active
    assert len(restart.sent) == 3, "one that nobody would start again is left alone"


def test_a_restart_of_others_stops_when_one_does_not_come_back(world: World) -> None:
    restart = Restart(world)
    restart.begin()
    world.perform(world.core.lost(WORKER, restart.far[0].peer, world.now))
    world.now += 661.0
    restart.turn()
    assert world.core.rolling.told == "given up: slot 0 did not come back, 1 were left alone"
    restart.turn()
    assert len(restart.sent) == 2


@pytest.mark.parametrize("command", ["reload", "restart"])
def test_one_rollout_at_a_time(world: World, command: str) -> None:
    restart = Restart(world)
    restart.hear_slots(kind="reload", state="loading", told="slot 0 gets a new process")
    with pytest.raises(BadRequest, match="a reload is under way: slot 0 gets a new process"):
        obey(world.core, command, "", True, world.now)
    assert not world.core.rolling.active
    restart.hear_slots(kind="reload", state="failed", told="no luck")
    assert obey(world.core, "reload", "/i", True, world.now, "t")[-1].record == Control("reload", "/i", "t")
    with pytest.raises(BadRequest, match="no supervisor"):
        obey(world.core, "reload", "/i", False, world.now)
    world.core.draining = True
    with pytest.raises(BadRequest, match="drains"):
        obey(world.core, command, "", True, world.now)


def test_a_restart_of_all_needs_somebody_to_restart(world: World) -> None:
    world.worker()
    with pytest.raises(BadRequest, match="anybody would start again"):
        obey(world.core, "restart", "", True, world.now)
