"""`rag-bench` as a process, against brokers that answer, stall, or are not there."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker_doubles import EchoBroker, wait_for
from hypothesis import given
from hypothesis import strategies as st
from ragpool.client.bench_queries import Queries
from ragpool.client.bench_runs import Plan, _jobs
from ragpool.client.bench_summary import Load
from ragpool.wire import codec, messages
from ragpool.wire.messages import Record, Request

BENCH = [sys.executable, "-W", "error", "-m", "ragpool.client.bench"]
NOBODY = "tcp://127.0.0.1:9"
SHORT = ("--duration", "0.8", "--warmup", "0.2", "--grace", "0.5")


class StallingBroker(EchoBroker):
    """Answers, but stands still for `STALL_S` at its fiftieth request."""

    STALL_S = 0.3

    def answer(self, request: Request) -> list[Record]:
        if len(self.of(Request)) == 50:
            time.sleep(self.STALL_S)
        return super().answer(request)


class FirstOnlyBroker(EchoBroker):
    """Answers its first request and loses all others."""

    def answer(self, request: Request) -> list[Record]:
        return super().answer(request) if len(self.of(Request)) == 1 else []


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAGPOOL")}


def bench(*flags: str, **more: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    done = subprocess.run([*BENCH, *flags], capture_output=True, text=True, env=environment() | more, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def document(url: str, *flags: str) -> dict[str, Any]:
    code, out, err = bench("--broker", url, "--json", *SHORT, *flags)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def asked(broker: EchoBroker) -> list[str]:
    return [codec.unpack(request.body)["queries"][0] for request in broker.of(Request)]


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with EchoBroker() as broker:
        yield broker.url


# ---- what it measures --------------------------------------------------------------------------------------------------


def test_a_closed_loop_has_a_row_for_each_concurrency() -> None:
    with EchoBroker() as broker:
        found = document(broker.url, "--concurrency", "1,7", "--top-k", "3", "--priority", "4", "--collection", "books")
        requests = broker.of(Request)
    assert [row["concurrency"] for row in found["rows"]] == [1, 7]
    assert (found["loop"], found["interrupted"], found["broker"]) == ("closed", False, broker.url)
    for row in found["rows"]:
        assert row["ok"] > 10
        assert row["requests"] == row["ok"]
        assert row["qps"] == pytest.approx(row["ok"] / 0.8, rel=0.3)
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] <= row["latency_ms"]["max"]
        assert row["longest_unanswered_ms"] >= row["latency_ms"]["max"]
        assert row["stages_ms"]["queue"]["p50"] == 0.5
        assert row["stages_ms"]["encode"]["max"] == 1.5
        assert sum(stage["mean"] for stage in row["stages_ms"].values()) == pytest.approx(row["latency_ms"]["mean"], rel=1e-3)
        assert row["generator_cpu_us"] > 0
    assert {(each.top_k, each.priority, each.collection) for each in requests} == {(3, 4, "books")}


def test_never_more_open_than_callers_and_no_question_twice() -> None:
    with EchoBroker() as broker:
        document(broker.url, "--concurrency", "5")
        texts = asked(broker)[1:]  # without the one that tries whether anybody is there
    assert len(texts) == len(set(texts)) > 100


def test_an_open_loop_sends_its_rate_whatever_the_pool_does() -> None:
    """The stall delays no request: those due meanwhile count from when they were due."""
    with StallingBroker() as broker:
        found = document(broker.url, "--rate", "100", "--arrivals", "constant", "--duration", "2", "--warmup", "0.1")
    (row,) = found["rows"]
    assert row["requests"] == row["ok"] + row["missed"] == 200
    assert row["ok"] > 150
    assert row["latency_ms"]["p95"] > 150
    assert "late" in row["stages_ms"]


def test_processes_share_one_run() -> None:
    with EchoBroker() as broker:
        found = document(broker.url, "--rate", "200", "--arrivals", "constant", "--processes", "2")
        sessions = {hello.client for hello in broker.of(messages.Hello)}
        texts = asked(broker)[1:]
    assert found["rows"][0]["requests"] == 160
    assert len(sessions) == 3
    assert len(texts) == len(set(texts)) > 100


def test_more_processes_than_callers_is_as_many_as_callers(echo: str) -> None:
    (row,) = document(echo, "--concurrency", "1", "--processes", "3")["rows"]
    assert row["ok"] > 10


def test_few_queries_repeat_and_it_says_so(echo: str, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("one\ntwo\none\n")
    found = document(echo, "--concurrency", "2", "--queries", str(tmp_path / "q.txt"))
    assert found["queries"]["count"] == 2
    assert found["queries"]["repeats"] == 1
    assert any("were asked before" in note for note in found["rows"][0]["notes"])


def test_a_query_that_nobody_can_ask_is_an_error_of_its_own(echo: str, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("fine\n" + "x" * 40_000 + "\n")
    (row,) = document(echo, "--rate", "50", "--queries", str(tmp_path / "q.txt"), "--seed", "1")["rows"]
    assert row["errors"]["too_large"] > 0
    assert row["ok"] > 0


def test_what_is_never_answered_is_the_longest_and_the_exit_code_is_1() -> None:
    with FirstOnlyBroker() as broker:
        code, out, _ = bench("--broker", broker.url, "--concurrency", "3", *SHORT, "--json")
    (row,) = json.loads(out)["rows"]
    assert code == 1
    assert (row["ok"], row["unanswered"]) == (0, 3)
    assert row["longest_unanswered_ms"] > 1300


def test_requests_that_time_out_are_errors_by_code() -> None:
    with FirstOnlyBroker() as broker:
        code, out, _ = bench("--broker", broker.url, "--concurrency", "2", *SHORT, "--timeout", "0.3")
    assert code == 1
    assert "deadline_exceeded" in out
    assert "got no answer" in out


def test_the_table_has_a_line_for_each_row(echo: str) -> None:
    code, out, err = bench("--broker", echo, "--concurrency", "1,3", *SHORT)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    header = next(n for n, line in enumerate(lines) if "longest unanswered" in line)
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ["1", "3"]


# ---- Ctrl-C ------------------------------------------------------------------------------------------------------------


@contextmanager
def running(*flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*BENCH, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_prints_what_was_measured_so_far(processes: str) -> None:
    flags = ("--concurrency", "4,8", "--duration", "60", "--warmup", "0", "--processes", processes, "--json")
    with EchoBroker() as broker, running("--broker", broker.url, *flags) as process:
        wait_for(lambda: len(broker.of(Request)) > 500, 30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    found = json.loads(out)
    assert process.returncode == 130, err
    assert found["interrupted"]
    (row,) = found["rows"]
    assert row["interrupted"]
    assert row["ok"] > 100
    assert (row["errors"], row["unanswered"]) == ({}, 0)
    assert 0 < row["duration_s"] < 60


@pytest.mark.parametrize("processes", ["1", "2"])
def test_ctrl_c_while_it_waits_for_answers_ends_the_wait_and_the_command(processes: str) -> None:
    flags = ("--concurrency", "2,4", "--duration", "0.3", "--warmup", "0", "--grace", "60", "--processes", processes, "--json")
    with FirstOnlyBroker() as broker, running("--broker", broker.url, *flags) as process:
        wait_for(lambda: len(broker.of(Request)) >= 3, 30)
        time.sleep(1.0)  # the run is over, and what is open is waited for
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    found = json.loads(out)
    assert process.returncode == 130, err
    (row,) = found["rows"]
    assert (row["concurrency"], row["unanswered"], row["duration_s"]) == (2, 2, 0.3)


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 20))
def test_a_later_row_begins_behind_what_was_asked_however_many_share_it(spent: int, processes: int, callers: int) -> None:
    plan = Plan("", (), "poisson", processes, 0, 0.0, 1.0, 1.0, 1.0, 5, 0, "default")
    texts = [str(number) for number in range(20_000)]
    jobs = _jobs(plan, Load(concurrency=callers), Queries("", texts, 0), spent)
    begins = sorted(int(job.queries[job.first]) for job in jobs)
    assert begins == list(range(begins[0], begins[0] + min(processes, callers)))
    assert 0 <= begins[0] - spent < len(jobs)


def test_ctrl_c_in_the_warm_up_has_nothing_to_print() -> None:
    with EchoBroker() as broker, running("--broker", broker.url, "--concurrency", "2", "--warmup", "60") as process:
        wait_for(lambda: len(broker.of(Request)) > 50, 30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "rag-bench: interrupted before anything was measured\n"


# ---- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--concurrency", "a,b"], "'a' is not a whole number"),
        (["--concurrency", "0"], "0 is not a whole number above 0"),
        (["--concurrency", "1,,2"], "'' is not a whole number"),
        (["--concurrency", "1.5"], "'1.5' is not a whole number"),
        (["--rate", "-1"], "-1 is not a number above 0"),
        (["--rate", "nan"], "nan is not a number above 0"),
        (["--rate", "5", "--concurrency", "5"], "give one of them"),
        (["--duration", "0"], "--duration"),
        (["--warmup", "-1"], "--warmup"),
        (["--timeout", "inf"], "--timeout"),
        (["--top-k", "0"], "--top-k"),
        (["--priority", "101"], "priority"),
        (["--collection", ""], "collection is empty"),
        (["--processes", "0"], "--processes"),
        (["--broker", "nonsense"], "not an address"),
        (["--queries", "/nowhere/q.txt"], "No such file"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--plot", "picture.nothing"], "--plot"),
        (["--plot", "/nowhere/picture.png"], "--plot"),
    ],
)
def test_wrong_usage_is_one_sentence(flags: list[str], words: str) -> None:
    code, out, err = bench("--broker", NOBODY, *flags)
    assert code == 2
    assert out == ""
    assert words in err
    assert err.startswith("rag-bench: ")
    assert len(err.splitlines()) == 1


def test_a_broker_that_is_not_there() -> None:
    code, out, err = bench("--broker", NOBODY)
    assert (code, out) == (1, "")
    assert "no broker answers at tcp://127.0.0.1:9" in err
    assert len(err.splitlines()) == 1


def test_a_limit_of_the_broker_is_usage(echo: str) -> None:
    code, _, err = bench("--broker", echo, "--top-k", "1001")
    assert code == 2
    assert "top_k is 1001" in err


def test_without_matplotlib_a_plot_is_refused_before_the_load(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib here')\n")
    code, _, err = bench("--broker", NOBODY, "--plot", str(tmp_path / "p.png"), PYTHONPATH=str(tmp_path))
    assert code == 2
    assert err == "rag-bench: --plot needs matplotlib: pip install 'ragpool[bench]'\n"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is in the extra `bench`")
def test_a_picture_is_written(echo: str, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    code, _, err = bench("--broker", echo, "--rate", "20,50", *SHORT, "--plot", str(picture))
    assert code == 0, err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_dead_parent_leaves_no_generator(echo: str) -> None:
    with running("--broker", echo, "--concurrency", "4", "--duration", "60", "--processes", "2") as process:
        children = wait_for(lambda: found if len(found := _children(process.pid)) == 2 else None, 30)
        process.kill()
        process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10, "the generators to leave")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def test_a_reader_that_has_seen_enough_ends_it_quietly(echo: str) -> None:
    with running("--broker", echo, "--concurrency", "1,2", *SHORT) as process:
        assert process.stdout is not None
        assert "closed loop" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.stdout = None
