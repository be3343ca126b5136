"""The session against all that may happen, in any order: every request is answered exactly once, by its deadline."""

from __future__ import annotations

import os
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ragpool.client.chunks import Chunk
from ragpool.client.session import Session
from ragpool.client.states import Fail, OpenSocket, Resolve, Send, State
from ragpool.wire import codec, messages
from ragpool.wire.errors import DeadlineExceeded
from ragpool.wire.messages import FROM_CLIENT, Cancel, Failure, Hello, Record, Reply, Request

PICK = st.integers(0, 1_000)
CONNECT_TIMEOUT_S = 2.0


class SessionMachine(RuleBasedStateMachine):
    """The broker is as wild as it likes; what it knows of this client starts anew with each socket."""

    @initialize(window=st.integers(1, 5))
    def begin(self, window: int) -> None:
        self.now = 100.0
        self.window = window
        self.epoch = 1
        self.session = Session("tcp://broker:1", CONNECT_TIMEOUT_S, Random(0))
        self.deadline: dict[bytes, float] = {}
        self.submitted: dict[bytes, float] = {}
        self.not_before: dict[bytes, float] = {}
        self.answered: dict[bytes, object] = {}
        self.cancelled: set[bytes] = set()
        self.unanswered: set[bytes] = set()
        self.hello_said = False
        self.sockets = 0

    # ---- what may happen ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.session.state is not State.CLOSED)
    @rule(
        timeout=st.sampled_from([0.01, 1.0, 5.0, 60.0]),
        priority=st.integers(-1, 1),
        behind=st.integers(0, 3),
        text=st.sampled_from(["q", "q", "q", "x" * 500]),
        count=st.integers(1, 6),
        pause_s=st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    )
    def submit(self, timeout: float, priority: int, behind: int, text: str, count: int, pause_s: float) -> None:
        for _ in range(count):
            identity = (len(self.deadline) + 1).to_bytes(16, "big")
            self.deadline[identity] = self.now + timeout
            self.submitted[identity] = self.now
            chunk = Chunk("search", (text,), priority=priority)
            self.not_before[identity] = self.now + pause_s
            self.session.submit(identity, chunk, self.now + timeout, self.now, behind, pause_s)
        self.perform()

    @precondition(lambda self: self.deadline)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        identity = self.any_id(pick)
        if identity not in self.answered:
            self.cancelled.add(identity)
        self.session.cancel(identity, self.now)
        self.perform()

    @precondition(lambda self: self.deadline)
    @rule(pick=PICK, twice=st.booleans())
    def reply(self, pick: int, twice: bool) -> None:
        reply = Reply(self.any_id(pick))
        self.hear(*([reply, reply] if twice else [reply]))

    @precondition(lambda self: self.deadline)
    @rule(pick=PICK, code=st.sampled_from(["remote_failure", "no_workers", "poison_request", "unheard_of"]))
    def error(self, pick: int, code: str) -> None:
        self.hear(Failure(self.any_id(pick), code, "so it is"))

    @precondition(lambda self: self.unanswered)
    @rule(pick=PICK, retry_after_ms=st.sampled_from([-1, 0, 50, 700, 10**12]))
    def busy(self, pick: int, retry_after_ms: int) -> None:
        identity = sorted(self.unanswered)[pick % len(self.unanswered)]
        self.unanswered.discard(identity)
        self.hear(Failure(identity, "overloaded", "full", retry_after_ms))

    @precondition(lambda self: self.hello_said)
    @rule()
    def welcome(self) -> None:
        limits = messages.Limits(query_max_bytes=400)
        self.hear(messages.Welcome(f"e{self.epoch}", "test", limits, window=self.window))

    @rule()
    def broker_is_replaced(self) -> None:
        self.epoch += 1
        self.hello_said = False

    @rule(pong=st.booleans())
    def epoch_is_told(self, pong: bool) -> None:
        self.hear(messages.Pong(f"e{self.epoch}") if pong else messages.Ping(f"e{self.epoch}"))

    @rule(times=st.integers(1, 3))
    def unknown(self, times: int) -> None:
        self.hear(*[messages.Unknown()] * times)

    @rule(frames=st.lists(st.binary(max_size=20), max_size=6), pick=PICK)
    def nonsense(self, frames: list[bytes], pick: int) -> None:
        self.session.receive(frames, self.now)
        broken = codec.encode(Reply(self.any_id(pick) if self.deadline else bytes(16)))
        self.session.receive([*broken[:3], b"\xc1", broken[4]], self.now)
        self.perform()

    @rule(code=st.sampled_from(["version_mismatch", "access_denied", "bad_request", "overloaded"]))
    def session_is_refused(self, code: str) -> None:
        self.hear(Failure(b"", code, "not with you"))

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.3, 1.0, 2.0, 7.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        """The timer fires late, once, after a jump."""
        self.now += seconds
        self.fire()

    @rule(seconds=st.sampled_from([0.5, 3.0, 70.0]))
    def time_passes_with_every_timer_on_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.session.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.fire()
        self.now = until

    @precondition(lambda self: self.session.state is not State.CLOSED and len(self.deadline) > 12)
    @rule()
    def close(self) -> None:
        self.session.close(self.now)
        self.perform()
        assert self.open_ids() == set()

    # ---- performing -----------------------------------------------------------------------------------------------------

    def any_id(self, pick: int) -> bytes:
        """Rather a young one."""
        ids = list(self.deadline)
        return ids[-1 - pick % min(len(ids), 12)]

    def hear(self, *records: Record) -> None:
        self.session.receive(codec.encode_many(records), self.now)
        self.perform()

    def fire(self) -> None:
        self.session.handle_timer(self.now)
        self.perform()
        late = [identity for identity in self.open_ids() if self.deadline[identity] <= self.now]
        assert not late, "a deadline passed without an answer"
        due = self.session.next_deadline()
        assert due is None or due > self.now, "the timer would spin"

    def perform(self) -> None:
        for command in self.session.commands(self.now):
            if isinstance(command, OpenSocket):
                self.sockets += 1
                self.unanswered.clear()
                self.hello_said = False
            elif isinstance(command, Send):
                self.sent(command)
            else:
                self.answer(command)

    def sent(self, command: Send) -> None:
        assert self.sockets
        for record in codec.decode(command.frames, FROM_CLIENT):
            if isinstance(record, Hello):
                self.hello_said = True
            elif isinstance(record, Request):
                assert record.id in self.open_ids(), "sent, though nobody waits for it"
                assert record.id not in self.unanswered, "sent twice on one socket"
                assert self.now >= self.not_before[record.id], "sent before its time"
                assert 1 <= record.remaining_ms <= (self.deadline[record.id] - self.now) * 1e3 + 1
                self.unanswered.add(record.id)
            elif isinstance(record, Cancel):
                assert record.id in self.unanswered
                self.unanswered.discard(record.id)

    def answer(self, command: Resolve | Fail) -> None:
        assert command.id in self.deadline
        assert command.id not in self.answered, "answered twice"
        assert command.id not in self.cancelled, "answered, though it was cancelled"
        if isinstance(command, Fail) and isinstance(command.error, DeadlineExceeded):
            assert self.now >= self.deadline[command.id]
        self.answered[command.id] = command
        if not (isinstance(command, Fail) and isinstance(command.error, DeadlineExceeded)):
            self.unanswered.discard(command.id)

    def open_ids(self) -> set[bytes]:
        return self.deadline.keys() - self.answered.keys() - self.cancelled

    # ---- what always holds ----------------------------------------------------------------------------------------------

    @invariant()
    def laws(self) -> None:
        if not hasattr(self, "session"):
            return
        self.session.check()
        assert {pending.id for pending in self.session._book} == self.open_ids()
        in_flight = self.unanswered & self.open_ids()
        assert len(in_flight) <= self.window
        if self.open_ids():
            assert self.session.next_deadline() is not None

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.now += 1_000.0
            self.fire()
            assert self.open_ids() == set()
            assert self.session.next_deadline() is None


LONG = os.environ.get("RAGPOOL_TEST_LONG") == "1"
TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(
    max_examples=1_500 if LONG else 150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
