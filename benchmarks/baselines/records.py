"""[P] What a run is about: who takes part, what one round of it gave, what no server at all gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .ideal import Service
from .stats import Point

STOCK = "stock"
PLUGGED = "plugged"
OURS = "ours"

BURSTS = (10, 100)
SERVICE_SIZES = (1, 2, 4, 8, 16, 32)
MEMORY_AT = 100
"""The concurrency that servers are tuned and compared at; bursts and memory are measured after it."""


@dataclass(frozen=True)
class Contestant:
    """A server with its options. `kind`: stock, plugged or ours; `batches`: whether it has a batch size to tune."""

    name: str
    module: str
    path: str
    kind: str
    batches: bool = False
    tune_workers: bool = False
    batch: int = 1
    workers: int = 1

    @property
    def key(self) -> str:
        return f"{self.name} ({self.kind})"

    @property
    def label(self) -> str:
        if self.kind == OURS:
            return f"{self.name}, {self.workers} workers"
        inside = "stock" if self.kind == STOCK else "our encoder and engine"
        batch = f", batch {self.batch}" if self.batches else ""
        workers = f", {self.workers} worker{'s' if self.workers > 1 else ''}" if self.tune_workers else ""
        return f"{self.name}{workers}{batch}: {inside}"


@dataclass(frozen=True)
class Round:
    """What one server did in one round. `wrong` of `checked` answers were not the right ones."""

    points: Mapping[int, Point]
    burst_ms: Mapping[int, float]
    pss_mb: float
    checked: int
    wrong: int
    worker_cpu_ms: float = 0.0
    open_rate: float = 0.0
    open_ms: Sequence[float] = ()
    open_service: Service | None = None
    """What batches took the workers in the open loop."""


@dataclass(frozen=True)
class Ceiling:
    """Queries a second of all processes together; processor milliseconds a query; the batch that it was reached with."""

    qps: float
    cpu_ms: float
    batch: int
