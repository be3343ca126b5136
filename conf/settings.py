"""Every setting, with its default, its unit and what it may hold. Checked once, at construction; never changed afterwards.

The one place where a default is written: default.toml is made from it (`render.reference`), and a test holds them equal.
It must never look at the machine: what `auto` and 0 turn into is decided where the pool starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from .errors import ConfigurationError, InvalidSetting
from .rules import NotAllowed, Rule, address, devices, duration, number, one_of, switch, text, whole

__all__ = [
    "KEYS",
    "SECTIONS",
    "BrokerSettings",
    "ConfigurationError",
    "IndexSettings",
    "InvalidSetting",
    "Key",
    "LimitSettings",
    "PoolSettings",
    "Section",
    "Settings",
    "SupervisorSettings",
    "WorkerSettings",
]

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def _setting(default: T, rule: Rule, doc: str) -> T:
    """A dataclass field that carries its line of doc and its rule."""
    return field(default=default, metadata={"doc": doc, "rule": rule})


class Section:
    """One table of the configuration: its values are brought to their one form and checked when it is made."""

    __slots__ = ()
    section: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for item in fields(self):
            given = getattr(self, item.name)
            rule: Rule = item.metadata["rule"]
            try:
                object.__setattr__(self, item.name, rule.read(given))
            except NotAllowed as reason:
                closer = f" ({reason})" if str(reason) else ""
                raise InvalidSetting({f"{self.section}.{item.name}": given}, f"must be {rule.allowed}{closer}") from None


@dataclass(frozen=True, slots=True)
class PoolSettings(Section):
    """Which workers there are, and where the pool lives."""

    section: ClassVar[str] = "pool"
    devices: tuple[str, ...] = _setting(
        ("auto",),
        devices(),
        "devices of the workers: cpu, cuda (the same as cuda:0), cuda:N; auto = every CUDA device, else cpu",
    )
    workers: int = _setting(
        0,
        whole(0, 1024),
        "worker processes, spread round robin over the devices; 0 = one per CUDA device "
        "(or group of them), on cpu one per usable core, at most 4",
    )
    run_dir: str = _setting("", text(), "folder of sockets, state and logs; empty = $XDG_RUNTIME_DIR/ragpool-<frontend port>")
    mixed_dtypes: bool = _setting(
        False, switch(), "true = workers may compute in different dtypes, so that scores differ slightly between them"
    )


@dataclass(frozen=True, slots=True)
class IndexSettings(Section):
    """What is served, and by which engine."""

    section: ClassVar[str] = "index"
    path: str = _setting(
        "", text(), "the index folder; empty = the built-in demo index. A relative path starts at the current folder"
    )
    engine: str = _setting("auto", one_of("auto", "exact", "faiss"), "what searches: auto, exact or faiss")
    gpu: bool = _setting(True, switch(), "true = the index stands on the worker's CUDA device; on cpu devices this does nothing")
    gpus_per_worker: int = _setting(1, whole(1), "CUDA devices that one worker's index spans; on cpu devices this does nothing")
    corpus: str = _setting(
        "", text(), "built into `path` when there is no index yet; a relative path starts at the current folder"
    )
    type: str = _setting("auto", text(empty=False), "what a build makes: auto, flat, hnsw, compact, or a faiss factory string")
    bytes_per_vector: int = _setting(32, whole(1), "bytes a vector takes in a compact index")
    effort: int = _setting(
        0, whole(0, 1_000_000), "lists that a search visits, or efSearch of a graph; 0 = what the build found; flat: nothing"
    )


@dataclass(frozen=True, slots=True)
class WorkerSettings(Section):
    """The model, and how much of it at once."""

    section: ClassVar[str] = "worker"
    model: str = _setting("", text(), "name or folder of the encoder; empty = the one the index was built with")
    max_batch: int = _setting(0, whole(0), "most queries in one batch; 0 = calibrated")
    max_batch_tokens: int = _setting(
        16384,
        whole(1),
        "most tokens in one batch, estimated from the length of its texts, and in a pass of the model; cpu: at most 2,048",
    )
    backend: str = _setting(
        "auto", one_of("auto", "torch", "onnx", "openvino"), "what runs the model: auto, torch, onnx or openvino"
    )
    dtype: str = _setting(
        "auto",
        one_of("auto", "float32", "float16", "bfloat16", "int8"),
        "auto (float16 when every device of the pool is CUDA, else float32), float32, float16, bfloat16 or int8",
    )
    streams: int = _setting(0, whole(0, 16), "batches that a CUDA device computes at a time for one worker; 0 = 1; cpu: nothing")
    load_timeout_s: float = _setting(600.0, duration(), "seconds a worker may take to load model and index")


@dataclass(frozen=True, slots=True)
class BrokerSettings(Section):
    """Addresses, the queue, and when a worker counts as lost."""

    section: ClassVar[str] = "broker"
    frontend: str = _setting("tcp://127.0.0.1:5555", address(), "where clients connect: tcp://host:port or ipc://path")
    backend: str = _setting("", address(empty=True), "where workers connect; empty = a socket in the run directory")
    queue_max: int = _setting(4096, whole(1), "most requests that wait; one more is answered BUSY")
    queue_max_bytes: int = _setting(256 * MIB, whole(1), "most bytes that wait; a request beyond them is answered BUSY")
    default_timeout_s: float = _setting(60.0, duration(), "deadline in seconds of a request that names none")
    default_top_k: int = _setting(5, whole(1), "passages per query for a request that does not say how many")
    heartbeat_interval_s: float = _setting(1.0, duration(0.01), "seconds between two heartbeats")
    suspect_after_s: float = _setting(3.0, duration(0.01), "seconds of silence after which a worker gets no new work")
    dead_after_s: float = _setting(10.0, duration(0.01), "seconds of silence after which a worker is given up")
    drain_timeout_s: float = _setting(30.0, duration(0.0), "seconds a drain waits for what is still running")
    insecure: bool = _setting(False, switch(), "true = may bind addresses that other machines reach, without keys")


@dataclass(frozen=True, slots=True)
class SupervisorSettings(Section):
    """How worker processes come back."""

    section: ClassVar[str] = "supervisor"
    backoff_min_s: float = _setting(0.5, duration(), "seconds before the first respawn of a slot; each further one doubles them")
    backoff_max_s: float = _setting(30.0, duration(), "most seconds between two respawns of a slot")
    backoff_jitter: float = _setting(
        0.2, number(0.0, 1.0), "share by which a backoff is stretched or shortened at random, 0 to 1"
    )
    healthy_after_s: float = _setting(60.0, duration(), "seconds of health after which the backoff starts again from its least")
    restarts_max: int = _setting(5, whole(0), "ends of one slot within the window; one more and the slot is quarantined")
    restarts_window_s: float = _setting(60.0, duration(), "seconds in which those ends are counted")
    quarantine_probe_s: float = _setting(300.0, duration(), "seconds between two probes of a quarantined slot")
    loading_max: int = _setting(2, whole(1), "workers that may load at the same time")
    stuck_min_s: float = _setting(
        30.0,
        duration(),
        "seconds after which a batch hangs, and its worker is ended; 20 times the usual if that is more",
    )


@dataclass(frozen=True, slots=True)
class LimitSettings(Section):
    """What one message may hold; told to every client in WELCOME."""

    section: ClassVar[str] = "limits"
    frame_max_bytes: int = _setting(8 * MIB, whole(64 * KIB, GIB), "most bytes of one frame of a message")
    queries_max: int = _setting(4096, whole(1), "most queries of one request")
    query_max_bytes: int = _setting(32 * KIB, whole(1), "most bytes of one query, in UTF-8")
    top_k_max: int = _setting(1000, whole(1), "most passages per query")


_ORDERED = (
    ("broker.heartbeat_interval_s", "<", "broker.suspect_after_s"),
    ("broker.suspect_after_s", "<", "broker.dead_after_s"),
    ("broker.default_top_k", "<=", "limits.top_k_max"),
    ("supervisor.backoff_min_s", "<=", "supervisor.backoff_max_s"),
    ("limits.query_max_bytes", "<=", "limits.frame_max_bytes"),
    ("limits.frame_max_bytes", "<=", "broker.queue_max_bytes"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. Raises InvalidSetting, a ConfigurationError, when two values contradict each other."""

    pool: PoolSettings = PoolSettings()
    index: IndexSettings = IndexSettings()
    worker: WorkerSettings = WorkerSettings()
    broker: BrokerSettings = BrokerSettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    limits: LimitSettings = LimitSettings()

    def __post_init__(self) -> None:
        for left, order, right in _ORDERED:
            low, high = self.value(left), self.value(right)
            if not (low < high or (order == "<=" and low == high)):
                wanted = "must be less than" if order == "<" else "must be at most"
                raise InvalidSetting({left: low, right: high}, f"the first {wanted} the second")
        if self.broker.backend == self.broker.frontend:
            given = {"broker.frontend": self.broker.frontend, "broker.backend": self.broker.backend}
            raise InvalidSetting(given, "clients and workers need two different addresses")

    def value(self, key: str) -> Any:
        """The value of a "section.key"."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about one setting, under its full name "section.key"."""

    section: str
    name: str
    default: object
    doc: str
    allowed: str


SECTIONS: Mapping[str, type[Section]] = MappingProxyType(
    {cls.section: cls for cls in (PoolSettings, IndexSettings, WorkerSettings, BrokerSettings, SupervisorSettings, LimitSettings)}
)

KEYS: Mapping[str, Key] = MappingProxyType(
    {
        f"{section}.{item.name}": Key(section, item.name, item.default, item.metadata["doc"], item.metadata["rule"].allowed)
        for section, cls in SECTIONS.items()
        for item in fields(cls)
    }
)
"""Every setting there is, in the order of the reference file."""
