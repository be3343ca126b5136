"""Whole messages through real sockets: all of one or nothing, and never a wait."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ragpool.wire import multipart

Pair = tuple[multipart.Socket, multipart.Socket]
FULL = 4


@pytest.fixture
def pair() -> Iterator[Pair]:
    context: zmq.Context[multipart.Socket] = zmq.Context()
    sender, receiver = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    sender.sndhwm = receiver.rcvhwm = FULL
    sender.bind("inproc://here")
    receiver.connect("inproc://here")
    yield sender, receiver
    context.destroy(linger=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.lists(st.binary(max_size=100), min_size=1, max_size=20), max_size=FULL))
def test_frames_arrive_as_they_were_sent_message_by_message(pair: Pair, messages: list[list[bytes]]) -> None:
    sender, receiver = pair
    for frames in messages:
        assert sender.poll(1000, zmq.POLLOUT)
        multipart.send(sender, frames)
    assert [multipart.receive(receiver) for _ in messages] == messages
    with pytest.raises(zmq.Again):
        multipart.receive(receiver)


def test_large_frames_arrive_whole(pair: Pair) -> None:
    sender, receiver = pair
    frames = [b"small", bytes(range(256)) * 40_000, b"", b"end"]
    multipart.send(sender, frames)
    assert multipart.receive(receiver) == frames


def test_an_empty_socket_is_told_at_once(pair: Pair) -> None:
    began = time.perf_counter()
    with pytest.raises(zmq.Again):
        multipart.receive(pair[1])
    assert time.perf_counter() - began < 1.0


def test_a_full_socket_refuses_a_message_and_keeps_none_of_it(pair: Pair) -> None:
    sender, receiver = pair
    sent = 0
    while sender.poll(100, zmq.POLLOUT):
        multipart.send(sender, [b"a", b"b", str(sent).encode()])
        sent += 1
    with pytest.raises(zmq.Again):
        multipart.send(sender, [b"a", b"b", b"one more"])
    assert [multipart.receive(receiver) for _ in range(sent)] == [[b"a", b"b", str(n).encode()] for n in range(sent)]
    assert sender.poll(1000, zmq.POLLOUT)
    multipart.send(sender, [b"next"])
    assert multipart.receive(receiver) == [b"next"]
