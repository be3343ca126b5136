"""`rag-query` and the probe, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from broker_doubles import DroppingBroker, EchoBroker, RefusingBroker
from ragpool.wire.messages import Cancel, Request

NOBODY = "tcp://127.0.0.1:9"
QUERY = [sys.executable, "-W", "error", "-m", "ragpool.client.cli"]
PROBE = [sys.executable, "-W", "error", "-m", "ragpool.client.probe"]


def run(command: list[str], text: str | bytes = "", **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAGPOOL")} | environment
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run(command, input=data, capture_output=True, env=environ, timeout=30, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_passages_are_printed_with_rank_score_title_and_id() -> None:
    with EchoBroker() as broker:
        code, out, err = run([*QUERY, "who wrote hamlet", "-k", "2", "--broker", broker.url])
    assert (code, err.count("\n")) == (0, 1)  # the double says that the query was cut
    first, second = out.split("\n\n")
    assert first.splitlines() == [" 1. 1.0000  title of who wrote hamlet  [who wrote hamlet]", "    text of who wrote hamlet"]
    assert second.startswith(" 2. 0.5000")


def test_json_is_one_object() -> None:
    with EchoBroker() as broker:
        code, out, _ = run([*QUERY, "a", "--json", "-k", "1"], RAGPOOL_BROKER=broker.url)
    assert code == 0
    answer = json.loads(out)
    assert answer["query"] == "a"
    assert answer["hits"] == [{"id": "a", "score": 1.0, "title": "title of a", "text": "text of a", "metadata": {"n": 1}}]
    assert (answer["index_version"], answer["truncated"]) == ("v1", True)


def test_lines_of_stdin_become_json_lines_in_their_order() -> None:
    queries = [f"frage {n} ü" for n in range(1_000)]
    with EchoBroker() as broker:
        code, out, err = run([*QUERY, "--broker", broker.url, "-k", "1"], "\n\n".join(queries) + "\n")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["query"] for answer in answers] == queries
    assert [answer["hits"][0]["id"] for answer in answers] == queries


def test_each_line_is_answered_when_it_comes() -> None:
    with EchoBroker() as broker:
        process = subprocess.Popen(
            [*QUERY, "--broker", broker.url, "-k", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        source, sink = _pipes(process)
        with process:
            for text in ("one", "two"):
                source.write(text + "\n")
                assert json.loads(sink.readline())["query"] == text
            source.close()
            assert sink.read() == ""
        assert process.returncode == 0


def test_nothing_on_stdin_is_nothing_to_do() -> None:
    assert run([*QUERY, "--broker", NOBODY], "\n \n") == (0, "", "")


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    with EchoBroker() as broker:
        process = subprocess.Popen(
            [*QUERY, "--broker", broker.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        source, sink = _pipes(process)
        assert process.stderr is not None
        with process:
            source.write("one\n")
            source.flush()
            sink.readline()
            sink.close()
            source.write("two\n" * 50)
            source.flush()
            assert process.stderr.read() == ""
            assert process.wait(20) == 0


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["a", "-k", "0"], 2, "Invalid value for '-k'"),
        (["a", "--no-such-flag"], 2, "No such option"),
        (["a", "--broker", "nonsense"], 2, "'nonsense' is not an address"),
        (["a", "--timeout", "-1"], 2, "timeout is a positive"),
        (["a", "--config", "/no/such/file.toml"], 2, "/no/such/file.toml"),
        (["", "--broker", NOBODY], 2, "the query is empty"),
        (["a", "--broker", NOBODY], 1, "no broker answers at tcp://127.0.0.1:9 within 2 s"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], code: int, sentence: str) -> None:
    got, out, err = run([*QUERY, *arguments])
    assert (got, out) == (code, "")
    assert err.startswith("rag-query: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_an_error_in_a_stream_names_the_line() -> None:
    with RefusingBroker() as broker:
        code, out, err = run([*QUERY, "--broker", broker.url], "fine\n\npoison\nfine\n")
        assert (code, len(out.splitlines())) == (1, 1)
        assert err.startswith("rag-query: line 3: it ended a worker")
        code, _, err = run([*QUERY, "--broker", broker.url], b"fine\n\xff\xfe\n")
        assert (code, err) == (1, "rag-query: line 2: this is not UTF-8\n")


def test_the_configuration_file_names_the_pool(tmp_path: Path) -> None:
    with EchoBroker() as broker:
        file = tmp_path / "pool.toml"
        file.write_text(f'[broker]\nfrontend = "{broker.url}"\n')
        code, out, _ = run([*QUERY, "a", "--json", "--config", str(file)])
        assert (code, json.loads(out)["query"]) == (0, "a")


def test_help_has_examples_and_version_a_number() -> None:
    code, out, _ = run([*QUERY, "--help"])
    assert code == 0
    assert 'rag-query "who wrote hamlet"' in out
    code, out, _ = run([*QUERY, "--version"])
    assert (code, out.split()[0]) == (0, "rag-query")
    assert out.split()[1][0].isdigit()


# ---- the probe ------------------------------------------------------------------------------------------------------


def test_the_probe_asks_one_real_question() -> None:
    with EchoBroker() as broker:
        assert run([*PROBE, broker.url]) == (0, "", "")
        (request,) = broker.of(Request)
        assert (request.op, request.top_k) == ("search", 1)


def test_the_probe_says_why_not() -> None:
    code, out, err = run([*PROBE, NOBODY, "--timeout", "0.2"])
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "no broker" in err
    with DroppingBroker() as broker:
        code, _, err = run([*PROBE, broker.url, "--timeout", "0.3"])
        assert (code, err) == (1, "no answer within the timeout\n")
        assert broker.of(Cancel)
