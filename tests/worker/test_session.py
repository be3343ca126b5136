"""A worker's link with literal times."""

from __future__ import annotations

import pytest
from ragpool.wire import exit_codes, messages
from ragpool.wire.messages import Failure, Register, Reply, Request
from ragpool.worker.in_flight import STILL_NS
from ragpool.worker.session import Exit, OpenSocket, Run, Send, Session

WELCOME = messages.Welcome("epoch-1", "0")


def request(number: int) -> Request:
    return Request(number.to_bytes(16, "big"), "search")


def sent(commands: list) -> list:
    return [record for command in commands if isinstance(command, Send) for record in command.records]


@pytest.fixture
def session() -> Session:
    session = Session(Register("inc", "loading"), 1.0, 0.0)
    session.start(0.0)
    return session


@pytest.fixture
def ready(session: Session) -> Session:
    session.receive(WELCOME, 0.1)
    session.loaded(Register("inc", "loading", model="m", max_batch=4), 5.0)
    session.receive(messages.Ping("epoch-1"), 5.0)
    return session


def test_it_registers_as_loading_at_once_and_as_ready_when_loaded() -> None:
    session = Session(Register("inc", "loading"), 1.0, 0.0)
    opened, registered = session.start(0.0)
    assert isinstance(opened, OpenSocket)
    assert sent([registered]) == [Register("inc", "loading")]
    session.receive(WELCOME, 0.1)
    (record,) = sent(session.loaded(Register("inc", "loading", model="m", max_batch=4), 9.0))
    assert (record.state, record.model, record.max_batch) == ("ready", "m", 4)


def test_loaded_before_any_welcome_is_told_behind_it(session: Session) -> None:
    assert session.loaded(Register("inc", "loading", model="m"), 1.0) == []
    assert [record.state for record in sent(session.receive(WELCOME, 2.0))] == ["ready"]


def test_until_a_welcome_it_registers_again_each_second(session: Session) -> None:
    assert sent(session.handle_timer(0, 0.5)) == []
    assert [type(record) for record in sent(session.handle_timer(0, 1.0))] == [Register]


@pytest.mark.parametrize("heartbeat_s", [0.1, 1.0, 30.0])
def test_it_wants_its_timer_more_often_than_a_process_may_stand_still(heartbeat_s: float) -> None:
    session = Session(Register("inc", "loading"), heartbeat_s, 0.0)
    session.start(0.0)
    now = 0.0
    for step in range(40):
        assert session.next_deadline() - now <= STILL_NS / 1e9 / 2
        now = session.next_deadline()
        session.handle_timer(0, now)
        if step == 10:
            session.receive(WELCOME, now)
        if step > 10 and step % 3:
            session.receive(messages.Ping("epoch-1"), now)


def test_requests_are_run_answered_and_no_longer_held(ready: Session) -> None:
    (run,) = ready.receive_requests([request(1), request(2)], 6.0)
    assert isinstance(run, Run)
    assert ready.holding == (request(1).id, request(2).id)
    (out,) = ready.answered([Reply(request(1).id)], 6.1)
    assert sent([out]) == [Reply(request(1).id)]
    assert ready.holding == (request(2).id,)


def test_replies_and_failures_travel_in_messages_of_one_kind(ready: Session) -> None:
    ready.receive_requests([request(1), request(2), request(3)], 6.0)
    answers = [Reply(request(1).id), Failure(request(2).id, "bad_request", ""), Reply(request(3).id)]
    replies, failures = ready.answered(answers, 6.1)
    assert {type(record) for record in replies.records} == {Reply}
    assert {type(record) for record in failures.records} == {Failure}


def test_a_request_that_is_held_already_is_not_run_twice(ready: Session) -> None:
    ready.receive_requests([request(1)], 6.0)
    assert ready.receive_requests([request(1)], 6.1) == []


def test_a_heartbeat_tells_what_is_held_what_came_and_how_old_the_batch_is(ready: Session) -> None:
    ready.receive_requests([request(1)], 6.0)
    (beat,) = sent(ready.handle_timer(1234, 6.5))
    assert beat == messages.Heartbeat("ready", received=1, batch_age_ms=1234, holding=(request(1).id,))


@pytest.mark.parametrize("word", [messages.Unknown(), messages.Ping("epoch-2")])
def test_a_broker_that_does_not_know_us_or_is_new_gets_a_fresh_socket_and_all_we_run(
    ready: Session, word: messages.Record
) -> None:
    ready.receive_requests([request(1)], 6.0)
    opened, registered = ready.receive(word, 6.1)
    assert isinstance(opened, OpenSocket)
    assert sent([registered])[0].running == (request(1).id,)
    assert sent([registered])[0].state == "ready"


def test_answers_made_while_nobody_listens_go_out_behind_the_next_welcome(ready: Session) -> None:
    ready.receive_requests([request(1)], 6.0)
    ready.receive(messages.Unknown(), 6.1)
    assert ready.answered([Reply(request(1).id)], 6.2) == []
    assert ready.holding == (request(1).id,), "it is still ours: a lost answer would be lost work"
    assert Reply(request(1).id) in sent(ready.receive(messages.Welcome("epoch-2", "0"), 6.3))
    assert ready.holding == ()


def test_three_seconds_of_silence_open_a_fresh_socket(ready: Session) -> None:
    assert not any(isinstance(command, OpenSocket) for command in ready.handle_timer(0, 7.9))
    assert isinstance(ready.handle_timer(0, 8.0)[0], OpenSocket)


def test_an_uneasy_worker_beats_faster(ready: Session) -> None:
    ready.handle_timer(0, 6.0)
    assert ready.next_deadline() == pytest.approx(6.2)


def test_drained_by_signal_it_leaves_once_the_broker_confirms_and_all_is_answered(ready: Session) -> None:
    ready.receive_requests([request(1)], 6.0)
    assert ready.drain(6.1) == []
    assert [beat.state for beat in sent(ready.handle_timer(0, 6.1))] == ["draining"]
    assert ready.receive(messages.Drain(), 6.2) == []
    *_, farewell, left = ready.answered([Reply(request(1).id)], 6.3)
    assert sent([farewell]) == [messages.Bye()]
    assert left == Exit(exit_codes.DRAINED)


def test_work_that_crossed_the_drain_is_still_done(ready: Session) -> None:
    ready.drain(6.0)
    assert isinstance(ready.receive_requests([request(1)], 6.1)[0], Run)
    ready.receive(messages.Drain(), 6.2)
    assert ready.answered([Reply(request(1).id)], 6.3)[-1] == Exit(exit_codes.DRAINED)


def test_told_to_start_again_it_leaves_with_that_code(ready: Session) -> None:
    assert ready.receive(messages.Drain(again=True), 6.0)[-1] == Exit(exit_codes.AGAIN)


def test_drained_by_the_pools_operator_it_says_that_it_is_not_to_come_back(ready: Session) -> None:
    assert ready.receive(messages.Drain(), 6.0)[-1] == Exit(exit_codes.DISMISSED)


def test_without_a_broker_a_drain_ends_all_the_same(session: Session) -> None:
    session.drain(1.0)
    assert session.handle_timer(0, 2.0)[-1] != Exit(exit_codes.DRAINED)
    assert session.handle_timer(0, 3.0)[-1] == Exit(exit_codes.DRAINED)


def test_refused_at_registration_it_ends_with_the_brokers_sentence(session: Session) -> None:
    (left,) = session.receive(Failure(b"", "bad_request", "this pool runs float32"), 0.2)
    assert left.code == exit_codes.CONFIGURATION
    assert "this pool runs float32" in left.sentence


def test_an_unreadable_request_is_answered_and_counted(ready: Session) -> None:
    (answer,) = sent(ready.refuse(b"i" * 16, "top_k is missing", 6.0))
    assert answer.code == "protocol_error"
    assert sent(ready.handle_timer(0, 7.0))[0].received == 1
