"""What a caller asks of a real pool, and what comes back."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pools import Pool, run_cli, wait_until
from ragpool.client import AsyncClient, BadRequest, Client, DeadlineExceeded, TooLarge
from ragpool.index.store import open_index

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

QUESTION = "how do I define a class"


@pytest.fixture(scope="module")
def client(pool: Pool) -> Iterator[Client]:
    with Client(pool.url) as client:
        yield client


def test_hits_are_passages_with_scores_best_first(client: Client) -> None:
    hits = client.search(QUESTION, top_k=7)
    assert len(hits) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert "class" in hits[0].text.lower()
    assert hits[0].title
    assert len(hits.index_version) == 16
    assert set(hits.timings_ms) >= {"queue", "encode", "search", "fetch"}
    assert hits.truncated is False


def test_scores_are_inner_products_of_the_vectors_that_embed_gives(client: Client, index: Path) -> None:
    vector = client.embed([QUESTION])[0].astype(np.float64)
    with open_index(index) as opened:
        for hit in client.search(QUESTION, top_k=10):
            row = np.array(opened.vectors.full[opened.passages.find(hit.id)], np.float64)
            assert math.isclose(float(vector @ row), hit.score, abs_tol=1e-5)


def test_many_keep_their_order_and_equal_what_single_ones_get(client: Client) -> None:
    questions = [f"what is meant by {word}" for word in ("scope", "a generator", "an operator", "a literal") * 30]
    many = client.search_many(questions, top_k=3)
    assert len(many) == len(questions)
    for question, hits in zip(questions[:4], many):
        assert [hit.id for hit in hits] == [hit.id for hit in client.search(question, top_k=3)]
    assert [[hit.id for hit in hits] for hits in many[:4]] == [[hit.id for hit in hits] for hits in many[-4:]]


def test_both_workers_share_one_long_call(pool: Pool, client: Client) -> None:
    before = {worker["id"]: worker["served"] for worker in pool.status()["workers"]}
    client.search_many([f"question number {n}" for n in range(400)])
    after = {worker["id"]: worker["served"] for worker in pool.status()["workers"]}
    assert all(after[worker] - before[worker] > 80 for worker in before)


def test_a_vector_finds_what_its_text_finds(client: Client) -> None:
    (vector,) = client.embed([QUESTION])
    assert (vector.dtype, vector.shape) == (np.float32, (384,))
    assert [hit.id for hit in client.search_vector(vector, top_k=5)] == [hit.id for hit in client.search(QUESTION, top_k=5)]


def test_a_passage_is_fetched_by_its_id(client: Client) -> None:
    hit = client.search(QUESTION)[0]
    (passage,) = client.fetch([hit.id])
    assert (passage.id, passage.text, passage.title) == (hit.id, hit.text, hit.title)
    with pytest.raises(BadRequest, match=r"ids\[1\].*nowhere"):
        client.fetch([hit.id, "nowhere"])


def test_a_query_over_the_models_length_is_cut_and_says_so(client: Client) -> None:
    many = client.search_many(["short", "long " * 2000])
    assert [hits.truncated for hits in many] == [False, True]


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda client: client.search(""), BadRequest, "empty"),
        (lambda client: client.search_many(["fine", 3]), BadRequest, "1"),
        (lambda client: client.search(QUESTION, top_k=0), BadRequest, "top_k"),
        (lambda client: client.search(QUESTION, top_k=1001), BadRequest, "top_k"),
        (lambda client: client.search("x" * 40_000), TooLarge, "32768"),
        (lambda client: client.search("lone \ud800 surrogate"), BadRequest, "UTF-8"),
        (lambda client: client.search(QUESTION, collection="wiki"), BadRequest, "there is: default"),
        (lambda client: client.search_vector(np.zeros(3, np.float32)), BadRequest, "384"),
        (lambda client: client.search_vector(np.full(384, np.nan, np.float32)), BadRequest, "finite"),
        (lambda client: client.search(QUESTION, timeout=0.001), DeadlineExceeded, ""),
    ],
)
def test_what_is_wrong_is_said(client: Client, ask, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        ask(client)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_top_k_beyond_the_index_returns_all_there_is(client: Client) -> None:
    hits = client.search(QUESTION, top_k=1000)
    assert len(hits) == 240
    assert len({hit.id for hit in hits}) == 240


def test_status_tells_what_the_command_tells(pool: Pool, client: Client) -> None:
    told = client.status()
    assert set(told) >= {"broker", "workers", "slots", "totals"}
    assert told["broker"]["state"] == "serving"
    assert [worker["state"] for worker in told["workers"]] == ["ready", "ready"]
    assert {worker["id"] for worker in told["workers"]} == {worker["id"] for worker in pool.status()["workers"]}
    assert [slot["state"] for slot in told["slots"]] == ["running", "running"]
    assert told["totals"]["requests"] >= told["totals"]["replies"] > 0


def test_asyncio_asks_the_same(pool: Pool, client: Client) -> None:
    async def ask() -> list[list[str]]:
        async with AsyncClient(pool.url) as asynchronous:
            answers = await asyncio.gather(*(asynchronous.search(f"{QUESTION} {n}", top_k=3) for n in range(20)))
            return [[hit.id for hit in hits] for hits in answers]

    assert asyncio.run(ask()) == [[hit.id for hit in client.search(f"{QUESTION} {n}", top_k=3)] for n in range(20)]


def test_a_cancelled_future_is_removed_from_the_broker(pool: Pool, client: Client) -> None:
    before = pool.status()["totals"]["cancelled"]
    futures = [client.submit(f"to be cancelled {n}") for n in range(300)]
    wait_until(lambda: any(future.done() for future in futures), 10, "a first answer")
    cancelled = sum(future.cancel() for future in futures)
    assert cancelled > 100
    for future in futures:
        assert future.cancelled() or future.result(30)
    wait_until(lambda: pool.status()["totals"]["cancelled"] > before, 10, "cancelled requests in the totals")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_client_goes_into_other_processes(client: Client, method: str) -> None:
    expected = [hit.id for hit in client.search(QUESTION)]
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as processes:
        hits = processes.submit(client.search, QUESTION).result(30)
    assert [hit.id for hit in hits] == expected
    assert [hit.id for hit in client.search(QUESTION)] == expected


def test_threads_share_a_client(client: Client) -> None:
    expected = [hit.id for hit in client.search(QUESTION)]
    with ThreadPoolExecutor(32) as threads:
        assert list(threads.map(lambda _: [hit.id for hit in client.search(QUESTION)], range(100))) == [expected] * 100


def test_a_client_written_from_the_protocol_page_alone(pool: Pool, client: Client) -> None:
    import plain_client

    found = plain_client.search(pool.url, QUESTION, top_k=4, timeout_s=20)
    assert [passage_id for passage_id, _ in found] == [hit.id for hit in client.search(QUESTION, top_k=4)]


# ---- rag-query ---------------------------------------------------------------------------------------------------------


def test_rag_query_prints_passages(pool: Pool, client: Client) -> None:
    shown = run_cli("rag-query", QUESTION, "-k", "2", "--broker", pool.url)
    assert shown.returncode == 0, shown.stderr
    for hit in client.search(QUESTION, top_k=2):
        assert hit.id in shown.stdout


def test_rag_query_reads_lines_and_writes_json_lines(pool: Pool) -> None:
    shown = run_cli("rag-query", "-k", "1", "--broker", pool.url, stdin="what is a class\n\nwhat is a loop\n")
    assert shown.returncode == 0, shown.stderr
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["query"] for row in rows] == ["what is a class", "what is a loop"]
    assert all(len(row["hits"]) == 1 for row in rows)


def test_eval_through_the_running_pool(pool: Pool, index: Path, tmp_path: Path) -> None:
    """Each passage's own text as a query: the passage itself must be found."""
    with open_index(index) as opened:
        passages = [opened.passages.get(row) for row in range(0, 240, 6)]
    queries, qrels = tmp_path / "queries.jsonl", tmp_path / "qrels.tsv"
    queries.write_text("".join(json.dumps({"_id": f"q{n}", "text": p["text"]}) + "\n" for n, p in enumerate(passages)))
    qrels.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\t{p['id']}\t1\n" for n, p in enumerate(passages)))
    shown = run_cli(
        "rag-index", "eval", str(index), "--queries", str(queries), "--qrels", str(qrels), "--broker", pool.url, "--json"
    )
    assert shown.returncode == 0, shown.stderr
    figures = json.loads(shown.stdout)
    assert any(name.lower().startswith("ndcg") and value > 0.9 for name, value in figures.items() if isinstance(value, float))
