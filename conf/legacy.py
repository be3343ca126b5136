"""The older system's JSON, `{"rag": {"config": {...}}}`, in our words. It translates and never checks: the settings do.

Keys of that system that mean nothing here are named in a warning and left out, so that a file of it starts a pool unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .errors import ConfigurationError, InvalidSetting
from .mapping import from_text
from .settings import KEYS

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "num_rag_workers": "pool.workers",
        "embedding_devices": "pool.devices",
        "embedding_device": "pool.devices",
        "rag_index_path": "index.path",
        "rag_kb_path": "index.corpus",
        "rag_model_name": "worker.model",
        "use_gpu_index": "index.gpu",
        "gpu_parallel_degree": "index.gpus_per_worker",
        "target_bytes_per_vector": "index.bytes_per_vector",
        "default_top_k": "broker.default_top_k",
        "server_start_retries": "worker.load_timeout_s",
    }
)
"""Older key -> ours. Of two that mean the same here, the first one given counts."""


@dataclass(frozen=True, slots=True)
class Translation:
    """`mapping` is {"section": {"key": value}}; `origins` names the older key behind each "section.key"."""

    mapping: dict[str, dict[str, object]]
    origins: dict[str, str]
    warnings: tuple[str, ...]


def translate(document: object, source: str) -> Translation:
    """Translate a parsed document. Raises ConfigurationError where it has not the older system's shape."""
    rag = document.get("rag") if isinstance(document, Mapping) else None
    config = rag.get("config") if isinstance(rag, Mapping) else None
    if not isinstance(rag, Mapping) or not isinstance(config, Mapping):
        raise ConfigurationError(
            f'{source}: JSON is read as the older system\'s {{"rag": {{"config": {{...}}}}}}, and this is not; ours is TOML'
        )
    mapping: dict[str, dict[str, object]] = {}
    origins: dict[str, str] = {}

    def give(dotted: str, value: object, older: str) -> None:
        key = KEYS[dotted]
        mapping.setdefault(key.section, {})[key.name] = _typed(dotted, value)
        origins[dotted] = older

    for older, dotted in RENAMED.items():
        if _given(config, older) and dotted not in origins:
            give(dotted, config[older], older)
    if _is_compact(config, source):
        give("index.type", "compact", "use_compact")
    used = {*origins.values(), *(older for older in config if not _given(config, older)), "use_compact", "rag_service_port"}
    idle = [f"rag.{key}" for key in rag if key != "config"] + [key for key in config if key not in used]
    return Translation(mapping, origins, _warnings(config, idle, source))


def _warnings(config: Mapping[str, object], idle: list[str], source: str) -> tuple[str, ...]:
    warnings = []
    if _given(config, "rag_service_port"):
        warnings.append(f"{source}: rag_service_port = {config['rag_service_port']} has no effect yet: there is no HTTP port")
    if idle:
        warnings.append(f"{source}: these keys do nothing here: {', '.join(idle)}")
    return tuple(warnings)


def _given(config: Mapping[str, object], older: str) -> bool:
    """Null and an empty string or list are that system's way of saying "not set"."""
    return config.get(older) not in (None, "", [])


def _typed(dotted: str, value: object) -> object:
    """Numbers and truth may be strings there, and truth a number too."""
    if isinstance(value, str) or (isinstance(value, int) and isinstance(KEYS[dotted].default, bool)):
        return from_text(dotted, str(value))
    return value


def _is_compact(config: Mapping[str, object], source: str) -> bool:
    if not _given(config, "use_compact"):
        return False
    compact = _typed("index.gpu", config["use_compact"])  # read as any other truth of that system
    if not isinstance(compact, bool):
        raise InvalidSetting({"use_compact": compact}, "must be true or false", {"use_compact": source})
    return compact
