"""state.json: what the parent last knew of the pool, for `rag-broker status` when the broker itself is down.

    {"pool":   {"pid", "frontend", "backend", "started_at", "state"},          state: starting, serving, draining, stopped
     "broker": {"pid", "state", "detail", "restarts", "last_exit", "exits"},   null where the parent has none
     "slots":  [{"slot", "device", "state", "detail", "pid", "incarnation", "index_version", "restarts", "last_exit", "exits",
                 "beside": {"state", "detail", "pid", "incarnation", "index_version"}}],   null but while it is replaced
     "rollout": the last reload or restart of all, as `wire.messages.Rollout`}

`detail` says what is unusual about a slot now ("stopped by a signal", "is being ended: hung in a batch for 31 s"), or nothing.

An exit is {"at", "reason", "code", "signal", "pid", "incarnation", "log_tail", "running", "stack", "device_memory"}; times
are seconds since 1970, `running` lists hex ids, `exits` is newest first. Replaced by rename, so that a reader never sees
half of it. A disk that is full never hurts the parent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..wire.messages import Rollout
from .exits import EndRecord
from .slots import Slot

RUNNING_TOLD_MAX = 64
"""Ids told of one end; the broker was told all of them."""


def exit_document(end: EndRecord) -> dict[str, Any]:
    return {
        "at": end.at,
        "reason": end.exit.reason,
        "code": end.exit.code,
        "signal": end.exit.signal,
        "pid": end.pid,
        "incarnation": end.incarnation,
        "log_tail": end.log_tail,
        "running": [request_id.hex() for request_id in end.running[:RUNNING_TOLD_MAX]],
        "stack": end.stack,
        "device_memory": dict(end.device_memory) if end.device_memory else None,
    }


def _process_document(slot: Slot) -> dict[str, Any]:
    exits = [exit_document(end) for end in slot.exits]
    return {
        "state": slot.policy.state,
        "detail": slot.detail,
        "pid": slot.pid,
        "restarts": slot.restarts,
        "last_exit": exits[0] if exits else None,
        "exits": exits,
    }


def slot_document(slot: Slot, beside: Slot | None = None) -> dict[str, Any]:
    place = {"slot": slot.spec.slot, "device": slot.spec.device}
    second = None
    if beside is not None:
        second = {"state": beside.policy.state, "detail": beside.detail, "pid": beside.pid, **_serving(beside)}
    return {**place, **_serving(slot), **_process_document(slot), "beside": second}


def _serving(slot: Slot) -> dict[str, Any]:
    return {"incarnation": slot.incarnation if slot.child else "", "index_version": slot.version}


def document(
    pool: Mapping[str, Any], broker: Slot | None, slots: Iterable[Slot], beside: Mapping[int, Slot], rollout: Rollout
) -> dict[str, Any]:
    """The whole of state.json."""
    return {
        "pool": dict(pool),
        "broker": _process_document(broker) if broker else None,
        "slots": [slot_document(slot, beside.get(slot.spec.slot)) for slot in slots],
        "rollout": asdict(rollout),
    }


class StateFile:
    """The parent's side. `failure`: why the last write did not succeed; None when it did."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failure: str | None = None

    def write(self, content: Mapping[str, Any]) -> bool:
        """Replace the file. False, and `failure`, when it could not be: what was there stays."""
        unfinished = self._path.with_name(self._path.name + ".new")
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
            unfinished.replace(self._path)
        except OSError as error:
            self.failure = str(error)
            return False
        self.failure = None
        return True


def read_state(path: Path) -> dict[str, Any] | None:
    """What state.json says; None where there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
