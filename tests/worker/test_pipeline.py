"""Batches through the pipeline, with an encoder and an engine of a few numbers: what is asked is what is answered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from ragpool.index.streams import own_stream
from ragpool.wire import bodies, codec
from ragpool.wire.messages import EMBED, FETCH, SEARCH, SEARCH_VECTOR, Failure, Limits, Reply, Request
from ragpool.worker import pipeline as pipelines
from ragpool.worker.batcher import Job
from ragpool.worker.pipeline import Pipeline


@dataclass
class Encoded:
    vectors: np.ndarray
    tokens: list[int]
    truncated: list[bool]


class LengthEncoder:
    """A text becomes (its length, 1); passages get the second value negative. Remembers what it was given."""

    kinds_alike = False

    def __init__(self) -> None:
        self.given: list[list[str]] = []

    def tokenize(self, texts: Sequence[str], kind: str = "query") -> tuple[list[str], str]:
        return list(texts), kind

    def encode_tokens(self, tokenized: tuple[list[str], str]) -> Encoded:
        texts, kind = tokenized
        self.given.append(texts)
        rows = np.array([[len(text), 1 if kind == "query" else -1] for text in texts], np.float32)
        return Encoded(rows, [len(text) for text in texts], [len(text) > 20 for text in texts])


class RowEngine:
    """Row r scores x - r for a query (x, y)."""

    name, device, dim, count, exact, one_at_a_time = "rows", "cpu", 2, 6, True, False
    k_max: int | None = None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.tile(np.arange(min(k, self.count)), (len(queries), 1))
        return queries[:, :1] - rows.astype(np.float32), rows


class Shelf:
    def raw(self, row: int) -> bytes:
        return codec.pack({"id": f"p{row}", "title": "", "text": f"text {row}", "metadata": {}})

    def find(self, passage_id: str) -> int | None:
        return int(passage_id[1:]) if passage_id in {f"p{row}" for row in range(6)} else None


@pytest.fixture
def encoder() -> LengthEncoder:
    return LengthEncoder()


@pytest.fixture
def pipeline(encoder: LengthEncoder) -> Pipeline:
    return Pipeline(encoder, RowEngine(), Shelf(), "v1")


def search(number: int, *queries: str, top_k: int = 2) -> Job:
    return Job(Request(bytes([number]) * 16, SEARCH, len(queries), top_k), bodies.Work(texts=queries))


def by_id(answers: list[Reply | Failure]) -> dict[int, Reply | Failure]:
    return {answer.id[0]: answer for answer in answers}


def ids_and_scores(reply: Reply) -> list[list[tuple[str, float]]]:
    return [[(p["id"], s) for s, p in zip(scores, passages)] for scores, passages in bodies.decode_results(reply.body)]


def test_each_request_gets_its_own_rows_cut_to_its_top_k(pipeline: Pipeline) -> None:
    answers = by_id(pipeline.run([search(1, "a", "bbb", top_k=1), search(2, "cc", top_k=3)], Limits()))
    assert ids_and_scores(answers[1]) == [[("p0", 1.0)], [("p0", 3.0)]]
    assert ids_and_scores(answers[2]) == [[("p0", 2.0), ("p1", 1.0), ("p2", 0.0)]]
    assert answers[1].index_version == "v1"
    assert set(answers[1].timings_ms) == {"tokenize", "encode", "search", "fetch"}


class DeepEngine(RowEngine):
    """A search for k results looks no further than row k, and the last of those it finds are the best."""

    exact = False

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = super().search(queries, k)
        return scores, rows[:, ::-1]


def test_answers_of_an_engine_that_looks_further_for_more_do_not_depend_on_what_is_asked_beside(encoder: LengthEncoder) -> None:
    pipeline = Pipeline(encoder, DeepEngine(), Shelf(), "v1")
    vectors = np.array([[7, 0]], "<f4").tobytes()
    jobs = [
        search(1, "a", "bbb", top_k=1),
        search(2, "cc", top_k=3),
        Job(Request(b"\3" * 16, SEARCH_VECTOR, 1, 1), bodies.Work(vectors=vectors, dim=2)),
        search(4, "dddd", top_k=3),
    ]
    together = by_id(pipeline.run(jobs, Limits()))
    alone = {job.request.id[0]: ids_and_scores(answer) for job in jobs for answer in pipeline.run([job], Limits())}
    assert {number: ids_and_scores(answer) for number, answer in together.items()} == alone
    assert alone[1] == [[("p0", 1.0)], [("p0", 3.0)]]
    assert [p for p, _ in alone[4][0]] == ["p2", "p1", "p0"]


def test_identical_texts_are_encoded_once(pipeline: Pipeline, encoder: LengthEncoder) -> None:
    answers = pipeline.run([search(1, "same", "other"), search(2, "same")], Limits())
    assert encoder.given == [["same", "other"]]
    assert len(answers) == 2


class OneKindEncoder(LengthEncoder):
    """Makes no difference between queries and passages."""

    kinds_alike = True

    def encode_tokens(self, tokenized: tuple[list[str], str]) -> Encoded:
        return super().encode_tokens((tokenized[0], "query"))


def embed(number: int, *texts: str, kind: str) -> Job:
    return Job(Request(bytes([number]) * 16, EMBED, len(texts)), bodies.Work(texts=texts, kind=kind))


def vectors_of(reply: Reply) -> list[float]:
    return np.frombuffer(bodies.decode_vectors(reply.body)[0], "<f4").tolist()


def test_a_text_of_both_kinds_is_encoded_once_where_the_model_makes_no_difference() -> None:
    encoder = OneKindEncoder()
    jobs = [embed(1, "aaa", "b", kind="passage"), search(2, "b", "cc"), embed(3, "cc", kind="passage")]
    answers = by_id(Pipeline(encoder, RowEngine(), Shelf(), "v1").run(jobs, Limits()))
    assert encoder.given == [["b", "cc"], ["aaa"]]
    assert vectors_of(answers[1]) == [3.0, 1.0, 1.0, 1.0]
    assert vectors_of(answers[3]) == [2.0, 1.0]


def test_a_text_of_both_kinds_is_encoded_twice_where_it_does(pipeline: Pipeline, encoder: LengthEncoder) -> None:
    answers = by_id(pipeline.run([embed(1, "a", kind="passage"), search(2, "a"), embed(3, "a", kind="query")], Limits()))
    assert encoder.given == [["a"], ["a"]]
    assert vectors_of(answers[1]) == [1.0, -1.0]
    assert vectors_of(answers[3]) == [1.0, 1.0]


def test_the_reply_tells_cost_and_which_queries_were_cut(pipeline: Pipeline) -> None:
    (reply,) = pipeline.run([search(1, "short", "x" * 30)], Limits())
    assert (reply.cost, reply.truncated) == (35, (1,))


def test_all_operations_share_a_batch(pipeline: Pipeline) -> None:
    vectors = np.array([[7, 0], [9, 0]], "<f4").tobytes()
    jobs = [
        search(1, "a"),
        Job(Request(b"\2" * 16, SEARCH_VECTOR, 2, 1), bodies.Work(vectors=vectors, dim=2)),
        Job(Request(b"\3" * 16, EMBED, 1), bodies.Work(texts=("a",), kind="passage")),
        Job(Request(b"\4" * 16, FETCH, 2), bodies.Work(ids=("p5", "p0"))),
    ]
    answers = by_id(pipeline.run(jobs, Limits()))
    assert ids_and_scores(answers[2]) == [[("p0", 7.0)], [("p0", 9.0)]]
    assert np.frombuffer(bodies.decode_vectors(answers[3].body)[0], "<f4").tolist() == [1.0, -1.0]
    assert [p["id"] for p in bodies.decode_passages(answers[4].body)] == ["p5", "p0"]


NOT_A_NUMBER = np.array([np.nan, 0], "<f4").tobytes()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Job(Request(b"\2" * 16, SEARCH_VECTOR, 1, 1), bodies.Work(vectors=bytes(12), dim=3)), "3 dimensions, the index has 2"),
        (Job(Request(b"\2" * 16, SEARCH_VECTOR, 1, 1), bodies.Work(vectors=NOT_A_NUMBER, dim=2)), "finite"),
        (Job(Request(b"\2" * 16, FETCH, 2), bodies.Work(ids=("p0", "nope"))), "ids[1]"),
    ],
)
def test_a_wrong_request_fails_alone_with_its_reason(pipeline: Pipeline, bad: Job, words: str) -> None:
    answers = by_id(pipeline.run([search(1, "a"), bad], Limits()))
    assert isinstance(answers[1], Reply)
    assert answers[2].code == "bad_request"
    assert words in answers[2].message


def test_a_reply_over_the_frame_limit_names_its_size_and_the_top_k_that_fits(pipeline: Pipeline) -> None:
    (answer,) = pipeline.run([search(1, "a", top_k=6)], Limits(frame_max_bytes=200))
    assert answer.code == "too_large"
    assert "top_k" in answer.message


class CountingEngine(RowEngine):
    """Knows how many threads search at a time at most."""

    def __init__(self, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.most = 0
        self._inside = 0
        self._both = threading.Barrier(2)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self._inside += 1
        self.most = max(self.most, self._inside)
        with contextlib.suppress(threading.BrokenBarrierError):
            self._both.wait(0.2)  # until the other thread is here too, if it may be
        self._inside -= 1
        return super().search(queries, k)


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_threads_take_turns_at_an_engine_that_is_for_one(encoder: LengthEncoder, one_at_a_time: bool) -> None:
    engine = CountingEngine(one_at_a_time)
    pipeline = Pipeline(encoder, engine, Shelf(), "v1")
    threads = [threading.Thread(target=pipeline.run, args=([search(number, "a question")], Limits())) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.most == (1 if one_at_a_time else 2)


def test_more_passages_than_the_engine_gives_is_the_callers_error(encoder: LengthEncoder) -> None:
    """The engine raised, the whole batch ran again in halves, and other workers were asked for the same."""
    engine = RowEngine()
    engine.k_max = 3
    pipeline = Pipeline(encoder, engine, Shelf(), "v1")
    answers = by_id(pipeline.run([search(1, "one", top_k=4), search(2, "two", top_k=3)], Limits()))
    assert (answers[1].code, answers[1].message) == ("bad_request", "top_k is 4; this index gives at most 3 passages on cpu")
    assert isinstance(answers[2], Reply)
    engine.count = 3
    assert isinstance(*pipeline.run([search(1, "one", top_k=4)], Limits()), Reply)


def test_threads_have_streams_on_the_device_that_encodes(encoder: LengthEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `index.gpu = false` the engine is on the CPU, and all threads shared the default stream of the encoder's device."""
    asked: list[str] = []

    def stream(device: str) -> contextlib.AbstractContextManager[None]:
        asked.append(device)
        return contextlib.nullcontext()

    monkeypatch.setattr(pipelines, "own_stream", stream)
    encoder.device = "cuda:1"
    with Pipeline(encoder, RowEngine(), Shelf(), "v1").stream():
        assert asked == ["cuda:1"]


@pytest.mark.gpu
def test_a_stream_of_ones_own_is_on_that_device() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    with own_stream(str(last)):
        assert torch.cuda.current_stream().device == last
        assert torch.cuda.current_stream() != torch.cuda.default_stream(last)
