"""Every record survives the wire, and no bytes raise anything but the two errors of the protocol."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.wire import codec, messages
from ragpool.wire.errors import ProtocolError, VersionMismatch
from ragpool.wire.messages import KINDS, Malformed, Record

ALL = KINDS.keys()
IDS = st.binary(min_size=16, max_size=16)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
INT64 = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LIMITS = st.builds(messages.Limits, INT64, INT64, INT64, INT64)
SLOT = st.builds(messages.SlotBrief, INT64, TEXT, TEXT, TEXT, FINITE)
GONE = st.builds(messages.Gone, TEXT, TEXT, st.booleans(), st.lists(IDS, max_size=3).map(tuple))

ROLLOUT = st.builds(
    messages.Rollout, ticket=TEXT, kind=TEXT, state=TEXT, told=TEXT, replaced=INT64, index=TEXT, before=TEXT, after=TEXT
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": INT64,
    "bool": st.booleans(),
    "float": FINITE,
    "bytes": st.binary(max_size=60),
    "Limits": LIMITS,
    "Rollout": ROLLOUT,
    "Mapping[str, float]": st.dictionaries(TEXT, FINITE, max_size=5),
    "tuple[int, ...]": st.lists(INT64, max_size=5).map(tuple),
    "tuple[bytes, ...]": st.lists(IDS, max_size=5).map(tuple),
    "tuple[SlotBrief, ...]": st.lists(SLOT, max_size=3).map(tuple),
    "tuple[Gone, ...]": st.lists(GONE, max_size=3).map(tuple),
}


def records_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    fields = {f.name: IDS if f.name == "id" else BY_TYPE[str(f.type)] for f in dataclasses.fields(cls)}
    return st.builds(cls, **fields)


ANY_RECORD = st.one_of([records_of(cls) for cls in KINDS.values()])
SHORT = st.binary(max_size=8)
SAME_KIND = st.sampled_from(list(KINDS.values())).flatmap(lambda cls: st.lists(records_of(cls), min_size=1, max_size=6))
KIND_SETS = st.sampled_from([messages.FROM_CLIENT, messages.TO_CLIENT, messages.FROM_WORKER, messages.FROM_PARENT, ALL])

VALUES = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats() | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.binary(max_size=4), inner, max_size=4),
    max_leaves=12,
)
FIELD_NAMES = st.sampled_from(sorted({f.name for cls in KINDS.values() for f in dataclasses.fields(cls)})) | TEXT
HEADERS = st.dictionaries(FIELD_NAMES, VALUES, max_size=8).map(msgpack.packb)


def decode(frames: list[bytes], allowed: Any = ALL) -> list[Any]:
    """What the codec makes of `frames`; an error of the protocol is nothing. Any other exception is a failed test."""
    try:
        return list(codec.decode(frames, allowed))
    except (ProtocolError, VersionMismatch):
        return []


# ---- round trips ----------------------------------------------------------------------------------------------------


@given(ANY_RECORD)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert codec.decode(codec.encode(record), ALL) == [record]
    assert codec.decode([memoryview(frame) for frame in codec.encode(record)], ALL) == [record]
    assert codec.decode_datagram(codec.encode_datagram(record), ALL) == record


@given(SAME_KIND)
def test_items_of_one_message_come_back_in_order(records: list[Record]) -> None:
    assert codec.decode(codec.encode_many(records), ALL) == records


@given(ANY_RECORD, st.dictionaries(TEXT.map(lambda name: "x-" + name), VALUES, max_size=3))
def test_unknown_fields_are_ignored(record: Record, more: dict[str, Any]) -> None:
    version, kind, identity, header, body = codec.encode(record)
    padded = msgpack.packb({**more, **msgpack.unpackb(header)})
    assert codec.decode([version, kind, identity, padded, body], ALL) == [record]


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: str(cls.__name__))
def test_missing_fields_take_their_defaults_or_are_named(cls: type[Any]) -> None:
    (kind,) = (kind for kind, known in KINDS.items() if known is cls)
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name != "id"
    ]
    (found,) = codec.decode([codec.VERSION_FRAME, kind, bytes(16), b"\x80", b""], ALL)
    if required:
        assert isinstance(found, Malformed)
        assert found.reason == f"{required[0]} is missing"
    else:
        assert isinstance(found, cls)


@given(ANY_RECORD, KIND_SETS)
def test_only_the_allowed_kinds_are_read(record: Record, allowed: Any) -> None:
    frames = codec.encode(record)
    if frames[1] in allowed:
        assert codec.decode(frames, allowed) == [record]
    else:
        with pytest.raises(ProtocolError):
            codec.decode(frames, allowed)


# ---- hostile bytes --------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=9), KIND_SETS)
def test_random_frames_raise_only_errors_of_the_protocol(frames: list[bytes], allowed: Any) -> None:
    decode(frames, allowed)


@settings(max_examples=400)
@given(SAME_KIND, st.data())
def test_mutated_messages_raise_only_errors_of_the_protocol(records: list[Record], data: st.DataObject) -> None:
    frames = codec.encode_many(records)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frames) - 1))
        frame = frames[at]
        how = data.draw(st.sampled_from(["flip", "cut", "grow", "drop", "swap", "random"]))
        if how == "flip" and frame:
            place = data.draw(st.integers(0, len(frame) - 1))
            frames[at] = frame[:place] + bytes([data.draw(st.integers(0, 255))]) + frame[place + 1 :]
        elif how == "cut":
            frames[at] = frame[: data.draw(st.integers(0, len(frame)))]
        elif how == "grow":
            frames[at] = frame + data.draw(st.binary(max_size=8))
        elif how == "drop" and len(frames) > 1:
            del frames[at]
        elif how == "swap":
            other = data.draw(st.integers(0, len(frames) - 1))
            frames[at], frames[other] = frames[other], frames[at]
        else:
            frames[at] = data.draw(st.binary(max_size=30))
    decode(frames)


@settings(max_examples=120)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(IDS | st.binary(max_size=20), HEADERS, SHORT), min_size=1, max_size=3))
def test_any_header_makes_a_record_with_fields_of_its_types_or_malformed(kind: bytes, items: list[Any]) -> None:
    frames = [codec.VERSION_FRAME, kind, *(frame for item in items for frame in item)]
    found = decode(frames)
    assert len(found) == len(items)
    for record in found:
        if not isinstance(record, Malformed):
            assert codec.decode(codec.encode(record), ALL) == [record]


@given(st.binary(max_size=60) | VALUES.map(msgpack.packb))
def test_random_datagrams_raise_only_errors_of_the_protocol(data: bytes) -> None:
    try:
        codec.decode_datagram(data, messages.FROM_PARENT)
    except (ProtocolError, VersionMismatch):
        pass


@given(st.binary(max_size=60))
def test_unpack_raises_only_errors_of_the_protocol(data: bytes) -> None:
    try:
        codec.unpack(data)
    except ProtocolError:
        pass


@given(VALUES)
def test_what_is_packed_is_unpacked(value: Any) -> None:
    assert repr(codec.unpack(codec.pack(value))) == repr(value)


@pytest.mark.parametrize("seconds", [0, 5, 2**33, 2**34, -1])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": [x]}, lambda x: {"m": {"deep": {"er": [1, x]}}}])
def test_timestamps_are_refused_wherever_they_are(seconds: int, wrap: Any) -> None:
    with pytest.raises(ProtocolError, match="extension type -1 is refused"):
        codec.unpack(msgpack.packb(wrap(msgpack.Timestamp(seconds, 7 if seconds > 5 else 0))))


def test_bytes_that_only_look_like_a_timestamp_are_bytes() -> None:
    value = {"vectors": b"\xd6\xff\0\0\0\0" * 3, "deep": [{"x": b"\xd7\xff"}]}
    assert codec.unpack(codec.pack(value)) == value


@pytest.mark.parametrize("code", [0, 1, 127])
def test_extension_types_are_refused(code: int) -> None:
    with pytest.raises(ProtocolError, match=f"extension type {code} is refused"):
        codec.unpack(msgpack.packb([msgpack.ExtType(code, b"x")]))


@pytest.mark.parametrize(
    "data", [b"\x91" * 5_000 + b"\x90", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x81\xc0\x01", b""]
)
def test_bombs_are_errors(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.unpack(data)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", object(), {1, 2}])
def test_what_cannot_travel_is_said_when_it_is_packed(value: Any) -> None:
    with pytest.raises(ProtocolError):
        codec.pack(value)


def test_another_version_is_told_from_nonsense() -> None:
    with pytest.raises(VersionMismatch):
        codec.decode([b"RP2", b"PING", b"", b"\x80", b""], ALL)
    with pytest.raises(ProtocolError):
        codec.decode([b"GET", b"PING", b"", b"\x80", b""], ALL)


def test_a_nested_map_without_a_needed_field_is_malformed() -> None:
    frames = [codec.VERSION_FRAME, b"SLOTS", b"", codec.pack({"slots": [{"slot": 1}]}), b""]
    (found,) = codec.decode(frames, ALL)
    assert isinstance(found, Malformed)
    assert found.reason == "slots wants a device in each SlotBrief"


def test_a_bad_item_leaves_its_neighbours_alone() -> None:
    one, two = messages.Cancel(b"a" * 16), messages.Cancel(b"b" * 16)
    frames = [*codec.encode(one), b"short", b"\x80", b"", *codec.encode(two)[2:]]
    found = codec.decode(frames, ALL)
    assert [type(record) for record in found] == [messages.Cancel, Malformed, messages.Cancel]


@given(st.integers(0, 70_000))
def test_spliced_headers_are_those_of_messagepack(count: int) -> None:
    packer = msgpack.Packer()
    assert codec.array_header(count) == packer.pack_array_header(count)
    assert codec.map_header(count) == packer.pack_map_header(count)


@given(VALUES)
def test_depth_counts_nesting(value: Any) -> None:
    def deep(item: Any) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if inner is None else 1 + max((deep(each) for each in inner), default=0)

    assert codec.depth(value) == min(deep(value), codec.DEPTH_MAX + 1)
