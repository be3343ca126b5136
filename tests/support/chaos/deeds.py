"""How faults are described, and the steps they share: each is done, then *seen* to have happened, or `NotSeen` is raised."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pools import alive

from .world import World

BACK_MAX_S = 240.0
"""Later than this nothing comes back by itself."""
KILLED_S, SILENT_S, REMOTE_S = 0.2, 12.0, 0.5
"""How soon a process that was killed, one that is silent, and one of a remote supervisor must be noticed."""
LEFT_S = 3.0
"""How long after the parent's end its processes may live."""
STUCK_MORE_S = 2.0
SETTLE_S, REJOINED_S = 60.0, 10.0
LOOK_S = 0.05
RUSH_AFTER_S, RUSH = 3.0, 48
"""A fault that waits for a batch in one worker gets this many questions to help it, each so many seconds."""
POLICY_SLACK_S = 0.3
"""From the time that policy set to the state that the parent wrote."""


class NotSeen(AssertionError):
    """The fault was asked for, and nothing shows that it happened."""


@dataclass
class Times:
    """Seconds. None where there is nothing to measure. `late`: what was promised and not kept, in words."""

    detect_s: float | None = None
    back_s: float | None = None
    late: list[str] = field(default_factory=list)


Do = Callable[[World, Random, int], Times]


@dataclass(frozen=True)
class Fault:
    """`takes`: what no other fault may touch meanwhile: "slot" (one of the local workers), "slots", "broker", "parent", "front"
    (clients and their connections), "remote", "disk", "long" (an outage of a minute). `rounds`: how often it is in a deck.
    `quick`: also in the short run."""

    name: str
    do: Do
    takes: tuple[str, ...]
    rounds: int = 1
    quick: bool = True
    needs_remote: bool = False
    due: str = ""
    """The one error that its own request must end with."""


# ---- what happens to a worker in a slot ----------------------------------------------------------------------------------


def running_pid(world: World, slot: int) -> int:
    """The process of that slot, once it serves."""
    pid = world.wait(lambda seen: seen.slot(slot).get("state") == "running" and seen.slot(slot).get("pid"), BACK_MAX_S)
    if not pid:
        raise NotSeen(f"slot {slot} has no process: it is {world.slot(slot).get('state')}")
    return int(pid)


def exit_of(world: World, slot: int, pid: int, timeout_s: float) -> dict[str, Any]:
    """The record of that process's end."""

    def found(seen: Any) -> Any:
        return next((end for end in seen.slot(slot).get("exits", []) if end["pid"] == pid), None)

    record = world.wait(found, timeout_s)
    if record is None:
        raise NotSeen(f"no end of process {pid} in slot {slot} within {timeout_s:.0f} s")
    return dict(record)


def wait_back(world: World, slot: int, pid: int) -> float:
    """When another process serves in that slot; seconds since 1970."""

    def back(seen: Any) -> float:
        now = seen.slot(slot)
        return seen.at if now.get("state") == "running" and now.get("pid") not in (None, pid) else 0.0

    at = world.wait(back, BACK_MAX_S)
    if not at:
        raise NotSeen(f"slot {slot} did not come back: it is {world.slot(slot).get('state')}")
    return float(at)


def ended_and_back(world: World, slot: int, pid: int, since: float, *, within_s: float | None, load_more_s: float = 0.0) -> Times:
    """It ended at `since` or a while after; when that was noticed, when there was capacity again, and whether both were in time.

    `within_s`: how soon its end must be noticed; None where that says nothing. `load_more_s`: what was added to its loading.
    """
    record = exit_of(world, slot, pid, BACK_MAX_S)
    back_at = wait_back(world, slot, pid)
    times = Times(back_s=back_at - since)
    if not world.was_watched("parent", since - 1.0, back_at):
        return Times()
    if within_s is not None:
        times.detect_s = record["at"] - since
        if times.detect_s > within_s:
            times.late.append(f"noticed after {times.detect_s:.2f} s, promised {within_s:.2f}")
    limits = {"backoff": world.clocks.backoff_max_s, "quarantined": world.clocks.probe_s}
    for state, took in world.watch.waits_s(slot, record["at"]):
        if state in limits and took > limits[state] + POLICY_SLACK_S:
            times.late.append(f"{state} for {took:.1f} s, promised {limits[state]:.1f}")
    load_s, most_s = world.watch.last_load_s(slot), 2 * world.idle_load_s + load_more_s
    if load_s > most_s:
        times.late.append(f"loading took {load_s:.1f} s, promised {most_s:.1f}")
    return times


def give(world: World, slot: int, when: str, fault: str, times: int = 1, folder: Path | None = None) -> list[Path]:
    """Files that make the worker of that slot commit `fault`."""
    files = [(folder or world.faults) / f"{when}-{slot}.{number:03}" for number in range(times)]
    for file in files:
        unfinished = file.with_name(f".{file.name}")
        unfinished.write_text(fault)
        unfinished.replace(file)
    return files


def told_since(
    world: World, slot: int, what: str, since: float, timeout_s: float, folder: Path | None = None
) -> tuple[float, int]:
    """(when, pid) of the first such fault that the worker of that slot committed since then. While the broker is stopped
    nobody is given work, and no time passes."""
    give_up, rush_at = time.time() + timeout_s, time.time() + RUSH_AFTER_S
    while time.time() < give_up:
        for at, pid, where, done in world.faults_told(folder):
            if float(at) >= since and where == str(slot) and done.startswith(what):
                return float(at), int(pid)
        if time.time() >= rush_at and not what.startswith("load"):
            rush_at += RUSH_AFTER_S
            for _ in range(RUSH):  # a quiet pool asks its slowest worker last
                world.callers.ask(world.client, world.rng)
        time.sleep(LOOK_S)
        if process_state(world.watch.now.document["broker"].get("pid") or 0) == "T":
            give_up, rush_at = give_up + LOOK_S, rush_at + LOOK_S
    raise NotSeen(f"no worker of slot {slot} did {what!r} within {timeout_s:.0f} s")


def settle(world: World) -> None:
    """Wait until what piled up is answered: two outages of a minute in a row would be more than any request can wait for. Clients
    take some seconds to find another broker and ask it again."""
    world.client.search("is everybody back", timeout=SETTLE_S)
    time.sleep(REJOINED_S)
    give_up = time.monotonic() + SETTLE_S
    while time.monotonic() < give_up:
        status = world.status()
        if status and not status["broker"]["queue_depth"]:
            return
        time.sleep(0.1)


# ---- stopped processes -----------------------------------------------------------------------------------------------------


def process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def stop_for(pid: int, seconds: float) -> bool:
    """SIGSTOP, and SIGCONT after that time; True if it lived that long. A process that ends meanwhile is not waited for."""
    os.kill(pid, signal.SIGSTOP)
    give_up = time.monotonic() + 2.0
    while process_state(pid) != "T" and time.monotonic() < give_up:
        time.sleep(0.005)
    if process_state(pid) != "T":
        raise NotSeen(f"process {pid} is not stopped but {process_state(pid)!r}")
    wake_at = time.monotonic() + seconds
    while time.monotonic() < wake_at and alive(pid):
        time.sleep(0.02)
    if not alive(pid):
        return False
    os.kill(pid, signal.SIGCONT)
    return True
