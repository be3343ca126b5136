"""The built-in demo corpus: the reference texts that ship inside CPython, cut into passages. Needs no download and no network."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .corpus import Row
from .manifest import FORMAT
from .passage import Passage
from .splitter import cut

SOURCE = "pydoc_data.topics"

_UNDERLINE = re.compile(r"^([*=\-~^\"+#])\1{2,}$", re.MULTILINE)
_SHAPE = 1
"""To be raised with a change of the passages, so that older demo indexes are not taken for this one."""


def demo_rows() -> Iterator[Row]:
    """The passages, ids like "booleans#2", in the order of their topics."""
    for topic, text in sorted(_topics().items()):
        heading, _, body = text.lstrip("\n").partition("\n")
        title = heading.replace('"', "").strip() or topic
        for number, passage in enumerate(cut(_UNDERLINE.sub("", body)), start=1):
            yield Row(SOURCE, 0, Passage(f"{topic}#{number}", title, passage, {"topic": topic}))


@functools.cache
def demo_fingerprint() -> str:
    """16 hexadecimal digits for the texts (which differ between versions of Python) and the format."""
    hashed = hashlib.sha256(f"{FORMAT} {_SHAPE}\n".encode())
    for topic, text in sorted(_topics().items()):
        hashed.update(f"{topic}\n{text}\n".encode())
    return hashed.hexdigest()[:16]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/ragpool`, by default `~/.cache/ragpool`."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "ragpool"


def demo_index_dir() -> Path:
    """Where the demo index of this Python and this format is kept."""
    return cache_folder() / f"demo-{demo_fingerprint()}"


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics

    return dict(topics)
