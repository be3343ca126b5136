"""Calls over a session: chunks, halves, positions, and what is left over when one part fails."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import numpy as np
import pytest
from broker_doubles import true_reply
from ragpool.client import asks
from ragpool.client.asks import Ask
from ragpool.client.calls import Call, Calls, Done
from ragpool.client.session import Session
from ragpool.client.states import Send
from ragpool.wire import bodies, codec, messages
from ragpool.wire.errors import BadRequest, DeadlineExceeded, PoisonRequest, RemoteFailure, TooLarge
from ragpool.wire.messages import FROM_CLIENT, Cancel, Failure, Record, Reply, Request
from ragpool.wire.retries import TRIES_MAX


class Desk:
    """Calls over an open session, with the broker's side in the hand of the test."""

    def __init__(self, limits: messages.Limits | None = None, window: int = 64) -> None:
        numbers = count(1)
        self.calls = Calls(Session("tcp://broker:1", 2.0, Random(0)), lambda: next(numbers).to_bytes(16, "big"))
        self.sent: list[Request] = []
        self.cancelled: list[bytes] = []
        self.done: list[Call] = []
        self.welcome = messages.Welcome("e1", "test", limits or messages.Limits(), window=window)

    def begin(self, ask: Ask[Any], timeout: float = 60.0) -> Call:
        call = Call(ask, timeout, None)
        self.calls.begin(call, 0.0)
        self.hears(self.welcome)
        return call

    def hears(self, record: Record, now: float = 0.0) -> None:
        self.calls.receive(codec.encode(record), now)
        self.perform(now)

    def perform(self, now: float = 0.0) -> None:
        for effect in self.calls.effects(now):
            if isinstance(effect, Done):
                self.done.append(effect.call)
            elif isinstance(effect, Send):
                for record in codec.decode(effect.frames, FROM_CLIENT):
                    if isinstance(record, Request):
                        self.sent.append(record)
                    elif isinstance(record, Cancel):
                        self.cancelled.append(record.id)

    def garbles(self, body: bytes) -> float:
        """Each answer to what was sent last has this body, until nothing is asked again; when that was."""
        now, answered = 0.0, 0
        while answered < len(self.sent):
            answered = len(self.sent)
            self.hears(Reply(self.sent[-1].id, body=body), now)
            due = self.calls.next_deadline()
            while due is not None and answered == len(self.sent) and not self.done:
                now = due
                self.hears(messages.Pong(self.welcome.epoch), now)
                self.calls.handle_timer(now)
                self.perform(now)
                due = self.calls.next_deadline()
        return now

    def serve(self) -> None:
        """Answer everything, the last first."""
        while self.sent:
            self.hears(true_reply(self.sent.pop()))


def many(texts: list[str], top_k: int = 2) -> Ask[Any]:
    return asks.search_many(texts, top_k, 0, "default")


def test_the_parts_come_back_in_the_order_of_the_call() -> None:
    desk = Desk(window=2)
    texts = [f"q{n}" for n in range(100)]
    call = desk.begin(many(texts))
    assert len(desk.sent) == 2
    desk.serve()
    assert desk.done == [call]
    assert [hits[0].id for hits in call.result] == texts
    assert all(len(hits) == 2 for hits in call.result)


def test_hits_say_where_they_come_from() -> None:
    desk = Desk()
    call = desk.begin(asks.search_many(["a", "b"], 1, 0, "default"))
    desk.serve()
    first, second = call.result
    assert (first.truncated, second.truncated) == (True, False)
    assert first.index_version == "v1"
    assert first.timings_ms == {"queue": 0.5, "encode": 1.5}
    hit = first[0]
    assert (hit.id, hit.title, hit.text, hit.metadata, hit.score) == ("a", "title of a", "text of a", {"n": 1}, 1.0)


def test_nothing_asked_is_answered_at_once() -> None:
    desk = Desk()
    calls = [desk.begin(ask) for ask in (many([]), asks.embed([], "query", 0, "default"), asks.fetch([], 0, "default"))]
    assert desk.done == calls
    assert desk.sent == []
    assert calls[0].result == []
    assert calls[1].result.shape == (0, 0)
    assert calls[2].result == []


def test_a_reply_that_is_too_large_is_asked_in_halves() -> None:
    desk = Desk()
    texts = [f"q{n}" for n in range(8)]
    call = desk.begin(many(texts))
    while desk.sent:
        request = desk.sent.pop(0)
        too_large = Failure(request.id, "too_large", "the reply has 9000000 bytes, the limit is 8388608")
        desk.hears(too_large if request.items > 2 else true_reply(request))
    assert [hits[0].id for hits in call.result] == texts


def test_one_query_whose_reply_is_too_large_fails_the_call_and_cancels_the_rest() -> None:
    desk = Desk()
    call = desk.begin(many([f"q{n}" for n in range(64)]))
    first, second = desk.sent
    desk.hears(Failure(first.id, "poison_request", "it ended a worker"))
    assert isinstance(call.error, PoisonRequest)
    assert call.error.message == "it ended a worker (in queries[0] to [31])"
    assert call.error.request_id == first.id.hex()
    assert desk.cancelled == [second.id]
    desk.hears(true_reply(second))
    assert desk.done == [call]


def test_a_frame_over_the_limit_is_cut_before_it_is_sent() -> None:
    desk = Desk(messages.Limits(frame_max_bytes=200))
    texts = [f"{n:030d}" for n in range(32)]
    call = desk.begin(many(texts))
    assert all(len(request.body) <= 200 for request in desk.sent)
    desk.serve()
    assert [hits[0].id for hits in call.result] == texts


def test_a_query_over_the_limit_names_its_place_in_the_call_and_is_not_halved() -> None:
    desk = Desk(messages.Limits(query_max_bytes=40))
    call = desk.begin(many(["short"] * 70 + ["x" * 41] + ["short"] * 20))
    assert isinstance(call.error, TooLarge)
    assert call.error.message.startswith("queries[70] has 41 bytes")


def test_a_position_that_the_worker_names_counts_from_the_start_of_the_call() -> None:
    desk = Desk()
    call = desk.begin(asks.fetch([f"id-{n}" for n in range(250)], 0, "default"))
    request = desk.sent[1]
    desk.hears(Failure(request.id, "bad_request", "ids[2]: no passage has the id 'id-85'"))
    assert isinstance(call.error, BadRequest)
    assert call.error.message == "ids[85]: no passage has the id 'id-85'"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        codec.pack({}),
        codec.pack({"results": []}),
        codec.pack({"results": [{"scores": [1.0], "passages": []}]}),
        codec.pack({"results": [{"scores": ["high"], "passages": [{"id": "a", "text": "b"}]}]}),
        codec.pack({"results": [{"scores": [1.0], "passages": [{"id": 5, "text": "b"}]}]}),
        codec.pack({"results": 7}),
    ],
)
def test_a_reply_of_the_wrong_shape_fails_its_request_and_no_more(body: bytes) -> None:
    desk = Desk()
    whole = desk.begin(asks.search("b", 1, 0, "default"))
    broken = desk.begin(asks.search("a", 1, 0, "default"))
    first = desk.sent[0]
    told = desk.garbles(body)
    assert isinstance(broken.error, RemoteFailure)
    assert len(desk.sent) == 1 + TRIES_MAX
    assert told == pytest.approx(1 + 2 + 4 + 8 + 16), "a worker's trouble may pass"
    desk.hears(true_reply(first), told)
    assert whole.result[0].id == "b"


def test_no_answer_is_awaited_beyond_the_deadline() -> None:
    desk = Desk()
    call = desk.begin(asks.search("a", 1, 0, "default"), timeout=2.5)
    assert desk.garbles(b"") == pytest.approx(1.0)
    assert isinstance(call.error, RemoteFailure)


def test_an_answer_that_makes_no_sense_is_asked_for_again_under_a_new_id() -> None:
    desk = Desk()
    call = desk.begin(asks.search("a", 1, 0, "default"))
    desk.hears(Reply(desk.sent[0].id, body=b"\xc1"))
    first, again = desk.sent
    assert (again.body, again.id != first.id) == (first.body, True)
    desk.hears(true_reply(again))
    assert call.result[0].id == "a"


@pytest.mark.parametrize(("rows", "dim"), [(1, 2), (3, 2), (2, 3)])
def test_vectors_of_the_wrong_number_fail(rows: int, dim: int) -> None:
    desk = Desk()
    call = desk.begin(asks.embed(["a", "b"], "query", 0, "default"))
    desk.garbles(bodies.vectors_body(b"\0" * 4 * rows * dim, dim))
    assert (call.error is None) == (rows == 2)


def test_vectors_of_many_chunks_are_one_matrix() -> None:
    desk = Desk()
    call = desk.begin(asks.embed([f"t{n}" for n in range(70)], "passage", 0, "default"))
    desk.serve()
    assert call.result.dtype == np.float32
    assert call.result.shape == (70, 2)
    assert call.result[69].tolist() == [1.0, 3.0]
    call.result[0] = 0.0  # the caller's own


def test_chunks_that_disagree_about_the_dimension_fail() -> None:
    desk = Desk()
    call = desk.begin(asks.embed([f"t{n}" for n in range(64)], "query", 0, "default"))
    first, second = desk.sent
    for dim, request in ((2, first), (3, second)):
        desk.hears(Reply(request.id, body=bodies.vectors_body(b"\0" * 4 * dim * request.items, dim)))
    assert isinstance(call.error, RemoteFailure)
    assert len(desk.sent) == 2, "each makes sense, and no other answer to the last would fit the first"


def test_the_deadline_is_that_of_the_whole_call() -> None:
    desk = Desk(window=1)
    call = desk.begin(many([f"q{n}" for n in range(96)]), timeout=5.0)
    desk.hears(true_reply(desk.sent[0]), now=4.0)
    desk.calls.handle_timer(5.0)
    desk.perform(5.0)
    assert desk.done == [call]
    assert isinstance(call.error, DeadlineExceeded)
    assert desk.cancelled == [desk.sent[1].id]


def test_a_cancelled_call_says_nothing_more() -> None:
    desk = Desk()
    call = desk.begin(many([f"q{n}" for n in range(64)]))
    desk.calls.cancel(call, 1.0)
    desk.perform(1.0)
    assert sorted(desk.cancelled) == sorted(request.id for request in desk.sent)
    desk.serve()
    assert desk.done == []
    assert desk.calls.next_deadline() is None
