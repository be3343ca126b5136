"""Faults of clients and connections, and of workers that another supervisor keeps on the far side of one."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from random import Random
from typing import Any

from pools import alive, children_of, wait_until
from ragpool.client import Client, RagpoolError

from .deeds import BACK_MAX_S, LEFT_S, REMOTE_S, SILENT_S, Fault, NotSeen, Times, give, told_since
from .world import World

GREEDY_RATE, GREEDY_WAITING = 2_000.0, 64
"""Requests a second: more than a few CPU workers serve, so that soon so many wait, most of them its own."""


# ---- clients and connections ---------------------------------------------------------------------------------------------


def vanish(world: World, rng: Random, slot: int) -> Times:
    """A client is killed with questions under way: what it waited for is dropped."""
    out = world.folder / f"vanished-{time.time_ns()}.jsonl"
    client = world.callers.start_one("raw", GREEDY_RATE, out)
    try:
        wait_until(lambda: out.exists() and out.stat().st_size, 60.0, "answers to a client that is about to vanish")
        before = wait_until(lambda: (s := world.status()) and _unanswered(s) >= GREEDY_WAITING and s, 60.0, "a queue")
    finally:
        since = time.time()
        client.kill()
        client.wait(10)
    cancelled = before["totals"]["cancelled"]
    dropped = wait_until(lambda: (s := world.status()) and s["totals"]["cancelled"] > cancelled and time.time(), 10.0, "a drop")
    return Times(dropped - since)


def _unanswered(status: dict[str, Any]) -> int:
    return int(status["broker"]["queue_depth"] + status["broker"]["in_flight"])


def cut_clients(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """A client's connection is closed under it, and refused for a while."""
    world.front_proxy.cut()
    wait_until(lambda: world.front_proxy.connections == 0, 5.0, "no connection through the proxy")
    time.sleep(seconds)
    since = time.time()
    world.front_proxy.heal()
    wait_until(lambda: world.front_proxy.connections, 30.0, "another connection through the proxy")
    return Times(back_s=time.time() - since)


def swallow_clients(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """A client's connection stays, and nothing comes through: only silence tells."""
    world.front_proxy.swallow()
    try:
        with Client(world.proxied_url, timeout=1.0, connect_timeout=1.0) as client:
            client.status()
        raise NotSeen("words came through a proxy that swallows them")
    except RagpoolError:
        time.sleep(seconds)
    finally:
        world.front_proxy.heal()
    with Client(
        world.proxied_url, timeout=BACK_MAX_S, connect_timeout=BACK_MAX_S
    ) as client:  # the broker may be stopped for a minute
        client.status()
    return Times()


# ---- workers of another supervisor ---------------------------------------------------------------------------------------


def kill_remote(world: World, rng: Random, slot: int) -> Times:
    worker = wait_until(world.remote_workers, BACK_MAX_S, "remote workers")[0]
    since = time.time()
    os.kill(worker["pid"], signal.SIGKILL)
    return remote_gone_and_back(world, worker["id"], since, REMOTE_S)


def remote_gone_and_back(world: World, name: str, since: float, within_s: float) -> Times:
    """When the broker knew, and when as many were ready as before."""
    give_up = time.time() + within_s + 30.0
    while any(worker["id"] == name and worker["state"] != "suspect" for worker in world.workers()):
        if time.time() > give_up:
            raise NotSeen(f"the broker never noticed the end of {name}")
        time.sleep(0.01)
    times = Times(time.time() - since)
    wait_until(lambda: len(world.remote_workers()) == world.remote, BACK_MAX_S, "all remote workers")
    times.back_s = time.time() - since
    if not world.was_watched("broker", since - 1.0, time.time()):
        return Times()
    if times.detect_s is not None and times.detect_s > within_s:
        times.late.append(f"the broker knew after {times.detect_s:.2f} s, promised {within_s}")
    return times


def hang_remote(world: World, rng: Random, slot: int) -> Times:
    since = time.time()
    give(world, 0, "run", "hang", folder=world.remote_faults)
    began, pid = told_since(world, 0, "run hang", since, 60.0, world.remote_faults)
    wait_until(lambda: not alive(pid), world.clocks.stuck_s + 60.0, "its supervisor ends it")
    times = Times(time.time() - began)
    wait_until(lambda: len(world.remote_workers()) == world.remote, BACK_MAX_S, "all remote workers")
    times.back_s = time.time() - began
    return times


def kill_remote_parent(world: World, rng: Random, slot: int) -> Times:
    """The other host's supervisor dies, and its workers with it."""
    parent = world.remote_parent
    if parent is None:
        raise NotSeen("there is no remote supervisor")
    family = children_of(parent.pid)
    since = time.time()
    parent.kill()
    parent.wait(10)
    wait_until(lambda: not any(alive(pid) for pid in family), LEFT_S, "its workers are gone")
    world.start_remote()
    return Times(back_s=time.time() - since)


def cut_workers(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """The connection of remote workers is closed for a while: they keep what they run, and join again."""
    all_there = wait_until(lambda: len(w := world.remote_workers()) == world.remote and w, BACK_MAX_S, "all remote workers")
    names = {worker["id"] for worker in all_there}
    since = time.time()
    world.back_proxy.cut()
    gone = wait_until(lambda: not names & {w["id"] for w in world.workers()} and time.time(), 20.0, "they are gone")
    time.sleep(seconds)
    world.back_proxy.heal()
    wait_until(lambda: len(world.remote_workers()) == world.remote, BACK_MAX_S, "all remote workers")
    if names != {worker["id"] for worker in world.remote_workers()}:
        raise NotSeen("workers that were only cut off were started again")
    return Times(gone - since, time.time() - since)


def swallow_workers(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """Half-open: the connection stays, and nothing comes through."""
    name = wait_until(world.remote_workers, BACK_MAX_S, "remote workers")[0]["id"]
    since = time.time()
    world.back_proxy.swallow()
    try:
        wait_until(lambda: name not in {w["id"] for w in world.workers()}, 30.0, "its silence is taken for death")
        detect_s = time.time() - since
        time.sleep(seconds)
    finally:
        world.back_proxy.heal()
    wait_until(lambda: len(world.remote_workers()) == world.remote, BACK_MAX_S, "all remote workers")
    late = [f"silent for {detect_s:.1f} s, promised {SILENT_S}"] if detect_s > SILENT_S else []
    return Times(detect_s, time.time() - since, late)


FRONT, REMOTE, JOINED = ("front",), ("remote",), ("remote", "broker")
FAULTS = (
    Fault("a client vanishes", vanish, ("broker", "front"), 3),
    Fault("clients cut off, 2 s", partial(cut_clients, seconds=2.0), FRONT, 3),
    Fault("clients cut off, 8 s", partial(cut_clients, seconds=8.0), FRONT),
    Fault("clients half-open, 8 s", partial(swallow_clients, seconds=8.0), FRONT),
    Fault("SIGKILL of a remote worker", kill_remote, JOINED, 3, needs_remote=True),
    Fault("a remote worker hangs", hang_remote, REMOTE, needs_remote=True),
    Fault("SIGKILL of a remote supervisor", kill_remote_parent, REMOTE, needs_remote=True),
    Fault("remote workers cut off, 2 s", partial(cut_workers, seconds=2.0), JOINED, 2, needs_remote=True),
    Fault("remote workers half-open, 12 s", partial(swallow_workers, seconds=2.0), JOINED, needs_remote=True),
)
