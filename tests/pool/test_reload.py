"""Another index, or another version of it, while clients ask: no failed request, and every answer right for what it names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pools import Pool, alive, run_cli, running_pool, wait_until
from ragpool.client import Client
from ragpool.index.demo import demo_rows
from ragpool.index.manifest import read_manifest, write_manifest
from ragpool.supervisor.room import growth

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

PASSAGES = 60
QUESTIONS = [f"question number {number}" for number in range(12)]


def build(folder: Path, letter: str, out: Path) -> str:
    """The same passages under ids that begin with `letter`: no answer from one is right for the other. Returns the version."""
    corpus = folder / f"{letter}.jsonl"
    with corpus.open("w") as lines:
        for row, _ in zip(demo_rows(), range(PASSAGES)):
            passage = row.passage
            lines.write(json.dumps({"_id": f"{letter}-{passage.id}", "title": passage.title, "text": passage.text[:200]}) + "\n")
    built = run_cli("rag-index", "build", str(corpus), "--out", str(out))
    assert built.returncode == 0, built.stderr
    version: str = json.loads((out / "manifest.json").read_text())["version"]
    return version


class Indexes:
    """`a` and `b`, built once; `letters` tells by version how ids begin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.a, self.b = folder / "a", folder / "b"
        self.letters = {build(folder, "a", self.a): "a", build(folder, "b", self.b): "b"}
        self.version_a, self.version_b = self.letters

    def copy(self, name: str, index: Path) -> Path:
        return Path(shutil.copytree(index, self.folder / name))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Indexes:
    return Indexes(tmp_path_factory.mktemp("indexes"))


@pytest.fixture(scope="module")
def pool(indexes: Indexes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    flags = ("--index", str(indexes.a), "--workers", "2", "--device", "cpu")
    with running_pool(tmp_path_factory.mktemp("reloaded"), *flags) as pool:
        yield pool


class Load:
    """Threads that ask all the while and compare; `wrong` is what they found."""

    def __init__(self, pool: Pool, indexes: Indexes) -> None:
        self.wrong: list[str] = []
        self.seen: set[str] = set()
        self.asked = 0
        self._indexes = indexes
        self._stop = threading.Event()
        self._client = Client(pool.url)
        self._right: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(6)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
        self._client.close()

    def wait_for(self, version: str) -> None:
        """An answer by that version, from now on."""
        self.seen.clear()
        wait_until(lambda: version in self.seen, 60, f"answers by {version}")

    def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            question = QUESTIONS[number % len(QUESTIONS)]
            number += 1
            try:
                hits = self._client.search(question, timeout=60)
            except Exception as error:  # whatever it is, it is the finding
                self.wrong.append(repr(error))
                return
            ids = [hit.id for hit in hits]
            letter = self._indexes.letters.get(hits.index_version, "?")
            bare = [name.partition("-")[2] for name in ids]
            with self._lock:
                self.asked += 1
                self.seen.add(hits.index_version)
                right = self._right.setdefault(question, bare)
                if bare != right or len(ids) != 5 or not all(name.startswith(f"{letter}-") for name in ids):
                    self.wrong.append(f"{question} by {hits.index_version}: {ids}, right is {letter} {right}")


def reload(pool: Pool, *args: str) -> str:
    shown = run_cli("rag-broker", "reload", *args, "--run-dir", str(pool.run_dir))
    assert shown.returncode == 0, shown.stderr + pool.output
    return str(shown.stdout)


def served(pool: Pool) -> list[str]:
    return [worker["index_version"] for worker in pool.status()["workers"] if worker["state"] == "ready"]


def test_reloads_under_load(pool: Pool, indexes: Indexes) -> None:
    pool.wait_workers(2)
    before, after = indexes.version_a, indexes.version_b
    assert served(pool) == [before] * 2
    with Load(pool, indexes) as load:
        load.wait_for(before)
        for _ in range(2):
            told = reload(pool, "--index", str(indexes.a if indexes.letters[after] == "a" else indexes.b))
            assert told.startswith(f"reloaded: {before} -> {after}, 2 workers replaced")
            load.wait_for(after)
            assert served(pool) == [after] * 2
            before, after = after, before
    assert load.wrong == []
    assert load.asked > 20
    rollout = pool.status()["rollout"]
    assert (rollout["state"], rollout["kind"], rollout["replaced"], rollout["after"]) == ("done", "reload", 2, before)


def test_the_supervisor_reads_from_the_manifest_how_much_larger_an_index_is(indexes: Indexes, tmp_path: Path) -> None:
    manifest = read_manifest(indexes.b)
    larger = {role: replace(entry, size=entry.size + 1000) for role, entry in manifest.files.items()}
    write_manifest(tmp_path, replace(manifest, files=larger))
    assert growth((str(indexes.b), indexes.version_b), (str(tmp_path), "")) == 1000 * len(larger)


def truncate(index: Path) -> None:
    path = next(index.glob("vectors-*.f32"))
    os.truncate(path, path.stat().st_size - 64)


def flip(index: Path) -> None:
    path = next(index.glob("passages-*.rows"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def change_format(index: Path) -> None:
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))


def change_model(index: Path, **fields: str) -> None:
    manifest = read_manifest(index)
    write_manifest(index, replace(manifest, model=replace(manifest.model, **fields)))


long = pytest.mark.skipif(os.environ.get("RAGPOOL_TEST_LONG") != "1", reason="takes a minute: RAGPOOL_TEST_LONG=1")
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "damaged"),
    "flipped": (flip, "checksum"),
    "missing": (shutil.rmtree, "does not exist"),
    "of another format": (change_format, "format 99"),
    "of an unknown model": (lambda index: change_model(index, name="no/such-model"), "no/such-model"),
    "of other weights": (lambda index: change_model(index, sha256="0" * 64), "0000"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_index_leaves_the_old_one_serving_and_says_why(how: str, pool: Pool, indexes: Indexes) -> None:
    pool.wait_workers(2)
    before = pool.status()
    versions = served(pool)
    index = indexes.copy(f"broken {how}", indexes.b)
    breaking, sentence = BROKEN[how]
    breaking(index)
    with Load(pool, indexes) as load:
        shown = run_cli("rag-broker", "reload", "--index", str(index), "--run-dir", str(pool.run_dir))
    assert shown.returncode == 1, shown.stdout
    assert sentence in shown.stderr.splitlines()[-1], shown.stderr
    assert f"version {versions[0]} serves on" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert load.wrong == []
    after = pool.status()
    assert [slot["pid"] for slot in after["slots"]] == [slot["pid"] for slot in before["slots"]], "nobody was replaced"
    assert after["rollout"]["state"] == "failed"
    assert sentence in after["rollout"]["told"]


@long
def test_a_new_worker_killed_while_it_loads_is_tried_again(pool: Pool, indexes: Indexes) -> None:
    pool.wait_workers(2)
    target = indexes.b if served(pool)[0] == indexes.version_a else indexes.a
    with Load(pool, indexes) as load:
        reload(pool, "--index", str(target), "--no-wait")

        def loading() -> int | None:
            return next((slot["beside"]["pid"] for slot in pool.status()["slots"] if slot["beside"]), None)

        victim = wait_until(loading, 30, "a process that loads")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not alive(victim), 10, "its end")
        refused = run_cli("rag-broker", "reload", "--run-dir", str(pool.run_dir))
        assert refused.returncode == 1
        assert "a reload is under way" in refused.stderr
        wait_until(lambda: pool.status()["rollout"]["state"] == "done", 120, "the end of the reload")
    assert load.wrong == []
    assert len(set(served(pool))) == 1


@long
def test_an_index_built_again_in_its_folder_is_served_after_sighup(indexes: Indexes, tmp_path: Path) -> None:
    """Until then a worker that dies comes back with the old version, whose files nobody removes."""
    folder = indexes.copy("rebuilt", indexes.a)
    with running_pool(tmp_path, "--index", str(folder), "--workers", "2", "--device", "cpu") as pool:
        pool.wait_workers(2)
        with Load(pool, indexes) as load:
            assert build(tmp_path, "b", folder) == indexes.version_b
            os.kill(pool.worker_pids()[0], signal.SIGKILL)
            wait_until(lambda: len(served(pool)) == 1, 20, "one worker")
            pool.wait_workers(2)
            assert served(pool) == [indexes.version_a] * 2
            pool.process.send_signal(signal.SIGHUP)
            wait_until(lambda: served(pool) == [indexes.version_b] * 2, 120, "the new version")
            wait_until(lambda: (pool.status()["rollout"] or {}).get("state") == "done", 30, "the end of the reload")
            os.kill(pool.worker_pids()[0], signal.SIGKILL)
            wait_until(lambda: len(served(pool)) == 1, 20, "one worker")
            pool.wait_workers(2)
            assert served(pool) == [indexes.version_b] * 2
        assert load.wrong == []
        assert "nothing to replace" in reload(pool)
        assert build(tmp_path, "b", folder) == indexes.version_b
        assert not list(folder.glob(f"*-{indexes.version_a}.*")), "nobody has the old version open any more"
