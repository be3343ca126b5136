"""What is asked for and not built is refused before anything heavy is loaded; what is set reaches the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hashing_encoder import Hashed, HashingEncoder
from ragpool.conf.mapping import from_mapping
from ragpool.conf.settings import ConfigurationError
from ragpool.index import build as builder
from ragpool.index import encoder as encoders
from ragpool.index.build import BuildOptions, build_index
from ragpool.index.encoder import Encoded, SentenceEncoder
from ragpool.index.engine import load_engine
from ragpool.index.errors import IndexDamaged, ModelUnusable
from ragpool.index.store import open_index
from ragpool.wire import bodies
from ragpool.wire.messages import SEARCH_VECTOR, Limits, Register, Reply, Request
from ragpool.wire.progress import SIZE, ProgressWriter, read_progress
from ragpool.worker.batcher import Job
from ragpool.worker.loading import check_honoured, load, loader


def test_a_worker_without_an_index_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no index"):
        check_honoured(from_mapping({"index": {}}, "a test"))


def test_what_is_built_passes() -> None:
    check_honoured(from_mapping({"index": {"path": "x"}, "worker": {"backend": "torch"}}, "a test"))


class CountedStamps(ProgressWriter):
    """Knows what was stamped."""

    def __init__(self, buffer: bytearray) -> None:
        super().__init__(buffer)
        self.stamped: list[Sequence[bytes]] = []

    def start(self, now_ns: int, running: Sequence[bytes]) -> None:
        super().start(now_ns, running)
        self.stamped.append(running)


def test_hashing_is_stamped_where_the_supervisor_sees_it_and_only_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model is nowhere to be found: that is behind the checksums."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    (tmp_path / "c.jsonl").write_text('{"id": "1", "text": "one"}\n')
    built = build_index([tmp_path / "c.jsonl"], tmp_path / "index", BuildOptions(device="cpu", model="hashing"))
    settings, info = from_mapping({"index": {"path": str(built.path)}}, "a test"), Register("i", "loading")
    for files in (len(built.manifest.files), 0):
        buffer = bytearray(SIZE)
        progress = CountedStamps(buffer)
        with pytest.raises(ModelUnusable):
            loader(settings, "cpu", info, "", progress)()
        assert progress.stamped == [()] * files
        assert read_progress(buffer).started_ns == 0


class LoadedEncoder(HashingEncoder):
    """As a worker has it."""

    kinds_alike, choice = True, None

    def tokenize(self, texts: Sequence[str], kind: str = "query") -> Sequence[str]:
        return texts

    def encode_tokens(self, tokenized: Sequence[str]) -> Hashed:
        return self.encode(tokenized)


@pytest.mark.parametrize("type_", ["compact", "flat"])
def test_a_worker_searches_with_the_effort_that_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, type_: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "_encoder", HashingEncoder)
    monkeypatch.setattr(encoders, "load_index_encoder", lambda *args: LoadedEncoder(BuildOptions()))
    (tmp_path / "c.jsonl").write_text("".join(f'{{"id": "{n}", "text": "text {n}"}}\n' for n in range(600)))
    options = BuildOptions(device="cpu", model="hashing", type=type_, bytes_per_vector=8)
    index = build_index([tmp_path / "c.jsonl"], tmp_path / "index", options).path
    settings = from_mapping({"index": {"path": str(index), "effort": 1}}, "a test")
    runner = load(settings, "cpu", Register("i", "loading"), "", ProgressWriter(bytearray(SIZE))).runner
    queries = HashingEncoder(BuildOptions()).encode([f"query {n}" for n in range(40)]).vectors
    work = bodies.Work(vectors=queries.astype("<f4").tobytes(), dim=queries.shape[1])
    (answer,) = runner.run([Job(Request(bytes(16), SEARCH_VECTOR, 40, 10), work)], Limits())
    assert isinstance(answer, Reply)
    found = [[int(passage["id"]) for passage in passages] for _, passages in bodies.decode_results(answer.body)]
    with open_index(index) as opened:
        alike = [found == load_engine(opened, "cpu", effort=effort).search(queries, 10)[1].tolist() for effort in (1, 8)]
    assert alike == [True, type_ == "flat"]
    assert ("index.effort = 1 does nothing for" in caplog.text) == (type_ == "flat")


def test_rows_of_another_model_are_found_before_anybody_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each passage has the row of its neighbour; checksums are those of what was built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tiny_models.make("bert", tmp_path)
    (tmp_path / "c.jsonl").write_text(
        "".join(f'{{"id": "{n}", "text": "{text}"}}\n' for n, text in enumerate(tiny_models.CORPUS))
    )
    options = BuildOptions(device="cpu", backend="torch", model=str(model))
    settings = from_mapping({"worker": {"backend": "torch"}, "index": {"path": str(tmp_path / "index")}}, "a test")
    loaded = loader(settings, "cpu", Register("i", "loading"), "", ProgressWriter(bytearray(SIZE)))
    build_index([tmp_path / "c.jsonl"], tmp_path / "index", options)
    assert loaded().info.model == str(model)
    encoding = SentenceEncoder.encode

    def mixed(self: SentenceEncoder, *args: Any) -> Encoded:
        found = encoding(self, *args)
        return Encoded(found.vectors[::-1], found.tokens, found.truncated)

    with monkeypatch.context() as patch:
        patch.setattr(SentenceEncoder, "encode", mixed)
        build_index([tmp_path / "c.jsonl"], tmp_path / "index", options)
    with pytest.raises(IndexDamaged, match=f"holds another row of its passage '.+' than the model {model} gives here"):
        loaded()
