"""A build leaves a whole index or the old one, never half of one; and a bad row stops it, or is counted."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ragpool.conf.settings import ConfigurationError
from ragpool.index import build as builder
from ragpool.index.build import ENCODING, BuildOptions, Built, build_demo, build_index, ensure_demo_index
from ragpool.index.build_passages import READING
from ragpool.index.demo import demo_index_dir, demo_rows
from ragpool.index.encoder import Encoded, Kind
from ragpool.index.errors import CorpusError, IndexDamaged, IndexUnusable, ModelUnusable
from ragpool.index.manifest import kept_name, read_manifest, write_manifest
from ragpool.index.staging import LOCK, STAGING, staging
from ragpool.index.store import open_index, open_version
from ragpool.index.verify import verify_files

Jsonl = Callable[..., Path]


def rows(*ids: object) -> list[dict[str, object]]:
    return [{"_id": str(id_), "title": f"title {id_}", "text": f"text {id_}"} for id_ in ids]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_index_of_the_real_model(small: Built, library: Any) -> None:
    with open_index(small.path) as index:
        texts = [
            "Moon The Moon is the only natural satellite of the Earth.",
            "Mount Everest is the highest mountain above sea level.",
        ]
        truth = library.encode(texts)
        assert np.abs(index.vectors.full[[0, 4]] - truth).max() < 1e-5
        assert index.passages.get(0)["metadata"] == {"year": 1969}
        assert index.passages.find("whale") == 5
        assert index.manifest.tools["backend"] in ("torch", "onnx", "openvino")
        assert (index.version, index.count, index.dim) == (small.manifest.version, 6, 384)


@pytest.mark.usefixtures("hashing")
def test_many_rows_of_many_files(jsonl: Jsonl, tmp_path: Path) -> None:
    first, second = jsonl(rows(*range(700)), "a.jsonl"), jsonl(rows(*range(700, 1_000)), "b.jsonl")
    told: list[tuple[str, int, int | None]] = []
    built = build_index([first, second], tmp_path / "out", progress=lambda *step: told.append(step))
    assert built.manifest.corpus.sources == ("a.jsonl", "b.jsonl")
    with open_index(tmp_path / "out") as index:
        assert [index.passages.get(row)["id"] for row in (0, 699, 700, 999)] == ["0", "699", "700", "999"]
        alone = index.vectors.full
        expected = builder._encoder(BuildOptions()).encode(["title 700 text 700"], "passage").vectors
        assert np.array_equal(alone[700:701], expected)
    assert told == [
        (READING, 1_000, None), (READING, 1_000, 1_000), (ENCODING, 0, 1_000), (ENCODING, 512, 1_000), (ENCODING, 1_000, 1_000),
    ]  # fmt: skip


@pytest.mark.usefixtures("hashing")
def test_the_same_content_has_the_same_version_and_the_same_bytes(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl(rows(*range(20)))
    one, two = (build_index([corpus], tmp_path / name).manifest for name in ("one", "two"))
    other = build_index([corpus], tmp_path / "three", BuildOptions(encode="text")).manifest
    assert one.version == two.version != other.version
    assert one.files == two.files
    again = build_index([corpus], tmp_path / "one").manifest
    assert again.files == one.files
    assert open_index(tmp_path / "one").version == one.version


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{broken", "it is not JSON"),
        ('{"_id": "3", "title": "t", "text": "again"}', "its id '3' is taken by an earlier passage"),
        ('{"_id": "x", "title": " ", "text": ""}', "its text is empty"),
        ('{"_id": "x", "text": "\\ud800"}', "it cannot be stored"),
        ('{"_id": "x", "text": "t", "deep": ' + "[" * 20 + "]" * 20 + "}", "its metadata is nested deeper than 16"),
    ],
)
def test_a_bad_row_stops_the_build_or_is_skipped(jsonl: Jsonl, tmp_path: Path, line: str, sentence: str) -> None:
    corpus = jsonl([*rows(*range(16)), line, "{also broken", *rows(99)])
    with pytest.raises(CorpusError) as caught:
        build_index([corpus], tmp_path / "out")
    assert str(caught.value).startswith(f"{corpus}, line 17: {sentence}")
    assert not (tmp_path / "out").exists()
    built = build_index([corpus], tmp_path / "out", BuildOptions(skip_bad=True))
    assert built.manifest.count == 17
    assert built.manifest.corpus.skipped == len(built.skipped) == 2
    assert any(sentence in told for told in built.skipped)


@pytest.mark.usefixtures("hashing")
def test_a_file_that_is_cut_short_is_not_skipped(jsonl: Jsonl, tmp_path: Path) -> None:
    data = gzip.compress(jsonl(rows(*range(5_000))).read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="cut short"):
        build_index([tmp_path / "cut.jsonl.gz"], tmp_path / "out", BuildOptions(skip_bad=True))


@pytest.mark.usefixtures("hashing")
def test_a_title_alone_is_a_passage_unless_only_texts_are_encoded(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl([{"_id": "1", "title": "Only a title", "text": ""}])
    assert build_index([corpus], tmp_path / "out").manifest.count == 1
    with pytest.raises(CorpusError, match="line 1: its text is empty"):
        build_index([corpus], tmp_path / "other", BuildOptions(encode="text"))


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [(BuildOptions(type="quick"), "faiss makes no index of 'quick'"), (BuildOptions(encode="title"), "cannot encode 'title'")],
)
def test_options_that_are_not_known(jsonl: Jsonl, tmp_path: Path, options: BuildOptions, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        build_index([jsonl(rows(1))], tmp_path / "out", options)


@pytest.mark.usefixtures("hashing")
def test_a_corpus_without_passages(jsonl: Jsonl, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the corpus holds no passage"):
        build_index([jsonl([])], tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"no passage \(1 rows were skipped, the first: .*line 1"):
        build_index([jsonl(["{"])], tmp_path / "out", BuildOptions(skip_bad=True))


def test_where_nothing_can_be_written(jsonl: Jsonl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write an index to"):
        build_index([jsonl(rows(1))], tmp_path / "file")


class FailingEncoder:
    """Encodes a little and then fails as a device would."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self._left = 2

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> Encoded:
        self._left -= 1
        if not self._left:
            raise ModelUnusable("the device fell off")
        return self._inner.encode(texts, kind)  # type: ignore[attr-defined, no-any-return]


def test_a_build_that_fails_leaves_the_old_index(
    jsonl: Jsonl, tmp_path: Path, hashing: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = build_index([jsonl(rows(1, 2))], tmp_path / "out").manifest
    before = names(tmp_path / "out")
    monkeypatch.setattr(builder, "_encoder", lambda options: FailingEncoder(hashing(options)))
    with pytest.raises(ModelUnusable):
        build_index([jsonl(rows(*range(600)), "new.jsonl")], tmp_path / "out")
    assert names(tmp_path / "out") == before | {STAGING}
    assert read_manifest(tmp_path / "out") == old
    with open_index(tmp_path / "out") as index:
        assert index.passages.get(1)["id"] == "2"


@pytest.mark.usefixtures("hashing")
def test_an_older_version_stays_while_somebody_has_it_open(jsonl: Jsonl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = build_index([jsonl(rows(1, 2))], out).manifest
    index = open_index(out)
    new = build_index([jsonl(rows(3), "new.jsonl")], out).manifest
    old_files = {entry.name for entry in old.files.values()}
    assert old_files <= names(out)
    assert index.passages.get(0)["id"] == "1"
    assert open_index(out).passages.get(0)["id"] == "3"
    index.close()
    del index
    last = build_index([jsonl(rows(4), "last.jsonl")], out).manifest
    assert not old_files & names(out)
    assert names(out) == {"manifest.json", LOCK} | {entry.name for entry in last.files.values()}
    assert new.version != last.version


@pytest.mark.usefixtures("hashing")
def test_a_replaced_version_can_be_opened_again_while_somebody_has_it(jsonl: Jsonl, tmp_path: Path) -> None:
    """A worker that comes back before anybody said `reload` serves what the others do."""
    out = tmp_path / "out"
    old = build_index([jsonl(rows(1, 2))], out).manifest
    assert open_version(out, old.version).version == old.version
    held = open_index(out)
    new = build_index([jsonl(rows(3), "new.jsonl")], out).manifest
    with open_version(out, old.version) as again:
        assert (again.version, again.count, again.passages.get(0)["id"]) == (old.version, 2, "1")
        assert verify_files(again)
    assert open_version(out, new.version).version == new.version
    (out / "manifest.json").write_text("{")
    assert open_version(out, old.version).version == old.version, "also beside a new one that is broken"
    with pytest.raises(IndexUnusable):
        open_version(out, new.version)
    write_manifest(out, new)
    held.close()
    del held, again
    build_index([jsonl(rows(4), "last.jsonl")], out)
    assert not [name for name in names(out) if old.version in name]
    assert open_version(out, old.version).passages.get(0)["id"] == "4", "what is there, where it is gone"


@pytest.mark.usefixtures("hashing")
def test_a_version_that_came_back_has_one_manifest(jsonl: Jsonl, tmp_path: Path) -> None:
    """A, B and A again in one folder, while somebody serves A: what was kept of A's manifest meanwhile is no longer looked at."""
    out, first, second = tmp_path / "out", jsonl(rows(1, 2)), jsonl(rows(3), "new.jsonl")
    old = build_index([first], out).manifest
    held = open_index(out)
    build_index([second], out)
    assert kept_name(old.version) in names(out)
    stale = (out / kept_name(old.version)).read_text()
    build_index([first], out)
    assert kept_name(old.version) not in names(out)
    (out / kept_name(old.version)).write_text(stale.replace("title+text", "title+txet"))
    for index in (held, open_index(out), open_version(out, old.version)):
        assert verify_files(index), "a copy that is damaged is not the index"
    whole = (out / "manifest.json").read_text()
    (out / kept_name(old.version)).write_text(stale)
    (out / "manifest.json").write_text(whole.replace("title+text", "title+txet"))
    for index in (open_index(out), open_version(out, old.version)):
        with pytest.raises(IndexDamaged, match="its manifest does not have the checksum"):
            verify_files(index)


@pytest.mark.usefixtures("hashing")
def test_only_one_build_at_a_time(jsonl: Jsonl, tmp_path: Path) -> None:
    with staging(tmp_path / "out"), pytest.raises(ConfigurationError, match="another build is writing to"):
        build_index([jsonl(rows(1))], tmp_path / "out")
    assert build_index([jsonl(rows(1))], tmp_path / "out").manifest.count == 1


@pytest.mark.usefixtures("hashing")
def test_nothing_but_leftovers_is_removed(jsonl: Jsonl, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / STAGING).mkdir(parents=True)
    (out / STAGING / "rows").write_bytes(b"half")
    for name in ("vectors-0123456789abcdef.f32", ".manifest.json.77"):
        (out / name).write_bytes(b"left")
    for name in ("notes.txt", "vectors-mine.f32", "passages.jsonl"):
        (out / name).write_bytes(b"mine")
    manifest = build_index([jsonl(rows(1))], out).manifest
    kept = {"notes.txt", "vectors-mine.f32", "passages.jsonl", "manifest.json", LOCK}
    assert names(out) == kept | {entry.name for entry in manifest.files.values()}


@pytest.mark.usefixtures("hashing")
def test_an_index_that_is_replaced_while_it_is_opened(jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ragpool.index import store

    out = tmp_path / "out"
    build_index([jsonl(rows(1))], out)
    reading = store.read_text

    def slowly(folder: Path) -> str:
        text = reading(folder)
        monkeypatch.setattr(store, "read_text", reading)
        build_index([jsonl(rows(2), "new.jsonl")], out)
        return text

    monkeypatch.setattr(store, "read_text", slowly)
    with open_index(out) as index:
        assert index.passages.get(0)["id"] == "2"


def test_a_closed_index_says_so(small: Built) -> None:
    index = open_index(small.path)
    index.close()
    with pytest.raises(ValueError, match="closed"):
        _ = index.passages


@pytest.mark.usefixtures("hashing")
def test_the_demo_index_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(IndexUnusable):
        open_index(demo_index_dir())
    monkeypatch.setattr(builder, "BuildOptions", lambda device: BuildOptions(model="hashing", device=device))
    folder = ensure_demo_index()
    assert folder == demo_index_dir()
    assert folder.parent == tmp_path / "ragpool"
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert ensure_demo_index() == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    with open_index(folder) as index:
        assert index.count == len(list(demo_rows()))
        assert index.passages.find("booleans#1") is not None
    build_demo(folder, BuildOptions(model="another"))
    assert (folder / "manifest.json").stat().st_mtime_ns != stamp
