"""Settings to plain data and back: what a file holds, what a child process is given. Never reads a file or the environment."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from .errors import ConfigurationError, InvalidSetting, shown
from .settings import KEYS, SECTIONS, Settings

_WORDS: Mapping[str, bool] = MappingProxyType(
    {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
)


def to_mapping(settings: Settings) -> dict[str, dict[str, object]]:
    """{"section": {"key": value}} of plain JSON values; `from_mapping` reads it back to an equal Settings."""
    nested: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for dotted, key in KEYS.items():
        value = settings.value(dotted)
        nested[key.section][key.name] = list(value) if isinstance(value, tuple) else value
    return nested


def from_mapping(mapping: Mapping[str, object], source: str) -> Settings:
    """Read {"section": {"key": value}}; what is missing has its default. Raises ConfigurationError, naming `source`."""
    values = flatten(mapping, source)
    return build(values, dict.fromkeys(values, source))


def build(values: Mapping[str, object], sources: Mapping[str, str]) -> Settings:
    """Settings from {"section.key": value} of known keys. Raises InvalidSetting, naming where the values came from."""
    tables: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for dotted, value in values.items():
        tables[KEYS[dotted].section][KEYS[dotted].name] = value
    try:
        return Settings(**{section: cls(**tables[section]) for section, cls in SECTIONS.items()})  # type: ignore[arg-type]
    except InvalidSetting as error:
        raise error.told_with(sources) from None


def flatten(mapping: Mapping[str, object], source: str) -> dict[str, object]:
    """{"section": {"key": value}} as {"section.key": value}. An unknown name raises, with the nearest known one."""
    values: dict[str, object] = {}
    for section, table in mapping.items():
        if section not in SECTIONS:
            raise ConfigurationError(_stranger(section, table, source))
        if not isinstance(table, Mapping):
            raise ConfigurationError(
                f"{section} = {shown(table)} ({source}): {section} is a section, written as [{section}] with its keys below"
            )
        for name, value in table.items():
            dotted = f"{section}.{name}"
            if dotted not in KEYS:
                raise ConfigurationError(
                    f"unknown setting {shown(dotted)} ({source}): the nearest known one is {nearest_key(dotted)}"
                )
            values[dotted] = value
    return values


def _stranger(section: str, table: object, source: str) -> str:
    if isinstance(table, Mapping):
        return f"unknown section {shown(section)} ({source}): the nearest known one is [{nearest(section, SECTIONS)}]"
    return f"{shown(section)} ({source}) stands outside every section: the nearest known setting is {nearest_key(section)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like `word`."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def nearest_key(dotted: str) -> str:
    """The "section.key" most like `dotted`: the right name in the wrong section, or in none, comes first."""
    section, _, name = dotted.rpartition(".")
    elsewhere = [known for known, key in KEYS.items() if key.name == name]
    if elsewhere:
        return nearest(dotted, elsewhere)
    if section in SECTIONS:
        return nearest(dotted, KEYS)
    bare = nearest(name, [key.name for key in KEYS.values()])
    return next(known for known, key in KEYS.items() if key.name == bare)


def from_text(dotted: str, text: str) -> object:
    """What a string of the environment, of a flag or of the older JSON means for this key.

    Text that means nothing is given back as it is, so that the check of the setting names it.
    """
    default = KEYS[dotted].default
    word = text.strip()
    try:
        if isinstance(default, bool):
            return _WORDS.get(word.lower(), text)
        if isinstance(default, int):
            return int(word)
        if isinstance(default, float):
            return float(word)
    except ValueError:
        return text
    return text
