"""What is asked for and not built is refused before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hashing_encoder import HashingEncoder
from ragpool.conf.mapping import from_mapping
from ragpool.conf.settings import ConfigurationError
from ragpool.index import build as builder
from ragpool.index.build import BuildOptions, build_index
from ragpool.index.errors import ModelUnusable
from ragpool.wire.messages import Register
from ragpool.wire.progress import SIZE, ProgressWriter, read_progress
from ragpool.worker.loading import check_honoured, loader


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
