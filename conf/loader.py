"""Defaults < file < environment < flags: the settings in force, and where each came from. Never changes what it reads.

Relative paths, in a file as on the command line, start at the current folder, not at the file's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .errors import ConfigurationError, shown
from .legacy import translate
from .mapping import build, flatten, from_text, nearest, nearest_key
from .settings import KEYS, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "default"

ENVIRONMENT: Mapping[str, str] = MappingProxyType({f"RAGPOOL_{dotted.upper().replace('.', '__')}": dotted for dotted in KEYS})
"""RAGPOOL_SECTION__KEY -> "section.key". RAGPOOL_ names without a double underscore are no settings."""

FLAGS: Mapping[str, str] = MappingProxyType(
    {dotted: f"--{key.name.replace('_', '-')}" for dotted, key in KEYS.items()}
    | {"pool.devices": "--device", "index.path": "--index"}
)
"""How a flag for this key is called; the sources name it so."""

_ENVIRONMENT_NAME = re.compile(r"RAGPOOL_.+?__.+", re.DOTALL)
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Loaded:
    """`sources` maps every "section.key" to "default", "file X", "environment NAME" or "flag --name"."""

    settings: Settings
    sources: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place says: values and sources by "section.key"."""

    values: dict[str, object]
    sources: dict[str, str]
    warnings: tuple[str, ...] = ()


def load(config_file: str | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Settings from all four places. `flags` maps "section.key" to a value, None meaning not given. Raises ConfigurationError."""
    layers = [_environment_layer(environ), _flag_layer(flags)]
    if config_file is not None:
        layers.insert(0, _file_layer(config_file))
    values: dict[str, object] = {}
    sources = dict.fromkeys(KEYS, DEFAULT)
    for layer in layers:
        values.update(layer.values)
        sources.update(layer.sources)
    settings = build(values, sources)
    warnings = tuple(warning for layer in layers for warning in layer.warnings)
    return Loaded(settings, sources, warnings + idle_on_cpu(settings.pool.devices, sources))


def idle_on_cpu(devices: tuple[str, ...], sources: Mapping[str, str]) -> tuple[str, ...]:
    """A warning for each index setting that somebody made and that does nothing, since every device is cpu."""
    if any(device != "cpu" for device in devices):
        return ()
    made = [dotted for dotted in ("index.gpu", "index.gpus_per_worker") if sources[dotted] != DEFAULT]
    return tuple(f"{dotted} ({sources[dotted]}) does nothing on cpu devices" for dotted in made)


def _file_layer(config_file: str) -> Layer:
    source = f"file {config_file}"
    text = _read(config_file)
    if Path(config_file).suffix.lower() != ".json" and not text.lstrip().startswith("{"):
        values = flatten(_parse_toml(text, config_file), source)
        return Layer(values, dict.fromkeys(values, source))
    older = translate(_parse_json(text, config_file), source)
    values = flatten(older.mapping, source)
    return Layer(values, {dotted: f"{source}, {older.origins[dotted]}" for dotted in values}, older.warnings)


def _read(config_file: str) -> str:
    try:
        return Path(config_file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {config_file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"the configuration file {config_file} is not UTF-8: byte {error.start} cannot be decoded"
        ) from None
    except ValueError as error:  # a NUL in the name
        raise ConfigurationError(f"cannot read the configuration file {shown(config_file)}: {error}") from None


def _parse_toml(text: str, config_file: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError(f"{config_file}: nested too deeply") from None
    except ValueError as error:
        place = _TOML_PLACE.search(str(error))
        if place is None:
            raise ConfigurationError(f"{config_file}: {error}") from None
        where = f"line {place[1]}, column {place[2]}" if place[1] else f"line {len(text.splitlines())}, the last"
        raise ConfigurationError(f"{config_file}, {where}: {str(error)[: place.start()]}") from None


def _parse_json(text: str, config_file: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigurationError(f"{config_file}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{config_file}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise ConfigurationError(f"{config_file}: {error}") from None


def _environment_layer(environ: Mapping[str, str]) -> Layer:
    layer = Layer({}, {})
    warnings = []
    single = {name.replace("__", "_"): name for name in ENVIRONMENT}
    for name in sorted(environ):
        if name in ENVIRONMENT:
            dotted = ENVIRONMENT[name]
            layer.values[dotted] = from_text(dotted, environ[name])
            layer.sources[dotted] = f"environment {name}"
        elif _ENVIRONMENT_NAME.fullmatch(name):
            raise ConfigurationError(
                f"unknown environment variable {name}: the nearest known one is {nearest(name.upper(), ENVIRONMENT)}"
            )
        elif name in single:
            warnings.append(f"environment variable {name} is not read: the setting is {single[name]}")
    return Layer(layer.values, layer.sources, tuple(warnings))


def _flag_layer(flags: Mapping[str, object]) -> Layer:
    layer = Layer({}, {})
    for dotted, value in flags.items():
        if dotted not in KEYS:
            raise ConfigurationError(f"unknown setting {dotted!r} (flag): the nearest known one is {nearest_key(dotted)}")
        if value is not None:
            layer.values[dotted] = from_text(dotted, value) if isinstance(value, str) else value
            layer.sources[dotted] = f"flag {FLAGS[dotted]}"
    return layer
