"""The load generator and its HTTP client against a real socket; servers end with everything that they started."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from baselines import corpus
from baselines.contestants import http_ask, json_body, json_hits
from baselines.driver import AskFailed, Timing, burst, closed_loop, open_loop
from baselines.http1 import HttpClient, take_reply
from baselines.servers.null import HITS, Null, reply
from baselines.stats import point
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"

# ---- replies -------------------------------------------------------------------------------------------------------


def chunked(parts: list[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_a_reply_is_taken_when_it_is_whole_and_not_before(parts: list[bytes], by_chunks: bool) -> None:
    body = b"".join(parts)
    sent = chunked(parts) if by_chunks else b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    assert all(take_reply(sent[:end]) is None for end in range(len(sent)))
    assert take_reply(sent) == (200 if by_chunks else 503, body)


# ---- load ----------------------------------------------------------------------------------------------------------


def under_load(server_protocol: type[asyncio.Protocol], load):  # type: ignore[no-untyped-def]
    """What `load(ask)` gives, asked of a real server on loopback."""

    async def run():  # type: ignore[no-untyped-def]
        server = await asyncio.get_running_loop().create_server(server_protocol, "127.0.0.1", 0)
        client = HttpClient(server.sockets[0].getsockname()[1], "/search")
        try:
            return await load(http_ask(client, json_body, json_hits))
        finally:
            client.close()
            server.close()

    return asyncio.run(run())


def questions():  # type: ignore[no-untyped-def]
    return (f"question {n}" for n in itertools.count())


def test_a_closed_loop_counts_every_answer() -> None:
    timing = Timing(warm_s=0.05, seconds=0.2, drain_s=5.0)
    window = under_load(Null, lambda ask: closed_loop(ask, questions(), 7, timing, lambda: 1.0))
    assert window.failed == 0
    assert window.unanswered == []
    assert point(window).qps > 0
    assert all(window.start - 0.1 < seen.began <= seen.ended for seen in window.answered)


class Silent(asyncio.Protocol):
    """Takes everything, answers nothing."""


def test_what_is_never_answered_counts_with_its_age() -> None:
    timing = Timing(warm_s=0.0, seconds=0.1, drain_s=0.1)
    window = under_load(Silent, lambda ask: closed_loop(ask, questions(), 3, timing, lambda: 0.0))
    assert len(window.unanswered) == 3
    assert point(window).longest_ms >= 150


class Refusing(Null):
    _reply = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


def test_refusals_are_counted_and_are_no_answers() -> None:
    timing = Timing(warm_s=0.0, seconds=0.1, drain_s=1.0)
    window = under_load(Refusing, lambda ask: closed_loop(ask, questions(), 2, timing, lambda: 0.0))
    assert window.failed > 0
    assert point(window).qps == 0


class Closing(Null):
    """Answers, and closes the connection a moment later, as a server does with one that stays idle."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._transport.close()


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Closing, "127.0.0.1", 0)
        client = HttpClient(server.sockets[0].getsockname()[1], "/search")
        for _ in range(3):
            assert await client.post(b"{}")
            while any(connection.open for connection in client._free):
                await asyncio.sleep(0)
        server.close()

    asyncio.run(asyncio.wait_for(run(), 10.0))


class TooFew(Null):
    _reply = reply().replace(b'"id": "p0"', b'"no": "p0"')


def test_a_passage_without_an_id_is_a_failure() -> None:
    with pytest.raises(AskFailed):
        under_load(TooFew, lambda ask: ask("what"))


def test_what_is_wrong_with_the_run_itself_ends_it() -> None:
    timing = Timing(warm_s=0.0, seconds=0.1, drain_s=1.0)

    def too_few():  # type: ignore[no-untyped-def]
        yield "the only question"
        raise RuntimeError("the questions are used up")

    with pytest.raises(RuntimeError):
        under_load(Null, lambda ask: closed_loop(ask, too_few(), 1, timing, lambda: 0.0))


def test_bursts_and_open_loops_answer_all() -> None:
    assert under_load(Null, lambda ask: burst(ask, questions(), 20, 5.0)) < 5.0
    assert under_load(Refusing, lambda ask: burst(ask, questions(), 2, 5.0)) == float("inf")
    latencies = under_load(Null, lambda ask: open_loop(ask, questions(), rate=200.0, seconds=0.3, seed=1))
    assert latencies
    assert max(latencies) < 5.0
    assert len(under_load(Null, lambda ask: ask("what"))) == HITS


# ---- questions and passages ----------------------------------------------------------------------------------------


@given(st.text(alphabet="ab .!?", max_size=200), st.integers(1, 10))
def test_cutting_loses_no_word(text: str, words: int) -> None:
    parts = list(corpus.cut(text, words))
    assert " ".join(parts).split() == text.split()
    assert all(len(part.split()) >= words for part in parts[:-1])


@given(st.lists(st.text(alphabet="abc ", min_size=1, max_size=12), min_size=1, max_size=8, unique=True))
def test_no_question_comes_twice_and_none_is_another_length(asked: list[str]) -> None:
    cleaned = list(dict.fromkeys(" ".join(text.split()) for text in asked if text.split()))
    found = list(itertools.islice(corpus.rotations(cleaned), 3 * len(cleaned)))
    assert len(set(found)) == len(found)
    assert found[: len(cleaned)] == cleaned
    known = {tuple(sorted(text.split())) for text in cleaned}
    numbered = [text for text in found if tuple(sorted(text.split())) not in known]
    assert all(text.split()[-1].isdigit() for text in numbered)


# ---- processes -----------------------------------------------------------------------------------------------------

LEAVES_A_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""

ENDS_IT = """
import sys, time
from baselines import processes
processes.adopt_orphans()
with processes.started([sys.executable, "-c", sys.argv[1]], {}) as server:
    while len(server.tree()) < 3 or server.cpu_s() < 0:
        time.sleep(0.01)
    tree = server.tree()
    assert processes.pss_mb_of_all(tree) > 0
left = processes.descendants(__import__("os").getpid())
print(len(tree), left)
"""


@pytest.mark.process
def test_a_server_ends_with_the_daemons_that_it_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS_IT, LEAVES_A_DAEMON],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=BENCHMARKS,
        env={"PYTHONPATH": str(BENCHMARKS), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
