"""Bytes become records here and nowhere else: the only file that knows MessagePack.

A message is the frames `version, kind, (id, header, body)+`: all items of a message share its kind. Whatever the bytes are,
decoding raises nothing but `ProtocolError` and `VersionMismatch`; a single bad item among good ones becomes `Malformed`.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Union

import msgpack

from . import messages
from .errors import ProtocolError, VersionMismatch
from .messages import ID_BYTES, KINDS, PROTOCOL_VERSION, TIMINGS_MAX, Decoded, Malformed, Record

MAGIC = b"RP"
VERSION_FRAME = MAGIC + str(PROTOCOL_VERSION).encode()
SPOKEN = frozenset({VERSION_FRAME})
"""Version frames that this code understands: its own protocol and, once there is one, the one before."""

ITEMS_MAX = 4096
HEADER_MAX_BYTES = 128 * 1024
IDS_MAX = 8192
"""Ids that one header may list."""

ENDS_MAX = 8
"""Ends that one registration may tell."""

DEPTH_MAX = 16
"""Nesting of maps and arrays in anything that travels, metadata included."""

Buffer = Union[bytes, memoryview]
Check = Callable[[Any], Any]

_EMPTY_HEADER = msgpack.packb({})
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


# ---- schemas, read off the records ---------------------------------------------------------------------------------


def _exactly(kind: type) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"wants {kind.__name__}, not {type(value).__name__}")
        return value

    return check


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("wants a finite number")
    return float(value)


def _list_of(check: Check, most: int) -> Check:
    def check_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > most:
            raise ValueError(f"wants a list of at most {most}")
        return tuple(check(item) for item in value)

    return check_all


def _request_id(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != ID_BYTES:
        raise ValueError(f"wants an id of {ID_BYTES} bytes")
    return value


def _timings(value: Any) -> dict[str, float]:
    if type(value) is not dict or len(value) > TIMINGS_MAX:
        raise ValueError(f"wants a map of at most {TIMINGS_MAX} timings")
    return {_exactly(str)(name): _finite(ms) for name, ms in value.items()}


def _nested(cls: type[Any]) -> Check:
    fields = _fields(cls)
    required = _required(cls)

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError(f"wants a map of {cls.__name__}")
        values = _checked(fields, value)
        for name in required:
            if name not in values:
                raise ValueError(f"wants a {name} in each {cls.__name__}")
        return cls(**values)

    return check


def _fields(cls: type[Any]) -> tuple[tuple[str, Check], ...]:
    return tuple((f.name, _CHECKS[str(f.type)]) for f in dataclasses.fields(cls) if f.name not in ("id", "body"))


def _required(cls: type[Any]) -> tuple[str, ...]:
    """Names of the header fields that have no default."""
    return tuple(
        f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING and f.name != "id"
    )


def _checked(fields: tuple[tuple[str, Check], ...], header: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, check in fields:
        if name in header:
            try:
                values[name] = check(header[name])
            except ValueError as error:
                raise ProtocolError(f"{name} {error}") from None
    return values


_CHECKS: dict[str, Check] = {
    "str": _exactly(str),
    "int": _exactly(int),
    "bool": _exactly(bool),
    "float": _finite,
    "tuple[int, ...]": _list_of(_exactly(int), IDS_MAX),
    "tuple[bytes, ...]": _list_of(_request_id, IDS_MAX),
    "Mapping[str, float]": _timings,
}
_CHECKS["Limits"] = _nested(messages.Limits)
_CHECKS["Rollout"] = _nested(messages.Rollout)
_CHECKS["tuple[SlotBrief, ...]"] = _list_of(_nested(messages.SlotBrief), IDS_MAX)
_CHECKS["tuple[Gone, ...]"] = _list_of(_nested(messages.Gone), ENDS_MAX)

_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_FIELDS = {cls: _fields(cls) for cls in KINDS.values()}
_NAMES = {cls: tuple(name for name, _ in fields) for cls, fields in _FIELDS.items()}
_REQUIRED = {cls: _required(cls) for cls in KINDS.values()}
_HAS_ID = frozenset(cls for cls in KINDS.values() if any(f.name == "id" for f in dataclasses.fields(cls)))
_HAS_BODY = frozenset(cls for cls in KINDS.values() if any(f.name == "body" for f in dataclasses.fields(cls)))
_NESTING = frozenset({messages.Welcome, messages.Slots, messages.Register})


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
    cls = type(record)
    fields = dataclasses.asdict(record) if cls in _NESTING else {name: getattr(record, name) for name in _NAMES[cls]}
    header = msgpack.packb(fields) if fields else _EMPTY_HEADER
    identity: bytes = record.id if cls in _HAS_ID else b""  # type: ignore[union-attr]
    body: bytes = record.body if cls in _HAS_BODY else b""  # type: ignore[union-attr]
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
    return [_decode_item(cls, frames[i], frames[i + 1], frames[i + 2]) for i in range(2, len(frames), 3)]


def decode_datagram(data: bytes, allowed: Collection[bytes]) -> Decoded:
    """The record in one datagram of the channel; raises `ProtocolError` or `VersionMismatch`."""
    frames = unpack(data)
    if type(frames) is not list or len(frames) != 5 or any(type(frame) is not bytes for frame in frames):
        raise ProtocolError("a datagram is a list of five frames")
    return decode(frames, allowed)[0]


def _decode_item(cls: type[Any], identity: Buffer, header: Buffer, body: Buffer) -> Decoded:
    identity = bytes(identity[: ID_BYTES + 1])
    known = identity if len(identity) == ID_BYTES else b""
    if cls in _HAS_ID and not known and not (cls is messages.Failure and not identity):
        return Malformed(b"", f"an id has {ID_BYTES} bytes")
    if len(header) > HEADER_MAX_BYTES:
        return Malformed(known, f"a header has at most {HEADER_MAX_BYTES} bytes")
    try:
        fields = unpack(header)
        if type(fields) is not dict:
            return Malformed(known, "a header is a map")
        values = _checked(_FIELDS[cls], fields)
    except ProtocolError as error:
        return Malformed(known, error.message)
    for name in _REQUIRED[cls]:
        if name not in values:
            return Malformed(known, f"{name} is missing")
    if cls in _HAS_ID:
        values["id"] = known
    if cls in _HAS_BODY:
        values["body"] = bytes(body)
    record: Record = cls(**values)
    return record


def _names(words: Collection[bytes]) -> str:
    return ", ".join(sorted(word.decode("ascii", "backslashreplace") for word in words))
