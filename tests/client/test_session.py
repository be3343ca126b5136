"""The session with literal times: which events bring which commands."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from ragpool.client.chunks import Chunk
from ragpool.client.session import Session
from ragpool.client.states import TRANSITIONS, Command, Event, Fail, OpenSocket, Resolve, Send, State
from ragpool.wire import codec, messages
from ragpool.wire.errors import (
    BrokerUnreachable,
    ClientClosed,
    DeadlineExceeded,
    Overloaded,
    PoisonRequest,
    RemoteFailure,
    TooLarge,
    VersionMismatch,
)
from ragpool.wire.messages import FROM_CLIENT, Cancel, Failure, Hello, Limits, Ping, Pong, Record, Reply, Request, Unknown

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))


class Talk:
    """A session and what it says, as records."""

    def __init__(self, connect_timeout: float = 2.0) -> None:
        self.session = Session("tcp://broker:1", connect_timeout, Random(1))

    def submit(self, identity: bytes, now: float, timeout: float = 60.0, **chunk: object) -> list[object]:
        self.session.submit(identity, Chunk("search", ("q",), **chunk), now + timeout, now)  # type: ignore[arg-type]
        return self.said(now)

    def hears(self, record: Record | Sequence[Record], now: float) -> list[object]:
        records = record if isinstance(record, list) else [record]
        self.session.receive(codec.encode_many(records), now)
        return self.said(now)

    def at(self, now: float) -> list[object]:
        self.session.handle_timer(now)
        return self.said(now)

    def said(self, now: float) -> list[object]:
        self.session.check()
        out: list[object] = []
        for command in self.session.commands(now):
            out += self._plain(command)
        self.session.check()
        return out

    @staticmethod
    def _plain(command: Command) -> list[object]:
        return list(codec.decode(command.frames, FROM_CLIENT)) if isinstance(command, Send) else [command]


def welcome(epoch: str = "e1", **fields: object) -> messages.Welcome:
    return messages.Welcome(epoch, "test", **fields)  # type: ignore[arg-type]


def opened(**fields: object) -> Talk:
    """A session that was welcomed at 0.0 and answered A once."""
    talk = Talk()
    talk.submit(A, 0.0)
    talk.hears(welcome(**fields), 0.0)
    assert talk.hears(Reply(A), 0.0) == [Resolve(A, Reply(A))]
    return talk


def kinds(said: list[object]) -> list[str]:
    return [type(item).__name__ for item in said]


def errors(said: list[object]) -> list[tuple[bytes, type]]:
    return [(item.id, type(item.error)) for item in said if isinstance(item, Fail)]


# ---- opening --------------------------------------------------------------------------------------------------------


def test_the_first_request_opens_and_waits_for_the_welcome() -> None:
    talk = Talk()
    assert talk.submit(A, 0.0) == [OpenSocket(), Hello(client="", items_max=64)]
    (request,) = talk.hears(welcome(), 0.5)
    assert isinstance(request, Request)
    assert (request.id, request.remaining_ms, request.top_k) == (A, 59_500, 5)


def test_nothing_happens_before_the_first_request() -> None:
    talk = Talk()
    assert talk.at(100.0) == []
    assert talk.session.next_deadline() is None


def test_requests_of_one_turn_travel_in_one_message() -> None:
    talk = opened()
    for identity in (A, B, C):
        talk.session.submit(identity, Chunk("search", ("q",)), 60.0, 0.0)
    assert kinds(list(talk.session.commands(0.0))) == ["Send"]


def test_remaining_time_is_that_of_the_moment_of_sending() -> None:
    talk = opened(window=1)
    talk.submit(A, 1.0, timeout=10.0)
    talk.submit(B, 1.0, timeout=10.0)
    said = talk.hears(Reply(A), 8.25)
    assert [item.remaining_ms for item in said if isinstance(item, Request)] == [2_750]


def test_the_default_top_k_is_the_brokers() -> None:
    talk = opened(default_top_k=9)
    (request,) = talk.submit(A, 0.0)
    assert isinstance(request, Request)
    assert request.top_k == 9


def test_an_id_is_pending_only_once() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    with pytest.raises(ValueError, match="pending already"):
        talk.session.submit(A, Chunk("search", ("q",)), 1.0, 0.0)


# ---- nobody there ---------------------------------------------------------------------------------------------------


def test_never_welcomed_is_unreachable_at_the_connect_timeout() -> None:
    talk = Talk(connect_timeout=2.0)
    talk.submit(A, 10.0)
    talk.submit(B, 11.0)
    assert errors(talk.at(11.9)) == []
    assert errors(talk.at(12.0)) == [(A, BrokerUnreachable)]
    assert errors(talk.at(13.0)) == [(B, BrokerUnreachable)]


def test_a_deadline_before_the_connect_timeout_counts_first() -> None:
    talk = Talk(connect_timeout=2.0)
    talk.submit(A, 0.0, timeout=0.5)
    assert errors(talk.at(5.0)) == [(A, DeadlineExceeded)]


def test_hello_is_said_again_on_a_fresh_socket_after_three_silent_ticks() -> None:
    talk = Talk(connect_timeout=60.0)
    talk.submit(A, 0.0)
    assert talk.at(1.0) == []
    assert talk.at(2.0) == []
    assert kinds(talk.at(3.0)) == ["OpenSocket", "Hello"]


def test_once_welcomed_a_gap_is_ridden_out_until_the_deadline() -> None:
    talk = opened()
    talk.submit(A, 0.0, timeout=30.0)
    failed: list[tuple[bytes, type]] = []
    for second in range(1, 31):
        failed += errors(talk.at(float(second)))
        assert failed == ([] if second < 30 else [(A, DeadlineExceeded)])


# ---- life and death of a broker ---------------------------------------------------------------------------------------


def test_pings_go_out_each_second_while_something_is_pending() -> None:
    talk = opened()
    assert talk.session.next_deadline() is None
    talk.submit(A, 10.0)
    assert talk.session.next_deadline() == 11.0
    assert talk.at(11.0) == [Ping()]
    talk.hears(Pong("e1"), 11.01)
    assert talk.at(12.0) == [Ping()]
    talk.hears(Reply(A), 12.5)
    assert talk.session.next_deadline() is None


def test_three_ticks_without_a_word_and_all_is_sent_again() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    assert [kinds(talk.at(t)) for t in (1.0, 2.0, 3.0)] == [["Ping"], ["Ping"], ["OpenSocket", "Hello"]]
    said = talk.hears(welcome(), 3.1)
    assert [item.id for item in said if isinstance(item, Request)] == [A]


def test_any_word_of_the_broker_is_life() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    for t in range(1, 20):
        assert kinds(talk.at(float(t))) == ["Ping"]
        talk.session.receive([b"nonsense"], t + 0.5)


@pytest.mark.parametrize("word", [Pong("e2"), Ping("e2"), welcome("e2"), Unknown()])
def test_a_new_broker_gets_everything_again_under_the_same_ids(word: Record) -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.submit(B, 0.0)
    assert talk.hears(word, 1.0) == [OpenSocket(), Hello(items_max=64)]
    said = talk.hears(welcome("e2"), 1.1)
    assert [item.id for item in said if isinstance(item, Request)] == [A, B]
    assert talk.hears(Pong("e2"), 1.2) == []


def test_a_burst_of_unknowns_reconnects_once() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    assert kinds(talk.hears([Unknown(), Unknown(), Unknown()], 1.0)) == ["OpenSocket", "Hello"]
    assert talk.hears(Unknown(), 1.0) == []
    assert talk.session.counts.reconnects == 1


def test_a_long_pause_of_the_client_itself_is_no_silence_of_the_broker() -> None:
    talk = opened()
    talk.submit(A, 0.0, timeout=100.0)
    assert kinds(talk.at(50.0)) == ["Ping"]


def test_another_version_fails_everything_and_the_next_request_tries_anew() -> None:
    talk = Talk()
    talk.submit(A, 0.0)
    talk.submit(B, 0.0)
    said = talk.hears(Failure(b"", "version_mismatch", "this broker speaks RP9"), 0.1)
    assert errors(said) == [(A, VersionMismatch), (B, VersionMismatch)]
    assert talk.submit(C, 1.0) == [OpenSocket(), Hello(items_max=64)]


def test_a_message_in_another_version_says_the_same() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.session.receive([b"RP9", b"PONG", b"", b"\x80", b""], 1.0)
    assert errors(talk.said(1.0)) == [(A, VersionMismatch)]


# ---- answers --------------------------------------------------------------------------------------------------------


def test_a_second_answer_is_counted_and_dropped() -> None:
    talk = opened()
    assert talk.hears(Reply(A), 0.1) == []
    assert talk.hears(Failure(A, "remote_failure", "late"), 0.1) == []
    assert talk.session.counts.late_answers == 2


def test_an_error_comes_as_its_class_with_the_id() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    (fail,) = talk.hears(Failure(A, "poison_request", "no"), 0.1)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, PoisonRequest)
    assert fail.error.request_id == A.hex()


def test_several_answers_in_one_message() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.submit(B, 0.0)
    assert talk.hears([Reply(B), Reply(A)], 0.1) == [Resolve(B, Reply(B)), Resolve(A, Reply(A))]


def test_a_malformed_answer_fails_only_its_own_request() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.submit(B, 0.0)
    frames = codec.encode_many([Reply(A), Reply(B)])
    frames[3] = b"\xc1"
    talk.session.receive(frames, 0.1)
    said = talk.said(0.1)
    assert errors(said) == [(A, RemoteFailure)]
    assert kinds(said) == ["Fail", "Resolve"]


def test_the_deadline_is_the_sessions_own_and_the_broker_is_told() -> None:
    talk = opened()
    talk.submit(A, 0.0, timeout=1.5)
    talk.at(1.0)
    assert talk.session.next_deadline() == 1.5
    said = talk.at(1.5)
    assert errors(said) == [(A, DeadlineExceeded)]
    assert Cancel(A) in said


def test_cancel_is_told_to_the_broker_only_where_it_has_the_request() -> None:
    talk = opened(window=1)
    talk.submit(A, 0.0)
    talk.submit(B, 0.0)
    talk.session.cancel(B, 0.1)
    assert talk.said(0.1) == []
    talk.session.cancel(A, 0.2)
    assert talk.said(0.2) == [Cancel(A)]
    talk.session.cancel(A, 0.3)
    assert talk.said(0.3) == []


def test_a_cancel_dies_with_the_socket_it_was_meant_for() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.submit(B, 0.0)
    talk.session.cancel(A, 0.5)
    assert talk.hears(Unknown(), 0.5) == [OpenSocket(), Hello(items_max=64)]
    assert [(type(item), item.id) for item in talk.hears(welcome(), 0.6) if isinstance(item, (Request, Cancel))] == [(Request, B)]


# ---- busy -----------------------------------------------------------------------------------------------------------


def test_a_busy_broker_is_asked_again_after_the_time_it_names() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    assert talk.hears(Failure(A, "overloaded", "full", 400), 0.1) == []
    due = talk.session.next_deadline()
    assert due is not None
    assert 0.5 <= due <= 0.1 + 0.4 * 1.5
    assert talk.at(0.49) == []
    assert [item.id for item in talk.at(due) if isinstance(item, Request)] == [A]


def test_a_busy_broker_that_has_no_room_before_the_deadline_is_overloaded() -> None:
    talk = opened()
    talk.submit(A, 0.0, timeout=1.0)
    (fail,) = talk.hears(Failure(A, "overloaded", "full", 5_000), 0.1)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, Overloaded)
    assert fail.error.retry_after == 5.0


def test_a_broker_that_names_no_time_is_not_asked_in_a_spin() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.hears(Failure(A, "overloaded", "full", -5), 0.5)
    due = talk.session.next_deadline()
    assert due is not None
    assert due >= 0.51


# ---- window and limits ----------------------------------------------------------------------------------------------


def test_no_more_than_the_window_is_unanswered() -> None:
    talk = opened(window=2)
    ids = [bytes([n]) * 16 for n in range(10, 15)]
    for identity in ids:
        talk.session.submit(identity, Chunk("search", ("q",)), 60.0, 0.0)
    assert [item.id for item in talk.said(0.0) if isinstance(item, Request)] == ids[:2]
    assert [item.id for item in talk.hears(Reply(ids[1]), 0.1) if isinstance(item, Request)] == [ids[2]]


def test_higher_priorities_go_first() -> None:
    talk = opened(window=1)
    talk.submit(A, 0.0)
    talk.submit(B, 0.0, priority=0)
    talk.submit(C, 0.0, priority=5)
    assert [item.id for item in talk.hears(Reply(A), 0.1) if isinstance(item, Request)] == [C]


def test_a_lone_request_overtakes_the_rest_of_a_long_call_and_does_not_starve_it() -> None:
    talk = opened(window=1)
    long = [bytes([0, n]) + bytes(14) for n in range(30)]
    for behind, identity in enumerate(long):
        talk.session.submit(identity, Chunk("search", ("q",)), 60.0, 0.0, behind)
    order = [item.id for item in talk.said(0.0) if isinstance(item, Request)]
    for n in range(60):
        talk.session.submit(bytes([9, n]) + bytes(14), Chunk("search", ("q",)), 60.0, 0.0)
        order += [item.id for item in talk.hears(Reply(order[-1]), 0.0) if isinstance(item, Request)]
    assert order[1][0] == 9
    served = [identity for identity in order if identity[0] == 0]
    assert served == long[: len(served)]
    assert len(served) >= 6


def test_limits_are_held_before_sending() -> None:
    talk = opened(limits=Limits(query_max_bytes=40))
    talk.session.submit(A, Chunk("search", ("short", "x" * 41)), 60.0, 0.0)
    (fail,) = talk.said(0.0)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, TooLarge)
    assert "queries[1] has 41 bytes" in fail.error.message


def test_the_frame_limit_is_held_before_sending() -> None:
    talk = opened(limits=Limits(frame_max_bytes=100))
    talk.session.submit(A, Chunk("search", ("x" * 30,) * 4), 60.0, 0.0)
    assert errors(talk.said(0.0)) == [(A, TooLarge)]


# ---- the end --------------------------------------------------------------------------------------------------------


def test_close_says_bye_and_fails_what_is_pending_and_what_comes() -> None:
    talk = opened()
    talk.submit(A, 0.0)
    talk.session.close(1.0)
    said = talk.said(1.0)
    assert kinds(said) == ["Bye", "Fail"]
    assert errors(said) == [(A, ClientClosed)]
    assert errors(talk.submit(B, 1.1)) == [(B, ClientClosed)]
    talk.session.close(2.0)
    assert talk.hears(Reply(A), 3.0) == []


def test_the_table_of_states_has_no_dead_ends_but_the_last() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.CLOSED}
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_an_illegal_change_of_state_tells_its_story() -> None:
    talk = opened()
    with pytest.raises(RuntimeError, match=r"idle --wanted, connecting --welcomed, open --wanted"):
        talk.session._move(Event.WANTED)


def test_alarms_of_answered_requests_do_not_pile_up() -> None:
    talk = opened()
    for n in range(5_000):
        identity = n.to_bytes(16, "big")
        talk.submit(identity, n / 1e3)
        talk.hears(Reply(identity), n / 1e3)
    assert len(talk.session._book._alarms) < 200
    assert len(talk.session._book._ready) < 200
