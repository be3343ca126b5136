"""Settings as text: what `rag-broker config` prints, and default.toml. What it writes must never load as anything else."""

from __future__ import annotations

import json

from .loader import Loaded
from .settings import KEYS, SECTIONS

_HEAD = """\
# Every setting of RAGPool, with its default. A file needs only the lines that differ.
# Order: these defaults < the file given by --config < RAGPOOL_SECTION__KEY in the environment < flags.
"""


def reference() -> str:
    """The text of default.toml: every key with its doc, what is allowed, and its default."""
    lines = [_HEAD]
    for section, cls in SECTIONS.items():
        lines += [f"# {(cls.__doc__ or '').strip()}", f"[{section}]"]
        for key in KEYS.values():
            if key.section == section:
                lines += [f"# {key.doc}", f"{key.name} = {toml_value(key.default)}"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def to_toml(loaded: Loaded) -> str:
    """What is in force, by section, each value with its source as a comment."""
    blocks = []
    for section in SECTIONS:
        keys = {dotted: key for dotted, key in KEYS.items() if key.section == section}
        settings = {dotted: f"{key.name} = {toml_value(loaded.settings.value(dotted))}" for dotted, key in keys.items()}
        width = max(len(line) for line in settings.values() if len(line) <= 60)
        rows = [f"{line.ljust(width)}  # {_comment(loaded.sources[dotted])}" for dotted, line in settings.items()]
        blocks.append("\n".join([f"[{section}]", *rows]) + "\n")
    return "\n".join(blocks)


def to_json(loaded: Loaded) -> dict[str, dict[str, dict[str, object]]]:
    """{"section": {"key": {"value": ..., "source": ...}}} of plain JSON values."""
    document: dict[str, dict[str, dict[str, object]]] = {section: {} for section in SECTIONS}
    for dotted, key in KEYS.items():
        value = loaded.settings.value(dotted)
        plain = list(value) if isinstance(value, tuple) else value
        document[key.section][key.name] = {"value": plain, "source": loaded.sources[dotted]}
    return document


def toml_value(value: object) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _comment(text: str) -> str:
    """A comment ends with its line, and TOML allows no control characters in it."""
    return "".join(character if character.isprintable() else "?" for character in text)
