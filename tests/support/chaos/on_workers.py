"""Faults of workers: killed, stopped, hanging, lying, starving, failing to start."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from random import Random

from pools import alive
from ragpool.client import PoisonRequest, RagpoolError

from .deeds import (
    BACK_MAX_S,
    KILLED_S,
    SILENT_S,
    STUCK_MORE_S,
    Fault,
    NotSeen,
    Times,
    ended_and_back,
    exit_of,
    give,
    running_pid,
    settle,
    stop_for,
    told_since,
    wait_back,
)
from .world import World

TAKEN_S = 30.0
"""Under constant load every worker runs a batch within this time."""
POISON_ENDS_MAX = 4
SLOW_LOAD_S = 60.0
STOP_KILLS_S = 10.0
AWAKE_S = 2.0
"""Whoever was stopped is left alone for this long, so that two short stops are not seen as one long one."""


def kill(world: World, rng: Random, slot: int) -> Times:
    pid = running_pid(world, slot)
    since = time.time()
    os.kill(pid, signal.SIGKILL)
    return ended_and_back(world, slot, pid, since, within_s=KILLED_S)


def stop(world: World, rng: Random, slot: int, *, seconds: float) -> Times:
    """A short stop is ridden out by the same process; a long one is ended by the parent, which starts another."""
    pid = running_pid(world, slot)
    since = time.time()
    if stop_for(pid, seconds):
        if seconds > STOP_KILLS_S + STUCK_MORE_S and world.was_watched("parent", since, time.time()):
            raise NotSeen(f"process {pid} was stopped for {seconds:.0f} s, and nobody ended it")
        back_s = time.time() - since
        time.sleep(AWAKE_S)
        if alive(pid):
            return Times(back_s=back_s)
    return ended_and_back(world, slot, pid, since, within_s=SILENT_S)


def hang(world: World, rng: Random, slot: int) -> Times:
    """Its device thread never comes back; its heart goes on beating."""
    since = time.time()
    give(world, slot, "run", "hang")
    began, pid = told_since(world, slot, "run hang", since, TAKEN_S)
    times = ended_and_back(world, slot, pid, began, within_s=stuck_limit(world))
    reason = exit_of(world, slot, pid, 1.0)["reason"]
    if "hung" not in reason:
        raise NotSeen(f"a worker that hung ended with the reason {reason!r}")
    return times


def stuck_limit(world: World) -> float:
    """max(setting, 20 x p99 of its own batches), and two seconds."""
    worst_ms = max((worker["p99_ms"] for worker in world.workers()), default=0.0)
    return max(world.clocks.stuck_s, 20 * worst_ms / 1e3) + STUCK_MORE_S


def hold_gil(world: World, rng: Random, slot: int, *, seconds: float = 15.0) -> Times:
    """Nothing of it moves, its heart neither: ended where that is longer than it may hang, else suspected and taken back."""
    since = time.time()
    give(world, slot, "run", f"gil:{seconds}")
    began, pid = told_since(world, slot, "run gil", since, TAKEN_S)
    if seconds > world.clocks.stuck_s:
        return ended_and_back(world, slot, pid, began, within_s=min(seconds, world.clocks.stuck_s) + STUCK_MORE_S)
    time.sleep(max(0.0, began + seconds + 1.0 - time.time()))
    if not alive(pid):
        raise NotSeen(f"process {pid} held the interpreter for {seconds:.0f} s only, and was ended for it")
    return Times(back_s=seconds)


def crash(world: World, rng: Random, slot: int) -> Times:
    """SIGSEGV in the middle of a batch, once: its neighbours are suspects, and innocent."""
    since = time.time()
    give(world, slot, "run", "crash")
    began, pid = told_since(world, slot, "run crash", since, TAKEN_S)
    return ended_and_back(world, slot, pid, began, within_s=KILLED_S + 0.5)  # the dump of its stacks takes a moment


def leave(world: World, rng: Random, slot: int) -> Times:
    """It exits in the middle of a batch, without a word."""
    since = time.time()
    give(world, slot, "run", "exit:3")
    began, pid = told_since(world, slot, "run exit", since, TAKEN_S)
    times = ended_and_back(world, slot, pid, began, within_s=KILLED_S)
    if exit_of(world, slot, pid, 1.0)["code"] != 3:
        raise NotSeen(f"process {pid} did not end with code 3")
    return times


def starve(world: World, rng: Random, slot: int) -> Times:
    """Its limit of memory is reached: batches fail, in halves and alone, until the process is recycled."""
    since = time.time()
    give(world, slot, "run", "memory")
    began, pid = told_since(world, slot, "run memory", since, TAKEN_S)
    return ended_and_back(world, slot, pid, began, within_s=None)


def answer(world: World, rng: Random, slot: int, *, how: str, seconds: float = 4.0) -> Times:
    """Its answers go out twice, late, or as garbage, for a few seconds."""
    running_pid(world, slot)
    since = time.time()
    lie = world.faults / f"answer-{slot}"
    lie.write_text(how)
    try:
        told_since(world, slot, f"answer {how.partition(':')[0]}", since, TAKEN_S)
        time.sleep(seconds)
    finally:
        lie.unlink()
    return Times()


# ---- starting ----------------------------------------------------------------------------------------------------------


def fail_to_start(world: World, rng: Random, slot: int, *, times: int | None = None) -> Times:
    """It crashes at each start, more often than the window allows; the others serve on."""
    count = times or world.clocks.starts_crashed
    pid = running_pid(world, slot)
    waiting = give(world, slot, "load", "crash", count)
    since = time.time()
    os.kill(pid, signal.SIGKILL)
    result = ended_and_back(world, slot, pid, since, within_s=KILLED_S)
    if left := [file for file in waiting if file.exists()]:
        raise NotSeen(f"{len(left)} of {count} crashes at start did not happen")
    result.late = [sentence for sentence in result.late if "loading" not in sentence]
    settle(world)
    return result


def leave_while_loading(world: World, rng: Random, slot: int) -> Times:
    pid = running_pid(world, slot)
    give(world, slot, "load", "exit:3")
    since = time.time()
    os.kill(pid, signal.SIGKILL)
    times = ended_and_back(world, slot, pid, since, within_s=KILLED_S)
    told_since(world, slot, "load exit", since, 1.0)
    return times


def kill_while_loading(world: World, rng: Random, slot: int) -> Times:
    pid = running_pid(world, slot)
    os.kill(pid, signal.SIGKILL)
    second = world.wait(lambda seen: seen.slot(slot)["state"] == "starting" and seen.slot(slot)["pid"], BACK_MAX_S)
    if not second:
        raise NotSeen(f"slot {slot} does not load")
    time.sleep(rng.uniform(0.0, world.idle_load_s * 0.8))
    since = time.time()
    os.kill(second, signal.SIGKILL)
    return ended_and_back(world, slot, second, since, within_s=KILLED_S)


def load_slowly(world: World, rng: Random, slot: int, *, seconds: float = SLOW_LOAD_S) -> Times:
    """Loading is never read as death."""
    pid = running_pid(world, slot)
    give(world, slot, "load", f"slow:{seconds}")
    since = time.time()
    os.kill(pid, signal.SIGKILL)
    _, loading = told_since(world, slot, "load slow", since, BACK_MAX_S)
    wait_back(world, slot, pid)
    if world.slot(slot)["pid"] != loading:
        raise NotSeen("a worker that loaded slowly was not given its time")
    settle(world)
    return ended_and_back(world, slot, pid, since, within_s=KILLED_S, load_more_s=seconds)


# ---- poison ------------------------------------------------------------------------------------------------------------


def poison(world: World, rng: Random, slot: int) -> Times:
    """One query that crashes whoever runs it: few workers die, its neighbours are answered, and it is known from then on."""
    query = f"fault:crash {rng.randrange(1 << 40)}"
    ends = count_ends(world)
    began = time.time()
    neighbours = [world.client.submit(f"an innocent question {number}", timeout=120.0) for number in range(20)]
    told = world.client.submit(query, timeout=120.0)
    neighbours += [world.client.submit(f"another innocent question {number}", timeout=120.0) for number in range(20)]
    if not isinstance(told.exception(), PoisonRequest):
        raise NotSeen(f"a poison query was answered with {told.exception()!r}")
    late = [f"a neighbour of the poison was answered with {error!r}" for error in (n.exception() for n in neighbours) if error]
    time.sleep(AWAKE_S)  # the broker hears of an end a moment before it is written down
    died = count_ends(world) - ends
    if died > POISON_ENDS_MAX:
        late.append(f"a poison query ended {died} workers, promised {POISON_ENDS_MAX}")
    asked = time.monotonic()
    try:
        world.client.search(query, timeout=30.0)
        raise NotSeen("a poison query was answered the second time")
    except PoisonRequest:
        took = time.monotonic() - asked
    except RagpoolError as error:
        raise NotSeen(f"a poison query was answered with {error!r} the second time") from None
    if took > 2.0 or count_ends(world) - ends > died:
        late.append(f"the poison sent again was refused after {took:.1f} s, {count_ends(world) - ends} workers ended")
    for number in range(world.local):
        running_pid(world, number)
    return Times(None, time.time() - began, late)


def count_ends(world: World) -> int:
    return sum(max(slot["restarts"] + (slot["pid"] is None), 0) for slot in world.watch.now.document["slots"])


SLOT, LONG = ("slot",), ("slot", "long")
FAULTS = (
    Fault("SIGKILL of a worker", kill, SLOT, 6),
    Fault("SIGSTOP of a worker, 2 s", partial(stop, seconds=2.0), SLOT, 3),
    Fault("SIGSTOP of a worker, 8 s", partial(stop, seconds=8.0), SLOT, 2),
    Fault("SIGSTOP of a worker, 60 s", partial(stop, seconds=60.0), SLOT),
    Fault("hangs in a batch", hang, SLOT, 2),
    Fault("holds the GIL, 15 s", hold_gil, SLOT),
    Fault("SIGSEGV in a batch", crash, SLOT, 2),
    Fault("exits under load", leave, SLOT, 3),
    Fault("memory limit", starve, SLOT, 2),
    Fault("answers twice", partial(answer, how="twice"), SLOT, 3),
    Fault("answers late", partial(answer, how="late:3"), SLOT, 3),
    Fault("answers garbage", partial(answer, how="garbage"), SLOT, 3),
    Fault("crashes at start, often", fail_to_start, LONG, quick=False),
    Fault("exits while it loads", leave_while_loading, SLOT, 2),
    Fault("SIGKILL while it loads", kill_while_loading, SLOT, 2),
    Fault("loads for 60 s", load_slowly, LONG, quick=False),
    Fault("a poison query", poison, ("slots", "broker", "parent", "remote"), due=PoisonRequest.code),
)
