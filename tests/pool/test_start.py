"""Starting and stopping as an operator does: what is wrong is one sentence and leaves nothing running."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pools import Pool, alive, children_of, free_port, run_cli, running_pool, wait_until
from ragpool.client import BrokerUnreachable, Client, ClientClosed

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def start_and_fail(tmp_path: Path, *flags: str, code: int = 2) -> str:
    """The one sentence that a start ended with; nothing may be left of it."""
    pool = Pool(tmp_path, *flags)
    seen: set[int] = set()

    def ended() -> bool:
        seen.update(children_of(pool.process.pid))
        return pool.process.poll() is not None

    wait_until(ended, 60, "the start to fail")
    assert pool.process.returncode == code, pool.output
    assert "Traceback" not in pool.output
    assert [pid for pid in seen if alive(pid)] == []
    lines = [line for line in pool.output.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_wrong_index_path(tmp_path: Path) -> None:
    assert "nowhere" in start_and_fail(tmp_path, "--index", str(tmp_path / "nowhere"))


def test_a_folder_that_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "manifest.json" in start_and_fail(tmp_path, "--index", str(tmp_path / "empty"))


def test_a_wrong_model(index: Path, tmp_path: Path) -> None:
    assert "no-such-model" in start_and_fail(tmp_path, "--index", str(index), "--model", "no-such-model", "--device", "cpu")


def test_a_device_that_is_not_there(index: Path, tmp_path: Path) -> None:
    sentence = start_and_fail(tmp_path, "--index", str(index), "--device", "cuda:7")
    assert "cuda:7" in sentence


@pytest.mark.parametrize("command", [("rag-broker", "start"), ("rag-worker", "--backend", "ipc:///tmp/nobody")])
def test_devices_that_cannot_be_divided_are_refused_before_anything_starts(
    index: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    for devices, words in (("cuda:0,cuda:1,cuda:2", "groups of 2"), ("cuda:0,cuda:2", "must follow each other")):
        flags = ("--index", str(index), "--device", devices, "--run-dir", str(tmp_path / "run"))
        ended = run_cli(*command, *flags, env={"RAGPOOL_INDEX__GPUS_PER_WORKER": "2"})
        assert ended.returncode == 2
        assert words in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_port_in_use(index: Path, tmp_path: Path, taken_port: int) -> None:
    sentence = start_and_fail(tmp_path, "--index", str(index), "--device", "cpu", "--frontend", f"tcp://127.0.0.1:{taken_port}")
    assert str(taken_port) in sentence
    assert "address already in use" in sentence


@pytest.mark.parametrize("flag", ["--frontend", "--backend"])
def test_an_address_that_others_can_reach_needs_to_be_wanted(index: Path, tmp_path: Path, flag: str) -> None:
    sentence = start_and_fail(tmp_path, "--index", str(index), flag, f"tcp://0.0.0.0:{free_port()}")
    assert "--insecure" in sentence


def test_a_second_pool_on_one_run_directory(pool: Pool, index: Path, tmp_path: Path) -> None:
    sentence = start_and_fail(tmp_path, "--index", str(index), "--run-dir", str(pool.run_dir))
    assert str(pool.process.pid) in sentence
    assert pool.status()["broker"]["state"] == "serving"


def test_a_corpus_with_a_broken_line_17(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"_id": str(n), "title": "", "text": f"passage {n}"}) for n in range(30)]
    rows[16] = '{"_id": "16", "text": '
    corpus.write_text("\n".join(rows))
    built = run_cli("rag-index", "build", str(corpus), "--out", str(tmp_path / "out"))
    assert built.returncode in (1, 2)
    (sentence,) = [line for line in built.stderr.splitlines() if line.startswith("rag-index:")]
    assert "corpus.jsonl" in sentence
    assert "17" in sentence
    assert "Traceback" not in built.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unknown_setting_names_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "pool.toml"
    config.write_text("[broker]\nqueue_maxx = 5\n")
    shown = run_cli("rag-broker", "start", "--config", str(config))
    assert shown.returncode == 2
    assert "queue_max" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


def test_two_pools_side_by_side(pool: Pool, index: Path, tmp_path: Path) -> None:
    with running_pool(tmp_path, "--index", str(index), "--workers", "1", "--device", "cpu") as other:
        with Client(pool.url) as one, Client(other.url) as two:
            assert [hit.id for hit in one.search("what is a class")] == [hit.id for hit in two.search("what is a class")]
        assert len(other.status()["workers"]) == 1
        assert other.stop() == 0
    assert len(pool.status()["workers"]) == 2
    with Client(pool.url) as one:
        assert one.search("what is a class")


def test_sigterm_under_load_drains_with_nothing_lost(index: Path, tmp_path: Path) -> None:
    pool = Pool(tmp_path, "--index", str(index), "--workers", "2", "--device", "cpu")
    pool.wait_ready()
    with Client(pool.url, timeout=30) as client:
        futures = [client.submit(f"question {n}") for n in range(200)]
        wait_until(lambda: any(future.done() for future in futures), 30, "a first answer")
        admitted = pool.status()["totals"]["requests"]
        assert pool.stop() == 0
        answered = sum(future.done() and not future.exception() for future in futures)
    assert answered >= min(admitted, 200), "what was admitted is answered"


def test_a_second_signal_means_now(index: Path, tmp_path: Path) -> None:
    pool = Pool(tmp_path, "--index", str(index), "--workers", "1", "--device", "cpu")
    pool.wait_ready()
    children = pool.pids()
    with Client(pool.url, timeout=30) as client, ThreadPoolExecutor(1) as waiting:
        many = waiting.submit(client.search_many, [f"question {n}" for n in range(20_000)])
        wait_until(lambda: pool.status()["totals"]["replies"] > 2, 30, "work in flight")
        pool.process.send_signal(signal.SIGINT)
        wait_until(lambda: pool.status()["broker"]["state"] == "draining", 5, "draining")
        assert pool.process.poll() is None
        pool.process.send_signal(signal.SIGINT)
        pool.process.wait(5)
        client.close()
        with pytest.raises(ClientClosed):
            many.result(10)
    assert [pid for pid in children if alive(pid)] == []


def test_stop_returns_when_everything_is_gone(index: Path, tmp_path: Path) -> None:
    pool = Pool(tmp_path, "--index", str(index), "--workers", "1", "--device", "cpu")
    pool.wait_ready()
    everybody = [pool.process.pid, *pool.pids()]
    stopped = run_cli("rag-broker", "stop", "--run-dir", str(pool.run_dir))
    assert stopped.returncode == 0, stopped.stderr
    pool.process.wait(5)
    assert [pid for pid in everybody if alive(pid)] == []
    again = run_cli("rag-broker", "stop", "--run-dir", str(pool.run_dir))
    assert again.returncode == 1
    assert "no pool runs here" in again.stderr


def test_nobody_at_the_address_is_said_within_the_connect_timeout() -> None:
    with Client(f"tcp://127.0.0.1:{free_port()}", connect_timeout=0.5) as client, pytest.raises(BrokerUnreachable):
        client.search("anybody there?")


def test_a_pool_that_a_script_started_in_the_background_drains_on_sigint(index: Path, tmp_path: Path) -> None:
    """Such a shell starts it with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = Pool(tmp_path, "--index", str(index), "--workers", "1", "--device", "cpu")
    finally:
        signal.signal(signal.SIGINT, before)
    pool.wait_ready()
    pool.process.send_signal(signal.SIGINT)
    assert pool.process.wait(20) == 0
