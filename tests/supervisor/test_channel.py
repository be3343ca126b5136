"""The channel over a real socket pair, without a process at the other end."""

import socket

import pytest
from ragpool.supervisor.channel import GONE_MAX, Channel, ChannelBroken
from ragpool.wire.codec import decode_datagram, encode_datagram
from ragpool.wire.messages import FROM_PARENT, Control, Drain, Drained, Gone, Serving, SlotBrief, Slots


@pytest.fixture
def ends():
    channel = Channel()
    broker = socket.socket(fileno=channel.broker_fileno())
    broker.setblocking(False)
    yield channel, broker
    broker.detach()
    channel.close()


def read_all(broker):
    """Everything that is there, as records."""
    records = []
    while True:
        try:
            records.append(decode_datagram(broker.recv(1 << 20), FROM_PARENT))
        except BlockingIOError:
            return records


def slots(wait_s):
    return Slots((SlotBrief(0, "cpu", "backoff", "", wait_s),))


def fill(channel, *, ids=4096):
    """Ends until the socket takes no more; returns how many were put."""
    count = 0
    while not channel.unsent:
        channel.put(Gone(f"{count:016x}", "exit code 1", True, (b"q" * 16,) * ids))
        count += 1
    return count


def test_records_travel_both_ways(ends):
    channel, broker = ends
    channel.put(Gone("ab", "killed by SIGKILL", False, (b"q" * 16,)))
    channel.put(slots(1.0))
    channel.put(Drain())
    assert read_all(broker) == [Gone("ab", "killed by SIGKILL", False, (b"q" * 16,)), slots(1.0), Drain()]
    for record in (Serving("tcp://127.0.0.1:1", "ipc:///x"), Control("stop"), Drained()):
        broker.send(encode_datagram(record))
    assert channel.receive() == ([Serving("tcp://127.0.0.1:1", "ipc:///x"), Control("stop"), Drained()], False)
    assert channel.receive() == ([], False)


def test_a_full_socket_blocks_nobody_and_loses_no_end(ends):
    channel, broker = ends
    put = fill(channel)
    channel.put(slots(1.0))
    channel.put(slots(2.0))
    channel.put(Drain())
    channel.put(slots(3.0))
    got = []
    while channel.unsent:
        got += read_all(broker)
        channel.flush()
    got += read_all(broker)
    assert [record.incarnation for record in got[:put]] == [f"{i:016x}" for i in range(put)]
    assert got[put:] == [slots(3.0), Drain()], "an older snapshot is superseded, the drain comes last"


def test_the_outbox_is_bounded(ends):
    channel, broker = ends
    put = fill(channel)
    for i in range(put, put + GONE_MAX + 10):
        channel.put(Gone(f"{i:016x}", "exit code 1"))
    assert channel.dropped == 11
    got = []
    while channel.unsent:
        got += read_all(broker)
        channel.flush()
    assert got[-1].incarnation == f"{put + GONE_MAX + 9:016x}" or read_all(broker)[-1].incarnation == f"{put + GONE_MAX + 9:016x}"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1",
        b"garbage",
        b"\x00" * 300_000,
        encode_datagram(Drain()),
        encode_datagram(Serving("a", "b"))[:-9] + b"\xc1" * 9,
        encode_datagram(Control("stop")).replace(b"RP1", b"RP9"),
    ],
)
def test_garbage_raises_one_error(ends, garbage):
    channel, broker = ends
    broker.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    broker.send(garbage)
    with pytest.raises(ChannelBroken):
        channel.receive()


def test_a_broker_that_is_gone_hurts_nobody(ends):
    channel, broker = ends
    broker.send(encode_datagram(Drained()))
    broker.shutdown(socket.SHUT_RDWR)
    assert channel.receive() == ([Drained()], True)
    channel.put(slots(1.0))
    assert not channel.unsent
