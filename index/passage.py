"""A passage, and the MessagePack map it is kept and sent as: {id, title, text, metadata}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..wire import codec
from ..wire.errors import ProtocolError

TITLE_AND_TEXT = "title+text"
TEXT_ONLY = "text"

METADATA_DEPTH_MAX = codec.DEPTH_MAX
PACKED_MAX_BYTES = 4 * 1024 * 1024
"""Half of the largest frame: a passage beyond it could never be sent."""


class BadRow(Exception):
    """A row that cannot become a passage. Its reader knows the file and the line; this says why."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One unit of retrieval. `id` is unique in an index; `metadata` holds plain values, nested at most `METADATA_DEPTH_MAX`."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, object] = field(default_factory=dict)


def encoded_text(title: str, text: str, encode: str = TITLE_AND_TEXT) -> str:
    """What the encoder is given for a passage: title and text, or with `encode` = TEXT_ONLY the text; stripped."""
    return (text if encode == TEXT_ONLY else f"{title} {text}").strip()


def pack_passage(passage: Passage) -> bytes:
    """The passage as it is stored and sent. Raises `BadRow` for what cannot travel."""
    if codec.depth(passage.metadata) > METADATA_DEPTH_MAX:
        raise BadRow(f"its metadata is nested deeper than {METADATA_DEPTH_MAX}")
    try:
        packed = codec.pack({"id": passage.id, "title": passage.title, "text": passage.text, "metadata": dict(passage.metadata)})
    except ProtocolError as error:
        raise BadRow(f"it cannot be stored: {error.message}") from None
    if len(packed) > PACKED_MAX_BYTES:
        raise BadRow(f"it takes {len(packed)} bytes, and a passage has at most {PACKED_MAX_BYTES}")
    return packed
