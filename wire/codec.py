"""Bytes become records here and nowhere else: the only file that knows MessagePack.

A message is the frames `version, kind, (id, header, body)+`: all items of a message share its kind. Whatever the bytes are,
decoding raises nothing but `ProtocolError` and `VersionMismatch`; a single bad item among good ones becomes `Malformed`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection, Sequence
from typing import Any, Union

import msgpack

from . import messages
from .errors import ProtocolError, VersionMismatch
from .messages import ID_BYTES, KINDS, PROTOCOL_VERSION, Decoded, Malformed, Record
from .schema import SCHEMAS, Schema

MAGIC = b"RP"
VERSION_FRAME = MAGIC + str(PROTOCOL_VERSION).encode()
SPOKEN = frozenset({VERSION_FRAME})
"""Version frames that this code understands: its own protocol and, once there is one, the one before."""

ITEMS_MAX = 4096
HEADER_MAX_BYTES = 128 * 1024
DEPTH_MAX = 16
"""Nesting of maps and arrays in anything that travels, metadata included."""

Buffer = Union[bytes, memoryview]

_EMPTY_HEADER = msgpack.packb({})
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_TIMESTAMP_STARTS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")


# ---- values --------------------------------------------------------------------------------------------------------


def pack(value: object) -> bytes:
    """MessagePack of plain values. Raises `ProtocolError` for what it cannot carry: lone surrogates, huge integers."""
    try:
        packed: bytes = msgpack.packb(value)
        return packed
    except (TypeError, ValueError, OverflowError, UnicodeError) as error:
        raise ProtocolError(f"not representable on the wire: {error}") from None


def unpack(data: Buffer) -> Any:
    """The plain value in `data`. Extension types, timestamps among them, are refused; raises `ProtocolError` only."""
    try:
        value = msgpack.unpackb(data, ext_hook=_refuse_extension, strict_map_key=True, timestamp=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, MemoryError) as error:
        raise ProtocolError(f"not MessagePack: {str(error) or type(error).__name__}") from None
    # msgpack builds timestamps without asking the hook; only data that holds such bytes pays for the search (text holds no 0xFF)
    data = bytes(data)
    if b"\xff" in data and any(start in data for start in _TIMESTAMP_STARTS) and _holds_timestamp(value):
        raise ProtocolError("not MessagePack: extension type -1 is refused")
    return value


def map_header(count: int) -> bytes:
    """The first bytes of a map of `count` pairs, for replies that are spliced together from parts."""
    if count < 16:
        return bytes((0x80 | count,))
    return struct.pack(">BH", 0xDE, count) if count < 65536 else struct.pack(">BI", 0xDF, count)


def array_header(count: int) -> bytes:
    """The first bytes of an array of `count` values."""
    if count < 16:
        return bytes((0x90 | count,))
    return struct.pack(">BH", 0xDC, count) if count < 65536 else struct.pack(">BI", 0xDD, count)


def float32(value: float) -> bytes:
    """A single-precision float."""
    return struct.pack(">Bf", 0xCA, value)


def depth(value: object) -> int:
    """How deep maps and arrays nest: 0 for a scalar. Stops counting just beyond `DEPTH_MAX`."""
    level, deepest = [value], 0
    while level and deepest <= DEPTH_MAX:
        inner: list[object] = []
        containers = False
        for item in level:
            if isinstance(item, dict):
                containers = True
                inner.extend(item.values())
            elif isinstance(item, (list, tuple)):
                containers = True
                inner.extend(item)
        deepest += containers
        level = inner
    return deepest


def _holds_timestamp(value: object) -> bool:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, msgpack.Timestamp):
            return True
        if isinstance(item, dict):
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
    return False


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is refused")


# ---- records to frames ---------------------------------------------------------------------------------------------


def encode(record: Record) -> list[bytes]:
    """The frames of a message with one item."""
    return [VERSION_FRAME, _KIND_OF[type(record)], *encode_item(record)]


def encode_many(records: Sequence[Record]) -> list[bytes]:
    """The frames of one message that carries all `records`, which are of one kind and at most `ITEMS_MAX`."""
    frames = [VERSION_FRAME, _KIND_OF[type(records[0])]]
    for record in records:
        frames += encode_item(record)
    return frames


def encode_item(record: Record) -> tuple[bytes, bytes, bytes]:
    """The `id, header, body` of one item."""
    schema = SCHEMAS[type(record)]
    fields = dataclasses.asdict(record) if schema.nests else {name: getattr(record, name) for name in schema.names}
    header = msgpack.packb(fields) if fields else _EMPTY_HEADER
    identity: bytes = record.id if schema.has_id else b""  # type: ignore[union-attr]
    body: bytes = record.body if schema.has_body else b""  # type: ignore[union-attr]
    return identity, header, body


def encode_datagram(record: Record) -> bytes:
    """A record as one datagram of the channel."""
    packed: bytes = msgpack.packb(encode(record))
    return packed


# ---- frames to records ---------------------------------------------------------------------------------------------


def decode(frames: Sequence[Buffer], allowed: Collection[bytes]) -> list[Decoded]:
    """The records of one message, whose kind must be in `allowed`.

    Raises `ProtocolError` or `VersionMismatch` where the envelope is wrong; an item that is wrong comes back as `Malformed`.
    """
    if not frames:
        raise ProtocolError("an empty message")
    version = bytes(frames[0][:16])
    if version not in SPOKEN:
        if version.startswith(MAGIC):
            raise VersionMismatch(f"this peer speaks {_names(SPOKEN)}, the message is {_names([version])}")
        raise ProtocolError("the first frame is not a version of this protocol")
    if len(frames) < 5 or (len(frames) - 2) % 3 or len(frames) > 2 + 3 * ITEMS_MAX:
        raise ProtocolError(f"{len(frames)} frames are not version, kind and 1 to {ITEMS_MAX} times id, header, body")
    kind = bytes(frames[1][:32])
    cls = KINDS.get(kind)
    if cls is None or kind not in allowed:
        raise ProtocolError(f"kind {_names([kind])} is not one of {_names(allowed)}")
    schema = SCHEMAS[cls]
    return [_decode_item(schema, frames[i], frames[i + 1], frames[i + 2]) for i in range(2, len(frames), 3)]


def decode_datagram(data: bytes, allowed: Collection[bytes]) -> Decoded:
    """The record in one datagram of the channel; raises `ProtocolError` or `VersionMismatch`."""
    frames = unpack(data)
    if type(frames) is not list or len(frames) != 5 or any(type(frame) is not bytes for frame in frames):
        raise ProtocolError("a datagram is a list of five frames")
    return decode(frames, allowed)[0]


def _decode_item(schema: Schema, identity: Buffer, header: Buffer, body: Buffer) -> Decoded:
    known = bytes(identity) if len(identity) == ID_BYTES else b""
    if schema.has_id and not known and (len(identity) or schema.cls is not messages.Failure):
        return Malformed(b"", f"an id has {ID_BYTES} bytes")
    if len(header) > HEADER_MAX_BYTES:
        return Malformed(known, f"a header has at most {HEADER_MAX_BYTES} bytes")
    try:
        fields = unpack(header)
        if type(fields) is not dict:
            return Malformed(known, "a header is a map")
        values = schema.checked(fields)
    except ProtocolError as error:
        return Malformed(known, error.message)
    if (name := schema.missing(values)) is not None:
        return Malformed(known, f"{name} is missing")
    if schema.has_id:
        values["id"] = known
    if schema.has_body:
        values["body"] = bytes(body)
    record: Record = schema.cls(**values)
    return record


def _names(words: Collection[bytes]) -> str:
    return ", ".join(sorted(word.decode("ascii", "backslashreplace") for word in words))
