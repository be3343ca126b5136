"""The status map of CONTRACT section 7: what the core knows, and what the parent wrote of its slots."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .core import Core
from .workers import Worker


class StatusReport:
    """`state_file` is where the parent keeps the slots; without one there are none."""

    def __init__(self, state_file: Path | None) -> None:
        self._state_file = state_file

    def status(self, core: Core, dropped: int, now: float) -> dict[str, Any]:
        """Plain values, ready for MessagePack or JSON. `dropped`: messages that no outbox would hold any longer."""
        queue = core.ledger.queue
        state = self._state()
        parents = state.get("broker") or {}
        oldest = min((pending.arrived for pending in queue), default=now)
        return {
            "broker": {
                "pid": os.getpid(),
                "version": core.settings.server,
                "epoch": core.settings.epoch,
                "uptime_s": round(now - core.started, 3),
                "state": core.state,
                "queue_depth": len(queue),
                "oldest_wait_ms": round((now - oldest) * 1e3, 3),
                "in_flight": core.registry.in_flight(),
                "clients": len(core.clients),
                "queue_max": core.settings.bounds.queue_max,
                "restarts": parents.get("restarts", 0),
                "last_exit": parents.get("last_exit"),
                "exits": parents.get("exits", []),
                "trouble": core.trouble,
                "rolling": core.rolling.told,
            },
            "rollout": asdict(core.slots.rollout) if core.slots.rollout.kind else None,
            "workers": [_worker(worker, now) for worker in (*core.registry, *core.registry.departed.shown(now))],
            "slots": [_as_now(core, slot) for slot in state.get("slots", []) if isinstance(slot, dict)],
            "totals": {**asdict(core.totals), "dropped": dropped},
        }

    def _state(self) -> dict[str, Any]:
        if self._state_file is None:
            return {}
        try:
            state = json.loads(self._state_file.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}


def _as_now(core: Core, slot: dict[str, Any]) -> dict[str, Any]:
    """The file may be older than what the parent said last: it cannot be written while the disk is full."""
    brief = core.slots.now(slot.get("slot"))
    return {**slot, "state": brief.state, "incarnation": brief.incarnation} if brief is not None else slot


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    info, metrics = worker.info, worker.metrics
    return {
        "id": info.incarnation,
        "slot": info.slot,
        "host": info.host,
        "pid": info.pid,
        "device": info.device,
        "state": worker.state.name,
        "last_end": info.previous[0].reason if info.previous else "",
        "in_flight": len(worker.in_flight),
        "capacity": worker.capacity,
        "served": metrics.served,
        "qps": round(metrics.qps(now), 2),
        "batch_mean": round(metrics.batch_mean, 2),
        "p50_ms": round(metrics.percentile_ms(0.50), 3),
        "p99_ms": round(metrics.percentile_ms(0.99), 3),
        "index": info.index,
        "index_version": info.index_version,
        "model": info.model,
        "backend": info.backend,
        "dtype": info.dtype,
        "engine": info.engine,
    }
