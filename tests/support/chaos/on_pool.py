"""Faults of the pool around its workers: broker, parent, the disk, and what an operator does."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from random import Random

from pools import children_of, run_cli, wait_until
from ragpool.client import Client

from .deeds import BACK_MAX_S, KILLED_S, LEFT_S, Fault, NotSeen, Times, settle, stop_for
from .watch import Seen
from .world import QUEUE_MAX, World

LONG_S = 60.0
BURST_CLIENTS = 12
FULL_S, ASKED_MAX = 20.0, 8 * QUEUE_MAX
"""A queue must be full within this time, and with so many questions at most."""


# ---- broker and parent ---------------------------------------------------------------------------------------------------


def kill_broker(world: World, rng: Random, slot: int) -> Times:
    pid = world.wait(lambda seen: seen.document["broker"]["state"] == "running" and seen.document["broker"]["pid"], BACK_MAX_S)
    since = time.time()
    os.kill(pid, signal.SIGKILL)
    return broker_back(world, pid, since)


def broker_back(world: World, pid: int, since: float) -> Times:
    """When the parent noticed its end, and when another one served."""

    def ended(seen: Seen) -> float:
        exits = seen.document["broker"]["exits"]
        return next((end["at"] for end in exits if end["pid"] == pid), 0.0)

    noticed = world.wait(ended, BACK_MAX_S)
    back_at = world.wait(lambda seen: _other_broker(seen.document["broker"], pid) and seen.at, BACK_MAX_S)
    if not noticed or not back_at:
        raise NotSeen(f"no end of broker {pid}, or no other one: {world.watch.now.document['broker']['state']}")
    if not world.was_watched("parent", since - 1.0, back_at):
        return Times()
    times = Times(noticed - since, back_at - since)
    if times.detect_s is not None and times.detect_s > KILLED_S:
        times.late.append(f"noticed after {times.detect_s:.2f} s, promised {KILLED_S}")
    return times


def _other_broker(broker: dict[str, object], pid: int) -> bool:
    return broker["state"] == "running" and broker["pid"] not in (None, pid)


def stop_broker(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """It wakes and takes nobody for dead but those that are."""
    pid = world.wait(lambda seen: seen.document["broker"]["state"] == "running" and seen.document["broker"]["pid"], BACK_MAX_S)
    since = time.time()
    lived = stop_for(pid, seconds)
    world.pauses["broker"].append((since, time.time() + 2.0))
    if not lived:
        return broker_back(world, pid, since)
    if world.status(30.0) is None:
        raise NotSeen("a broker that was stopped does not answer when it goes on")
    back_s = time.time() - since
    if seconds >= LONG_S:
        settle(world)
    return Times(back_s=back_s)


def stop_parent(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """Nobody watches meanwhile, and nothing else changes."""
    since = time.time()
    world.pauses["parent"].append((since, since + seconds + 2.0))
    if not stop_for(world.pool.process.pid, seconds):
        raise NotSeen("the parent ended while it was stopped")
    back_s = time.time() - since
    if seconds >= LONG_S:
        settle(world)
    return Times(back_s=back_s)


def end_parent(world: World, rng: Random, slot: int, *, number: signal.Signals) -> Times:
    """It goes, in order or at once, with all its processes; another pool at the same place takes over from where it was."""
    parent, family = world.pool.process, children_of(world.pool.process.pid)
    if len(family) < world.local + 1:
        raise NotSeen(f"the parent has {len(family)} children")
    since = time.time()
    parent.send_signal(number)
    code = parent.wait(60)
    times = Times(time.time() - since)
    wanted = 0 if number == signal.SIGTERM else -number
    if code != wanted:
        times.late.append(f"the parent ended with {code}, not {wanted}: {world.pool.output[-300:]!r}")
    if world.count_left(LEFT_S, world.pool_pids):
        times.late.append("processes outlived their parent")
    world.restart_pool()
    times.back_s = time.time() - since
    return times


def kill_broker_when_full(world: World, rng: Random, slot: int) -> Times:
    """The queue holds all it may; then the broker dies, and every answer still comes."""
    pid = world.wait(lambda seen: seen.document["broker"]["state"] == "running" and seen.document["broker"]["pid"], BACK_MAX_S)
    clients = [Client(world.url, timeout=120.0, connect_timeout=120.0) for _ in range(BURST_CLIENTS)]
    try:
        asked, give_up = [], time.monotonic() + FULL_S
        while (s := world.status()) is None or s["broker"]["queue_depth"] < 0.9 * QUEUE_MAX:
            if time.monotonic() > give_up:
                raise NotSeen("the queue does not get full")
            if len(asked) < ASKED_MAX:
                asked += [world.callers.ask(client, rng) for client in clients for _ in range(QUEUE_MAX // 8)]
        since = time.time()
        os.kill(pid, signal.SIGKILL)
        times = broker_back(world, pid, since)
        for future in asked:
            future.exception(150)
    finally:
        for client in clients:
            client.close()
    return times


# ---- the disk ------------------------------------------------------------------------------------------------------------


def fill_disk(world: World, rng: Random, slot: int) -> Times:
    """Nothing can be written where the pool lives; a worker and the broker die just then."""
    if not world.own_disk:
        return Times(late=["the full disk was not done: this system lets nobody mount one"])
    ballast = world.pool.run_dir / "ballast"
    parent, before = world.pool.process.pid, world.watch.now.document
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    try:
        victims = [before["slots"][0]["pid"], before["broker"]["pid"]]
        since = time.time()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        count = world.local + 1
        wait_until(lambda: len(set(children_of(parent)) - set(victims)) == count, 60.0, "both are replaced on a full disk")
        wait_until(lambda: len(world.workers()) and all(w["state"] == "ready" for w in world.workers()), 60.0, "all are ready")
        back_s = time.time() - since
    finally:
        ballast.unlink()
    family = set(children_of(parent))
    if not world.wait(lambda seen: {slot["pid"] for slot in seen.document["slots"]} <= family, 15.0):
        raise NotSeen("state.json stays wrong when there is room again")
    return Times(back_s=back_s)


# ---- an operator ---------------------------------------------------------------------------------------------------------


def restart_worker(world: World, rng: Random, slot: int) -> Times:
    """`rag-broker restart`: it drains first."""
    pid = world.wait(lambda seen: seen.slot(slot).get("state") == "running" and seen.slot(slot)["pid"], BACK_MAX_S)
    since = time.time()
    done = run_cli("rag-broker", "restart", str(slot), "--run-dir", str(world.pool.run_dir))
    if done.returncode:
        raise NotSeen(f"restart said {done.stderr!r}")
    back = world.wait(
        lambda seen: seen.slot(slot)["state"] == "running" and seen.slot(slot)["pid"] != pid and seen.at, BACK_MAX_S
    )
    if not back:
        raise NotSeen(f"slot {slot} was not restarted")
    return Times(back_s=back - since)


POOL = ("slots", "broker", "parent", "front", "remote", "disk", "long")
BROKER, PARENT = ("broker",), ("parent",)
FAULTS = (
    Fault("SIGKILL of the broker", kill_broker, BROKER, 5),
    Fault("SIGKILL of the broker, queue full", kill_broker_when_full, ("broker", "front", "slots"), 2),
    Fault("SIGSTOP of the broker, 2 s", partial(stop_broker, seconds=2.0), BROKER, 2),
    Fault("SIGSTOP of the broker, 8 s", partial(stop_broker, seconds=8.0), BROKER, 2),
    Fault("SIGSTOP of the broker, 60 s", partial(stop_broker, seconds=LONG_S), ("broker", "long"), quick=False),
    Fault("SIGSTOP of the parent, 2 s", partial(stop_parent, seconds=2.0), PARENT, 2),
    Fault("SIGSTOP of the parent, 8 s", partial(stop_parent, seconds=8.0), PARENT, 2),
    Fault("SIGSTOP of the parent, 60 s", partial(stop_parent, seconds=LONG_S), ("parent", "broker", "long"), quick=False),
    Fault("SIGTERM under load", partial(end_parent, number=signal.SIGTERM), POOL),
    Fault("SIGKILL of the parent", partial(end_parent, number=signal.SIGKILL), POOL),
    Fault("full disk", fill_disk, ("slots", "broker", "parent", "disk")),
    Fault("restart by the operator", restart_worker, ("slot", "parent", "broker")),
)
