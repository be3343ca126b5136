"""The status map as text for a terminal. Pure: maps in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BROKER_DOWN = "down"

_WORKER_COLUMNS = (
    ("worker", "id"), ("pid", "pid"), ("device", "device"), ("state", "state"), ("in flight", "in_flight"), ("served", "served"),
    ("q/s", "qps"), ("batch", "batch_mean"), ("p50 ms", "p50_ms"), ("p99 ms", "p99_ms"), ("engine", "engine"),
    ("backend", "backend"), ("dtype", "dtype"), ("index", "index_version"),
)  # fmt: skip


def without_broker(state: Mapping[str, Any]) -> dict[str, Any]:
    """The status while the broker is down: what the parent wrote, and nothing that only the broker knows."""
    parents = state.get("broker") or {}
    return {
        "broker": {
            "pid": None,
            "version": "",
            "epoch": "",
            "uptime_s": 0.0,
            "state": BROKER_DOWN,
            "queue_depth": 0,
            "oldest_wait_ms": 0.0,
            "in_flight": 0,
            "clients": 0,
            "queue_max": 0,
            "restarts": parents.get("restarts", 0),
            "last_exit": parents.get("last_exit"),
            "exits": parents.get("exits", []),
            "detail": parents.get("detail", ""),
            "trouble": "",
            "rolling": "",
        },
        "rollout": (found if (found := state.get("rollout") or {}).get("kind") else None),
        "workers": [],
        "slots": state.get("slots", []),
        "totals": {
            "requests": 0, "replies": 0, "errors": {}, "retries": 0, "hedges": 0, "late_replies": 0, "expired": 0, "cancelled": 0,
            "dropped": 0,
        },
    }  # fmt: skip


def status_text(status: Mapping[str, Any]) -> str:
    """A few lines on the broker, a table of workers, and each slot that is not simply running."""
    lines = [
        _broker_line(status["broker"]),
        *_broker_news(status["broker"]),
        *_rollout_line(status),
        _totals_line(status["totals"]),
    ]
    if status["workers"]:
        rows = [[str(worker.get(key, "")) for _, key in _WORKER_COLUMNS] for worker in status["workers"]]
        lines += ["", *table([title for title, _ in _WORKER_COLUMNS], rows)]
    told = [line for slot in status["slots"] for line in _slot_lines(slot)]
    return "\n".join([*lines, *([""] if told else []), *told])


def _broker_line(broker: Mapping[str, Any]) -> str:
    if broker["state"] == BROKER_DOWN and broker.get("detail"):
        return f"broker does not answer ({broker['detail']}); one that a signal stopped is left alone until SIGCONT"
    if broker["state"] == BROKER_DOWN:
        why = (broker.get("last_exit") or {}).get("reason", "")
        return f"broker down{f' ({why})' if why else ''}; the supervisor is bringing it back"
    return (
        f"broker {broker['state']} (pid {broker['pid']}, up {broker['uptime_s']:.0f} s): {broker['queue_depth']} of "
        f"{broker['queue_max']} queued, {broker['in_flight']} in flight, {broker['clients']} clients"
    )


def _broker_news(broker: Mapping[str, Any]) -> Iterable[str]:
    if broker.get("trouble"):
        yield f"trouble: {broker['trouble']}"
    if broker.get("rolling"):
        yield f"restart of the workers of other hosts: {broker['rolling']}"
    if broker.get("last_exit") and broker["state"] != BROKER_DOWN:
        yield f"the broker was restarted {broker['restarts']} times; last end: {broker['last_exit']['reason']}"


def _rollout_line(status: Mapping[str, Any]) -> Iterable[str]:
    if rollout := status.get("rollout"):
        kind = "restart of all workers" if rollout["kind"] == "restart" else rollout["kind"]
        yield f"{kind}: {rollout['state']}, {rollout['told']}"


def _totals_line(totals: Mapping[str, Any]) -> str:
    errors = ", ".join(f"{count} {code}" for code, count in sorted(totals["errors"].items())) or "no errors"
    return f"{totals['requests']} requests, {totals['replies']} replies, {errors}, {totals['retries']} retries"


def _slot_lines(slot: Mapping[str, Any]) -> Iterable[str]:
    last = slot.get("last_exit")
    detail = slot.get("detail")
    beside = slot.get("beside")
    if slot["state"] == "running" and not last and not detail and not beside:
        return
    told = f" ({detail})" if detail else ""
    yield f"slot {slot.get('slot', '?')} on {slot['device']}: {slot['state']}{told}, {slot['restarts']} restarts"
    if beside:
        yield f"    beside it process {beside['pid'] or '-'}: {beside['state']}"
    if last:
        yield f"    last end: {last['reason']}"
        if where := _where(last.get("stack") or ""):
            yield f"    it was at {where}; all stacks are in `status --json`"
            return
        tail = (last.get("log_tail") or "").strip().splitlines()
        if tail and last.get("code") != 0:
            yield f"    its last words: {tail[-1].strip()}"


def _where(stack: str) -> str:
    """The innermost line of the thread that the signal met, by faulthandler's words; empty where there are none."""
    lines = stack.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Current thread")]
    return lines[starts[0] + 1].strip() if starts and starts[0] + 1 < len(lines) else ""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)).rstrip()

    return [line(titles), *map(line, rows)]


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdigit()
