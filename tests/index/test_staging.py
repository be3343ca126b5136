"""What a build may replace, what it leaves where it fails, and names that are not UTF-8."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ragpool.conf.settings import ConfigurationError
from ragpool.index import build as builder
from ragpool.index.build import BuildOptions, Built, build_index
from ragpool.index.errors import CorpusError
from ragpool.index.manifest import MANIFEST_NAME, read_manifest
from ragpool.index.rows import Fields
from ragpool.index.staging import LOCK, STAGING
from ragpool.index.store import open_index

Jsonl = Callable[..., Path]
ROWS = [{"_id": str(n), "text": f"text {n}"} for n in range(5)]

pytestmark = pytest.mark.usefixtures("hashing")


def unread(*args: object, **options: object) -> None:
    raise AssertionError("nothing is read or encoded")


# ---- what may be replaced --------------------------------------------------------------------------------------------

WEB_APP = '{"name": "an app", "version": "1.0", "files": {}, "type": "module", "icons": []}'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (WEB_APP, "is not the manifest of an index: build into another folder, or remove it"),
        ("[]", "is not the manifest of an index"),
        ("", "is not the manifest of an index"),
        ("\udcff", "is not the manifest of an index"),
        ('{"format": 99, "icons": []}', "is not the manifest of an index"),
    ],
)
def test_another_programs_manifest_is_not_replaced(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    path = tmp_path / "out" / MANIFEST_NAME
    path.parent.mkdir()
    path.write_text(text, errors="surrogateescape")
    monkeypatch.setattr(builder, "_encoder", unread)
    with pytest.raises(ConfigurationError) as caught:
        build_index([jsonl(ROWS)], path.parent)
    assert str(caught.value).startswith(f"{path} {sentence}")
    assert os.listdir(path.parent) == [MANIFEST_NAME]
    assert path.read_text(errors="surrogateescape") == text


def test_a_folder_of_that_name_is_told_before_anything_is_encoded(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / MANIFEST_NAME).mkdir(parents=True)
    monkeypatch.setattr(builder, "_encoder", unread)
    with pytest.raises(ConfigurationError, match=r"manifest\.json cannot be read: Is a directory"):
        build_index([jsonl(ROWS)], tmp_path / "out")


def test_an_index_of_another_format_is_not_replaced(jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, out = jsonl(ROWS), tmp_path / "out"
    newer = json.loads(build_index([corpus], out).manifest.to_json()) | {"format": 99, "something": "new"}
    (out / MANIFEST_NAME).write_text(json.dumps(newer))
    monkeypatch.setattr(builder, "_encoder", unread)
    with pytest.raises(ConfigurationError, match=r"out has format 99 and this version builds format 1: build into another"):
        build_index([corpus], out)
    assert json.loads((out / MANIFEST_NAME).read_text()) == newer


def cut(text: str) -> str:
    return text[: len(text) // 3]


def a_field_lost(text: str) -> str:
    return text.replace('"format"', '"fprmat"').replace('"dim"', '"din"')


def of_another_type(text: str) -> str:
    return text.replace('"format": 1', '"format": "1"')


def emptied(text: str) -> str:
    return ""


@pytest.mark.parametrize("damage", [cut, a_field_lost, of_another_type, emptied])
def test_a_damaged_manifest_of_ours_is_replaced(jsonl: Jsonl, tmp_path: Path, damage: Callable[[str], str]) -> None:
    corpus, out = jsonl(ROWS), tmp_path / "out"
    whole = build_index([corpus], out).manifest
    (out / MANIFEST_NAME).write_text(damage((out / MANIFEST_NAME).read_text()))
    with pytest.raises(ConfigurationError):
        read_manifest(out)
    build_index([corpus], out)
    assert read_manifest(out).files == whole.files


def test_a_manifest_that_came_while_it_was_built_is_not_replaced_either(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, path = jsonl(ROWS), tmp_path / "out" / MANIFEST_NAME
    made = builder._made

    def meanwhile(*args: object) -> object:
        path.write_text(WEB_APP)
        return made(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(builder, "_made", meanwhile)
    with pytest.raises(ConfigurationError, match="is not the manifest of an index"):
        build_index([corpus], path.parent)
    assert path.read_text() == WEB_APP
    monkeypatch.setattr(builder, "_made", made)
    path.unlink()
    assert build_index([corpus], path.parent).manifest == read_manifest(path.parent)


# ---- what is left ----------------------------------------------------------------------------------------------------


def fails(corpus: Path, out: str | Path) -> None:
    with pytest.raises(CorpusError, match="line 1: it is not JSON"):
        build_index([corpus], out)


def test_a_folder_that_was_there_stays_whatever_it_is_called(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = jsonl(["{"])
    (tmp_path / "empty").mkdir()
    os.symlink("empty", tmp_path / "linked")
    fails(corpus, tmp_path / "linked")
    fails(corpus, tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    fails(corpus, ".")
    assert os.listdir(tmp_path / "empty") == []


def test_a_folder_that_a_build_made_goes_with_it(jsonl: Jsonl, tmp_path: Path) -> None:
    fails(jsonl(["{"]), tmp_path / "above" / "out")
    assert not (tmp_path / "above" / "out").exists()


def test_what_is_in_the_way_of_tidying_up_is_not_what_is_told(
    jsonl: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: object) -> None:
        shutil.rmtree(tmp_path / "out")
        raise CorpusError("c", 1, "the folder is gone")

    monkeypatch.setattr(builder, "_made", gone)
    with pytest.raises(CorpusError, match="the folder is gone"):
        build_index([jsonl(ROWS)], tmp_path / "out")


def test_a_file_where_the_staging_folder_goes(jsonl: Jsonl, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STAGING).write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot write an index to .*out: File exists"):
        build_index([jsonl(ROWS)], tmp_path / "out")
    assert set(os.listdir(tmp_path / "out")) == {STAGING, LOCK}


# ---- names that are not UTF-8 ----------------------------------------------------------------------------------------

NOT_UTF8 = os.fsdecode(b"c\xff")


def test_the_name_of_a_corpus_is_recorded_escaped(jsonl: Jsonl, tmp_path: Path) -> None:
    corpus = jsonl(ROWS).rename(tmp_path / f"{NOT_UTF8}.jsonl")
    assert build_index([corpus], tmp_path / "out").manifest.corpus.sources == (r"c\xff.jsonl",)
    assert open_index(tmp_path / "out").manifest.corpus.sources == (r"c\xff.jsonl",)


def test_a_document_of_such_a_name_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / f"{NOT_UTF8}.txt").write_text("some words")
    (tmp_path / "docs" / "d.txt").write_text("some words")
    with pytest.raises(CorpusError, match="it cannot be stored"):
        build_index([tmp_path / "docs"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert build_index([tmp_path / "docs"], tmp_path / "out", BuildOptions(skip_bad=True)).manifest.corpus.skipped == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (BuildOptions(query_prefix=NOT_UTF8), "query prefix"),
        (BuildOptions(passage_prefix=NOT_UTF8), "passage prefix"),
        (BuildOptions(fields=Fields(title=NOT_UTF8)), "name of a field"),
    ],
)
def test_words_that_are_not_utf8_are_refused(jsonl: Jsonl, tmp_path: Path, options: BuildOptions, what: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"the {what} 'c\\udcff' is not UTF-8"):
        build_index([jsonl(ROWS)], tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_an_index_in_a_folder_of_such_a_name(jsonl: Jsonl, tmp_path: Path) -> None:
    built: Built = build_index([jsonl(ROWS)], tmp_path / NOT_UTF8)
    assert open_index(built.path).count == len(ROWS)
