"""Every record survives the wire; no bytes whatever raise anything but the protocol's errors."""

from __future__ import annotations

import dataclasses

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragpool.wire import codec, messages
from ragpool.wire.errors import ProtocolError, VersionMismatch
from ragpool.wire.messages import KINDS, Malformed, Request, SlotBrief

IDS = st.binary(min_size=16, max_size=16)
BY_TYPE = {
    "str": st.text(max_size=20),
    "int": st.integers(-(1 << 63), (1 << 64) - 1),
    "bool": st.booleans(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bytes": st.binary(max_size=40),
    "tuple[int, ...]": st.lists(st.integers(0, 1 << 32), max_size=5).map(tuple),
    "tuple[bytes, ...]": st.lists(IDS, max_size=5).map(tuple),
    "Mapping[str, float]": st.dictionaries(st.text(max_size=8), st.floats(0, 1e6), max_size=5),
    "Limits": st.builds(messages.Limits),
    "tuple[SlotBrief, ...]": st.lists(
        st.builds(SlotBrief, st.integers(0, 99), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.floats(0, 99)),
        max_size=3,
    ).map(tuple),
}


def records_of(cls: type) -> st.SearchStrategy:
    fields = {field.name: IDS if field.name == "id" else BY_TYPE[str(field.type)] for field in dataclasses.fields(cls)}
    return st.builds(cls, **fields)


RECORDS = st.one_of([records_of(cls) for cls in KINDS.values()])
FRAMES = st.lists(st.binary(max_size=60), max_size=9)


@given(RECORDS)
def test_a_record_comes_back_as_it_went(record: messages.Record) -> None:
    assert codec.decode(codec.encode(record), KINDS) == [record]
    assert codec.decode_datagram(codec.encode_datagram(record), KINDS) == record


@given(st.lists(records_of(Request), min_size=1, max_size=6))
def test_many_of_a_kind_travel_in_one_message(requests: list[Request]) -> None:
    assert codec.decode(codec.encode_many(requests), messages.FROM_CLIENT) == requests


@given(RECORDS)
def test_frames_may_come_as_memoryviews(record: messages.Record) -> None:
    assert codec.decode([memoryview(frame) for frame in codec.encode(record)], KINDS) == [record]


@given(RECORDS, st.dictionaries(st.text(min_size=12, max_size=20), st.integers(0, 9), max_size=3))
def test_unknown_fields_are_ignored(record: messages.Record, more: dict[str, int]) -> None:
    version, kind, identity, header, body = codec.encode(record)
    header = msgpack.packb({**msgpack.unpackb(header), **more})
    assert codec.decode([version, kind, identity, header, body], KINDS) == [record]


@given(RECORDS)
def test_a_field_that_is_missing_takes_its_default(record: messages.Record) -> None:
    version, kind, identity, _, body = codec.encode(record)
    (decoded,) = codec.decode([version, kind, identity, msgpack.packb({}), body], KINDS)
    assert isinstance(decoded, (type(record), Malformed))
    if isinstance(decoded, Malformed):
        assert decoded.reason.endswith("is missing")


@settings(max_examples=500)
@given(FRAMES)
def test_random_frames_raise_only_protocol_errors(frames: list[bytes]) -> None:
    decode_quietly(frames)


@settings(max_examples=500)
@given(RECORDS, st.integers(0, 4), st.data())
def test_mutated_messages_raise_only_protocol_errors(record: messages.Record, where: int, data: st.DataObject) -> None:
    frames = codec.encode(record)
    frame = bytearray(frames[where])
    for _ in range(data.draw(st.integers(1, 4))):
        if frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    frames[where] = bytes(frame) if data.draw(st.booleans()) else bytes(frame[:cut])
    decode_quietly(frames)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_datagrams_raise_only_protocol_errors(datagram: bytes) -> None:
    try:
        codec.decode_datagram(datagram, KINDS)
    except (ProtocolError, VersionMismatch):
        pass


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))  # fmt: skip  # noqa: E501
def test_any_header_gives_a_record_or_says_what_is_wrong(header: object) -> None:
    try:
        packed = msgpack.packb(header)
    except OverflowError:
        return
    for cls, kind in ((cls, kind) for kind, cls in KINDS.items()):
        (decoded,) = codec.decode([codec.VERSION_FRAME, kind, bytes(16), packed, b""], KINDS)
        assert isinstance(decoded, (cls, Malformed))


def decode_quietly(frames: list[bytes]) -> None:
    try:
        decoded = codec.decode(frames, KINDS)
    except (ProtocolError, VersionMismatch):
        return
    assert all(isinstance(record, (*KINDS.values(), Malformed)) for record in decoded)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def request_with(**fields: object) -> list[bytes]:
    return [codec.VERSION_FRAME, b"REQUEST", bytes(16), msgpack.packb({"op": "search", **fields}), b"\x80"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("items", "1"), ("items", True), ("items", 1.0), ("top_k", None), ("remaining_ms", [1]), ("collection", b"default")],
)
def test_a_wrong_type_is_named(field: str, value: object) -> None:
    (decoded,) = codec.decode(request_with(**{field: value}), messages.FROM_CLIENT)
    assert isinstance(decoded, Malformed)
    assert decoded.reason.startswith(f"{field} wants")
    assert decoded.id == bytes(16)


def test_one_bad_item_leaves_its_neighbours_alone() -> None:
    good = codec.encode(Request(b"g" * 16, "search"))
    bad = request_with(items="many")
    decoded = codec.decode([*good, *bad[2:], *good[2:]], messages.FROM_CLIENT)
    assert [type(record) for record in decoded] == [Request, Malformed, Request]


def test_a_client_cannot_speak_as_a_worker() -> None:
    with pytest.raises(ProtocolError, match="REPLY is not one of"):
        codec.decode(codec.encode(messages.Reply(bytes(16))), messages.FROM_CLIENT)


def test_another_version_is_told_from_another_protocol() -> None:
    with pytest.raises(VersionMismatch, match="RP9"):
        codec.decode([b"RP9", *codec.encode(messages.Hello())[1:]], messages.FROM_CLIENT)
    with pytest.raises(ProtocolError, match="not a version"):
        codec.decode([b"GET / HTTP/1.1", *codec.encode(messages.Hello())[1:]], messages.FROM_CLIENT)


@pytest.mark.parametrize("count", [0, 1, 4, 6, 7, 9])
def test_frames_come_in_items_of_three(count: int) -> None:
    frames = [codec.VERSION_FRAME, b"HELLO", *[b""] * 10][:count]
    with pytest.raises(ProtocolError):
        codec.decode(frames, messages.FROM_CLIENT)


def test_extension_types_are_refused() -> None:
    for value in (msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)):
        (decoded,) = codec.decode(request_with(items=value), messages.FROM_CLIENT)
        assert isinstance(decoded, Malformed)


def test_deep_nesting_is_refused_and_does_not_end_the_process() -> None:
    (decoded,) = codec.decode([*request_with()[:3], b"\x91" * 100_000 + b"\x01", b""], messages.FROM_CLIENT)
    assert isinstance(decoded, Malformed)


def test_a_header_that_is_too_long_is_not_even_read() -> None:
    (decoded,) = codec.decode(request_with(collection="x" * codec.HEADER_MAX_BYTES), messages.FROM_CLIENT)
    assert isinstance(decoded, Malformed)


def test_depth_counts_maps_and_arrays() -> None:
    assert [codec.depth(value) for value in (1, [], {}, [[1], {"a": 2}], {"a": {"b": [1]}})] == [0, 1, 1, 2, 3]
    deep: object = 0
    for _ in range(1000):
        deep = [deep]
    assert codec.depth(deep) == codec.DEPTH_MAX + 1
