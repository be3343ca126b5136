"""A build that is killed at any moment goes on where it was, and ends with the bytes of one that nobody killed."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hashing_encoder import HashingEncoder
from pools import alive, children_of, run_cli, wait_until
from ragpool.conf.settings import ConfigurationError
from ragpool.index import build as builder
from ragpool.index import build_finish, faiss_part, index_types, vector_files
from ragpool.index.build import BuildOptions, build_index
from ragpool.index.build_finish import tools
from ragpool.index.build_state import ENCODED, PASSAGES, SEALED, STATE, read_json
from ragpool.index.encoders import OneEncoder
from ragpool.index.errors import IndexDamaged
from ragpool.index.index_types import COMPACT, HNSW
from ragpool.index.manifest import Manifest
from ragpool.index.staging import LOCK, STAGING
from ragpool.index.store import open_index
from ragpool.index.vectors import FULL

Jsonl = Callable[..., Path]

LONG = os.environ.get("RAGPOOL_TEST_LONG") == "1"
long = pytest.mark.skipif(not LONG, reason="takes minutes: RAGPOOL_TEST_LONG=1")

ROWS = 1_300
"""Three shards, the last one not full."""


def rows(count: int, word: str = "text") -> list[dict[str, object]]:
    """Every hundredth is longer than `HashingEncoder` reads."""
    return [{"_id": str(n), "title": f"title {n}", "text": f"{word} {n} " * (1 + n % 7 if n % 100 else 40)} for n in range(count)]


def content(out: Path) -> dict[str, bytes]:
    """Every file of the index, byte by byte; the manifest but for the time, the speed that was measured, and their checksum."""
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["created"], manifest["checksum"], manifest["search"]["queries_per_s"]
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.name not in ("manifest.json", LOCK)}
    return {**files, "manifest.json": json.dumps(manifest).encode()}


class Told:
    """What a build said that is not as usual, and how far it was when it began to encode."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.encoding: list[int] = []

    def build(self, corpus: Path, out: Path, **options: object) -> None:
        self.sentences.clear()
        self.encoding.clear()
        build_index([corpus], out, BuildOptions(**options), self._progress, self.sentences.append)  # type: ignore[arg-type]

    def _progress(self, stage: str, done: int, total: int | None) -> None:
        if stage == "encoding":
            self.encoding.append(done)


@pytest.fixture
def told() -> Told:
    return Told()


class StopsAfterTwo(HashingEncoder):
    """Encodes two shards; then the device is gone."""

    def encode(self, texts: object, kind: str = "query") -> object:  # type: ignore[override]
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 2:
            raise OSError("the device is gone")
        return super().encode(texts, kind)  # type: ignore[arg-type]


@pytest.fixture
def begun(jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> tuple[Path, Path]:
    """(corpus, folder) of a build that was left when two of three shards were encoded."""
    corpus = jsonl(rows(ROWS))
    monkeypatch.setattr(builder, "_encoder", StopsAfterTwo)
    with pytest.raises(OSError, match="the device is gone"):
        told.build(corpus, tmp_path / "out")
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    return corpus, tmp_path / "out"


@functools.cache
def straight(word: str = "text") -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(ROWS, word)).encode()


def test_it_goes_on_with_what_is_encoded(begun: tuple[Path, Path], told: Told, tmp_path: Path) -> None:
    corpus, out = begun
    told.build(corpus, out)
    assert told.sentences == ["going on: 1,024 of 1,300 passages are encoded already"]
    assert told.encoding == [1_024, 1_300]
    told.build(corpus, tmp_path / "straight")
    assert told.sentences == []
    assert content(out) == content(tmp_path / "straight")
    assert open_index(out).manifest.truncated == 13, "whichever build encoded them"


def test_what_was_decided_stays_decided(jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    """`auto` goes by the memory that is free: what it took when the build began is made, whatever is free later."""
    pytest.importorskip("faiss")
    corpus, free = jsonl(rows(ROWS)), [1 << 40]
    monkeypatch.setattr(index_types, "FLAT_ROWS_BYTES", 0)
    monkeypatch.setattr(vector_files, "memory_free", lambda: free[0])
    monkeypatch.setattr(builder, "_encoder", StopsAfterTwo)
    with pytest.raises(OSError, match="the device is gone"):
        told.build(corpus, tmp_path / "out", bytes_per_vector=8)
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    free[0] = int(
        1.9 * index_types.PART_PEAK * index_types._hnsw_bytes(ROWS, HashingEncoder.dim)
    )  # the graph takes more than half
    told.build(corpus, tmp_path / "out", bytes_per_vector=8)
    assert open_index(tmp_path / "out").manifest.type == HNSW
    told.build(corpus, tmp_path / "straight", bytes_per_vector=8)
    assert open_index(tmp_path / "straight").manifest.type == COMPACT


def test_what_was_decided_and_fits_no_longer_is_refused(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    pytest.importorskip("faiss")
    corpus = jsonl(rows(ROWS))
    monkeypatch.setattr(builder, "_encoder", StopsAfterTwo)
    with pytest.raises(OSError, match="the device is gone"):
        told.build(corpus, tmp_path / "out", type="hnsw")
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    monkeypatch.setattr(vector_files, "memory_free", lambda: 100 << 10)
    with pytest.raises(ConfigurationError, match=r"needs about .* of memory to build, and 100\.0 KiB are free"):
        told.build(corpus, tmp_path / "out", type="hnsw")


def test_other_versions_of_what_encodes_are_refused(begun: tuple[Path, Path], told: Told) -> None:
    corpus, out = begun
    state = read_json(out / STAGING / STATE)
    for name in ("tokenizers", "onnxruntime"):
        if name not in state["by"]["tools"]:
            continue
        others = {**state["by"]["tools"], name: "0.0.1"}
        (out / STAGING / STATE).write_text(json.dumps({**state, "by": {**state["by"], "tools": others}}))
        with pytest.raises(ConfigurationError, match=rf"{name} 0\.0\.1"):
            told.build(corpus, out)
    assert "tokenizers" in state["by"]["tools"]
    assert not any(name.startswith("faiss") for name in state["by"]["tools"]), "it has no part in encoded rows"
    assert any(name.startswith("faiss") for name in tools()), "a manifest names it"


@pytest.mark.parametrize("type_", ["flat", "compact"])
def test_encoders_are_closed_and_all_cores_used_once_the_rows_are_there(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_: str
) -> None:
    """Two encoding processes' worth of threads is one each; what is made of the rows has both cores, and is measured so."""
    pytest.importorskip("faiss")
    closed: list[bool] = []
    seen: list[tuple[bool, int]] = []

    class Watched(OneEncoder):
        def close(self) -> None:
            closed.append(True)
            super().close()

    def measured(*args: object) -> tuple[float, float]:
        seen.append((bool(closed), torch.get_num_threads()))
        return measuring(*args)  # type: ignore[arg-type]

    measuring = faiss_part._measured
    monkeypatch.setattr(faiss_part, "_measured", measured)
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    monkeypatch.setattr(builder, "OneEncoder", Watched)
    monkeypatch.setattr(builder, "usable_cores", lambda: 2)
    built = build_index([jsonl(rows(ROWS))], tmp_path / "out", BuildOptions(type=type_, threads=1, bytes_per_vector=8))
    assert seen == [(True, 2)]
    assert built.manifest.search.threads == 2


def test_a_corpus_that_was_only_touched_is_read_again_and_keeps_its_shards(begun: tuple[Path, Path], told: Told) -> None:
    corpus, out = begun
    os.utime(corpus, (1, 1))
    told.build(corpus, out)
    assert told.encoding == [1_024, 1_300]


def test_another_corpus_throws_the_shards_away(begun: tuple[Path, Path], told: Told, tmp_path: Path) -> None:
    corpus, out = begun
    changed = rows(ROWS)
    changed[700]["text"] = "another"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in changed))
    told.build(corpus, out)
    assert told.sentences == ["2 encoded shards are thrown away: the passages changed"]
    assert told.encoding[0] == 0
    told.build(corpus, tmp_path / "straight")
    assert content(out) == content(tmp_path / "straight")


@pytest.mark.parametrize(
    ("options", "what"), [({"passage_prefix": "passage: "}, "passage_prefix"), ({"encode": "text"}, "encode")]
)
def test_another_prefix_or_text_throws_the_shards_away(
    begun: tuple[Path, Path], told: Told, tmp_path: Path, options: dict[str, str], what: str
) -> None:
    corpus, out = begun
    told.build(corpus, out, **options)
    assert told.sentences == [f"what was encoded so far is thrown away: {what} changed"]
    assert told.encoding[0] == 0
    told.build(corpus, tmp_path / "straight", **options)
    assert content(out) == content(tmp_path / "straight")


def test_another_model_throws_the_shards_away(begun: tuple[Path, Path], told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HashingEncoder, "fingerprint", "cd" * 32)
    told.build(*begun)
    assert told.sentences == ["what was encoded so far is thrown away: fingerprint changed"]
    assert told.encoding[0] == 0


@pytest.mark.parametrize("attribute", ["dtype", "backend", "device"])
def test_another_way_to_compute_is_refused_unless_it_restarts(
    begun: tuple[Path, Path], told: Told, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    monkeypatch.setattr(HashingEncoder, attribute, "cuda")
    with pytest.raises(
        ConfigurationError, match=r"was begun in .* encodes on cpu in float32 by double \(.*\), this one would on"
    ) as e:
        told.build(*begun)
    assert str(e.value).endswith("go on as it was begun, or say --restart")
    told.build(*begun, restart=True)
    assert told.encoding[0] == 0
    assert told.sentences == []


def test_threads_are_those_it_was_begun_with(begun: tuple[Path, Path], told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, out = begun
    state = read_json(out / STAGING / STATE)
    (out / STAGING / STATE).write_text(json.dumps({**state, "threads": 77}))
    given = []
    monkeypatch.setattr(builder, "load", lambda options, device, threads: given.append(threads) or load(options, device, 1))
    told.build(corpus, out)
    assert given == [77]


load = builder.load


def test_rows_that_were_damaged_meanwhile_are_encoded_again(begun: tuple[Path, Path], told: Told, tmp_path: Path) -> None:
    corpus, out = begun
    with (out / STAGING / FULL).open("r+b") as file:
        file.seek(600 * 4 * HashingEncoder.dim)
        file.write(b"\xff")
    told.build(corpus, out)
    assert told.encoding == [512, 1_024, 1_300]
    told.build(corpus, tmp_path / "straight")
    assert content(out) == content(tmp_path / "straight")


DAMAGE = ("", "{", '{"format": 1}', "[]", "x" * 64 + "\n7 zz\n", "\x00\x00")
RECORDS = (STATE, PASSAGES, ENCODED)
DAMAGED = [*itertools.product(RECORDS, DAMAGE)] if LONG else [*zip(RECORDS * 2, DAMAGE), *zip(RECORDS, DAMAGE[1:])]


@pytest.mark.parametrize(("name", "text"), DAMAGED)
def test_a_record_that_is_none_costs_work_and_nothing_else(
    begun: tuple[Path, Path], told: Told, tmp_path: Path, name: str, text: str
) -> None:
    corpus, out = begun
    (out / STAGING / name).write_text(text)
    told.build(corpus, out)
    told.build(corpus, tmp_path / "straight")
    assert content(out) == content(tmp_path / "straight")


def test_a_bad_row_leaves_nothing_to_go_on_with(begun: tuple[Path, Path], told: Told) -> None:
    corpus, out = begun
    corpus.write_text("{")
    with pytest.raises(ConfigurationError, match="line 1: it is not JSON"):
        told.build(corpus, out)
    assert not out.exists()


def test_skipped_rows_are_told_again(jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    corpus = jsonl([*rows(ROWS), "{"])
    monkeypatch.setattr(builder, "_encoder", StopsAfterTwo)
    with pytest.raises(OSError, match="the device is gone"):
        told.build(corpus, tmp_path / "out", skip_bad=True)
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    built = build_index([corpus], tmp_path / "out", BuildOptions(skip_bad=True))
    assert built.manifest.corpus.skipped == 1
    assert built.skipped == (
        f"{corpus}, line {ROWS + 1}: it is not JSON: Expecting property name enclosed in double quotes at column 2",
    )


# ---- killed at a step ----------------------------------------------------------------------------------------------


def start_build(corpus: Path, out: Path, when: int | str = 1_000_000, type_: str = "flat") -> subprocess.Popen[str]:
    here = Path(__file__).resolve()
    return subprocess.Popen(
        [sys.executable, str(here.with_name("killed_build.py")), str(when), str(corpus), str(out), type_],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here.parents[1] / "support")},
    )


def killed_build(when: int | str, corpus: Path, out: Path, type_: str = "flat") -> tuple[int, str, str]:
    """(return code, stdout, stderr)"""
    build = start_build(corpus, out, when, type_)
    told, wrong = build.communicate(timeout=300)
    return build.returncode, told, wrong


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many steps the build of `ROWS` rows has."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "new.jsonl").write_bytes(straight())
    code, told, wrong = killed_build(10_000, folder / "new.jsonl", folder / "out")
    assert code == 0, wrong
    return int(told)


@pytest.mark.process
@pytest.mark.timeout(1_800)
@pytest.mark.usefixtures("hashing")
def test_killed_at_a_step_it_ends_with_the_same_bytes(steps: int, jsonl: Jsonl, tmp_path: Path) -> None:
    assert steps > 20
    corpus = tmp_path / "new.jsonl"
    corpus.write_bytes(straight())
    build_index([corpus], tmp_path / "straight")
    wanted = content(tmp_path / "straight")
    old = jsonl([{"_id": "old", "text": "the old index"}], "old.jsonl")
    for left in range(steps) if LONG else (steps // 4, steps * 2 // 3, steps - 4):
        out = tmp_path / f"out-{left}"
        build_index([old], out)
        code, _, wrong = killed_build(left, corpus, out)
        assert code == -signal.SIGKILL, wrong
        with open_index(out) as index:
            first = index.passages.get(0)["id"]
        assert first == "old" or left == steps - 1, "the old index serves until the new one is in place"
        build_index([corpus], out)
        assert content(out) == wanted, f"killed at step {left}"
        shutil.rmtree(out)


class OneThread:
    """A compact build in this process, on one thread, and the bytes that one makes which nobody killed."""

    def __init__(self, folder: Path) -> None:
        self.corpus = folder / "new.jsonl"
        self.corpus.write_bytes(straight())
        self.build(folder / "straight")
        self.wanted = content(folder / "straight")

    def build(self, out: Path) -> None:
        build_index([self.corpus], out, BuildOptions(type=COMPACT, bytes_per_vector=8))


@pytest.fixture
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing: type) -> OneThread:
    pytest.importorskip("faiss")
    monkeypatch.setattr(builder, "usable_cores", lambda: 1)
    monkeypatch.setattr(faiss_part, "_MEASURED_S", 0.0)
    return OneThread(tmp_path)


@pytest.mark.process
@pytest.mark.timeout(600)
def test_a_compact_build_killed_again_and_again_ends_with_the_same_bytes(one_thread: OneThread, tmp_path: Path) -> None:
    """While it encodes, while the rotation is trained and the lists are not, while these are filled, and in the middle of the
    file."""
    out = tmp_path / "out"
    for when in ("pwrite:1", "taken:1", "_block:1", "write_index:0"):
        code, _, wrong = killed_build(when, one_thread.corpus, out, COMPACT)
        assert code == -signal.SIGKILL, wrong
        assert not (out / "manifest.json").exists()
    one_thread.build(out)
    assert content(out) == one_thread.wanted


@long
@pytest.mark.process
@pytest.mark.timeout(3_600)
def test_a_compact_build_killed_at_any_step_ends_with_the_same_bytes(one_thread: OneThread, tmp_path: Path) -> None:
    code, told, wrong = killed_build(10_000, one_thread.corpus, tmp_path / "counted", COMPACT)
    assert code == 0, wrong
    assert content(tmp_path / "counted") == one_thread.wanted
    for left in range(int(told)):
        out = tmp_path / f"out-{left}"
        code, _, wrong = killed_build(left, one_thread.corpus, out, COMPACT)
        assert code == -signal.SIGKILL, wrong
        one_thread.build(out)
        assert content(out) == one_thread.wanted, f"killed at step {left}"
        shutil.rmtree(out)


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("hashing")
def test_killed_at_random_moments_it_ends_with_the_same_bytes(jsonl: Jsonl, tmp_path: Path) -> None:
    """From outside, after a random time since it began to write."""
    corpus = jsonl(rows(40_000))
    build_index([corpus], tmp_path / "straight")
    wanted = content(tmp_path / "straight")
    draw, killed, within_s = random.Random(7), 0, 1.0
    for moment in range(20 if LONG else 3):
        out = tmp_path / f"out-{moment}"
        build = start_build(corpus, out)
        wait_until(functools.partial(reached, out / STAGING / STATE, build), 60, "a build")
        since = time.monotonic()
        try:
            build.wait(draw.uniform(0, within_s))
            within_s = time.monotonic() - since
        except subprocess.TimeoutExpired:
            build.kill()
            killed += 1
        build.communicate()
        build_index([corpus], out)
        assert content(out) == wanted
        shutil.rmtree(out)
    assert killed


@pytest.mark.process
@pytest.mark.usefixtures("hashing")
def test_killed_while_it_was_published_and_then_another_is_wanted(steps: int, jsonl: Jsonl, tmp_path: Path) -> None:
    corpus, out = tmp_path / "new.jsonl", tmp_path / "out"
    corpus.write_bytes(straight())
    for left in range(steps - 8, steps, 1 if LONG else 3):
        shutil.rmtree(out, ignore_errors=True)
        assert killed_build(left, corpus, out)[0] == -signal.SIGKILL
        other = build_index([corpus], out, BuildOptions(bytes_per_vector=7)).manifest
        assert open_index(out).passages.get(ROWS - 1)["id"] == str(ROWS - 1)
        assert set(content(out)) == {"manifest.json"} | {entry.name for entry in other.files.values()}


def interrupted(*args: object, **options: object) -> Any:
    raise KeyboardInterrupt


def left_at(where: Any, name: str, corpus: Path, out: Path, stop: Callable[..., Any] = interrupted, **options: Any) -> None:
    """A build that ends where it calls `where.name`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, stop)
        with pytest.raises(KeyboardInterrupt):
            build_index([corpus], out, BuildOptions(**options))


def published_in_part(files: int, staged: Path, out: Path, manifest: Manifest) -> None:
    """Is stopped when so many files are in their place."""
    for role, entry in list(manifest.files.items())[:files]:
        os.replace(staged / role, out / entry.name)
    raise KeyboardInterrupt


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize("moved", [0, 2, 4] if LONG else [2])
@pytest.mark.parametrize("other", [{"type": "compact", "bytes_per_vector": 8}, {"query_prefix": "query: "}, {"refine": False}])
def test_sealed_files_that_another_build_wrote_to_are_not_published(
    jsonl: Jsonl, tmp_path: Path, moved: int, other: dict[str, Any]
) -> None:
    """Build A is stopped when its files are sealed, and some moved; B, which cuts and overwrites them, too; then A again."""
    pytest.importorskip("faiss")
    corpus, out = jsonl(rows(ROWS)), tmp_path / "out"
    build_index([jsonl([{"_id": "old", "text": "the old index"}], "old.jsonl")], out)
    left_at(builder, "publish", corpus, out, functools.partial(published_in_part, moved))
    assert (out / STAGING / SEALED).exists()
    left_at(build_finish, "seal", corpus, out, **other)
    assert open_index(out).passages.get(0)["id"] == "old"
    build_index([corpus], out)
    build_index([corpus], tmp_path / "straight")
    assert content(out) == content(tmp_path / "straight")


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize("damage", ["cut", "exchanged", "gone"])
def test_a_staged_file_that_is_not_what_was_sealed_is_not_published(jsonl: Jsonl, tmp_path: Path, damage: str) -> None:
    corpus, out = jsonl(rows(ROWS)), tmp_path / "out"
    build_index([jsonl([{"_id": "old", "text": "the old index"}], "old.jsonl")], out)
    left_at(builder, "publish", corpus, out)
    staged = out / STAGING / FULL
    whole = staged.read_bytes()
    if damage == "gone":
        staged.unlink()
    else:
        staged.write_bytes(whole[:-64] + (b"" if damage == "cut" else bytes(64)))
    with pytest.raises(IndexDamaged, match=f"the index {out} stays as it was: .*say the same command again"):
        build_index([corpus], out)
    assert open_index(out).passages.get(0)["id"] == "old"
    build_index([corpus], out)
    build_index([corpus], tmp_path / "straight")
    assert content(out) == content(tmp_path / "straight")


@pytest.mark.usefixtures("hashing")
def test_a_damaged_staged_file_does_not_replace_the_same_one_that_is_served(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus, out = jsonl(rows(ROWS)), tmp_path / "out"
    build_index([corpus], out)
    served = content(out)
    left_at(builder, "publish", corpus, out)
    staged = out / STAGING / FULL
    staged.write_bytes(staged.read_bytes()[:-100])
    with pytest.raises(IndexDamaged, match="stays as it was"):
        build_index([corpus], out)
    assert all((out / name).read_bytes() == data for name, data in served.items() if name != "manifest.json")
    assert open_index(out).passages.get(0)["id"]


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize("step", ["seal", "publish"])
def test_another_faiss_makes_its_part_again_and_it_is_said(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told, step: str
) -> None:
    pytest.importorskip("faiss")
    corpus, out, options = jsonl(rows(ROWS)), tmp_path / "out", {"type": "compact", "bytes_per_vector": 8}
    left_at(builder if step == "publish" else build_finish, step, corpus, out, **options)
    left_at(builder, "publish", corpus, tmp_path / "flat", type="flat")
    installed = build_finish._installed
    monkeypatch.setattr(
        build_finish, "_installed", lambda names: {name: "99" if "faiss" in name else v for name, v in installed(names).items()}
    )
    told.build(corpus, out, **options)
    said = f"the build was begun with faiss-cpu {installed(['faiss-cpu'])['faiss-cpu']}: what faiss makes of the rows is made by"
    assert [sentence for sentence in told.sentences if sentence.startswith(said)] == [f"{said} faiss-cpu 99"]
    assert told.encoding == [ROWS]
    assert open_index(out).manifest.tools["faiss-cpu"] == "99"
    told.build(corpus, tmp_path / "flat", type="flat")
    assert told.sentences == told.encoding == [], "no flat index depends on it"


@pytest.mark.usefixtures("hashing")
def test_documents_of_another_folder_have_their_own_ids(tmp_path: Path) -> None:
    """The same file is `sub/b.txt` of one folder and `b.txt` of the other."""
    (tmp_path / "kb" / "sub").mkdir(parents=True)
    (tmp_path / "kb" / "sub" / "b.txt").write_text("a few words")
    left_at(builder, "plan_for", tmp_path / "kb", tmp_path / "out")
    assert (tmp_path / "out" / STAGING / PASSAGES).exists()
    build_index([tmp_path / "kb" / "sub"], tmp_path / "out")
    build_index([tmp_path / "kb" / "sub"], tmp_path / "straight")
    with open_index(tmp_path / "out") as index:
        assert index.passages.get(0)["id"] == "b.txt"
    assert content(tmp_path / "out") == content(tmp_path / "straight")


# ---- real processes ------------------------------------------------------------------------------------------------


class CommandLine:
    """`rag-index build` of many short rows in two processes, with the real model."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.corpus = folder / "corpus.jsonl"
        self.corpus.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
        self.straight = folder / "straight"
        done = run_cli(*self._command(self.straight), timeout_s=400)
        assert done.returncode == 0, done.stderr
        self.wanted = content(self.straight)

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        program, *args = self._command(out)
        with (self.folder / f"{out.name}.log").open("wb") as log:
            return subprocess.Popen(
                [str(Path(sys.executable).parent / program), *args], stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"}
            )

    def log(self, out: Path) -> str:
        return (self.folder / f"{out.name}.log").read_text()

    def resume(self, out: Path) -> str:
        done = run_cli(*self._command(out), timeout_s=400)
        assert done.returncode == 0, done.stderr
        assert content(out) == self.wanted
        return str(done.stderr)

    def _command(self, out: Path) -> list[str]:
        return ["rag-index", "build", str(self.corpus), "--out", str(out), "--device", "cpu,cpu", "--quiet"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("command"), 3_000)


def encoded_lines(out: Path) -> int:
    try:
        return len((out / STAGING / ENCODED).read_bytes().splitlines()) - 1
    except OSError:
        return 0


@long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_one_encoding_process_is_killed_and_then_the_whole_build(command: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "one"
    build = command.start(out)
    wait_until(lambda: encoded_lines(out) > 0, 200, "a first shard")
    victim, other = children_of(build.pid)
    os.kill(victim, signal.SIGKILL)
    lost = f"the process that encodes on cpu (pid {victim}) was ended by SIGKILL: the others go on"
    wait_until(lambda: lost in command.log(out), 60, lost)
    assert build.poll() is None
    with pytest.raises(ConfigurationError, match="another build is writing to"):
        build_index([command.corpus], out)
    build.kill()
    build.wait()
    wait_until(lambda: not alive(other), 10, "its processes ended")
    assert "are encoded already" in command.resume(out)


@long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_one_encoding_process_is_killed_and_the_others_end_the_build(command: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "others"
    build = command.start(out)
    wait_until(lambda: encoded_lines(out) > 0, 200, "a first shard")
    os.kill(children_of(build.pid)[0], signal.SIGKILL)
    assert build.wait(200) == 0
    assert content(out) == command.wanted


@long
@pytest.mark.process
@pytest.mark.timeout(600)
def test_all_encoding_processes_are_killed(command: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "all"
    build = command.start(out)
    wait_until(lambda: encoded_lines(out) > 0, 200, "a first shard")
    for child in children_of(build.pid):
        os.kill(child, signal.SIGKILL)
    assert build.wait(60) == 1
    assert "the last one there was: the same command goes on from here" in command.log(out)
    assert "are encoded already" in command.resume(out)


@long
@pytest.mark.process
@pytest.mark.timeout(3_600)
def test_killed_at_twenty_random_moments(command: CommandLine, tmp_path: Path) -> None:
    """A quarter of the moments are anywhere after the start, the others follow the model's load, a first shard, the sealing."""
    draw = random.Random(20)
    for moment in range(20):
        out = tmp_path / f"moment-{moment}"
        build = command.start(out)
        after, within_s = ((None, 20.0), (STATE, 3.0), (ENCODED, 8.0), (SEALED, 0.01))[moment % 4]
        if after is not None:
            wait_until(functools.partial(reached, out / STAGING / after, build), 200, after)
        try:
            build.wait(draw.uniform(0, within_s))
        except subprocess.TimeoutExpired:
            build.kill()
        build.wait()
        told = command.resume(out)
        print(f"moment {moment}, after {after}: {told!r}")
        shutil.rmtree(out)


def reached(record: Path, build: subprocess.Popen[Any]) -> bool:
    return record.exists() or build.poll() is not None


def test_the_state_says_what_it_must(begun: tuple[Path, Path]) -> None:
    state = read_json(begun[1] / STAGING / STATE)
    by = state["by"]
    assert {"backend", "dtype", "device", "fingerprint", "query_prefix", "passage_prefix", "tools"} <= by.keys()
    assert {"threads", "shard_rows", "seed"} <= state.keys()
