"""The device thread with runners that fail on purpose."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import pytest
from ragpool.conf.settings import ConfigurationError
from ragpool.index.errors import DeviceFull, DeviceUnavailable
from ragpool.wire import bodies, exit_codes
from ragpool.wire.messages import SEARCH, Failure, Limits, Register, Reply, Request
from ragpool.wire.progress import SIZE, ProgressWriter, read_progress
from ragpool.worker.batcher import Budget, Job
from ragpool.worker.in_flight import InFlight
from ragpool.worker.owner import Loaded, Owner
from ragpool.worker.stages import Ended

DEADLINE_S = 10.0


class Made:
    """A runner whose work is `run`, between a stage before and one after it."""

    def prepare(self, jobs: Sequence[Job]) -> list[Job]:
        return list(jobs)

    def compute(self, jobs: list[Job]) -> list[Reply | Failure]:
        return self.run(jobs)

    def finish(self, answers: list[Reply | Failure], limits: Limits) -> list[Reply | Failure]:
        return answers

    def stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def warm_up(self) -> None:
        pass


class NarrowRunner(Made):
    """Runs out of memory with more than `fits` requests at a time."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.sizes: list[int] = []

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        self.sizes.append(len(jobs))
        if len(jobs) > self.fits:
            raise MemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [Reply(job.request.id) for job in jobs]


class BrokenRunner(Made):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        raise self.error


class WatchedRunner(Made):
    """Looks at what the progress buffer says while it runs."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.seen = []

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        self.seen.append(read_progress(self.buffer))
        return [Reply(job.request.id) for job in jobs]


class Listener:
    """Collects outcomes until enough came."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def until(self, owner: Owner, enough) -> list:
        outcomes: list = []
        while not enough(outcomes):
            assert self.woken.wait(DEADLINE_S), f"only {outcomes} came"
            self.woken.clear()
            outcomes += owner.take()
        return outcomes


@pytest.fixture(params=[0, 1, 3], autouse=True)
def streams(request: pytest.FixtureRequest) -> int:
    """Everything here holds with one thread for all stages, and with several."""
    return request.param


@pytest.fixture
def started(streams: int):
    return partial(start, streams)


def start(streams: int, runner, buffer: bytearray | None = None, most: int = 64) -> tuple[Owner, Listener]:
    listener = Listener()
    loaded = Loaded(Register("i", "loading"), runner, Budget(most, 10_000, 512), streams)
    owner = Owner(lambda: loaded, ProgressWriter(buffer or bytearray(SIZE)), listener.woken.set)
    return owner, listener


def requests(count: int) -> list[Request]:
    return [Request(n.to_bytes(16, "big"), SEARCH, 1, 5, body=bodies.search_body([f"query {n}"])) for n in range(count)]


def answers_of(outcomes: list) -> list:
    return [answer for outcome in outcomes if isinstance(outcome, list) for answer in outcome]


def test_out_of_memory_is_answered_in_halves(started) -> None:
    runner = NarrowRunner(fits=3)
    owner, listener = started(runner)
    owner.give(requests(8), Limits())
    owner.start()
    outcomes = listener.until(owner, lambda seen: len(answers_of(seen)) == 8)
    assert {type(answer) for answer in answers_of(outcomes)} == {Reply}
    assert runner.sizes == [8, 4, 2, 2, 4, 2, 2]


def test_memory_that_does_not_suffice_for_one_ends_in_a_recycled_process(started) -> None:
    owner, listener = started(NarrowRunner(fits=0))
    owner.give(requests(3), Limits())
    owner.start()
    outcomes = listener.until(owner, lambda seen: any(isinstance(outcome, Ended) for outcome in seen))
    assert [answer.code for answer in answers_of(outcomes)] == ["remote_failure"] * 3
    assert outcomes[-1].code == exit_codes.AGAIN


def test_a_defect_fails_its_batch_and_the_next_is_served(started) -> None:
    owner, listener = started(BrokenRunner(ValueError("no such thing")))
    owner.give(requests(2), Limits())
    owner.start()
    outcomes = listener.until(owner, lambda seen: len(answers_of(seen)) == 2)
    assert "ValueError: no such thing" in answers_of(outcomes)[0].message
    owner.give(requests(1), Limits())
    listener.until(owner, lambda seen: len(answers_of(seen)) == 1)


class PickyRunner(Made):
    """Serves every request but one, over which the whole batch fails."""

    def __init__(self, hated: bytes) -> None:
        self.hated = hated

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        if any(job.request.id == self.hated for job in jobs):
            raise ValueError("not this one")
        return [Reply(job.request.id) for job in jobs]


def test_one_request_that_a_batch_fails_over_takes_no_neighbour_along(started) -> None:
    asked = requests(8)
    owner, listener = started(PickyRunner(asked[5].id))
    owner.give(asked, Limits())
    owner.start()
    answers = answers_of(listener.until(owner, lambda seen: len(answers_of(seen)) == 8))
    assert [answer.id for answer in answers if not isinstance(answer, Reply)] == [asked[5].id]


def test_a_broken_device_ends_the_process_and_leaves_word_of_what_ran(started) -> None:
    buffer = bytearray(SIZE)
    owner, listener = started(BrokenRunner(RuntimeError("CUDA error: an illegal memory access was encountered")), buffer)
    owner.give(requests(1), Limits())
    owner.start()
    outcomes = listener.until(owner, lambda seen: any(isinstance(outcome, Ended) for outcome in seen))
    assert outcomes[-1].code == exit_codes.CUDA_BROKEN
    assert read_progress(buffer).running == (requests(1)[0].id,)
    owner.join(DEADLINE_S)
    assert not owner.is_alive(), "nothing runs on a broken device"


class Attempt:
    """What a failed attempt had on the device."""


class Hoarder(Made):
    """Fits one request; counts what earlier attempts still hold when the next one begins."""

    def __init__(self) -> None:
        self.attempts: list[weakref.ref[Attempt]] = []
        self.alive: list[int] = []

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        self.alive.append(sum(attempt() is not None for attempt in self.attempts))
        attempt = Attempt()
        self.attempts.append(weakref.ref(attempt))
        if len(jobs) > 1:
            raise MemoryError("CUDA out of memory")
        return [Reply(job.request.id) for job in jobs]


def test_halves_run_without_what_the_failed_attempt_held(started) -> None:
    """The exception kept it, at every level: smaller batches had less memory than larger ones."""
    runner = Hoarder()
    owner, listener = started(runner)
    owner.give(requests(8), Limits())
    owner.start()
    listener.until(owner, lambda seen: len(answers_of(seen)) == 8)
    assert runner.alive == [0] * 15


class Streams(Made):
    """Knows on which of its streams it is asked, and what it was asked there first."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.opened = 0
        self.asked: list[tuple[int, str]] = []

    @contextmanager
    def stream(self) -> Iterator[None]:
        self.opened += 1
        self.local.number = self.opened
        yield

    def warm_up(self) -> None:
        self.asked.append((self.local.number, "warm-up"))

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        self.asked.append((self.local.number, "batch"))
        return [Reply(job.request.id) for job in jobs]


def test_each_stream_has_answered_a_first_question_before_the_worker_is_ready(streams: int) -> None:
    runner = Streams()
    owner, listener = start(streams, runner)
    owner.start()
    listener.until(owner, bool)
    assert sorted(runner.asked) == [(number, "warm-up") for number in range(1, streams + 1)]
    owner.give(requests(1), Limits())
    listener.until(owner, answers_of)
    assert runner.asked[-1][1] == "batch"


class Cold(Made):
    """Loads, and then cannot answer on a stream of its own."""

    def warm_up(self) -> None:
        raise RuntimeError("CUDA error: out of resources")


@pytest.mark.parametrize("streams", [1, 3])
def test_a_stream_that_cannot_answer_ends_the_process_before_it_is_ready(streams: int) -> None:
    owner, listener = start(streams, Cold())
    owner.start()
    outcomes = listener.until(owner, lambda seen: any(isinstance(outcome, Ended) for outcome in seen))
    assert not [outcome for outcome in outcomes if isinstance(outcome, Loaded)]
    assert outcomes[0].code == exit_codes.CUDA_BROKEN
    owner.join(DEADLINE_S)
    assert not owner.is_alive()


class Deaf(Listener):
    """Cannot be woken for answers, as where the wake-up of the I/O thread breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def set(self) -> None:
        self.calls += 1
        self.woken.set()
        if self.calls == 2:
            raise OSError("nobody reads")


def test_a_thread_that_fails_between_batches_ends_the_process(streams: int) -> None:
    """A thread that tells answers died without a word, and the worker hung."""
    listener = Deaf()
    loaded = Loaded(Register("i", "loading"), NarrowRunner(fits=8), Budget(8, 10_000, 512), streams)
    owner = Owner(lambda: loaded, ProgressWriter(bytearray(SIZE)), listener.set)
    owner.start()
    listener.until(owner, bool)
    owner.give(requests(1), Limits())
    outcomes = listener.until(owner, lambda seen: any(isinstance(outcome, Ended) for outcome in seen))
    assert outcomes[-1].sentence == "a thread of the device ended: OSError: nobody reads"
    owner.join(DEADLINE_S)
    assert not owner.is_alive()


class Streamless(Made):
    def stream(self) -> AbstractContextManager[None]:
        raise RuntimeError("CUDA error: out of resources")


def test_a_device_that_gives_no_stream_ends_the_process(started) -> None:
    owner, listener = started(Streamless())
    owner.give(requests(1), Limits())
    owner.start()
    outcomes = listener.until(owner, lambda seen: any(isinstance(outcome, Ended) for outcome in seen))
    assert outcomes[-1].code == exit_codes.CUDA_BROKEN
    assert "CUDA error: out of resources" in outcomes[-1].sentence
    owner.join(DEADLINE_S)
    assert not owner.is_alive()


def test_a_body_that_is_wrong_is_answered_and_never_reaches_the_device(started) -> None:
    runner = NarrowRunner(fits=8)
    owner, listener = started(runner)
    owner.start()
    listener.until(owner, bool)
    owner.give([Request(b"x" * 16, SEARCH, 2, 5, body=bodies.search_body(["one"]))], Limits())
    (answer,) = answers_of(listener.until(owner, bool))
    assert answer.code == "bad_request"
    assert runner.sizes == []


def test_what_runs_is_stamped_while_it_runs_and_cleared_after(started) -> None:
    buffer = bytearray(SIZE)
    runner = WatchedRunner(buffer)
    owner, listener = started(runner, buffer)
    owner.give(requests(2), Limits())
    owner.start()
    listener.until(owner, lambda seen: len(answers_of(seen)) == 2)
    (seen,) = runner.seen
    assert seen.running == tuple(request.id for request in requests(2))
    assert seen.started_ns > 0
    assert read_progress(buffer).running == ()


class Rendezvous(Made):
    """Computes once `parties` batches are in it together; says what is stamped then."""

    def __init__(self, parties: int, buffer: bytearray) -> None:
        self.barrier = threading.Barrier(parties, timeout=DEADLINE_S)
        self.buffer = buffer
        self.seen = []

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        self.barrier.wait()
        self.seen.append(read_progress(self.buffer))
        self.barrier.wait()
        return [Reply(job.request.id) for job in jobs]


def test_all_batches_in_flight_are_stamped_with_the_start_of_the_oldest() -> None:
    buffer = bytearray(SIZE)
    runner = Rendezvous(2, buffer)
    owner, listener = start(2, runner, buffer, most=1)
    owner.give(requests(2), Limits())
    owner.start()
    listener.until(owner, lambda seen: len(answers_of(seen)) == 2)
    for seen in runner.seen:
        assert seen.running == tuple(request.id for request in requests(2))
    assert read_progress(buffer).running == ()


class Interlocked(Made):
    """The second batch is prepared while the first one computes, and the third while the second one is finished: or never."""

    def __init__(self) -> None:
        self.second_prepared = threading.Event()
        self.third_prepared = threading.Event()
        self.prepared = 0

    def prepare(self, jobs: Sequence[Job]) -> list[Job]:
        self.prepared += 1
        if self.prepared == 2:
            self.second_prepared.set()
        if self.prepared == 3:
            self.third_prepared.set()
        return list(jobs)

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        assert self.second_prepared.wait(DEADLINE_S)
        return [Reply(job.request.id) for job in jobs]

    def finish(self, answers: list[Reply | Failure], limits: Limits) -> list[Reply | Failure]:
        assert self.third_prepared.wait(DEADLINE_S)
        return answers


def test_stages_of_different_batches_overlap() -> None:
    owner, listener = start(1, Interlocked(), most=1)
    owner.give(requests(3), Limits())
    owner.start()
    answers = answers_of(listener.until(owner, lambda seen: len(answers_of(seen)) == 3))
    assert {type(answer) for answer in answers} == {Reply}


class Unready(Made):
    """Cannot prepare what is asked second."""

    def prepare(self, jobs: Sequence[Job]) -> list[Job]:
        if any(job.request.id == requests(2)[1].id for job in jobs):
            raise ValueError("a text that the tokenizer does not like")
        return list(jobs)

    def run(self, jobs: Sequence[Job]) -> list[Reply | Failure]:
        return [Reply(job.request.id) for job in jobs]


def test_a_batch_that_cannot_be_prepared_leaves_the_others_alone(streams: int) -> None:
    owner, listener = start(streams, Unready(), most=1)
    owner.give(requests(3), Limits())
    owner.start()
    answers = answers_of(listener.until(owner, lambda seen: len(answers_of(seen)) == 3))
    assert sorted((type(answer).__name__, answer.id[-1]) for answer in answers) == [("Failure", 1), ("Reply", 0), ("Reply", 2)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("no index at nowhere"), exit_codes.CONFIGURATION),
        (DeviceUnavailable("larger than the device"), exit_codes.CONFIGURATION),
        (DeviceFull("no room now"), exit_codes.FAILURE),
        (RuntimeError("CUDA error: out of order"), exit_codes.CUDA_BROKEN),
        (RuntimeError("what"), exit_codes.FAILURE),
    ],
)
def test_loading_that_fails_ends_with_the_code_that_tells_why(error: Exception, code: int) -> None:
    def load() -> Loaded:
        raise error

    listener = Listener()
    owner = Owner(load, ProgressWriter(bytearray(SIZE)), listener.woken.set)
    owner.start()
    (ended,) = listener.until(owner, bool)
    assert ended.code == code
    assert str(error) in ended.sentence


def test_what_is_usual_is_learned_from_each_batch() -> None:
    """The supervisor allows a batch twenty times that."""
    buffer = bytearray(SIZE)
    flight = InFlight(ProgressWriter(buffer))
    assert read_progress(buffer).p99_ns == 0
    flight.end(flight.start([b"a" * 16], 5), 12)
    assert read_progress(buffer).p99_ns == 7


S = 1_000_000_000


def test_a_process_that_was_stopped_is_not_allowed_more_time_for_it() -> None:
    """It was: one stop of 8 s in a batch, and a batch that hung later was ended after 160 s (`make chaos`, seed 7)."""
    buffer = bytearray(SIZE)
    flight = InFlight(ProgressWriter(buffer))
    flight.turned(10 * S)
    batch = flight.start([b"a" * 16], 11 * S)
    flight.end(batch, 19 * S)  # the device thread wakes before the I/O thread does
    flight.turned(19 * S)
    assert read_progress(buffer).p99_ns == 0
    batch = flight.start([b"b" * 16], 20 * S)
    flight.turned(20 * S)
    flight.turned(28 * S)  # the I/O thread wakes first
    flight.end(batch, 29 * S)
    assert read_progress(buffer).p99_ns == 1 * S


def test_a_long_batch_beside_a_loop_that_turns_took_all_its_time() -> None:
    buffer = bytearray(SIZE)
    flight = InFlight(ProgressWriter(buffer))
    flight.turned(0)
    batch = flight.start([b"a" * 16], 0)
    for second in range(1, 31):
        flight.turned(second * S)
    flight.end(batch, 30 * S)
    assert read_progress(buffer).p99_ns == 30 * S
